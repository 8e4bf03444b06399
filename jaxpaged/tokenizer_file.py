"""A stranger's tokenizer.json, read without trusting it. [host half: no jax]

The library that reads it is memory-safe, so no file can run code; but one can make it panic, or take memory without
end. Panics are caught; what it makes of a file is bounded by the file's own size, before it is read.
"""

from __future__ import annotations

from pathlib import Path

import tokenizers

from jaxpaged.bounded_json import read_bounded
from jaxpaged.errors import TokenizerError
from jaxpaged.panics import is_failure

MAX_NAMES = 3 * 2**18
"""Colons: almost three times the largest vocabulary of a real model. The library takes up to 300 bytes for each."""
MAX_PARTS = 3 * 2**20
"""Commas and opening brackets, three for a merge: 1.7 times the most of a real model. Up to 170 bytes for each."""
_SHOWN = 200


def read_tokenizer(file: Path) -> tokenizers.Tokenizer:
    """The tokenizer in a file. Raises TokenizerError."""
    try:
        data = read_bounded(file)
        names, parts = data.count(b":"), sum(data.count(mark) for mark in (b",", b"{", b"["))
        if names > MAX_NAMES or parts > MAX_PARTS:
            raise ValueError(
                f"it has {names} colons and {parts} commas and brackets; at most {MAX_NAMES} and {MAX_PARTS} are read"
            )
        return tokenizers.Tokenizer.from_buffer(data)
    except BaseException as error:  # tokenizers raises bare Exception, or panics, for whatever it cannot read
        if not is_failure(error):
            raise
        raise unreadable(file, error) from error


def unreadable(file: Path, error: BaseException) -> TokenizerError:
    """What is said of a file that the library fails on."""
    return TokenizerError(name="tokenizer", value=str(file), limit=f"it cannot be read: {str(error)[:_SHOWN]}")
