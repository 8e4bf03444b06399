"""Tokenizer files, chat templates and incremental detokenisation; transformers and whole decodes are the oracles."""

from __future__ import annotations

import json
import threading
import time
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

from jaxpaged.detokenize import Detokenizer
from jaxpaged.errors import PromptError, TokenizerError
from jaxpaged.tiny import TINY_MODEL
from jaxpaged.tokenize import Tokenizer

SPECIAL = ["<s>", "</s>", "<|end of turn|>"]  # the last one has characters that byte-level BPE cannot spell


def id_of(backend: tokenizers.Tokenizer, text: str) -> int:
    found = backend.token_to_id(text)
    assert found is not None, text
    return found


def byte_level_backend() -> tokenizers.Tokenizer:
    """All 256 bytes, merges that cut characters anywhere, special tokens, and an added one that is not special."""
    pairs = [" t", "th", "the", "é", "日本", "🙂"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {character: i for i, character in enumerate(alphabet)}
    merges: list[tuple[str, str]] = []
    for text in pairs:
        spelled = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)[0][0]
        for end in range(2, len(spelled) + 1):
            if spelled[:end] not in vocab:
                vocab[spelled[:end]] = len(vocab)
                merges.append((spelled[: end - 1], spelled[end - 1]))
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    backend.add_tokens(["tool é"])
    return backend


def sentence_piece_backend() -> tokenizers.Tokenizer:
    """As Llama 2's: a word begins with ▁, unknown characters become bytes, one leading space is stripped."""
    words = ["▁", "a", "b", "c", "▁a", "▁b", "ab", "▁ab", "é"]
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"<0x{i:02X}>": 3 + i for i in range(256)}
    vocab |= {word: 259 + i for i, word in enumerate(words)}
    merges = [("▁", "a"), ("▁", "b"), ("a", "b"), ("▁a", "b")]
    backend = tokenizers.Tokenizer(
        models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    backend.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in ("<s>", "</s>")])
    return backend


@cache
def byte_level() -> Tokenizer:
    return Tokenizer(byte_level_backend())


@cache
def sentence_piece() -> Tokenizer:
    return Tokenizer(sentence_piece_backend())


@cache
def byte_ids() -> dict[int, int]:
    """The token of each byte."""
    spelled = {i: byte_level().spell(i) for i in range(256)}
    return {spell[0]: i for i, spell in spelled.items() if spell is not None}


def pieces(tokenizer: Tokenizer, ids: list[int], *, skip_special_tokens: bool = True) -> list[str]:
    detokenizer = Detokenizer(tokenizer, skip_special_tokens=skip_special_tokens)
    return [*(detokenizer.push(i) for i in ids), detokenizer.flush()]


texts = st.text(st.one_of(st.characters(codec="utf-8"), st.sampled_from("the té日本🙂👨‍👩‍👧 \n")), max_size=30)


@settings(deadline=None)
@given(ids=st.lists(st.integers(0, 300), max_size=40), skip=st.booleans())
def test_pieces_of_any_ids_join_to_the_whole(ids: list[int], skip: bool) -> None:
    whole = byte_level().decode(ids, skip_special_tokens=skip)
    assert "".join(pieces(byte_level(), ids, skip_special_tokens=skip)) == whole


@settings(deadline=None)
@given(raw=st.lists(st.one_of(st.binary(max_size=6), texts.map(str.encode)), max_size=8).map(b"".join))
def test_pieces_of_any_bytes_join_to_the_whole(raw: bytes) -> None:
    ids = [byte_ids()[byte] for byte in raw]
    assert "".join(pieces(byte_level(), ids)) == raw.decode(errors="replace") == byte_level().decode(ids)


@settings(deadline=None)
@given(text=texts)
@pytest.mark.parametrize("kind", [byte_level, sentence_piece])
def test_pieces_of_a_text_are_whole_characters(kind: Any, text: str) -> None:
    tokenizer = kind()
    ids = tokenizer.encode(text, add_special_tokens=False)
    found = pieces(tokenizer, ids)
    assert found[-1] == ""
    assert "".join(found) == tokenizer.decode(ids)
    assert "�" in text or not any("�" in piece for piece in found)


def test_a_character_comes_when_its_last_byte_does() -> None:
    ids = [byte_ids()[byte] for byte in "a🙂".encode()]
    assert pieces(byte_level(), ids) == ["a", "", "", "", "🙂", ""]
    assert pieces(byte_level(), ids[:-1]) == ["a", "", "", "", "�"]
    assert pieces(byte_level(), [*ids[:-1], ids[0]]) == ["a", "", "", "", "�a", ""]


def test_spaces_of_sentence_pieces() -> None:
    backend = sentence_piece_backend()
    ids = [id_of(backend, word) for word in ("▁a", "b", "▁", "▁b", "<0xE6>", "<0x97>", "<0xA5>", "▁a", "<0xE6>", "▁a")]
    assert pieces(sentence_piece(), ids) == ["a", "b", " ", " b", "", "", "日", " a", "", "� a", ""]
    # a byte that is a space may be the one that is taken off the beginning, too
    space = id_of(backend, "<0x20>")
    for said in ([space, ids[0]], [ids[0], space, ids[3]], [space, space], [2, space, ids[0]]):
        assert "".join(pieces(sentence_piece(), said)) == sentence_piece().decode(said)
    # a skipped token between two words takes no space away
    assert pieces(sentence_piece(), [1, ids[0], 2, ids[3], 2]) == ["", "a", "", " b", "", ""]
    assert pieces(sentence_piece(), [ids[0], 2, ids[3]], skip_special_tokens=False) == ["a", "</s>", " b", ""]


