"""Whether a GGUF file holds what its header announces, and no more than a model needs. [no jax]

The `gguf` package makes several objects for every entry that is announced, before it looks whether the file holds one:
a single length made up by a stranger would take all memory. Format: see gguf_file.py.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

MOST_ENTRIES = 2**22
"""Keys, tensors, and elements of lists together; large vocabularies with their merges have a million."""
_SCALARS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of a value by its type: integers, floats, and bools of 1."""
_STRING, _LIST = 8, 9
_MOST_DIMENSIONS = 4  # GGML_MAX_DIMS


def check_header(path: Path) -> None:
    """Raises ValueError for a header that does not fit into the file, or is larger than a model's; OSError."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        _Walk(data).header()


class _Walk:
    """Over the header of an open file, from its version on."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._at = 4
        self._entries = 0
        self._order = "<"
        if not self._number("I") & 0xFFFF:  # as the package tells the other byte order
            self._order = ">"

    def header(self) -> None:
        tensors, keys = self._number("Q"), self._number("Q")
        self._count(tensors)
        self._count(keys)
        for _ in range(keys):
            self._string()
            self._value(self._number("I"))
        for _ in range(tensors):
            self._string()
            if (dimensions := self._number("I")) > _MOST_DIMENSIONS:
                raise ValueError(f"a tensor of {dimensions} dimensions")
            self._skip(8 * dimensions + 4 + 8)  # sizes, type, offset

    def _value(self, kind: int) -> None:
        if kind == _STRING:
            self._string()
        elif kind != _LIST:
            self._skip(self._size(kind))
        else:
            kind, length = self._number("I"), self._number("Q")
            self._count(length)
            if kind != _STRING:
                self._skip(self._size(kind) * length)
                return
            for _ in range(length):
                self._string()

    def _size(self, kind: int) -> int:
        if kind not in _SCALARS:
            raise ValueError("a list of lists" if kind == _LIST else f"a value of type {kind}")
        return _SCALARS[kind]

    def _string(self) -> None:
        self._skip(self._number("Q"))

    def _number(self, form: str) -> int:
        at = self._at
        self._skip(struct.calcsize(f"={form}"))
        return int(struct.unpack_from(self._order + form, self._data, at)[0])

    def _skip(self, count: int) -> None:
        self._at += count
        if self._at > len(self._data):
            raise ValueError("it ends within its header")

    def _count(self, entries: int) -> None:
        self._entries += entries
        if self._entries > MOST_ENTRIES:
            raise ValueError(f"its header announces more than {MOST_ENTRIES} entries")
