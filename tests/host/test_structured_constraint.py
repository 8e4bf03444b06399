"""What a grammar allows, token by token: answers of 300 schemas are valid, and the way to an answer does not matter."""

from __future__ import annotations

import json
import random
from typing import Any

import jsonschema
import numpy as np
import pytest
from grammar_walk import constraint_of, mask_after, small_tokenizer, text_of, walk
from jsonschema.validators import validator_for
from schema_table import table
from tokenizer_folders import KINDS

from jaxpaged.answer_end import AnswerEnd
from jaxpaged.errors import GrammarError, ParameterError
from jaxpaged.structured.grammars import Grammars
from jaxpaged.structured.params import StructuredOutputsParams
from jaxpaged.tokenize import NoTokenizer, Tokenizer

HELD = [case.schema for case in table() if case.refused is None]
WALKS = 3


def validator_of(schema: dict[str, Any]) -> Any:
    kind = validator_for(schema, default=jsonschema.Draft202012Validator)
    kind.check_schema(schema)
    return kind(schema)


@pytest.mark.parametrize("schema", HELD, ids=lambda schema: json.dumps(schema)[:80])
def test_every_answer_is_valid(schema: dict[str, Any]) -> None:
    tokenizer, rng = small_tokenizer(), random.Random(json.dumps(schema))
    validator, ended = validator_of(schema), 0
    for i in range(WALKS):
        constraint = constraint_of(tokenizer, json=schema, disable_any_whitespace=i % 2 == 0)
        output, whole = walk(constraint, tokenizer, rng)
        if whole:
            ended += 1
            validator.validate(json.loads(text_of(tokenizer, output)))
    assert ended > 0


def test_no_whitespace_is_no_whitespace() -> None:
    tokenizer, rng = small_tokenizer(), random.Random(2)
    schema = {"type": "array", "items": {"type": "integer", "maximum": 9, "minimum": 0}, "minItems": 2, "maxItems": 4}
    for _ in range(20):
        constraint = constraint_of(tokenizer, json=schema, disable_any_whitespace=True)
        output, whole = walk(constraint, tokenizer, rng)
        assert whole
        text = text_of(tokenizer, output)
        assert text == json.dumps(json.loads(text), separators=(",", ":"))


def test_whitespace_of_a_pattern() -> None:
    tokenizer, rng = small_tokenizer(), random.Random(2)
    schema = {"type": "array", "items": {"const": 1}, "minItems": 2, "maxItems": 3}
    texts = set()
    for _ in range(30):
        output, _ = walk(constraint_of(tokenizer, json=schema, whitespace_pattern="__?"), tokenizer, rng)
        texts.add(text_of(tokenizer, output))
    assert any("_" in text for text in texts)
    assert all(text.replace("_", "") in ("[1,1]", "[1,1,1]") and "___" not in text for text in texts)


def test_the_mask_is_a_function_of_the_answer_alone() -> None:
    """However the answer came to be: on and on, back and forth, or at once, as after a preemption."""
    tokenizer, rng = small_tokenizer(), random.Random(3)
    properties = {"name": {"type": "string", "minLength": 6, "maxLength": 9}, "n": {"type": "integer"}}
    schema = {"type": "object", "properties": properties, "required": ["name", "n"]}
    expected: dict[int, np.ndarray] = {}
    output, _ = walk(
        constraint_of(tokenizer, json=schema),
        tokenizer,
        rng,
        most=60,
        seen=lambda output, allowed: expected.update({len(output): allowed}),
    )
    assert len(expected) > 10
    again = constraint_of(tokenizer, json=schema)
    for _ in range(100):
        length = rng.choice([*expected])
        assert (mask_after(again, output[:length], tokenizer.vocab_size) == expected[length]).all()
    other = constraint_of(tokenizer, json=schema)
    for length in (5, 2, 7):
        assert (mask_after(other, output[:length], tokenizer.vocab_size) == expected[length]).all()


def test_a_token_that_was_never_allowed_leaves_none_and_is_forgotten() -> None:
    tokenizer = small_tokenizer()
    constraint = constraint_of(tokenizer, choice=["yes", "no"])
    first = mask_after(constraint, [], tokenizer.vocab_size)
    wrong = int(np.flatnonzero(~first)[0])
    assert not mask_after(constraint, [wrong], tokenizer.vocab_size).any()
    assert not mask_after(constraint, [wrong, wrong], tokenizer.vocab_size).any()
    assert (mask_after(constraint, [], tokenizer.vocab_size) == first).all()


def test_ends_come_where_the_answer_may_end_and_there_alone() -> None:
    tokenizer = small_tokenizer()
    (end,) = tokenizer.eos_ids
    stop = tokenizer.encode("Z")[0]
    constraint = constraint_of(tokenizer, regex="ab*", ends=[end, stop])
    a, b = (tokenizer.encode(text)[0] for text in "ab")
    width = tokenizer.vocab_size
    assert not mask_after(constraint, [], width)[[end, stop]].any()
    assert mask_after(constraint, [a], width)[[end, stop, b]].all()
    assert np.flatnonzero(mask_after(constraint, [a, b, end], width)).tolist() == sorted([stop, end])  # it goes on
    assert np.flatnonzero(mask_after(constraint, [a, end, end, end], width)).tolist() == sorted([stop, end])
    forced = constraint_of(tokenizer, choice=["a"], ends=[end])
    assert np.flatnonzero(mask_after(forced, [a], width)).tolist() == [end]


