"""The output file: what survives, what is refused."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from jaxpaged.commands.journal import Journal
from jaxpaged.errors import OutputError


def row(index: int, digest: str = "d", **more: object) -> dict[str, object]:
    return {"index": index, "text": "ü", "digest": digest, **more}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


def write(path: Path, *rows: dict[str, object]) -> None:
    with Journal(path) as journal:
        for item in rows:
            journal.write(item)


def test_a_row_is_in_the_file_before_the_next_begins(path: Path) -> None:
    with Journal(path) as journal:
        journal.write(row(1))
        assert path.read_text(encoding="utf-8") == '{"index": 1, "text": "ü", "digest": "d"}\n'


def test_a_second_run_knows_the_rows(path: Path) -> None:
    write(path, row(1, "a"), row(0, "b", error="no"))
    with Journal(path) as journal:
        assert journal.done == {1: "a", 0: "b"}
        assert journal.failed == {0}
        journal.write(row(0, "c"))
        assert journal.failed == set()
    with Journal(path) as journal:
        assert journal.done == {1: "a", 0: "c"}
        assert journal.failed == set()


@pytest.mark.parametrize("kept", range(1, len(json.dumps(row(1), ensure_ascii=False).encode()) + 1))
def test_a_row_cut_anywhere_is_removed(path: Path, kept: int) -> None:
    write(path, row(0), row(1))
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    path.write_bytes(whole[: first + kept])
    with Journal(path) as journal:
        assert journal.done == {0: "d"}
        assert journal.num_repaired_bytes == kept
        journal.write(row(1))
    assert path.read_bytes() == whole


def test_zeros_left_by_a_power_cut_are_removed(path: Path) -> None:
    write(path, row(0))
    whole = path.read_bytes()
    path.write_bytes(whole + bytes(100))
    with Journal(path) as journal:
        assert journal.num_repaired_bytes == 100
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    "content", [b"my diary", b"my diary\n", b"[1]\n", b'{"index": "0", "digest": ""}\n', b'{"index": 0}\n{"ind']
)
def test_a_file_of_something_else_is_left_alone(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(OutputError, match="no row of `jaxpaged generate`"):
        Journal(path)
    assert path.read_bytes() == content


def test_a_damaged_row_in_the_middle_is_named(path: Path) -> None:
    write(path, row(0), row(1))
    lines = path.read_bytes().splitlines(keepends=True)
    content = lines[0] + b'{"index": 1, "te\n' + lines[1]
    path.write_bytes(content)
    with pytest.raises(OutputError, match="line 2 is no row"):
        Journal(path)
    assert path.read_bytes() == content


def test_a_disk_that_fills_up_leaves_whole_rows(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Journal(path) as journal:
        journal.write(row(0))
        whole = path.read_bytes()
        real = os.write

        def full(fd: int, data: bytes) -> int:
            if len(data) < 20:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(fd, data[:20])

        monkeypatch.setattr(os, "write", full)
        with pytest.raises(
            OutputError, match=r"row of line 8 could not be written \(No space left on device\); the 1 rows"
        ):
            journal.write(row(7))
        monkeypatch.setattr(os, "write", real)
        assert path.read_bytes() == whole
        assert journal.done == {0: "d"}


def test_a_full_device() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    with Journal(Path("/dev/full")) as journal, pytest.raises(OutputError, match=r"/dev/full.*No space left"):
        journal.write(row(0))


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"--output is .*nowhere.*No such file or directory") as caught:
        Journal(tmp_path / "nowhere" / "out.jsonl")
    assert caught.value.fix


def test_two_runs_do_not_share_a_file(path: Path) -> None:
    with Journal(path), pytest.raises(OutputError, match="another run is writing it"):
        Journal(path)
    Journal(path).close()
