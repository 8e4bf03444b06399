"""What may come next: masks of options, number by number, and words against a definition of them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from jaxpaged.constraints import BarredSequences, Constraint, bad_word_ids, constraints_of
from jaxpaged.errors import ParameterError
from jaxpaged.masks import mask_of, mask_words
from jaxpaged.request import PENDING
from jaxpaged.sampling_params import MAX_BAD_WORDS, SamplingParams
from jaxpaged.think_tags import ThinkTags

VOCAB = 70


def letters(text: str) -> list[int]:
    """One token a character: a blank is 0, letters count from 1."""
    return [0 if character == " " else ord(character) - ord("a") + 1 for character in text]


def words(text: str) -> list[int]:
    """One token a word, another one behind a blank."""
    return [hash_of(word) + (10 if i or text.startswith(" ") else 0) for i, word in enumerate(text.split())]


def hash_of(word: str) -> int:
    return {"a": 1, "b": 2, "c": 3}[word]


def made(stop_ids: Sequence[int] = (), *, encode: Any = letters, **options: Any) -> tuple[Constraint, ...]:
    params = SamplingParams(max_tokens=None, **options)
    tags = ThinkTags(start=(5,), end=(6, 7))
    return constraints_of(params, prompt=(1, 2), stop_ids=stop_ids, vocab=VOCAB, encode=encode, tags=tags)


def allowed(constraints: Sequence[Constraint], output: Sequence[int]) -> set[int]:
    mask = np.full(mask_words(VOCAB), 0xFFFFFFFF, np.uint32)
    for constraint in constraints:
        constraint.fill(output, mask)
    bits = np.unpackbits(mask.view(np.uint8), bitorder="little")[:VOCAB]
    return set(np.flatnonzero(bits).tolist())


EVERY = set(range(VOCAB))


def test_a_mask_has_a_bit_for_each_token() -> None:
    assert mask_of([0, 33, 69, 70, 99], vocab=VOCAB).tolist() == [1, 2, 32]
    assert mask_of([], vocab=VOCAB).tolist() == [0, 0, 0]
    assert [mask_words(vocab) for vocab in (1, 32, 33, 131_072)] == [1, 1, 2, 4096]


def test_options_that_ask_for_nothing_make_no_constraint() -> None:
    assert made([3], logit_bias={1: 2.0}, temperature=0.5) == ()
    assert made([], min_tokens=5) == ()  # nothing ends the text


def test_allowed_tokens() -> None:
    constraints = made(allowed_token_ids=[1, 40, 69])
    assert not any(one.follows for one in constraints)
    assert allowed(constraints, []) == allowed(constraints, [1, PENDING]) == {1, 40, 69}


def test_stop_tokens_wait_for_min_tokens() -> None:
    constraints = made([3, 64, 200], min_tokens=2)
    assert not any(one.follows for one in constraints)
    assert allowed(constraints, []) == allowed(constraints, [PENDING]) == EVERY - {3, 64}
    assert allowed(constraints, [1, PENDING]) == EVERY


def test_many_stop_tokens_under_min_tokens() -> None:
    assert allowed(made(range(600), min_tokens=1, logit_bias=dict.fromkeys(range(512), 1.0)), []) == set()


def test_words_with_and_without_a_blank_before_them() -> None:
    assert bad_word_ids(["a"], words) == [(1,), (11,)]
    assert bad_word_ids(["  a b"], words) == [(1, 12), (11, 12)]  # what stands before a word is not part of it
    assert bad_word_ids(["ab"], letters) == [(1, 2)]  # the blank is a token of its own: the word alone covers it
    assert bad_word_ids(["a", "a", "b"], words) == [(1,), (11,), (2,), (12,)]


def test_words_of_one_token_are_always_barred() -> None:
    constraints = made(encode=words, bad_words=["a", "c"])
    assert not any(one.follows for one in constraints)
    assert allowed(constraints, []) == allowed(constraints, [1, PENDING]) == EVERY - {1, 11, 3, 13}


def test_longer_words_bar_their_last_token_where_the_others_came() -> None:
    constraints = made(encode=words, bad_words=["a b c", "b a", "c"])
    assert [one.follows for one in constraints] == [False, True]
    always = EVERY - {3, 13}
    assert allowed(constraints, []) == always  # of the prompt nothing counts
    assert allowed(constraints, [1]) == always
    assert allowed(constraints, [1, 12]) == always - {11}  # 12 may begin "b a"? its own beginning is 2 or 12
    assert allowed(constraints, [2]) == always - {11}
    assert allowed(constraints, [7, 11, 12]) == always - {11}
    assert allowed(constraints, [12, 7]) == always


def test_sequences_against_their_definition() -> None:
    rng = random.Random(0)
    for _ in range(200):
        sequences = [tuple(rng.choices(range(4), k=rng.randint(2, 4))) for _ in range(rng.randint(1, 6))]
        constraint = BarredSequences(sequences, vocab=VOCAB)
        output = rng.choices(range(4), k=rng.randint(0, 8))
        barred = {
            s[-1] for s in sequences if len(output) >= len(s) - 1 and (*output[len(output) - len(s) + 1 :],) == s[:-1]
        }
        assert allowed([constraint], output) == EVERY - barred


def test_words_past_the_vocabulary_bar_nothing() -> None:
    assert allowed(made(encode=lambda _: [1, 99], bad_words=["x"]), [1]) == EVERY
    assert allowed(made(encode=lambda _: [99], bad_words=["x"]), []) == EVERY


@pytest.mark.parametrize(
    ("options", "encode", "told"),
    [
        ({"bad_words": ["a"]}, None, "bad_words is .*this engine has no tokenizer"),
        ({"bad_words": [" "]}, letters, "bad_words is ' ': each must have at least one token"),
        ({"allowed_token_ids": [1, 2], "bad_words": ["a", "b"]}, letters, "bad_words leave none of them"),
        ({"allowed_token_ids": [3], "min_tokens": 2}, letters, "bad_words and min_tokens=2 leave none of them"),
    ],
)
def test_what_cannot_be_kept_to_is_refused_by_name(options: dict[str, Any], encode: Any, told: str) -> None:
    with pytest.raises(ParameterError, match=told):
        made([3], encode=encode, **options)


def test_more_sequences_than_are_looked_for_are_refused() -> None:
    many = [f"w{i}" for i in range(300)]
    number = iter(range(10_000))
    with pytest.raises(ParameterError, match=f"bad_words is 600: .*{MAX_BAD_WORDS} sequences"):
        bad_word_ids(many, lambda _: [next(number)])


def test_a_thinking_budget_needs_tags() -> None:
    params = SamplingParams(thinking_token_budget=3)
    with pytest.raises(ParameterError, match=r"thinking_token_budget is 3: nothing tells .*reasoning_config"):
        constraints_of(params, prompt=(1,), stop_ids=(), vocab=VOCAB, encode=letters, tags=None)
    (budget,) = made(thinking_token_budget=1)
    assert budget.follows
    assert allowed([budget], [5]) == EVERY
    assert allowed([budget], [5, 1]) == {6}
