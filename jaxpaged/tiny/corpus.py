"""The training text of the bundled model: the sources of CPython's standard library.

Owns the choice of files and the split into training and held-out files. A file is held
out by the hash of its path, so the split is the same on every machine.
"""

from __future__ import annotations

import hashlib
import sysconfig
from dataclasses import dataclass
from pathlib import Path

HELD_OUT_BYTES = 500_000
MAX_FILE_BYTES = 400_000  # larger files are data tables, not code
_SKIPPED_PARTS = frozenset({"site-packages", "__pycache__", "lib2to3", "encodings", "pydoc_data"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """Texts of whole files; `held_out` never meets the tokenizer or the model in training."""

    train: tuple[str, ...]
    held_out: tuple[str, ...]

    @property
    def held_out_bytes(self) -> bytes:
        return b"".join(text.encode() for text in self.held_out)[:HELD_OUT_BYTES]


def read_corpus(folder: Path | None = None) -> Corpus:
    """Read every UTF-8 `.py` file of the standard library below `folder` (default: this Python's)."""
    root = folder or Path(sysconfig.get_paths()["stdlib"])
    texts: list[tuple[str, str]] = []
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root)
        if _SKIPPED_PARTS & set(name.parts) or path.stat().st_size > MAX_FILE_BYTES:
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # deliberately broken test inputs
        if text.strip():
            texts.append((name.as_posix(), text))
    by_hash = sorted(texts, key=lambda item: hashlib.sha256(item[0].encode()).digest())
    held_out: list[str] = []
    size = 0
    while size < HELD_OUT_BYTES:
        _, text = by_hash.pop(0)
        held_out.append(text)
        size += len(text.encode())
    return Corpus(train=tuple(text for _, text in by_hash), held_out=tuple(held_out))
