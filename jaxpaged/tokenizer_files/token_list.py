"""A tokenizer of lists, as files have them that hold a whole model. [host half: no jax]"""

from __future__ import annotations

from collections.abc import Sequence

import tokenizers
from tokenizers import AddedToken

from jaxpaged.errors import TokenizerError
from jaxpaged.tokenizer_files.byte_level import byte_level_bpe
from jaxpaged.tokenizer_files.sentence_piece import Kind, Piece, PieceModel, sentence_pieces

_ADDED = (Kind.CONTROL, Kind.USER_DEFINED)


def from_token_list(
    tokens: Sequence[str],
    kinds: Sequence[int],
    *,
    merges: Sequence[str] | None = None,
    scores: Sequence[float] | None = None,
    pattern: str | None = None,
    whole_words: bool = False,
    nfc: bool = False,
    prefixed: bool = True,
) -> tokenizers.Tokenizer:
    """A tokenizer of tokens in the order of their ids. kinds: SentencePiece's numbers (`Kind`); control tokens are
    special, user-defined ones are found whole in texts.

    With merges ("left right", the first one first) it is byte-level BPE; pattern, whole_words and nfc are those of
    `byte_level_bpe`. Without, it is SentencePiece's BPE by scores; prefixed: texts begin with a space that is not in
    them. Raises TokenizerError for lists that do not fit together.
    """
    lists = {"kinds": kinds, "scores": tokens if scores is None else scores}
    for name, values in lists.items():
        if len(values) != len(tokens):
            raise TokenizerError(name=f"tokenizer {name}", value=len(values), limit=f"there are {len(tokens)} tokens")
    if len(set(tokens)) != len(tokens) or any(kind not in list(Kind) for kind in kinds):
        limit = f"each must be there once, and of a kind from 1 to {len(Kind)}"
        raise TokenizerError(name="tokens", value=len(tokens), limit=limit)
    if merges is None:
        pieces = [
            Piece(text=text, score=score, kind=Kind(kind))
            for text, kind, score in zip(tokens, kinds, scores or [0.0] * len(tokens), strict=True)
        ]
        return sentence_pieces(PieceModel(pieces=pieces, prefixed=prefixed))
    pairs: list[tuple[str, str]] = []
    for merge in merges:
        left, _, right = merge.partition(" ")
        pairs.append((left, right))
    vocab = {text: i for i, text in enumerate(tokens)}
    try:
        backend = byte_level_bpe(vocab, pairs, pattern=pattern, nfc=nfc, whole_words=whole_words)
    except Exception as error:  # tokenizers raises bare Exception for merges of tokens that are not there
        raise TokenizerError(name="tokenizer merges", value=len(pairs), limit=f"they do not fit: {error}") from error
    added = [(text, kind == Kind.CONTROL) for text, kind in zip(tokens, kinds, strict=True) if kind in _ADDED]
    backend.add_tokens([AddedToken(text, special=special, normalized=False) for text, special in added])
    return backend
