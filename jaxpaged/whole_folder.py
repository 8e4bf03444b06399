"""Writes a folder in whole or not at all, over one that may be there."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A new folder beside `folder`, which takes its place at the end, and is gone after any error or interrupt.

    Raises OSError.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        yield part
        part.chmod(0o755)
        take_place(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def take_place(part: Path, folder: Path) -> None:
    """Rename; what was there goes only when the new one is in its place, and comes back after any error before that."""
    if not folder.exists():
        os.replace(part, folder)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        os.replace(folder, old)
        os.replace(part, folder)
    finally:
        if not folder.exists():
            os.replace(old, folder)
        shutil.rmtree(old, ignore_errors=True)
