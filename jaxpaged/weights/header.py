"""The header of a safetensors file: which tensors it declares, where their bytes lie, and all that is wrong with it.

The format: 8 bytes with the header's length, little-endian; the header, a JSON object of
{name: {"dtype", "shape", "data_offsets"}} and perhaps "__metadata__"; then the tensors' bytes, one after the other
without a gap (github.com/huggingface/safetensors, README). The library that writes such files tells neither offsets
nor a name that is there twice, and stops at the first problem.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from reprlib import repr as short  # no value of a stranger's header is shown whole
from types import MappingProxyType
from typing import Any

from jaxpaged.bounded_json import parse_json

MAX_HEADER_BYTES = 100_000_000
"""The format's own limit."""
BITS: Mapping[str, int] = MappingProxyType(
    {
        **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
        **dict.fromkeys(("F32", "I32", "U32"), 32),
        **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
        **dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
        **{"F6_E2M3": 6, "F6_E3M2": 6, "F4": 4},
    }
)
"""Element types of the format, each with the bits of an element."""
_LENGTH_BYTES = 8
_MOST_DIMENSIONS = 64
_MOST_SIZE = 2**63 - 1
_MOST_PROBLEMS = 1000
_SHOWN = 200
"""Characters of a name that a problem shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTensor:
    """One tensor as its file declares it; dtype in safetensors' names. start: the byte of the file it begins at."""

    file: str
    shape: tuple[int, ...]
    dtype: str
    start: int


class Unreadable(Exception):
    """A header of which nothing can be told but why."""


def read_header(descriptor: int, file: str) -> tuple[dict[str, StoredTensor], list[str]]:
    """The tensors of an open file by name, and what is wrong with it: sentences for people, without the file's name.

    A tensor that is declared wrongly is in the sentences only. file: what the tensors say that they are in. Raises
    Unreadable, OSError.
    """
    size = os.fstat(descriptor).st_size
    if size < _LENGTH_BYTES:
        raise Unreadable(f"it has {size} bytes, and the length of its header alone takes {_LENGTH_BYTES}")
    length = int.from_bytes(os.pread(descriptor, _LENGTH_BYTES, 0), "little")
    if length > MAX_HEADER_BYTES:
        raise Unreadable(f"its header has {length} bytes, and the format allows {MAX_HEADER_BYTES}")
    if length > size - _LENGTH_BYTES:
        raise Unreadable(f"its header has {length} bytes, and after its length there are {size - _LENGTH_BYTES}")
    problems: list[str] = []
    entries = _parse(os.pread(descriptor, length, _LENGTH_BYTES), problems)
    begin = _LENGTH_BYTES + length
    tensors: dict[str, StoredTensor] = {}
    spans: list[tuple[int, int, str]] = []
    are_all_known = True
    for name, entry in entries.items():
        if len(problems) >= _MOST_PROBLEMS:
            problems.append("what else it declares was not looked at")
            are_all_known = False
            break
        if name == "__metadata__":
            if not isinstance(entry, dict) or not all(isinstance(value, str) for value in entry.values()):
                problems.append("__metadata__ must be an object of strings")
            continue
        try:
            shape, dtype, span = _checked(entry)
        except Unreadable as error:
            problems.append(f"{shown(name)}: {error}")
            are_all_known = False
            continue
        spans.append((*span, name))
        tensors[name] = StoredTensor(file=file, shape=shape, dtype=dtype, start=begin + span[0])
    spans.sort()
    problems += _overlaps(spans, size - begin)
    if are_all_known:
        problems += _gaps(spans, size - begin)
    return tensors, problems


def shown(name: str) -> str:
    """A name from a file as problems show it: never long, never more than one line."""
    return repr(name) if len(name) <= _SHOWN else f"{name[:_SHOWN]!r}..."


def _parse(header: bytes, problems: list[str]) -> dict[str, Any]:
    """The header's entries; names that are there twice become problems. Raises Unreadable."""

    def noting_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        for text in (*found, *found.values()):
            if isinstance(text, str):
                text.encode()  # ValueError for half a surrogate
        if len(found) < len(pairs):
            counts = Counter(name for name, _ in pairs)
            problems.extend(f"its header says {shown(name)} more than once" for name in found if counts[name] > 1)
        return found

    if not header.startswith(b"{"):
        raise Unreadable("its header does not begin with '{'")
    try:
        return parse_json(header, max_bytes=MAX_HEADER_BYTES, hook=noting_doubles)
    except ValueError as error:
        raise Unreadable(f"its header is not valid JSON: {error}") from None


def _checked(entry: object) -> tuple[tuple[int, ...], str, tuple[int, int]]:
    """Shape, type and span of one tensor as the header declares it. Raises Unreadable."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise Unreadable("it must have dtype, shape and data_offsets, and nothing else")
    dtype, shape, span = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        raise Unreadable(f"unknown type {short(dtype)}")
    if not isinstance(shape, list) or len(shape) > _MOST_DIMENSIONS or not all(map(_is_size, shape)):
        raise Unreadable(f"shape {short(shape)} must be at most {_MOST_DIMENSIONS} whole numbers from 0")
    if not isinstance(span, list) or len(span) != 2 or not all(map(_is_size, span)) or span[0] > span[1]:
        raise Unreadable(f"data_offsets {short(span)} must be where it begins and where it ends")
    bits, given = math.prod(shape) * BITS[dtype], span[1] - span[0]
    if bits != given * 8:
        raise Unreadable(f"{dtype} of shape {short(shape)} takes {_bytes(bits)}, and data_offsets give {given}")
    return tuple(shape), dtype, (span[0], span[1])


def _overlaps(spans: list[tuple[int, int, str]], size: int) -> list[str]:
    """Tensors that share bytes, or have some beyond the `size` that there are. spans: sorted."""
    found: list[str] = []
    furthest = (0, 0, "")  # of those before, the one that reaches furthest
    for span in spans:
        if span[0] < furthest[1]:
            found.append(f"overlapping: {shown(furthest[2])} and {shown(span[2])} share bytes")
        furthest = max(furthest, span, key=lambda each: each[1])
    return found + [f"{shown(name)} ends {end - size} bytes after the end" for _, end, name in spans if end > size]


def _gaps(spans: list[tuple[int, int, str]], size: int) -> list[str]:
    """Bytes, among `size`, of no tensor. spans: sorted."""
    found: list[str] = []
    end = 0
    for span in spans:
        if span[0] > end:
            found.append(f"{span[0] - end} bytes before {shown(span[2])} belong to no tensor")
        end = max(end, span[1])
    if end < size:
        found.append(f"the last {size - end} bytes belong to no tensor")
    return found


def _is_size(value: object) -> bool:
    return type(value) is int and 0 <= value <= _MOST_SIZE


def _bytes(bits: int) -> str:
    return short(bits // 8) if bits % 8 == 0 else f"{short(bits)} bits"
