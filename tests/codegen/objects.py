"""The machine code inside an executable that XLA serialised, and what it says of itself.

XLA writes a Riegeli file (github.com/google/riegeli, doc/riegeli_records_file_format.md) of Snappy-compressed records
(github.com/google/snappy, format_description.txt); the records hold ELF files as they are, or
another such file.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

AMD, NVIDIA = 224, 190  # ELF e_machine
_SIGNATURE = bytes.fromhex("83af70d10d884a3f")
_BLOCK, _BLOCK_HEADER, _CHUNK_HEADER = 65536, 24, 40
_ELF = b"\x7fELF\x02\x01"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """A kernel's demands. registers: of a lane (vector ones on AMD, accumulators included).

    spilled: registers that did not fit (AMD), bytes of stack (NVIDIA). scratch: bytes of a lane's private memory.
    """

    name: str
    registers: int
    spilled: int
    scratch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeObject:
    """An ELF file's architecture ("gfx942", "sm_90") and its kernels."""

    arch: str
    kernels: tuple[Kernel, ...]


def code_objects(serialized: bytes) -> list[CodeObject]:
    """All that `executable.serialize()` holds. Raises ValueError where it holds none."""
    found = [parse(record[at:]) for record in _innermost(serialized) for at in _find_all(record, _ELF)]
    if not found:
        raise ValueError(f"no code object in {len(serialized)} bytes")
    return found


def parse(elf: bytes) -> CodeObject:
    """The code object at the beginning of these bytes."""
    machine, flags = struct.unpack_from("<H", elf, 18)[0], struct.unpack_from("<I", elf, 48)[0]
    sections = dict(_sections(elf))
    if machine == AMD:
        names = {0x4C: "gfx942", 0x4F: "gfx950"}
        metadata = _msgpack(_note(sections[".note"]))[0]
        kernels = tuple(
            Kernel(
                name=kernel[".name"],
                registers=kernel[".vgpr_count"],
                spilled=kernel[".vgpr_spill_count"],
                scratch=kernel[".private_segment_fixed_size"],
            )
            for kernel in metadata["amdhsa.kernels"]
        )
        return CodeObject(arch=names.get(flags & 0xFF, f"AMD {flags:#x}"), kernels=kernels)
    if machine == NVIDIA:
        # the place of the architecture moved with the ABI's version 8
        arch = (flags >> 8 if elf[8] >= 8 else flags) & 0xFF
        return CodeObject(arch=f"sm_{arch}", kernels=tuple(_nvidia_kernels(sections)))
    return CodeObject(arch=f"machine {machine}", kernels=())


def _find_all(data: bytes, what: bytes) -> Iterator[int]:
    at = data.find(what)
    while at >= 0:
        yield at
        at = data.find(what, at + 1)


def _innermost(data: bytes) -> Iterator[bytes]:
    """The records of the Riegeli file in these bytes; from jax 0.11 on one of them is such a file, once more.

    Only the first beginning counts: the inner file lies in a larger one as it is, but for the blocks' headers.
    """
    start = data.find(_SIGNATURE)
    if start < 0:
        yield data
        return
    for record in _records(data[start:]):
        yield from _innermost(record)


