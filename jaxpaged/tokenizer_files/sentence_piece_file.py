"""tokenizer.model and spiece.model: files of SentencePiece, for which that library is needed. [host half: no jax]"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from jaxpaged.errors import TokenizerError
from jaxpaged.tokenizer_files.bounds import MAX_TOKENS, check_count, check_special, read_file
from jaxpaged.tokenizer_files.sentence_piece import Kind, Piece, PieceModel, sentence_pieces
from jaxpaged.tokenizer_files.source import Source, reading

_MAX_BYTES = 2**24
"""Three times the largest of a real model. protobuf takes some 60 bytes for a piece of two, an empty one."""
_UNIGRAM, _BPE = 1, 2
_NUMBERED_OTHERWISE = (
    *("BarthezTokenizer", "CamembertTokenizer", "MBartTokenizer", "MBart50Tokenizer", "NllbTokenizer"),
    *("PegasusTokenizer", "SeamlessM4TTokenizer", "XGLMTokenizer", "XLMRobertaTokenizer", "M2M100Tokenizer"),
)
"""Classes of tokenizers whose ids are not the places of the pieces in their file."""


def read_sentence_piece(path: Path, *, config: Mapping[str, Any], declared: Mapping[int, str]) -> Source:
    """config: tokenizer_config.json; declared: the names of tokens that it gives, by id. Raises TokenizerError."""
    made_for = str(config.get("tokenizer_class") or "").removesuffix("Fast")
    if made_for in _NUMBERED_OTHERWISE:
        limit, fix = "its ids are not those of its file", "Save the tokenizer in its fast form, tokenizer.json"
        raise TokenizerError(name=f"tokenizer_class of {path.parent}", value=made_for, limit=limit, fix=fix)
    proto = _parse(path)
    with reading(path):
        model, special = _model(proto, config, declared), _special(proto)
        if is_t5 := made_for == "T5Tokenizer":
            model = replace(model, pieces=[*model.pieces, *_sentinels(int(config.get("extra_ids", 100)))])
        backend = sentence_pieces(model)
    return Source(backend=backend, special_tokens=special, adds_bos=not is_t5, adds_eos=is_t5)


def _parse(path: Path) -> Any:
    """The file as the library's own classes hold it."""
    try:
        # only old folders need it, and it brings protobuf
        from sentencepiece import sentencepiece_model_pb2
    except ImportError as error:
        raise TokenizerError(
            name="tokenizer",
            value=str(path),
            limit=f"it is a SentencePiece model, and reading one needs packages that are not here: {error}",
            fix="pip install sentencepiece protobuf; or save it as tokenizer.json",
        ) from error
    with reading(path):
        # protobuf makes its classes when it is imported
        return vars(sentencepiece_model_pb2)["ModelProto"].FromString(read_file(path, max_bytes=_MAX_BYTES))


def _model(proto: Any, config: Mapping[str, Any], declared: Mapping[int, str]) -> PieceModel:
    trained, text = proto.trainer_spec, proto.normalizer_spec
    if trained.model_type not in (_UNIGRAM, _BPE) or trained.treat_whitespace_as_suffix or not text.escape_whitespaces:
        limit = "only unigram and BPE models are read whose words begin with a space"
        raise TokenizerError(name="model_type", value=trained.model_type, limit=limit)
    check_count("number of tokens", len(proto.pieces), MAX_TOKENS)
    texts = [piece.piece for piece in proto.pieces]
    there = set(texts)
    for i, name in declared.items():  # placeholders of the file get the names that the model uses
        if i < len(texts) and name not in there:
            there.discard(texts[i])
            there.add(name)
            texts[i] = name
    if not texts or len(set(texts)) != len(texts):
        raise TokenizerError(name="pieces", value=len(texts), limit="there must be some, and none of them twice")
    return PieceModel(
        pieces=[
            Piece(text=text, score=piece.score, kind=Kind(piece.type))
            for text, piece in zip(texts, proto.pieces, strict=True)
        ],
        unigram=trained.model_type == _UNIGRAM,
        byte_fallback=trained.byte_fallback,
        charsmap=text.precompiled_charsmap,
        squeezes=text.remove_extra_whitespaces,
        prefixed=bool(config.get("add_prefix_space", text.add_dummy_prefix)) and text.add_dummy_prefix,
        prefix_each=bool(config.get("legacy", True)),
    )


def _sentinels(count: int) -> list[Piece]:
    """The tokens that T5 has after its pieces, the last one first."""
    check_special(count)
    return [Piece(text=f"<extra_id_{i}>", score=0.0, kind=Kind.CONTROL) for i in reversed(range(count))]


def _special(proto: Any) -> dict[str, str]:
    """The named special tokens by the file's own ids."""
    trained = proto.trainer_spec
    ids = {"bos_token": trained.bos_id, "eos_token": trained.eos_id, "unk_token": trained.unk_id}
    ids["pad_token"] = trained.pad_id
    return {name: proto.pieces[i].piece for name, i in ids.items() if 0 <= i < len(proto.pieces)}
