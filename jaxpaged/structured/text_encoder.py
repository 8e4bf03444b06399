"""The tokens of text in the middle of an answer. [host half: no jax]"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import tokenizers

_REMEMBERED = 4096
"""Texts: names of a schema come again and again."""
_LONGEST = 256
"""Characters of a text that is remembered."""


class TextEncoder:
    """Text to tokens as the tokenizer makes them, but with nothing put before it, and special tokens' names as text.

    None where they would not spell the text, as of a tokenizer that composes characters. Any thread may call it.
    """

    def __init__(self, backend: tokenizers.Tokenizer, tokens: Sequence[bytes]) -> None:
        self._tokens = tokens
        self._backend = _in_the_middle(backend)
        self._remembered = lru_cache(_REMEMBERED)(self._encode)

    def __call__(self, text: str) -> list[int] | None:
        ids = self._remembered(text) if len(text) <= _LONGEST else self._encode(text)
        return None if ids is None else list(ids)

    def _encode(self, text: str) -> tuple[int, ...] | None:
        ids = self._backend.encode(text, add_special_tokens=False).ids
        return tuple(ids) if b"".join(self._tokens[i] for i in ids) == text.encode() else None


def _in_the_middle(backend: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """A tokenizer of the same model, which is shared, without what belongs to a text's beginning."""
    made = tokenizers.Tokenizer(backend.model)
    parts = tokenizers.Tokenizer.from_str(
        json.dumps(
            {
                "version": "1.0",
                "added_tokens": [],
                "normalizer": _without_prefix(backend.normalizer),
                "pre_tokenizer": _without_prefix(backend.pre_tokenizer),
                "model": {"type": "BPE", "vocab": {}, "merges": []},
            }
        )
    )
    if parts.normalizer is not None:
        made.normalizer = parts.normalizer
    if parts.pre_tokenizer is not None:
        made.pre_tokenizer = parts.pre_tokenizer
    added = sorted(backend.get_added_tokens_decoder().items())
    for _, token in added:
        (made.add_special_tokens if token.special else made.add_tokens)([token])
    if any(made.token_to_id(token.content) != i for i, token in added):  # ids with gaps, which cannot be made again
        made = tokenizers.Tokenizer.from_str(backend.to_str())
        made.normalizer, made.pre_tokenizer = parts.normalizer, parts.pre_tokenizer
    made.encode_special_tokens = True
    return made


def _without_prefix(stage: Any) -> dict[str, Any] | None:
    """A normalizer or pre-tokenizer, as tokenizer.json writes it, that puts no space before a text."""
    return None if stage is None else _part(json.loads(stage.__getstate__()))


def _part(part: dict[str, Any]) -> dict[str, Any] | None:
    if part["type"] == "Prepend":
        return None
    for name in ("normalizers", "pretokenizers"):
        if name in part:
            part = {**part, name: [made for one in part[name] if (made := _part(one)) is not None]}
    if part["type"] == "Metaspace":
        part = {**part, "prepend_scheme": "never"}
    if "add_prefix_space" in part:
        part = {**part, "add_prefix_space": False}
    return part
