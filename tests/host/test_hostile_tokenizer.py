"""Tokenizer files that the library panics over, or would take memory without end for, end in our errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models

from jaxpaged.detokenize import Detokenizer
from jaxpaged.errors import PromptError, TokenizerError
from jaxpaged.panics import is_failure
from jaxpaged.tokenize import Tokenizer
from jaxpaged.tokenizer_files import fast
from jaxpaged.tokenizer_files.sentence_piece import Kind, Piece, PieceModel, sentence_pieces

VOCAB = {"<unk>": 0, "a": 1, "b": 2, "<0xZZ>": 3, "<0x41>": 4}


def folder_with(folder: Path, *, config: dict[str, Any] | None = None, **stages: Any) -> Path:
    backend = Backend(models.BPE(vocab=VOCAB, merges=[], unk_token="<unk>"))
    backend.decoder = decoders.ByteFallback()
    (folder / "tokenizer.json").write_text(json.dumps(json.loads(backend.to_str()) | stages))
    (folder / "tokenizer_config.json").write_text(json.dumps(config or {}))
    return folder


def test_a_panic_while_reading_is_a_refusal(tmp_path: Path) -> None:
    folder_with(tmp_path, normalizer={"type": "Precompiled", "precompiled_charsmap": None})
    with pytest.raises(TokenizerError, match=r"'.*tokenizer\.json': it cannot be read: PanicException: Prec"):
        Tokenizer.load(tmp_path)


def test_a_panic_over_a_prompt_refuses_the_prompt(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(folder_with(tmp_path, pre_tokenizer={"type": "FixedLength", "length": 0}))
    for text in ("ab", "ab" * 1000):
        with pytest.raises(PromptError, match=r"the model's tokenizer fails on it: .*chunk"):
            tokenizer.encode(text)
    assert tokenizer.decode([1, 2]) == "ab"


def test_a_panic_over_tokens_refuses_the_tokens(tmp_path: Path) -> None:
    strip = {"type": "Strip", "content": "a", "start": 3, "stop": 3}
    tokenizer = Tokenizer.load(folder_with(tmp_path, decoder=strip))
    with pytest.raises(PromptError, match="the model's tokenizer fails on them: "):
        tokenizer.decode([1, 2])


def test_an_error_without_a_class_refuses_the_prompt(tmp_path: Path) -> None:
    model = {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "<unk>"}
    tokenizer = Tokenizer.load(folder_with(tmp_path, model=model))
    with pytest.raises(PromptError, match=r"the model's tokenizer fails on it: .*[Uu][Nn][Kk]"):
        tokenizer.encode("b")


def test_a_table_that_says_it_is_larger_is_not_handed_to_the_library() -> None:
    pieces = [Piece(text="<unk>", score=0.0, kind=Kind.UNKNOWN), Piece(text="a", score=-1.0, kind=Kind.NORMAL)]
    for table, size in ((b"AAAA", 0x41414141), (b"\x09\0\0\0" + bytes(8), 9), (b"\xff", 255)):
        with pytest.raises(TokenizerError, match=f"trie of precompiled_charsmap is {size}: "):
            sentence_pieces(PieceModel(pieces=pieces, charsmap=table))


def test_who_interrupts_is_not_a_failure() -> None:
    assert is_failure(ValueError())
    assert is_failure(type("PanicException", (BaseException,), {})())
    assert not is_failure(KeyboardInterrupt())
    assert not is_failure(SystemExit())


def test_a_token_that_only_looks_like_a_byte_is_text(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(folder_with(tmp_path))
    assert tokenizer.spell(4) == b"A"
    assert tokenizer.spell(3) is None
    detokenizer = Detokenizer(tokenizer)
    assert [detokenizer.push(token) for token in (1, 3, 4, 2)] == ["a", "<0xZZ>", "A", "b"]


@pytest.mark.parametrize("name", ["a,", "a:"])
def test_a_file_of_too_many_parts_is_not_read(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast, "MAX_NAMES", 100)
    monkeypatch.setattr(fast, "MAX_PARTS", 100)
    folder_with(tmp_path, model={"type": "WordLevel", "vocab": {name * i: i for i in range(20)}, "unk_token": name})
    with pytest.raises(TokenizerError, match=r"it has \d+ colons and \d+ commas and brackets; at most 100 and 100"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"added_tokens_decoder": {"5": {"content": None}}}, "added_tokens_decoder"),
        ({"added_tokens_decoder": {"5": {"content": "\ud800"}}}, "added_tokens_decoder"),
        ({"added_tokens_decoder": {"-5": {"content": "a"}}}, "added_tokens_decoder"),
        ({"added_tokens_decoder": {str(2**32): {"content": "a"}}}, "added_tokens_decoder"),
        ({"bos_token": "\ud800"}, "bos_token"),
        ({"eos_token": {"content": 1}}, "eos_token"),
        ({"chat_template": [{"name": 1}]}, "chat_template"),
    ],
)
def test_a_config_that_says_no_text_is_named(tmp_path: Path, config: dict[str, Any], named: str) -> None:
    with pytest.raises(TokenizerError, match=named) as refusal:
        Tokenizer.load(folder_with(tmp_path, config=config))
    str(refusal.value).encode()


def test_declared_tokens_are_added_where_they_fit(tmp_path: Path) -> None:
    declared = {
        "6": {"content": "<y>", "special": False},
        "5": {"content": "<x>", "special": True},
        "7": {"content": "<x>", "special": True},  # again
        "9": {"content": "<z>", "special": True},  # leaves a gap
        "1": {"content": "a", "special": True},  # is there
        "8": {"content": ""},
    }
    tokenizer = Tokenizer.load(folder_with(tmp_path, config={"added_tokens_decoder": declared}))
    assert tokenizer.encode("<y><x>") == [6, 5]
    assert tokenizer.vocab_size == 7
    assert tokenizer.special_ids == {5, 1}
