"""Folders without tokenizer.json: the ids of the libraries that their files belong to, texts that come back whole."""

from __future__ import annotations

import base64
import json
import os
import sys
import unicodedata
from collections.abc import Callable
from functools import cache
from itertools import repeat
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import sentencepiece_model_pb2
from tokenizer_folders import KINDS, Folder, by_pieces, gpt2, llama, llama_3, ranks, tekken, write
from tokenizers import models, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from jaxpaged.detokenize import Detokenizer
from jaxpaged.errors import TokenizerError
from jaxpaged.tiny import TINY_MODEL
from jaxpaged.tokenize import Tokenizer, read_templates
from jaxpaged.tokenizer_files.bounds import bounded_merges
from jaxpaged.tokenizer_files.token_list import from_token_list

NASTY = (
    *("", " ", "a", " a", "  two", "end ", "\n", "\n\n\n x", "\t\ttab \r\n", "日本語", "👨‍👩‍👧 and 🙂", "e\u0301 é Å"),
    *("x\x00y\x07\x7f", "\u200b\ufeff\u2028", "aaaaaaa =======", " " * 23, "I'LL don't", "1234567 ２３", "▁a ▁▁b"),
    *("<s>[INST] the [/INST]</s>", "<|im_start|>user<|endoftext|>", "<unk>", "the the<sep>of[a]\n<sep>"),
    *("<start_of_turn>    a\n\n", "ﬁ ① ｶﾞ", "العربية والنص"),
)
texts = st.text(
    st.one_of(st.characters(codec="utf-8"), st.sampled_from("the tokenizer of\n\t  =='日🙂▁é\u0301<s>[a]0")),
    max_size=40,
)


@cache
def made(kind: str) -> tuple[Folder, Tokenizer]:
    folder = KINDS[kind](Path(mkdtemp()))
    return folder, Tokenizer.load(folder.path)


def streamed(tokenizer: Tokenizer, ids: list[int], *, skip_special_tokens: bool = True) -> list[str]:
    detokenizer = Detokenizer(tokenizer, skip_special_tokens=skip_special_tokens)
    return [*(detokenizer.push(i) for i in ids), detokenizer.flush()]


def differs_in_the_library(kind: str, text: str) -> bool:
    """Whether `tokenizers` itself may read a text otherwise than SentencePiece: it finds the spelling of a byte among
    unigrams, and of a character with marks it may normalise the first alone and drop the marks."""
    if kind == "t5":
        return text not in NASTY and any(unicodedata.category(one) in ("Mn", "Mc", "Me", "Cf", "Sk") for one in text)
    return kind == "unigram_of_bytes" and "<0x" in text


def check(kind: str, text: str) -> None:
    folder, tokenizer = made(kind)
    ids = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
    assert differs_in_the_library(kind, text) or ids == folder.encode(text), text
    pieces = streamed(tokenizer, ids, skip_special_tokens=False)
    assert "".join(pieces) == tokenizer.decode(ids, skip_special_tokens=False)
    assert pieces[-1] == ""
    assert "�" in text or not any("�" in piece for piece in pieces), pieces


@pytest.mark.parametrize("kind", KINDS)
def test_ids_are_those_of_the_kinds_own_library(kind: str) -> None:
    for text in NASTY:
        check(kind, text)


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=25)
@given(text=texts)
def test_ids_of_any_text_are_those_of_the_kinds_own_library(kind: str, text: str) -> None:
    check(kind, text)


def no_bytes(tokenizer: Tokenizer, ids: list[int]) -> list[int]:
    """Bytes that make no character come out in a stream as they come, in a whole text by the run."""
    texts_of = tokenizer.token_strings(ids)
    return [i for i, text in zip(ids, texts_of, strict=True) if not text.startswith("<0x")]


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=20)
@given(ids=st.lists(st.integers(0, 400), max_size=30), skip=st.booleans())
def test_pieces_of_any_tokens_join_to_the_whole(kind: str, ids: list[int], skip: bool) -> None:
    _, tokenizer = made(kind)
    ids = no_bytes(tokenizer, ids)
    joined = "".join(streamed(tokenizer, ids, skip_special_tokens=skip))
    assert joined == tokenizer.decode(ids, skip_special_tokens=skip)