@settings(deadline=None)
@given(ids=st.lists(st.sampled_from([1, 2, *range(259, 268)]), max_size=20), skip=st.booleans())
def test_pieces_of_words_join_to_the_whole(ids: list[int], skip: bool) -> None:
    whole = sentence_piece().decode(ids, skip_special_tokens=skip)
    assert "".join(pieces(sentence_piece(), ids, skip_special_tokens=skip)) == whole


def test_a_word_piece_decoder() -> None:
    vocab = {"play": 0, "##ing": 1, "now": 2, "!": 3, "[UNK]": 4}
    backend = tokenizers.Tokenizer(models.WordPiece(vocab=vocab, unk_token="[UNK]"))
    backend.decoder = decoders.WordPiece()
    assert pieces(Tokenizer(backend), [0, 1, 2, 3, 3]) == ["play", "ing", " now", "!", "!", ""]


def test_a_long_answer_costs_the_same_per_token(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = Tokenizer(sentence_piece_backend())
    decoded: list[int] = []
    decode = tokenizer.decode
    monkeypatch.setattr(tokenizer, "decode", lambda ids, **kwargs: (decoded.append(len(ids)), decode(ids, **kwargs))[1])
    pieces(tokenizer, [259, 3, 2, 260, 200, 10**6] * 200)
    assert decoded
    assert max(decoded) <= 2
    assert sum(decoded) <= 3 * 1200


def test_unknown_ids_have_no_text() -> None:
    assert pieces(byte_level(), [10**6]) == ["", ""]
    assert byte_level().decode([10**6]) == ""


def write(folder: Path, **files: Any) -> Path:
    byte_level_backend().save(str(folder / "tokenizer.json"))
    for name, value in files.items():
        (folder / f"{name}.json").write_text(value if isinstance(value, str) else json.dumps(value))
    return folder


def test_load_reads_tokens_and_every_eos_id(tmp_path: Path) -> None:
    end_of_turn = id_of(byte_level_backend(), "<|end of turn|>")
    folder = write(
        tmp_path,
        tokenizer_config={"bos_token": {"content": "<s>", "lstrip": False}, "eos_token": "</s>", "pad_token": None},
        generation_config={"eos_token_id": [3, end_of_turn]},
        config={"text_config": {"eos_token_id": 5}},
    )
    tokenizer = Tokenizer.load(folder)
    backend = byte_level_backend()
    assert tokenizer.special_tokens == {"bos_token": "<s>", "eos_token": "</s>"}
    assert tokenizer.eos_ids == tuple(sorted({3, end_of_turn, id_of(backend, "</s>")}))
    assert tokenizer.special_ids == {id_of(backend, text) for text in SPECIAL}
    assert tokenizer.vocab_size == backend.get_vocab_size()
    assert tokenizer.has_chat_template is False
    assert tokenizer.decode(tokenizer.encode("the <s>té")) == "the té"
    assert tokenizer.decode(tokenizer.encode("the <s>té"), skip_special_tokens=False) == "the <s>té"


FAMILIES: dict[str, tuple[dict[str, Any], set[int]]] = {
    "llama 3: a list": (
        {"generation_config": {"eos_token_id": [128001, 128008, 128009]}, "config": {"eos_token_id": 128001}},
        {128001, 128008, 128009},
    ),
    "qwen 2.5: the end of a turn, and the end of a text": (
        {"generation_config": {"eos_token_id": [151645, 151643]}, "config": {"eos_token_id": 151645}},
        {151643, 151645},
    ),
    "gemma 2: one alone": ({"generation_config": {"eos_token_id": 1}, "config": {"eos_token_id": [1, 107]}}, {1}),
    "gemma 3: of the text part": ({"config": {"text_config": {"eos_token_id": [1, 106]}}}, {1, 106}),
    "mistral 7b: no generation_config.json": ({"config": {"eos_token_id": 2}}, {2}),
    "phi 3: one that says nothing of ends": (
        {"generation_config": {"_from_model_config": True}, "config": {"eos_token_id": 32000}},
        {32000},
    ),
    "a stale config.json": ({"generation_config": {"eos_token_id": [7]}, "config": {"eos_token_id": 2}}, {7}),
    "nothing": ({"generation_config": {"eos_token_id": None}, "config": {}}, set()),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("end", [None, "</s>", "<|end of turn|>"])
def test_end_tokens_are_those_of_vllm(family: str, end: str | None, tmp_path: Path) -> None:
    """Of the files and of the tokenizer's own name; a token is no end for its name alone."""
    files, expected = FAMILIES[family]
    named = set() if end is None else {id_of(byte_level_backend(), end)}
    folder = write(tmp_path, **files, tokenizer_config={"eos_token": end})
    assert set(Tokenizer.load(folder).eos_ids) == expected | named


def test_another_folder_may_name_the_end_tokens(tmp_path: Path) -> None:
    other, model = tmp_path / "other", tmp_path / "model"
    for made in (other, model):
        made.mkdir()
    (other / "generation_config.json").write_text('{"eos_token_id": 4}')
    (model / "config.json").write_text('{"eos_token_id": 6}')
    folder = write(tmp_path, generation_config={"eos_token_id": 3}, config={"eos_token_id": 5})
    assert Tokenizer.load(folder).eos_ids == (3,)
    assert Tokenizer.load(folder, generation_config=other).eos_ids == (4,)
    assert Tokenizer.load(folder, model=model).eos_ids == (6,), "a tokenizer's folder says nothing of another model"
    assert Tokenizer.load(folder, model=model, generation_config=other).eos_ids == (4,)


def test_load_needs_only_tokenizer_json(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(str(write(tmp_path)))
    assert tokenizer.eos_ids == ()
    assert tokenizer.special_tokens == {}


def test_special_tokens_that_only_the_config_calls_special(tmp_path: Path) -> None:
    count = byte_level_backend().get_vocab_size()
    declared = {str(count): {"content": "<new>", "special": True}, "9999": {"content": "<far>", "special": True}}
    config = {"eos_token": "tool é", "pad_token": "<nowhere>", "added_tokens_decoder": declared}
    tokenizer = Tokenizer.load(write(tmp_path, tokenizer_config=config))
    assert tokenizer.encode("<new>") == [count]
    assert tokenizer.vocab_size == count + 1
    assert tokenizer.decode([*tokenizer.encode("tool é"), count]) == ""
    assert len(tokenizer.encode("<nowhere>")) > 1
    assert len(tokenizer.encode("<far>")) > 1


def test_truncation_and_padding_of_training_are_off(tmp_path: Path) -> None:
    backend = byte_level_backend()
    backend.enable_truncation(4)
    backend.enable_padding(length=8)
    backend.save(str(tmp_path / "tokenizer.json"))
    assert len(Tokenizer.load(tmp_path).encode("x" * 20)) == 20
    assert len(Tokenizer.load(tmp_path).encode("x")) == 1


def test_encode_adds_what_the_model_wants() -> None:
    assert sentence_piece().encode("ab") == [1, 266]
    assert sentence_piece().encode("ab", add_special_tokens=False) == [266]


@pytest.mark.parametrize(
    ("files", "named"),
    [
        ({"tokenizer_config": "{"}, "tokenizer_config.json"),
        ({"tokenizer_config": "[]"}, "tokenizer_config.json"),
        ({"tokenizer_config": {"bos_token": 3}}, "bos_token"),
        ({"tokenizer_config": {"chat_template": [{"name": "x"}]}}, "chat_template"),
        ({"tokenizer_config": {"added_tokens_decoder": {"x": {}}}}, "added_tokens_decoder"),
        ({"generation_config": {"eos_token_id": "</s>"}}, "generation_config.json"),
        ({"config": {"eos_token_id": [1, -1]}}, "config.json"),
        ({"tokenizer": "{}"}, "tokenizer.json"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, files: dict[str, Any], named: str) -> None:
    with pytest.raises(TokenizerError, match=named):
        Tokenizer.load(write(tmp_path, **files))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"tokenizer\.json.*no such file"):
        Tokenizer.load(tmp_path)


def test_text_that_is_not_unicode_is_refused() -> None:
    with pytest.raises(PromptError, match="UTF-8"):
        byte_level().encode("a\ud800")
    with pytest.raises(PromptError, match="token ids"):
        byte_level().decode([-1])


def test_other_threads_run_while_a_long_text_is_encoded() -> None:
    """A server encodes long texts in a thread for its event loop's sake, in vain where the call holds the GIL."""
    tokenizer, done = Tokenizer.load(TINY_MODEL), threading.Event()
    gaps: list[float] = []

    def tick() -> None:
        before = time.monotonic()
        while not done.is_set():
            time.sleep(0.001)
            gaps.append((now := time.monotonic()) - before)
            before = now

    ticking = threading.Thread(target=tick)
    ticking.start()
    began = time.monotonic()
    tokenizer.encode("a b" * 200_000)
    took = time.monotonic() - began
    done.set()
    ticking.join()
    assert max(gaps) < took / 2


def test_long_texts_and_long_lists_are_read_as_short_ones_are() -> None:
    tokenizer = Tokenizer.load(TINY_MODEL)
    line = "Some w\u00f6rds, <|user|> and \U0001f600\n"
    one = tokenizer.encode(line, add_special_tokens=False)
    many = tokenizer.encode(line * 200, add_special_tokens=False)
    assert many == one * 200
    assert tokenizer.decode(many, skip_special_tokens=False) == line * 200
    with pytest.raises(PromptError, match="UTF-8"):
        tokenizer.encode("\ud800" * 2000)
    with pytest.raises(PromptError, match="whole number"):
        tokenizer.decode([-1] * 2000)
