"""Which bytes of a text each token of a vocabulary stands for. [host half: no jax]"""

from __future__ import annotations

import json
import re
from typing import Any

import tokenizers

from jaxpaged.errors import TokenizerError
from jaxpaged.tokenizer_files.byte_level import alphabet

_SPACE = "\u2581"
"""By which SentencePiece writes a space."""
_BYTE_TOKEN = re.compile("<0x[0-9A-Fa-f]{2}>")
_SPACED = frozenset({"ByteFallback", "Metaspace", "Replace"})
"""Decoders of vocabularies that write spaces so."""


def spellings(backend: tokenizers.Tokenizer) -> tuple[list[bytes], list[int]]:
    """The bytes of every token, by id, and the ids of special tokens, whose bytes are their names and no text.

    Ids without a token have no bytes. Raises TokenizerError where a token's text depends on those around it.
    """
    decoders = decoder_types(backend.decoder)
    added = backend.get_added_tokens_decoder()
    vocab = backend.get_vocab(with_added_tokens=True)
    letters = alphabet()
    known, as_latin = frozenset(letters), {ord(one): chr(byte) for one, byte in letters.items()}
    is_byte_level = "ByteLevel" in decoders
    if not has_bytes(decoders):
        limit = "its tokens have no bytes of their own: its decoder is none of bytes, nor SentencePiece's"
        raise TokenizerError(name="tokenizer", value=sorted(decoders), limit=limit)
    tokens = [b""] * (1 + max(vocab.values(), default=-1))
    for text, i in vocab.items():
        if i in added:
            tokens[i] = added[i].content.encode()
        elif is_byte_level:
            tokens[i] = text.translate(as_latin).encode("latin-1") if known.issuperset(text) else text.encode()
        elif _BYTE_TOKEN.fullmatch(text):
            tokens[i] = bytes.fromhex(text[3:5])
        else:
            tokens[i] = text.replace(_SPACE, " ").encode()
    return tokens, [i for i, token in added.items() if token.special and i < len(tokens)]


def has_bytes(decoders: set[str]) -> bool:
    """Whether tokens stand for bytes of the text whatever is around them, by the kinds of a decoder's parts."""
    return "ByteLevel" in decoders or bool(decoders & _SPACED)


def decoder_types(decoder: Any) -> set[str]:
    """The kinds of a decoder's parts."""
    found: set[str] = set()
    left = [] if decoder is None else [json.loads(decoder.__getstate__())]
    while left:
        part = left.pop()
        found.add(part["type"])
        left += part.get("decoders", [])
    return found
