"""Tokenizer files older than tokenizer.json, changed by a stranger: tekken, ranks, merges, pieces."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from fuzz.mutations import documents, texts
from fuzz.uses import use
from hypothesis import strategies as st

_TOKENS = [*(bytes([i]) for i in range(256)), b"he", b"ll", b"hell", b" a", b"  ", b"    "]
_PATTERN = r"\p{L}+| ?[^\s\p{L}]+|\s+"
_NAMES = ("<s>", "</s>", "[INST]", "<SPECIAL_5>", "he", "<|eot_id|>")
_LONG = tuple(base64.b64encode(b"a" * size) for size in (1024, 1025, 5000, 10**6))


def _spelled(token: bytes) -> str:
    return base64.b64encode(token).decode()


def _write_config(folder: Path, data: st.DataObject, seed: dict[str, Any]) -> None:
    told = data.draw(texts(data.draw(documents(seed, others=_NAMES))))
    (folder / "tokenizer_config.json").write_bytes(told)


@st.composite
def _lines(draw: st.DrawFn, seed: list[bytes], others: tuple[bytes, ...]) -> bytes:
    """The lines with some left out, doubled, swapped, cut, or others in their places."""
    lines = list(seed)
    for _ in range(draw(st.sampled_from((0, 1, 1, 2)))):
        i, change = draw(st.integers(0, len(lines) - 1)), draw(st.integers(0, 5))
        if change < 2:
            lines[i] = draw(st.sampled_from((*others, b"", b" ", b"a", b"\xff\xfe", b"a b c", b"\0 0", b"== 1")))
        elif change == 2:
            del lines[i]
        elif change == 3:
            lines.insert(i, lines[draw(st.integers(0, len(lines) - 1))])
        elif change == 4:
            other = draw(st.integers(0, len(lines) - 1))
            lines[i], lines[other] = lines[other], lines[i]
        else:
            lines[i] = lines[i][: draw(st.integers(0, len(lines[i])))]
    return draw(st.sampled_from((b"\n", b"\n", b"\n", b"\r\n", b"\n\n"))).join(lines)


class Tekken:
    """tekken.json, with its special tokens listed or not."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "tekken.json"
        count = 25
        config = {"pattern": _PATTERN, "default_num_special_tokens": count, "version": "v3"}
        config |= {"default_vocab_size": count + len(_TOKENS) - 1, "num_vocab_tokens": len(_TOKENS)}
        vocab = [{"rank": i, "token_bytes": _spelled(token), "token_str": None} for i, token in enumerate(_TOKENS)]
        listed = [{"rank": i, "token_str": text, "is_control": True} for i, text in enumerate(("<unk>", "<s>", "</s>"))]
        self._seeds = (
            {"config": config, "vocab": vocab},
            {"config": config | {"version": "v13"}, "vocab": vocab, "special_tokens": listed},
        )
        self._others = (*_NAMES, *map(bytes.decode, _LONG), _PATTERN, 2**14, 2**14 + 1, listed * 10_000)

    def case(self, folder: Path, data: st.DataObject) -> object:
        seed = data.draw(st.sampled_from(self._seeds))
        self._path.write_bytes(data.draw(texts(data.draw(documents(seed, others=self._others)))))
        return use(folder)


class Tiktoken:
    """Lines of base64, by each of their names, and the tokens that tokenizer_config.json adds."""

    def __init__(self, folder: Path) -> None:
        self._lines = [f"{_spelled(token)} {i}".encode() for i, token in enumerate(_TOKENS)]
        last = len(_TOKENS)
        declared = {str(last + i): {"content": text, "special": True} for i, text in enumerate(_NAMES[:4])}
        self._configs: tuple[dict[str, Any], ...] = ({}, {"added_tokens_decoder": declared, "bos_token": "<s>"})
        self._others = (*(b"%s %d" % (token, last) for token in _LONG), b"YQ== 262", b"YQ== -1", b"aGVs 10000000")

    def case(self, folder: Path, data: st.DataObject) -> object:
        _write_config(folder, data, data.draw(st.sampled_from(self._configs)))
        kind = data.draw(st.sampled_from(("llama", "llama", "glm4", "qwen", None)))
        (folder / "config.json").write_text(json.dumps({"model_type": kind}))
        path = folder / data.draw(st.sampled_from(("tokenizer.model", "tokenizer.model", "qwen.tiktoken")))
        path.write_bytes(data.draw(_lines(self._lines, self._others)))
        try:
            return use(folder)
        finally:
            path.unlink()


