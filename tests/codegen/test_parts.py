"""The gates' own parts, without a compiler: a crash is one program's, stubs hold what is asked for, Snappy is read."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

from codegen.checks import complaints, memory_complaints
from codegen.children import run_all
from codegen.objects import _BLOCK, _BLOCK_HEADER, _SIGNATURE, _innermost, _msgpack, _unsnap
from codegen.stubs import needed, wanted

_CHILD = """
import json, os, sys
for name in sys.argv[1:]:
    print(json.dumps({"start": name}), flush=True)
    if name == "crash":
        os.abort()
    print(json.dumps({"name": name, "pid": os.getpid()}), flush=True)
"""


def test_a_crash_is_the_failure_of_one_program(tmp_path: Path) -> None:
    results = run_all([sys.executable, "-c", _CHILD], ["a", "crash", "b"], tmp_path)
    assert sorted(results) == ["a", "b", "crash"]
    assert "exit status -6" in results["crash"]["error"]
    assert results["a"]["pid"] != results["b"]["pid"]


def test_a_child_that_does_not_start_fails_all(tmp_path: Path) -> None:
    results = run_all([sys.executable, "-c", "raise SystemExit('no such plugin')"], ["a", "b"], tmp_path)
    assert [("no such plugin" in results[name]["error"]) for name in ("a", "b")] == [True, True]


def test_stubs_hold_the_functions_that_no_linux_has() -> None:
    dynamic = " (NEEDED) Shared library: [libamdhip64.so.7]\n (NEEDED) Shared library: [libc.so.6]\n"
    symbols = """
     1: 0 0 FUNC    GLOBAL DEFAULT  UND hipMalloc@hip_4.2 (34)
     2: 0 0 FUNC    GLOBAL DEFAULT  UND malloc@GLIBC_2.2.5 (4)
     3: 0 0 FUNC    GLOBAL DEFAULT  UND ncclSend
     4: 0 0 FUNC    GLOBAL DEFAULT   12 here
    """
    versions = "File: libamdhip64.so.7  Cnt: 1\n Name: hip_4.2\nFile: libc.so.6  Cnt: 1\n Name: GLIBC_2.2.5\n"
    assert needed(dynamic) == ["libamdhip64.so.7"]
    assert wanted(symbols, versions, ["libamdhip64.so.7"]) == {
        "libamdhip64.so.7": {"hipMalloc": "hip_4.2", "ncclSend": ""}
    }


def test_snappy_and_messagepack() -> None:
    # 10 bytes: the literal "ab", then 8 bytes from 2 back, over themselves
    assert _unsnap(bytes([10, 0x04]) + b"ab" + bytes([0x11, 0x02])) == b"ababababab"
    assert _msgpack(b"\x82\xa1a\x05\xa1b\x92\xcd\x01\x00\xc3") == ({"a": 5, "b": [256, True]}, 11)


def test_complaints_name_what_is_wrong() -> None:
    report = {
        "archs": ["sm_90"],
        "kernels": {"mixed": 1},
        "wanted": ["decode"],
        "code": [["mixed", 128, 3, 12]],
        "copies": ["copy bf16[1,8,16,128]"],
        "widened": ["bf16[4096,4096]"],
        "sorts": [4096, 32000],
        "unsorted": 32000,
        "most_temp": 10**8,
        "pool": 100,
        "alias": 50,
        "argument": 10**9,
        "output": 0,
        "temp": 2 * 10**8,
    }
    assert complaints(report, "gfx942") == [
        "machine code is for ['sm_90'], not for gfx942",
        "kernel decode is missing from the program",
        "kernel decode is missing from machine code",
        "mixed spills: 3, scratch 12 B",
        "the pool is copied: copy bf16[1,8,16,128]",
        "int8 weights are widened in memory: bf16[4096,4096]",
        "a sort of 32000 elements",
        "200000000 bytes of temporaries, at most 100000000",
        "50 bytes are written in place, the pool has 100",
    ]
    assert memory_complaints(report, "gfx942") == ["200000000 bytes of temporaries, at most 150000000"]
    assert memory_complaints({**report, "argument": 10**12}, "gfx942") == ["1000199999950 bytes do not fit gfx942"]


def riegeli(record: bytes) -> bytes:
    """A file of one record, not compressed."""
    sizes = bytes([0x80 | len(record) & 0x7F, 0x80 | len(record) >> 7 & 0x7F, len(record) >> 14])
    body = b"\0" + bytes([len(sizes)]) + sizes + record
    header = struct.pack("<QQQcxxxxxxxQ", 0, len(body), 0, b"r", len(record))
    data, most = header + body, _BLOCK - _BLOCK_HEADER
    between = _SIGNATURE.ljust(_BLOCK_HEADER, b"\0")
    return b"".join(between + data[at : at + most] for at in range(0, len(data), most))


def test_a_file_inside_a_file_is_read_without_the_headers_of_either() -> None:
    record = bytes(range(251)) * 600
    assert len(record) > 2 * _BLOCK
    once, twice = riegeli(record), riegeli(riegeli(record))
    assert list(_innermost(b"before" + once)) == [record]
    assert list(_innermost(b"before" + twice)) == [record]