def _records(file: bytes) -> Iterator[bytes]:
    """The values of every chunk of a Riegeli file, what follows the file ignored."""
    data = b"".join(file[at + _BLOCK_HEADER : at + _BLOCK] for at in range(0, len(file), _BLOCK))
    at = 0
    while at + _CHUNK_HEADER <= len(data):
        size, kind = struct.unpack_from("<Q", data, at + 8)[0], data[at + 24 : at + 25]
        if kind not in (b"s", b"r", b"p", b"m") or at + _CHUNK_HEADER + size > len(data):
            return
        body = data[at + _CHUNK_HEADER : at + _CHUNK_HEADER + size]
        if kind == b"r":
            sizes, after = _varint(body, 1)
            values = body[after + sizes :]
            yield _unsnap(values) if body[:1] == b"s" else values
        at += _CHUNK_HEADER + size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _unsnap(data: bytes) -> bytes:
    """Raw Snappy; Riegeli puts the size before it once more."""
    size, at = _varint(data, 0)
    again, after = _varint(data, at)
    at = after if again == size else at
    out = bytearray()
    while at < len(data):
        tag = data[at]
        at += 1
        if tag & 3 == 0:  # literal
            length = (tag >> 2) + 1
            if length > 60:
                extra = length - 60
                length = int.from_bytes(data[at : at + extra], "little") + 1
                at += extra
            out += data[at : at + length]
            at += length
            continue
        if tag & 3 == 1:
            length, offset = ((tag >> 2) & 7) + 4, (tag >> 5 << 8) | data[at]
            at += 1
        else:
            width = 2 if tag & 3 == 2 else 4
            length, offset = (tag >> 2) + 1, int.from_bytes(data[at : at + width], "little")
            at += width
        start = len(out) - offset
        for _ in range(-(-length // offset)):  # a copy may overlap itself
            out += out[start : start + min(length, offset)]
            length -= offset
    if len(out) != size:
        raise ValueError(f"Snappy said {size} bytes and held {len(out)}")
    return bytes(out)


def _sections(elf: bytes) -> Iterator[tuple[str, bytes]]:
    offset = struct.unpack_from("<Q", elf, 40)[0]
    size, count, names = struct.unpack_from("<HHH", elf, 58)
    headers = [struct.unpack_from("<IIQQQQ", elf, offset + i * size) for i in range(count)]
    table = headers[names][4]
    for name, kind, _, _, start, length in headers:
        text = elf[table + name : elf.index(b"\0", table + name)].decode()
        yield text, b"" if kind == 8 else elf[start : start + length]


def _note(section: bytes) -> bytes:
    name, size = struct.unpack_from("<II", section, 0)
    start = 12 + -(-name // 4) * 4
    return section[start : start + size]


def _msgpack(data: bytes, at: int = 0) -> tuple[Any, int]:
    """The value at this place and the place after it; what code objects use of the format."""
    tag = data[at]
    at += 1
    if tag < 0x80:
        return tag, at
    if tag in (0xC2, 0xC3):
        return tag == 0xC3, at
    if 0xCC <= tag <= 0xCF:
        width = 1 << (tag - 0xCC)
        return int.from_bytes(data[at : at + width], "big"), at + width
    if 0xA0 <= tag <= 0xBF or 0xD9 <= tag <= 0xDB:
        width = 0 if tag <= 0xBF else 1 << (tag - 0xD9)
        length = tag & 0x1F if width == 0 else int.from_bytes(data[at : at + width], "big")
        return data[at + width : at + width + length].decode(), at + width + length
    if 0x80 <= tag <= 0x9F or 0xDC <= tag <= 0xDF:
        width = 0 if tag <= 0x9F else (2, 4)[tag & 1]
        count = tag & 0x0F if width == 0 else int.from_bytes(data[at : at + width], "big")
        is_map = tag <= 0x8F or tag >= 0xDE
        at, items = at + width, []
        for _ in range(count * (2 if is_map else 1)):
            item, at = _msgpack(data, at)
            items.append(item)
        return (dict(zip(items[::2], items[1::2], strict=True)) if is_map else items), at
    raise ValueError(f"MessagePack tag {tag:#x} is not expected in a code object")


def _nvidia_kernels(sections: dict[str, bytes]) -> Iterator[Kernel]:
    """Registers and stack of each function, of the attributes in .nv.info: (format, attribute, size), payload."""
    registers, stack = 0x2F, 0x11
    info, symbols, names = sections[".nv.info"], sections[".symtab"], sections[".strtab"]
    found: dict[int, dict[int, int]] = {}
    at = 0
    while at + 4 <= len(info):
        kind, attribute, size = struct.unpack_from("<BBH", info, at)
        if kind == 4:  # sized payload; the other formats hold it in the place of the size
            if attribute in (registers, stack):
                symbol, value = struct.unpack_from("<II", info, at + 4)
                found.setdefault(symbol, {})[attribute] = value
            at += size
        at += 4
    for symbol, values in found.items():
        name = struct.unpack_from("<I", symbols, symbol * 24)[0]
        text = names[name : names.index(b"\0", name)].decode()
        used = values.get(stack, 0)
        yield Kernel(name=text, registers=values.get(registers, 0), spilled=used, scratch=used)
