"""SentencePiece models as `tokenizers` runs them, from their pieces. [host half: no jax]

What the pieces and settings mean: sentencepiece_model.proto of github.com/google/sentencepiece. A space is written ▁.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from jaxpaged.errors import TokenizerError
from jaxpaged.tokenizer_files.bounds import bounded_merges, check_special, check_tokens

_SPACE = "▁"
_SPACES_AROUND = rf"\A +|[ {_SPACE}]+\z"
"""At the end SentencePiece takes off spaces once they are written as ▁, so a ▁ of the text, too."""
_SIZE_BYTES = 4


class Kind(IntEnum):
    """What a piece is; the numbers are the file's."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """An entry of the vocabulary; its id is its place. score: of two merges, the higher one comes first."""

    text: str
    score: float
    kind: Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class PieceModel:
    """A vocabulary and what is done to texts before it.

    unigram: the most probable pieces, else merges by score. byte_fallback: unknown characters become bytes.
    charsmap: the compiled table of a Unicode normalisation. squeezes: spaces around are taken off, several made one.
    prefixed: a text begins with a space that is not in it. prefix_each: so does what follows a special token.
    """

    pieces: Sequence[Piece]
    unigram: bool = False
    byte_fallback: bool = True
    charsmap: bytes = b""
    squeezes: bool = False
    prefixed: bool = True
    prefix_each: bool = True


def sentence_pieces(model: PieceModel) -> tokenizers.Tokenizer:
    """A tokenizer that gives the ids which SentencePiece gives, between special tokens (the control pieces).

    Raises TokenizerError for more or longer pieces than `bounds` lets pass.
    """
    check_tokens([piece.text for piece in model.pieces])
    check_special(sum(piece.kind in (Kind.CONTROL, Kind.USER_DEFINED) for piece in model.pieces))
    defined = [piece.text for piece in model.pieces if piece.kind is Kind.USER_DEFINED]
    backend = tokenizers.Tokenizer(_unigram(model) if model.unigram else _bpe(model, whole=bool(defined)))
    backend.normalizer = normalizers.Sequence(list(_normalizers(model)))
    if splitters := list(_splitters(model, defined)):
        backend.pre_tokenizer = pre_tokenizers.Sequence(splitters)
    backend.decoder = decoders.Sequence(list(_decoders(model)))
    control = [piece.text for piece in model.pieces if piece.kind is Kind.CONTROL]
    backend.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in control])
    if not model.prefixed:
        # they are looked for in the text as the normaliser leaves it: most of Gemma's are runs of spaces
        backend.add_tokens([AddedToken(text, special=False, normalized=True) for text in defined])
    return backend


def _unigram(model: PieceModel) -> models.Unigram:
    vocab = [(piece.text, piece.score) for piece in model.pieces]
    return models.Unigram(vocab, unk_id=_unknown(model), byte_fallback=model.byte_fallback)


def _bpe(model: PieceModel, *, whole: bool) -> models.BPE:
    unknown = _unknown(model)
    return models.BPE(
        vocab={piece.text: i for i, piece in enumerate(model.pieces)},
        merges=_merges(model.pieces),
        unk_token=None if unknown is None else model.pieces[unknown].text,
        fuse_unk=True,
        byte_fallback=model.byte_fallback,
        # where texts are cut at user-defined pieces, those are tokens though nothing merges to them
        ignore_merges=whole and model.prefixed,
    )


def _unknown(model: PieceModel) -> int | None:
    return next((i for i, piece in enumerate(model.pieces) if piece.kind is Kind.UNKNOWN), None)


def _merges(pieces: Iterable[Piece]) -> list[tuple[str, str]]:
    """Every way to make a normal piece of two others, the piece with the highest score first."""
    normal = {piece.text: piece.score for piece in pieces if piece.kind is Kind.NORMAL}
    return bounded_merges(
        (text[:at], text[at:])
        for text in sorted(normal, key=lambda text: -normal[text])
        for at in range(1, len(text))
        if text[:at] in normal and text[at:] in normal
    )


def _normalizers(model: PieceModel) -> Iterable[normalizers.Normalizer]:
    if model.charsmap:
        _check_charsmap(model.charsmap)
        yield normalizers.Precompiled(model.charsmap)
    if model.squeezes:
        yield normalizers.Replace(Regex(_SPACES_AROUND), "")
        yield normalizers.Replace(Regex(" {2,}"), " ")
    yield normalizers.Replace(" ", _SPACE)
    if model.prefixed and model.prefix_each:
        yield normalizers.Prepend(_SPACE)


def _check_charsmap(table: bytes) -> None:
    """The table begins with the bytes of its trie, 32 bits, little-endian; the library takes room for as many before it
    looks whether they are there, and ends the process where there is none. Raises TokenizerError."""
    size, most = int.from_bytes(table[:_SIZE_BYTES], "little"), len(table) - _SIZE_BYTES
    if size > most:
        limit = f"{max(most, 0)} bytes follow"
        raise TokenizerError(name="trie of precompiled_charsmap", value=size, limit=limit, fix="Take the file again")


def _splitters(model: PieceModel, defined: list[str]) -> Iterable[pre_tokenizers.PreTokenizer]:
    if model.prefixed and not model.prefix_each:
        yield pre_tokenizers.Metaspace(replacement=_SPACE, prepend_scheme="first", split=False)
    if defined and model.prefixed:
        longest_first = sorted(defined, key=len, reverse=True)
        yield pre_tokenizers.Split(Regex("|".join(map(re.escape, longest_first))), behavior="isolated")


def _decoders(model: PieceModel) -> Iterable[decoders.Decoder]:
    yield decoders.Replace(_SPACE, " ")
    if model.byte_fallback:
        yield decoders.ByteFallback()
    yield decoders.Fuse()
    if model.prefixed:
        yield decoders.Strip(" ", 1, 0)
