"""Tokenizers in the metadata of GGUF files: the one they were made of, or a refusal."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from gguf_files import write_both
from tokenizers import normalizers, pre_tokenizers

from jaxpaged.config import EngineConfig
from jaxpaged.errors import TokenizerError
from jaxpaged.tiny import TINY_MODEL
from jaxpaged.tokenize import Tokenizer
from jaxpaged.weights.gguf_text import WORDS, text_folder
from jaxpaged.weights.source import localised


def bundled() -> dict[str, Any]:
    return json.loads((TINY_MODEL / "tokenizer.json").read_text(encoding="utf-8"))


def with_tokenizer(pre: str, **more: Any) -> Any:
    """Puts the bundled tokens into a file, under another rule for words."""
    told = bundled()
    special = {token["id"]: token["content"] for token in told["added_tokens"]}
    by_id = {i: token for token, i in told["model"]["vocab"].items()} | special
    tokens = [by_id.get(i, f"[unused {i}]") for i in range(max(by_id) + 1)]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in told["model"]["merges"]]

    def change(metadata: dict[str, Any], tensors: object) -> None:
        metadata |= {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": pre,
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.token_type": [3 if i in special else 1 for i in range(len(tokens))],
            "tokenizer.ggml.merges": merges,
            "tokenizer.ggml.bos_token_id": min(special),
            "tokenizer.ggml.eos_token_id": max(special),
        } | more

    return change


@pytest.mark.parametrize("pre", ["qwen2", "llama-bpe"])
def test_the_tokenizer_comes_out_of_the_metadata(tmp_path: Path, pre: str) -> None:
    template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    change = with_tokenizer(pre, **{"tokenizer.chat_template": template, "tokenizer.ggml.eot_token_id": 1})
    path, _ = write_both(tmp_path, "llama", change=change)
    folder = text_folder(path, cache=tmp_path / "cache")
    assert text_folder(path, cache=tmp_path / "cache") == folder
    found = Tokenizer.load(folder, model=path)
    oracle = tokenizers.Tokenizer.from_file(str(TINY_MODEL / "tokenizer.json"))
    split = pre_tokenizers.Split(tokenizers.Regex(WORDS[pre]), "isolated")
    oracle.pre_tokenizer = pre_tokenizers.Sequence(  # pyright: ignore[reportAttributeAccessIssue]
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    if pre == "qwen2":
        oracle.normalizer = normalizers.NFC()  # pyright: ignore[reportAttributeAccessIssue]
    first = [min(token["id"] for token in bundled()["added_tokens"])] if pre == "llama-bpe" else []
    special = max(bundled()["added_tokens"], key=lambda token: token["id"])
    for text in (
        f"a{special['content']}b",
        "def f(x):\n    return x + 12345",
        "It's  naïve\t\r\n\n  e\u0301 日本",
        "",
        " a",
    ):
        ids = oracle.encode(text, add_special_tokens=False).ids
        assert found.encode(text, add_special_tokens=False) == ids
        assert found.encode(text) == first + ids
        assert found.decode(ids) == oracle.decode(ids)
    assert found.eos_ids == (1, special["id"])
    assert found.apply_chat_template([{"role": "user", "content": "hi"}]) == "hi"


def test_sentencepiece_comes_out_of_the_metadata_too(tmp_path: Path) -> None:
    pieces = [*(f"<0x{byte:02X}>" for byte in range(256)), *"▁abcé", "▁a", "▁ab", "bc"]
    kinds = [6] * 256 + [1] * 8
    scores = [0.0] * 261 + [-1.0, -2.0, -3.0]
    told = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", *pieces],
        "tokenizer.ggml.token_type": [2, 3, 3, *kinds],
        "tokenizer.ggml.scores": [0.0, 0.0, 0.0, *scores],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    }
    path, _ = write_both(tmp_path, "llama", change=lambda metadata, tensors: metadata.update(told))
    found = Tokenizer.load(text_folder(path, cache=tmp_path / "cache"))
    names = found.token_strings(found.encode("abc ab é ñ"))
    # the likeliest merge first: ▁a, then ▁ab; letters without a piece are bytes
    assert names == ["<s>", "▁ab", "c", "▁ab", "▁", "é", "▁", "<0xC3>", "<0xB1>"]
    assert found.decode(found.encode("abc ab é ñ")) == "abc ab é ñ"
    assert found.eos_ids == (2,)


@pytest.mark.parametrize("change", [with_tokenizer("default"), lambda metadata, tensors: None])
def test_a_tokenizer_that_cannot_be_read_must_be_named(tmp_path: Path, change: Any) -> None:
    path, _ = write_both(tmp_path, "llama", change=change)
    with pytest.raises(
        TokenizerError, match=r"gpt2 with llama-bpe or qwen2, can be read\. Give --tokenizer: the folder"
    ):
        localised(EngineConfig(model=str(path)))
    found = localised(EngineConfig(model=str(path), tokenizer=str(TINY_MODEL)))
    assert (found.model, found.tokenizer) == (str(path), str(TINY_MODEL))


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("ggml.tokens", 7, r"tokenizer\.ggml\.tokens of model\.gguf is 7: it must be a list of texts"),
        ("ggml.tokens", [1, 2], r"is \[1, 2\]: it must be a list of texts"),
        ("ggml.tokens", "ab", "is 'ab': it must be a list of texts"),
        ("ggml.merges", [1.5], r"tokenizer\.ggml\.merges of model\.gguf is \[1\.5\]: it must be a list of texts"),
        ("ggml.token_type", ["a"], "it must be a list of numbers"),
        ("ggml.scores", 1.0, "it must be a list of numbers"),
        ("ggml.pre", [1, 2], r"gpt2 with llama-bpe or qwen2, can be read\. Give --tokenizer"),
    ],
)
def test_metadata_of_another_type_is_no_tokenizer(tmp_path: Path, name: str, value: object, told: str) -> None:
    path, _ = write_both(tmp_path, "llama", change=with_tokenizer("qwen2", **{f"tokenizer.{name}": value}))
    with pytest.raises(TokenizerError, match=told):
        text_folder(path, cache=tmp_path / "cache")


def test_a_tokenizer_that_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path, _ = write_both(tmp_path, "llama", change=with_tokenizer("qwen2"))
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(TokenizerError, match=r"cannot be written: No space left on device\. Give --tokenizer"):
        text_folder(path, cache=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
