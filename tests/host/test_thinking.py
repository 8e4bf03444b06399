"""A budget of thinking: when its end is forced, against a reading of the whole text; and where its tags come from."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest

from jaxpaged.config import EngineConfig
from jaxpaged.errors import ConfigError
from jaxpaged.masks import mask_words
from jaxpaged.think_tags import ThinkTags, think_tags
from jaxpaged.thinking import ThinkingBudget

VOCAB = 40
SHORT = ThinkTags(start=(30,), end=(31,))
LONG = ThinkTags(start=(30, 1), end=(31, 2, 31))


def forced(budget: ThinkingBudget, output: Sequence[int]) -> int | None:
    """The one token that may come, None where any may."""
    mask = np.full(mask_words(VOCAB), 0xFFFFFFFF, np.uint32)
    budget.fill(list(output), mask)
    left = np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little")[:VOCAB]).tolist()
    assert len(left) in (1, VOCAB)
    return left[0] if len(left) == 1 else None


def made(limit: int, tags: ThinkTags = SHORT, prompt: Sequence[int] = (3, 4)) -> ThinkingBudget:
    return ThinkingBudget(limit, tags=tags, prompt=tuple(prompt), vocab=VOCAB)


def test_thinking_ends_after_so_many_tokens() -> None:
    budget = made(2)
    assert [forced(budget, [5, 30, 6, 7][:n]) for n in range(5)] == [None, None, None, None, 31]
    assert forced(budget, [5, 30, 6, 7, 31]) is None
    assert forced(budget, [5, 30, 6, 7, 31, 8, 9, 9, 9]) is None


def test_no_thinking_at_all() -> None:
    assert forced(made(0), [30]) == 31
    assert forced(made(0, prompt=(30,)), []) == 31
    assert forced(made(0), [5]) is None


def test_the_end_comes_token_by_token() -> None:
    budget = made(2, LONG)
    text = [30, 1, 5, 6]
    for token in (31, 2, 31):
        assert forced(budget, text) == token
        text.append(token)
    assert forced(budget, text) is None


def test_an_end_that_was_begun_goes_on() -> None:
    assert forced(made(1, LONG), [30, 1, 5, 31]) == 2
    assert forced(made(2, LONG), [30, 1, 5, 31]) is None  # one token is left, if it is not the end
    assert forced(made(2, LONG), [30, 1, 5, 31, 7]) == 31


def test_a_prompt_may_leave_thinking_open() -> None:
    assert forced(made(3, prompt=(30, 5, 31, 30, 6, 7)), []) is None
    assert forced(made(3, prompt=(30, 5, 31, 30, 6, 7)), [8]) == 31
    assert forced(made(1, prompt=(30, 5, 5, 5, 31)), [8]) is None  # a closed block costs nothing
    assert forced(made(1, LONG, prompt=(9, 30)), [1, 5]) == 31  # the tag begins in the prompt


def test_blocks_share_a_budget() -> None:
    budget = made(3)
    assert forced(budget, [30, 5, 5, 31, 8, 30]) is None
    assert forced(budget, [30, 5, 5, 31, 8, 30, 6]) == 31
    assert forced(budget, [30, 5, 5, 31, 8, 30, 6, 31, 30]) == 31


def test_it_is_a_function_of_the_answer() -> None:
    rng = random.Random(1)
    for tags in (SHORT, LONG):
        kept = made(2, tags)
        for _ in range(500):
            output = rng.choices((1, 2, 5, 30, 31), k=rng.randint(0, 10))
            assert forced(kept, output) == forced(made(2, tags), output)


def test_tokens_may_be_taken_back() -> None:
    rng = random.Random(2)
    for _ in range(20):
        kept, output = made(60, LONG), [30, 1]
        for _ in range(200):
            if rng.random() < 0.3:
                del output[-rng.choice((1, 2, 5, 63, 64, 65, 150)) :]
            output += rng.choices((1, 2, 5, 30, 31), k=rng.randint(0, 6))
            assert forced(kept, output) == forced(made(60, LONG), output)


def test_tags_come_from_the_vocabulary_or_the_option() -> None:
    def encode(text: str) -> list[int]:
        return [ord(character) for character in text]

    def known(*texts: str) -> ThinkTags | None:
        return think_tags({}, encode=encode, token_id=lambda text: texts.index(text) + 50 if text in texts else None)

    assert known("</think>", "<think>") == ThinkTags(start=(51,), end=(50,))
    assert known("[THINK]", "[/THINK]") == ThinkTags(start=(50,), end=(51,))
    assert known("<think>") is None
    option = {"reasoning_start_str": "<a>", "reasoning_end_str": "b"}
    assert think_tags(option, encode=encode, token_id=lambda _: 1) == ThinkTags(start=(60, 97, 62), end=(98,))
    with pytest.raises(ConfigError, match=r"reasoning_config is .*at least one token"):
        think_tags(option, encode=lambda _: [], token_id=lambda _: None)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("{", "it is not JSON"),
        ("[1]", "it must be a JSON object"),
        ({"reasoning_start_str": "a"}, "it must have reasoning_start_str and reasoning_end_str"),
        ({"reasoning_start_str": "a", "reasoning_end_str": "b", "x": 1}, "and nothing else"),
        ({"reasoning_start_str": "a", "reasoning_end_str": 5}, r"reasoning_config.reasoning_end_str is 5"),
        ({"reasoning_start_str": "a", "reasoning_end_str": "a"}, "told apart"),
    ],
)
def test_a_bad_option_is_refused_by_name(value: object, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        EngineConfig(reasoning_config=value)  # pyright: ignore[reportArgumentType]


def test_the_option_may_be_text() -> None:
    text = '{"reasoning_start_str": "<a>", "reasoning_end_str": "</a>"}'
    assert EngineConfig(reasoning_config=text).reasoning_config == {  # pyright: ignore[reportArgumentType]
        "reasoning_start_str": "<a>",
        "reasoning_end_str": "</a>",
    }
