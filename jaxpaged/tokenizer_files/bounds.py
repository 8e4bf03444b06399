"""What an older file of tokens may hold: what is made of it grows faster than the file. [host half: no jax]

Of real vocabularies the largest have some 262,144 tokens of some 2 MB together, 600,000 merges, and runs of 128 spaces
as their longest tokens (reckoned: no such file was at hand).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sized
from pathlib import Path

from jaxpaged.bounded_json import MAX_BYTES, read_bounded
from jaxpaged.errors import TokenizerError
from jaxpaged.tokenizer_files.fast import MAX_NAMES, MAX_PARTS

MAX_TOKENS = MAX_NAMES
"""Of a vocabulary."""
MAX_TOKEN = 1024
"""Bytes of a token, or characters of a piece."""
MAX_TOGETHER = 2**23
"""Bytes or characters of all tokens: each may be the place where one is cut into two that merge."""
MAX_MERGES = MAX_PARTS // 3
MAX_MERGED = 2**26
"""Characters of all merges, of which the library makes copies; real ones have some 6 million."""
MAX_SPECIAL = 2**14
"""Special tokens; the library looks for all of them in every text."""
_FIX = "No real model has as many: take the file from the model's own page again"


def read_file(path: Path, *, max_bytes: int = MAX_BYTES) -> bytes:
    """The bytes of a file of tokens. Raises OSError, ValueError (it is no file), and TokenizerError for a large one."""
    if (size := path.stat().st_size) > max_bytes:
        raise TokenizerError(name=f"bytes of {path}", value=size, limit=f"at most {max_bytes} are read", fix=_FIX)
    return read_bounded(path, max_bytes=max_bytes)


def check_tokens(tokens: Collection[Sized]) -> None:
    """Raises TokenizerError for too many, one that is too long, too much together."""
    longest, together = max(map(len, tokens), default=0), sum(map(len, tokens))
    for name, value, most in (
        ("number of tokens", len(tokens), MAX_TOKENS),
        ("length of a token", longest, MAX_TOKEN),
        ("length of all tokens", together, MAX_TOGETHER),
    ):
        check_count(name, value, most)


def check_special(count: int) -> None:
    """Raises TokenizerError."""
    check_count("number of special tokens", count, MAX_SPECIAL)


def bounded_merges(merges: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """The merges, as far as there may be. Raises TokenizerError for more."""
    made: list[tuple[str, str]] = []
    together = 0
    for merge in merges:
        made.append(merge)
        together += len(merge[0]) + len(merge[1])
        if len(made) > MAX_MERGES or together > MAX_MERGED:
            break
    check_count("number of merges", len(made), MAX_MERGES)
    check_count("length of all merges", together, MAX_MERGED)
    return made


def check_count(name: str, value: int, most: int) -> None:
    """Raises TokenizerError where there are more."""
    if value > most:
        raise TokenizerError(name=name, value=value, limit=f"it must be at most {most}", fix=_FIX)