@pytest.mark.parametrize("kind", ["tekken", "qwen", "llama_3", "gpt2"])
@pytest.mark.parametrize(
    "raw", [b"\xe6\x97", b"a\xf0\x9f\x99b", b"\xff\xfe ok", "日".encode() + b"\x80", b"\xc3\xa9\xc3"]
)
def test_bytes_that_are_no_text_are_replaced_alone(kind: str, raw: bytes) -> None:
    _, tokenizer = made(kind)
    byte_of = {tokenizer.spell(i): i for i in range(tokenizer.vocab_size)}
    ids = [byte_of[bytes([byte])] for byte in raw]
    assert "".join(streamed(tokenizer, ids)) == raw.decode(errors="replace") == tokenizer.decode(ids)


@pytest.mark.parametrize("kind", KINDS)
def test_a_special_token_in_a_text_is_one_unless_asked(kind: str) -> None:
    folder, tokenizer = made(kind)
    text, i = folder.special
    said = f"the {text} of"
    assert i in tokenizer.special_ids
    assert tokenizer.encode(said, add_special_tokens=False).count(i) == 1
    assert i not in tokenizer.encode(said, add_special_tokens=False, split_special_tokens=True)
    assert text not in tokenizer.decode(tokenizer.encode(said))


@pytest.mark.parametrize("kind", ["llama", "gemma", "defined", "t5", "opt", "spaced", "qwen2", "llama_3"])
def test_ids_with_special_tokens_are_those_of_transformers(kind: str, tmp_path: Path) -> None:
    folder = KINDS[kind](tmp_path)
    file = tmp_path / "tokenizer_config.json"
    told = json.loads(file.read_text()) if file.exists() else {}
    if kind in ("llama", "gemma", "defined"):
        told["add_bos_token"] = True
    file.write_text(json.dumps(told))
    oracle, tokenizer = AutoTokenizer.from_pretrained(tmp_path), Tokenizer.load(tmp_path)
    special, _ = folder.special
    for text in (*NASTY, f"{special}a{special} b", f"a {special}", "<extra_id_7> of"):
        ids = tokenizer.encode(text)
        assert ids == oracle.encode(text), text
        for skip in (True, False):
            assert tokenizer.decode(ids, skip_special_tokens=skip) == oracle.decode(ids, skip_special_tokens=skip)
    assert tokenizer.special_ids >= set(oracle.all_special_ids)


def test_only_the_beginning_gets_a_space_where_the_configuration_says_so(tmp_path: Path) -> None:
    config = {"tokenizer_class": "LlamaTokenizer", "legacy": False, "add_bos_token": True}
    folder = write(llama(tmp_path).path, tokenizer_config=config, config={"model_type": "llama"})
    oracle, tokenizer = AutoTokenizer.from_pretrained(folder), Tokenizer.load(folder)
    for text in (*NASTY, "a</s>b", "a</s> b", "</s>a"):
        assert tokenizer.encode(text) == oracle.encode(text), text


def test_what_is_put_around_a_text(tmp_path: Path) -> None:
    folder = llama(tmp_path).path
    plain = Tokenizer.load(folder).encode("the", add_special_tokens=False)
    assert Tokenizer.load(folder).encode("the") == [1, *plain]
    for bos, eos in ((True, True), (False, True), (False, False)):
        write(folder, tokenizer_config={"add_bos_token": bos, "add_eos_token": eos})
        assert Tokenizer.load(folder).encode("the") == [1] * bos + plain + [2] * eos
    write(folder, tokenizer_config={"bos_token": "", "eos_token": None})  # as the first LLaMA's
    assert Tokenizer.load(folder).encode("the") == [1, *plain]
    assert Tokenizer.load(folder).eos_ids == ()
    ranked = llama_3(tmp_path / "ranks")
    assert Tokenizer.load(ranked.path).encode("the") == [len(ranks()), *ranked.encode("the")]


