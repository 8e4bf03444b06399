"""A stranger's tokenizer.json, read without trusting it. [host half: no jax]

The library that reads it is memory-safe, so no file can run code; but one can make it panic, or take memory without
end. Panics are caught; what it makes of a file is bounded by the file's own size, before it is read.
"""

from __future__ import annotations

from pathlib import Path

import tokenizers

from jaxpaged.bounded_json import read_bounded
from jaxpaged.tokenizer_files.source import reading

MAX_NAMES = 3 * 2**18
"""Colons: almost three times the largest vocabulary of a real model. The library takes up to 300 bytes for each."""
MAX_PARTS = 3 * 2**20
"""Commas and opening brackets, three for a merge: 1.7 times the most of a real model. Up to 170 bytes for each."""


def read_fast(file: Path) -> tokenizers.Tokenizer:
    """The tokenizer in a tokenizer.json. Raises TokenizerError."""
    with reading(file):
        data = read_bounded(file)
        names, parts = data.count(b":"), sum(data.count(mark) for mark in (b",", b"{", b"["))
        if names > MAX_NAMES or parts > MAX_PARTS:
            raise ValueError(
                f"it has {names} colons and {parts} commas and brackets; at most {MAX_NAMES} and {MAX_PARTS} are read"
            )
        return tokenizers.Tokenizer.from_buffer(data)
