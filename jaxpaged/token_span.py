"""How much text one token may stand for: by it, a text that is too long is known before it is tokenised.
[host half: no jax]"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import tokenizers
from tokenizers.models import BPE

_COMPOSED = 4
"""Characters that NFC makes one of, at most: the longest canonical decomposition of one."""
_KEEPERS = frozenset({"ByteLevel", "Digits", "Metaspace", "Punctuation", "Split"})
"""Pre-tokenizers that leave nothing out, unless their behavior says so."""


def longest_token(backend: tokenizers.Tokenizer, byte_level: str) -> int | None:
    """Characters of text that one token stands for at most; None where there is no bound: a word may be unknown as a
    whole, or spaces be left out.

    byte_level: the 256 characters by which byte-level vocabularies write bytes.
    """
    if any(token.lstrip or token.rstrip for token in backend.get_added_tokens_decoder().values()):
        return None
    model, vocab = backend.model, backend.get_vocab(with_added_tokens=True)
    splitters, normalizers = list(_parts(backend.pre_tokenizer)), list(_parts(backend.normalizer))
    if not isinstance(model, BPE) or not vocab:
        return None
    if any(part["type"] == "ByteLevel" for part in (*splitters, *normalizers)):
        every_byte = byte_level
    elif model.byte_fallback:
        every_byte = [f"<0x{byte:02X}>" for byte in range(256)]
    else:
        return None
    if any(spelled not in vocab for spelled in every_byte):
        return None
    if any(part["type"] not in _KEEPERS or part.get("behavior") == "Removed" for part in splitters):
        return None
    composed = 1
    for part in normalizers:
        if part["type"] == "NFC":
            composed = _COMPOSED
        elif part["type"] not in ("ByteLevel", "Prepend") and not _lengthens(part):
            return None
    return composed * max(map(len, vocab))


def _lengthens(part: dict[str, Any]) -> bool:
    """Whether a normalizer makes no text shorter."""
    pattern = part.get("pattern", {}).get("String")
    return part["type"] == "Replace" and pattern is not None and len(part["content"]) >= len(pattern)


def _parts(stage: Any) -> Iterator[dict[str, Any]]:
    """A normalizer's or pre-tokenizer's steps, as tokenizer.json writes them."""
    left = [] if stage is None else [json.loads(stage.__getstate__())]
    while left:
        part = left.pop()
        inner = part.get("normalizers") or part.get("pretokenizers")
        if part["type"] == "Sequence":
            left += inner or []
        else:
            yield part