def test_a_whole_answer_ends_where_no_end_may_come() -> None:
    tokenizer = small_tokenizer()
    constraint = constraint_of(tokenizer, choice=["a"])
    mask = np.full(-(-tokenizer.vocab_size // 32), 0xFFFFFFFF, np.uint32)
    (end,) = tokenizer.eos_ids
    mask[end // 32] &= ~np.uint32(1 << end % 32)  # as min_tokens does
    with pytest.raises(AnswerEnd):
        constraint.fill(tokenizer.encode("a"), mask)


def test_special_tokens_are_no_text() -> None:
    tokenizer = small_tokenizer()
    allowed = mask_after(constraint_of(tokenizer, regex="(.|\n)+"), [], tokenizer.vocab_size)
    assert not allowed[sorted(tokenizer.special_ids)].any()
    assert allowed.sum() > 300
    spelled = constraint_of(tokenizer, choice=["<|call|>!"])
    output, whole = walk(spelled, tokenizer, random.Random(4))
    assert whole
    assert not tokenizer.special_ids & set(output)
    assert text_of(tokenizer, output) == "<|call|>!"


@pytest.mark.parametrize("more", [-40, -3, 0, 1, 31, 200])
def test_the_model_may_have_more_or_fewer_logits_than_there_are_tokens(more: int) -> None:
    tokenizer = small_tokenizer()
    width = tokenizer.vocab_size + more
    ends = [*tokenizer.eos_ids, tokenizer.encode(".")[0]]
    constraint = constraint_of(tokenizer, width=width, json_object=True, ends=ends)
    mask = np.full(-(-width // 32), 0xFFFFFFFF, np.uint32)
    constraint.fill([], mask)
    bits = np.unpackbits(mask.view(np.uint8), bitorder="little").astype(bool)
    assert not bits[min(width, tokenizer.vocab_size) :].any()
    assert bits[tokenizer.encode("{")[0]]
    assert mask_after(constraint, tokenizer.encode("{}"), width).any()  # and ends that it has no logits of are none


# t5's letters are not all tokens, nor are there bytes: an answer may come to where it cannot go on
@pytest.mark.parametrize("kind", sorted({*KINDS} - {"t5"}))
def test_tokens_of_every_kind_of_tokenizer(kind: str, tmp_path: Any) -> None:
    tokenizer = Tokenizer.load(KINDS[kind](tmp_path / kind).path)
    rng = random.Random(kind)
    choices = ["the same text", "an older folder", "  two spaces", "größer 日本", "{}\n[]"]
    ends = tokenizer.eos_ids or (0,)
    texts = set()
    for _ in range(12):
        constraint = constraint_of(tokenizer, choice=choices, ends=ends)
        output: list[int] = []
        while True:
            ids = np.flatnonzero(mask_after(constraint, output, tokenizer.vocab_size)).tolist()
            assert ids
            if set(ids) & set(ends):
                break
            output.append(rng.choice(ids))
        texts.add(tokenizer.decode(output))
    # a text's first space is the one that SentencePiece puts before every text, and takes off again
    assert texts <= {*choices, " two spaces"}
    assert len(texts) > 2


def test_forced_tokens_are_those_that_masks_leave_alone() -> None:
    tokenizer, rng = small_tokenizer(), random.Random(6)
    schema = {
        "type": "object",
        "properties": {"first_name": {"enum": ["Ada", "Alan"]}, "year_of_birth": {"type": "integer", "minimum": 9}},
        "required": ["first_name", "year_of_birth"],
        "additionalProperties": False,
    }
    alone: dict[int, bool] = {}
    output, _ = walk(
        constraint_of(tokenizer, json=schema, disable_any_whitespace=True),
        tokenizer,
        rng,
        seen=lambda output, allowed: alone.update({len(output): int(allowed.sum()) == 1}),
    )
    constraint = constraint_of(tokenizer, json=schema, disable_any_whitespace=True)
    assert sum(alone.values()) > 5
    for length in range(len(output)):
        forced = constraint.forced(output[:length], 8)
        run = next((i for i in range(8) if not alone.get(length + i, False)), 8)
        assert len(forced) >= min(run, len(output) - length)
        assert forced[:run] == output[length : length + run][: len(forced)]


def test_nothing_is_forced_behind_an_end() -> None:
    tokenizer = small_tokenizer()
    (end,) = tokenizer.eos_ids
    output, whole = walk(constraint_of(tokenizer, choice=["yes"]), tokenizer, random.Random(1))
    assert whole
    constraint = constraint_of(tokenizer, choice=["yes"])
    assert constraint.forced(output, 8) == [end]
    assert constraint.forced([*output, end], 8) == []


def test_an_engine_without_grammars_says_so() -> None:
    with pytest.raises(ParameterError, match="this engine has no tokenizer"):
        Grammars(NoTokenizer(), width=100).check(StructuredOutputsParams(json_object=True))


def test_a_grammar_that_the_tokenizer_has_no_tokens_for_fails_at_its_first_mask() -> None:
    tokenizer = small_tokenizer()
    constraint = constraint_of(tokenizer, grammar="start: <|nobody|>")
    with pytest.raises(GrammarError, match="no grammar can be made of it"):
        mask_after(constraint, [], tokenizer.vocab_size)


def test_a_grammar_that_cannot_go_back_is_read_anew() -> None:
    tokenizer = small_tokenizer()
    constraint = constraint_of(tokenizer, grammar='start: a "!"\na[max_tokens=3]: /[a-z]+/')
    first = mask_after(constraint, [], tokenizer.vocab_size)
    a = tokenizer.encode("x")[0]
    second = mask_after(constraint, [a], tokenizer.vocab_size)
    assert (mask_after(constraint, [], tokenizer.vocab_size) == first).all()
    assert (mask_after(constraint, [a], tokenizer.vocab_size) == second).all()