class VocabMerges:
    """vocab.json and merges.txt."""

    def __init__(self, folder: Path) -> None:
        from jaxpaged.tokenizer_files.byte_level import alphabet

        self._vocab = {text: i for i, text in enumerate([*alphabet(), "he", "ll", "hell", "<|endoftext|>"])}
        self._merges = [b"#version: 0.2", b"h e", b"l l", b"he ll"]
        self._others = (b"h", b"h  e", b"he he", b"hell " + b"a" * 5000, b"#version", b"l l l", "é l".encode())

    def case(self, folder: Path, data: st.DataObject) -> object:
        kind = data.draw(st.sampled_from(("GPT2Tokenizer", "Qwen2Tokenizer", None)))
        _write_config(folder, data, {"tokenizer_class": kind, "add_prefix_space": True, "bos_token": "<|endoftext|>"})
        (folder / "vocab.json").write_bytes(data.draw(texts(data.draw(documents(self._vocab, others=_NAMES)))))
        (folder / "merges.txt").write_bytes(data.draw(_lines(self._merges, self._others)))
        return use(folder)


class Pieces:
    """A SentencePiece model: its fields changed, or its bytes."""

    def __init__(self, folder: Path) -> None:
        from sentencepiece import sentencepiece_model_pb2

        self._new = vars(sentencepiece_model_pb2)["ModelProto"]
        proto = self._new()
        bytes_of = [(f"<0x{i:02X}>", 6) for i in range(256)]
        words = [(text, 1) for text in ("▁", "a", "b", "h", "e", "▁a", "ab", "he")]
        for i, (text, kind) in enumerate([("<unk>", 2), ("<s>", 3), ("</s>", 3), *bytes_of, *words]):
            proto.pieces.add(piece=text, score=-float(i), type=kind)
        proto.trainer_spec.model_type, proto.trainer_spec.byte_fallback = 2, True
        self._seed = proto.SerializeToString()
        self._path = folder / "tokenizer.model"

    def _change(self, proto: Any, data: st.DataObject) -> None:
        pieces, trained, text = proto.pieces, proto.trainer_spec, proto.normalizer_spec
        piece = pieces[data.draw(st.integers(0, len(pieces) - 1))]
        match data.draw(st.integers(0, 7)):
            case 0:
                piece.piece = data.draw(
                    st.sampled_from(("", " ", "a", "ab", "▁" * 9, "\0", "(", "a" * 1025, "日" * 999))
                )
            case 1:
                piece.score = data.draw(st.sampled_from((0.0, 1e30, float("nan"), float("inf"), -float("inf"))))
            case 2:
                piece.type = data.draw(st.integers(1, 6))
            case 3:
                pieces.add(piece=data.draw(st.sampled_from((*_NAMES, "▁▁", "🙂"))), type=data.draw(st.integers(1, 6)))
            case 4:
                del pieces[data.draw(st.integers(0, len(pieces) - 1)) :]
                pieces.add(piece="<unk>", type=2)
            case 5:
                trained.model_type = data.draw(st.integers(1, 4))
                trained.byte_fallback = data.draw(st.booleans())
            case 6:
                text.precompiled_charsmap = data.draw(st.sampled_from((b"", b"AAAA", b"\xff" * 40, b"\0" * 1025)))
                text.add_dummy_prefix = data.draw(st.booleans())
            case _:
                for name in ("unk_id", "bos_id", "eos_id", "pad_id"):
                    setattr(trained, name, data.draw(st.sampled_from((-1, 0, 1, 2, 300, 2**31 - 1))))

    def case(self, folder: Path, data: st.DataObject) -> object:
        kind = data.draw(st.sampled_from(("LlamaTokenizer", "T5Tokenizer", None)))
        _write_config(folder, data, {"tokenizer_class": kind, "legacy": False, "extra_ids": 3, "bos_token": "<s>"})
        proto = self._new.FromString(self._seed)
        for _ in range(data.draw(st.sampled_from((0, 1, 1, 2, 3)))):
            self._change(proto, data)
        whole = proto.SerializeToString()
        place = data.draw(st.integers(0, len(whole)))
        match data.draw(st.integers(0, 11)):
            case 0:
                whole = whole[:place]
            case 1:
                whole = whole[:place] + data.draw(st.binary(min_size=1, max_size=4)) + whole[place:]
            case 2:
                whole = whole[:place] + data.draw(st.binary(min_size=1, max_size=4)) + whole[place + 1 :]
            case _:
                pass
        self._path.write_bytes(whole)
        return use(folder)