def test_a_tokenizer_of_lists() -> None:
    """As of a GGUF file: the ids are those of the file that the lists come from."""
    file = json.loads((TINY_MODEL / "tokenizer.json").read_text())
    special = {token["content"] for token in file["added_tokens"]}
    backend = tokenizers.Tokenizer.from_str(json.dumps(file))
    tokens = [backend.id_to_token(i) or "" for i in range(backend.get_vocab_size())]
    merges = [" ".join(merge) for merge in file["model"]["merges"]]
    kinds = [3 if token in special else 1 for token in tokens]
    listed = Tokenizer(from_token_list(tokens, kinds, merges=merges))
    for text in (*NASTY, *special):
        assert listed.encode(text) == backend.encode(text, add_special_tokens=False).ids, text
    folder = made("llama")[0]
    pieces = (
        vars(sentencepiece_model_pb2)["ModelProto"].FromString((folder.path / "tokenizer.model").read_bytes()).pieces
    )
    kinds, scores = [piece.type for piece in pieces], [piece.score for piece in pieces]
    scored = Tokenizer(from_token_list([piece.piece for piece in pieces], kinds, scores=scores))
    for text in NASTY:
        assert scored.encode(text, split_special_tokens=True) == folder.encode(text), text
    for wrong in ({"kinds": kinds[1:]}, {"scores": scores[1:]}, {"merges": ["▁ absent"]}, {"kinds": [9] * len(kinds)}):
        with pytest.raises(TokenizerError):
            from_token_list([piece.piece for piece in pieces], **{"kinds": kinds, "scores": scores, **wrong})


@pytest.mark.parametrize("flags", [{}, {"add_bos_token": True}, {"add_bos_token": False, "add_eos_token": True}])
@pytest.mark.parametrize("in_file", [True, False])
def test_what_is_put_around_a_text_by_tokenizer_json_is_that_of_transformers(
    flags: dict[str, bool], in_file: bool, tmp_path: Path
) -> None:
    backend = tokenizers.Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "the": 2, "?": 3}, unk_token="?"))
    if in_file:
        backend.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
        )
    backend.save(str(tmp_path / "tokenizer.json"))
    write(tmp_path, tokenizer_config={"bos_token": "<s>", "eos_token": "</s>", **flags})
    expected = PreTrainedTokenizerFast.from_pretrained(tmp_path).encode("the")
    assert Tokenizer.load(tmp_path).encode("the") == expected


def test_added_tokens_of_older_folders(tmp_path: Path) -> None:
    folder = llama(tmp_path).path
    count = Tokenizer.load(folder).vocab_size
    write(folder, added_tokens={"<|end|>": count, "<tool>": count + 1, "<far>": count + 9})
    write(folder, special_tokens_map={"eos_token": {"content": "<|end|>"}, "additional_special_tokens": ["<tool>"]})
    tokenizer = Tokenizer.load(folder)
    ids = tokenizer.encode("the<|end|><tool>", add_special_tokens=False)
    assert ids[-2:] == [count, count + 1]
    assert tokenizer.decode(ids) == "the"
    assert tokenizer.eos_ids == (count,)
    assert tokenizer.vocab_size == count + 2
    stripping = {str(count): {"content": "<|end|>", "special": True, "rstrip": True}}
    write(folder, tokenizer_config={"added_tokens_decoder": stripping})
    (folder / "added_tokens.json").unlink()
    (folder / "special_tokens_map.json").unlink()
    tokenizer = Tokenizer.load(folder)
    assert tokenizer.encode("<|end|> \n") == [1, count]
    named = {"5": {"content": "<|renamed|>", "special": True}}
    write(folder, tokenizer_config={"added_tokens_decoder": named})
    assert Tokenizer.load(folder).encode("<|renamed|>") == [1, 5]


