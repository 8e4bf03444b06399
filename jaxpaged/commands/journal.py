"""The results of `jaxpaged generate --input`: JSON lines that survive a crash, a full disk and a second start. [no jax]

A row is written whole, in one place, when its request ends; rows stand in the order of finishing, and `index` says
which line of the input each answers. Only the last line can be damaged (by a crash in the middle of a write): it is
cut off at the next start. Where an index stands twice, an error row was done again and the later row counts.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxpaged.errors import OutputError

_ROW_BEGINS = b'{"index": '


class Journal:
    """An open output file. `done` maps the index of each row it holds to the row's digest; `failed` are the error rows.

    Raises OutputError where the file cannot be opened, is in use, or holds something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.done: dict[int, str] = {}
        self.failed: set[int] = set()
        self.num_repaired_bytes = 0
        self._fd = self._open()
        try:
            self._lock()
            self._end = self._read() if stat.S_ISREG(os.fstat(self._fd).st_mode) else 0
        except BaseException:
            os.close(self._fd)
            raise

    def write(self, row: Mapping[str, Any]) -> None:
        """Add one row; it is in the file at return. Raises OutputError, with the file as it was before."""
        line = json.dumps({"index": row["index"], **row}, ensure_ascii=False).encode() + b"\n"
        written = 0
        try:
            while written < len(line):  # a disk that fills up takes a part first
                written += os.write(self._fd, line[written:])
        except OSError as error:
            self._cut()
            raise self._error(
                f"the row of line {row['index'] + 1} could not be written ({error.strerror}); "
                f"the {len(self.done)} rows before it are kept",
                "Make room, then run the same command again: it goes on from there",
            ) from error
        self._end += written
        self._count(row)

    def close(self) -> None:
        """Give the file back, with all rows on the disk."""
        try:
            os.fsync(self._fd)
        except OSError:
            pass  # a pipe or a device
        finally:
            os.close(self._fd)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> int:
        try:
            return os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise self._error(error.strerror or str(error), "Give a file in a folder that can be written") from error

    def _lock(self) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise self._error("another run is writing it", "Wait for its end, or give another --output") from None
        except OSError:
            pass  # a file system without locks

    def _read(self) -> int:
        """Take over the rows of an earlier run; returns where the file ends."""
        end = 0
        with open(self._fd, "rb", closefd=False) as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    self._repair(line, end)
                    break
                self._take(number, line)
                end += len(line)
        return end

    def _take(self, number: int, line: bytes) -> None:
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict) or type(row.get("index")) is not int or not isinstance(row.get("digest"), str):
            raise self._error(
                f"its line {number} is no row of `jaxpaged generate`: {line[:60].decode('utf-8', 'replace').strip()!r}",
                "Give another --output; this file is left as it is",
            )
        self._count(row)

    def _count(self, row: Mapping[str, Any]) -> None:
        self.done[row["index"]] = row["digest"]
        (self.failed.add if row.get("error") else self.failed.discard)(row["index"])

    def _repair(self, tail: bytes, end: int) -> None:
        beginning = min(len(tail), len(_ROW_BEGINS))
        if tail[:beginning] != _ROW_BEGINS[:beginning] and tail.strip(b"\0"):
            raise self._error(
                f"its last line is no row of `jaxpaged generate`: {tail[:60].decode('utf-8', 'replace')!r}",
                "Give another --output; this file is left as it is",
            )
        os.ftruncate(self._fd, end)
        self.num_repaired_bytes = len(tail)

    def _cut(self) -> None:
        with contextlib.suppress(OSError):  # a pipe or a device; or the next start cuts it
            os.ftruncate(self._fd, self._end)

    def _error(self, limit: str, fix: str) -> OutputError:
        return OutputError(name="--output", value=str(self.path), limit=limit, fix=fix)
