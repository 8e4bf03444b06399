"""The bound on the text of one token holds, and is not given where there is none."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend

from jaxpaged.errors import ContextLengthError
from jaxpaged.prompt import check_characters
from jaxpaged.tiny import TINY_MODEL
from jaxpaged.tokenize import Tokenizer

FILE: dict[str, Any] = json.loads((TINY_MODEL / "tokenizer.json").read_text())
TINY = Tokenizer.load(TINY_MODEL)


def longest(change: Callable[[dict[str, Any]], object] = lambda _: None) -> int | None:
    file = json.loads(json.dumps(FILE))
    change(file)
    return Tokenizer(Backend.from_str(json.dumps(file))).longest_token


def test_the_bundled_tokenizer_has_a_bound() -> None:
    assert TINY.longest_token == max(map(len, FILE["model"]["vocab"] | {t["content"]: 0 for t in FILE["added_tokens"]}))


@given(st.text(max_size=200))
def test_no_text_has_more_characters_than_its_tokens_may_stand_for(text: str) -> None:
    assert TINY.longest_token is not None
    assert len(text) <= TINY.longest_token * len(TINY.encode(text, add_special_tokens=False))


@pytest.mark.parametrize(
    "normalizer",
    [
        {"type": "Lowercase"},
        {"type": "NFKC"},
        {"type": "Strip", "strip_left": True, "strip_right": True},
        {"type": "Replace", "pattern": {"Regex": " +"}, "content": " "},
        {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "StripAccents"}]},
    ],
    ids=lambda normalizer: normalizer["type"],
)
def test_there_is_no_bound_where_text_may_be_left_out(normalizer: dict[str, Any]) -> None:
    assert longest(lambda file: file.update(normalizer=normalizer)) is None


def test_composing_characters_and_splitting_are_counted() -> None:
    plain = longest()
    assert plain is not None
    assert longest(lambda file: file.update(normalizer={"type": "NFC"})) == 4 * plain
    pieces = [{"type": "Split", "pattern": {"String": " "}, "behavior": "Isolated", "invert": False}]
    pieces += [{"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}]

    def split(behavior: str) -> int | None:
        splitter = {"type": "Sequence", "pretokenizers": [{**pieces[0], "behavior": behavior}, pieces[1]]}
        return longest(lambda file: file.update(pre_tokenizer=splitter))

    assert (split("Isolated"), split("Removed")) == (plain, None)


def test_a_vocabulary_that_lacks_a_byte_or_a_token_that_eats_spaces_has_no_bound() -> None:
    def without_a_byte(file: dict[str, Any]) -> None:
        file["model"]["merges"] = []
        file["model"]["vocab"] = {text: i for text, i in file["model"]["vocab"].items() if text != "Z"}

    def eats_spaces(file: dict[str, Any]) -> None:
        file["added_tokens"][0]["rstrip"] = True

    assert longest(without_a_byte) is None
    assert longest(eats_spaces) is None


def test_words_that_may_be_unknown_as_a_whole_have_no_bound() -> None:
    words = {"type": "WordLevel", "vocab": {"a": 0, "[UNK]": 1}, "unk_token": "[UNK]"}
    assert longest(lambda file: file.update(model=words, added_tokens=[], post_processor=None)) is None


def test_a_text_is_refused_by_its_characters_in_the_words_of_the_context() -> None:
    check_characters(800, longest_token=8, max_model_len=100)
    check_characters(10**9, longest_token=None, max_model_len=100)
    with pytest.raises(ContextLengthError, match=r"801 characters': this model's maximum context length is 100 tokens"):
        check_characters(801, longest_token=8, max_model_len=100)