def test_tekken_files_that_list_their_special_tokens(tmp_path: Path) -> None:
    listed = [
        {"rank": i, "token_str": text, "is_control": True}
        for i, text in enumerate(("<unk>", "<s>", "</s>", "[INST]", "[THINK]"))
    ]
    tokenizer = Tokenizer.load(tekken(tmp_path, version="v13", special=listed).path)
    assert tokenizer.encode("[THINK]<SPECIAL_24>") == [1, 4, 24]
    assert tokenizer.eos_ids == (2,)
    assert tokenizer.special_tokens == {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    assert len(tokenizer.special_ids) == 25
    with pytest.raises(TokenizerError, match=r"v13.*special_tokens is missing"):
        Tokenizer.load(tekken(tmp_path, version="v13").path)


def test_special_tokens_of_older_folders_reach_chat_templates(tmp_path: Path) -> None:
    templates, special = read_templates(tekken(tmp_path).path)
    assert (templates, special["bos_token"], special["eos_token"]) == ({}, "<s>", "</s>")
    assert read_templates(gpt2(tmp_path / "gpt2").path)[1] == {
        "bos_token": "<|endoftext|>",
        "eos_token": "<|endoftext|>",
    }


def test_nothing_is_imported_that_no_folder_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = llama(tmp_path).path
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(TokenizerError, match=r"tokenizer\.model.*pip install sentencepiece protobuf"):
        Tokenizer.load(folder)
    assert Tokenizer.load(tekken(tmp_path / "tekken").path).encode("the")


def broken(**change: Any) -> Callable[[Path], Path]:
    """A tekken folder with other values in it; None takes one out."""

    def write_it(folder: Path) -> Path:
        told = json.loads((tekken(folder).path / "tekken.json").read_text())
        told["config"] |= {name: value for name, value in change.items() if name in told["config"]}
        told |= {name: value for name, value in change.items() if name not in told["config"]}
        return write(folder, tekken=told)

    return write_it


def with_bytes(name: str, content: bytes, **files: Any) -> Callable[[Path], Path]:
    def write_it(folder: Path) -> Path:
        write(folder, **files)
        (folder / name).write_bytes(content)
        return folder

    return write_it


def of_class(name: str, kind: str) -> Callable[[Path], Path]:
    return lambda folder: write(KINDS[kind](folder).path, tokenizer_config={"tokenizer_class": name})


def enlarged(kind: str, name: str, size: int) -> Callable[[Path], Path]:
    """A good folder, one of whose files is made longer: without taking room on the disk."""

    def write_it(folder: Path) -> Path:
        path = KINDS[kind](folder).path
        os.truncate(path / name, size)
        return path

    return write_it


def with_rank(token: bytes) -> Callable[[Path], Path]:
    """A file of the 256 bytes and one token more."""
    tokens = [*(bytes([i]) for i in range(256)), token]
    lines = b"".join(b"%s %d\n" % (base64.b64encode(one), i) for i, one in enumerate(tokens))
    return with_bytes("qwen.tiktoken", lines)


def with_piece(text: str) -> Callable[[Path], Path]:
    def write_it(folder: Path) -> Path:
        path = llama(folder).path / "tokenizer.model"
        proto = vars(sentencepiece_model_pb2)["ModelProto"].FromString(path.read_bytes())
        proto.pieces[-1].piece = text
        path.write_bytes(proto.SerializeToString())
        return folder

    return write_it


DAMAGED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "pieces that are none": (with_bytes("tokenizer.model", b"\x0a\xff\xff\xff\xff\x0f junk"), r"tokenizer\.model"),
    "an empty model": (with_bytes("tokenizer.model", b""), r"tokenizer\.model|pieces"),
    "words for pieces": (lambda folder: by_pieces(folder, model_type="word", vocab_size=20).path, "model_type is 3"),
    "ids of their own": (of_class("XLMRobertaTokenizer", "llama"), "tokenizer_class.*XLMRobertaTokenizer"),
    "merges of an unknown kind": (of_class("BartTokenizer", "gpt2"), "tokenizer_class.*GPT2Tokenizer"),
    "a rank left out": (with_bytes("tokenizer.model", b"YQ== 0\nYg== 2\n"), "rank.*is 2: it must be 1"),
    "few bytes": (with_bytes("tokenizer.model", b"YQ== 0\nYg== 1\n"), "254 of the 256 bytes"),
    "no base64": (with_bytes("qwen.tiktoken", b"YQ== 0\n!!! 1\n"), r"qwen\.tiktoken"),
    "an unknown model": (with_bytes("tokenizer.model", b"YQ== 0\n", config={"model_type": "dbrx"}), "dbrx"),
    "merges that make nothing": (with_bytes("merges.txt", b"#version: 0.2\na b\n", vocab={"a": 0}), "merges"),
    "a vocabulary that is no object": (with_bytes("merges.txt", b"a b\n", vocab=[1]), "merges"),
    "two tokens of one id": (with_bytes("merges.txt", b"#version: 0.2\n", vocab={"a": 0, "b": 0}), "id of another"),
    "tekken that is no JSON": (with_bytes("tekken.json", b"{"), r"tekken\.json"),
    "tekken without a vocabulary": (broken(vocab=[]), "cannot make a vocabulary"),
    "tekken of no tokens": (broken(vocab=None), r"tekken\.json"),
    "tekken of a huge size": (broken(default_vocab_size=10**12), "cannot make a vocabulary"),
    "tekken with an expression that is none": (broken(pattern="("), r"tekken\.json"),
    "tekken with one special token twice": (
        broken(special_tokens=[{"rank": i, "token_str": "<s>"} for i in range(2)]),
        "special_tokens",
    ),
    "a token of a megabyte": (with_rank(b"a" * 10**6), "length of a token is 1000000: it must be at most 1024"),
    "a piece that is too long": (with_piece("a" * 1025), "length of a token is 1025: it must be at most 1024"),
    "tekken of too many special tokens": (
        broken(default_num_special_tokens=2**14 + 1),
        "number of special tokens is 16385: it must be at most 16384",
    ),
    "T5 of too many sentinels": (
        lambda folder: write(
            KINDS["t5"](folder).path, tokenizer_config={"tokenizer_class": "T5Tokenizer", "extra_ids": 2**30}
        ),
        "number of special tokens is 1073741824: it must be at most 16384",
    ),
    "a large tekken": (enlarged("tekken", "tekken.json", 2**26 + 1), "bytes of .*tekken.json is 67108865"),
    "large ranks": (enlarged("qwen", "qwen.tiktoken", 2**26 + 1), "bytes of .*qwen.tiktoken is 67108865"),
    "large pieces": (enlarged("llama", "tokenizer.model", 2**24 + 1), "bytes of .*tokenizer.model is 16777217"),
    "large merges": (enlarged("gpt2", "merges.txt", 2**26 + 1), "bytes of .*merges.txt is 67108865"),
    "a large vocabulary": (enlarged("gpt2", "vocab.json", 2**26 + 1), "bytes of .*vocab.json is 67108865"),
    "tekken with the name of a filler": (
        broken(special_tokens=[{"rank": 3, "token_str": "<SPECIAL_5>"}]),
        r"special_tokens of tekken.json is '<SPECIAL_5>': .* rank 5",
    ),
    "tekken with a special token too far": (broken(special_tokens=[{"rank": 99, "token_str": "<s>"}]), "0 to 24"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files_are_named(name: str, tmp_path: Path) -> None:
    write_it, told = DAMAGED[name]
    with pytest.raises(TokenizerError, match=told):
        Tokenizer.load(write_it(tmp_path))


def test_tokens_as_long_as_they_may_be_are_read(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(with_rank(b" " * 1024)(tmp_path))
    assert tokenizer.spell(256) == b" " * 1024


def test_merges_are_counted_while_they_are_made() -> None:
    with pytest.raises(TokenizerError, match="number of merges is 1048577: it must be at most 1048576"):
        bounded_merges(repeat(("a", "b")))
    with pytest.raises(TokenizerError, match=r"length of all merges is .*: it must be at most 67108864"):
        bounded_merges(repeat(("a", "b" * 1000)))


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=3000)
@given(text=texts)
def test_ids_of_many_texts_are_those_of_the_kinds_own_library(kind: str, text: str) -> None:
    check(kind, text)


@pytest.mark.long
def test_llama_3s_first_file_says_nothing_of_its_special_tokens(tmp_path: Path) -> None:
    tokens = [bytes([i]) for i in range(256)]
    tokens += [i.to_bytes(3, "big") + b"\0\1" for i in range(128_000 - 256)]
    lines = b"".join(b"%s %d\n" % (base64.b64encode(token), i) for i, token in enumerate(tokens))
    tokenizer = Tokenizer.load(with_bytes("tokenizer.model", lines)(tmp_path))
    said = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    assert tokenizer.encode("".join(said), add_special_tokens=False) == [128000, 128001, 128006, 128007, 128009]
    assert tokenizer.token_strings([128002, 128005, 128011, 128255]) == [
        f"<|reserved_special_token_{i}|>" for i in (0, 2, 3, 247)
    ]
    assert (tokenizer.vocab_size, tokenizer.eos_ids, len(tokenizer.special_ids)) == (128_256, (128_001,), 256)
