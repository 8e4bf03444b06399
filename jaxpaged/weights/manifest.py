"""What a converted folder says of itself: `jaxpaged.json`, written last, so that a folder without it is none. [no jax]

Digests are against damage and slips of the hand, not against a forger, who could write them anew.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

import msgspec

from jaxpaged.errors import ModelError, OutputError
from jaxpaged.weights.folder import read_json

MANIFEST = "jaxpaged.json"
FORMAT = 1
"""Of the folder: which leaves there are, how each is laid out, where it lies. Another layout needs another number."""
AGAIN = "Convert the model again: jaxpaged convert"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredLeaf:
    """One leaf, in plain form. axes: logical, as its parameter declares them. part: of the checkpoint. crc32: of its
    bytes, little-endian, in C order."""

    path: str
    shape: tuple[int, ...]
    dtype: str
    axes: tuple[str | None, ...]
    part: str
    crc32: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """dtype, quantization: see `WeightForm`. source: what was converted, `fingerprint.weights_identity`, and its name.

    files: SHA-256 of all that is small in the folder: config.json, tokenizer, what orbax writes of itself. sizes: bytes
    of the files that hold leaves, whose contents their own digests are for.
    """

    dtype: str
    quantization: str | None
    source: str
    source_name: str
    files: Mapping[str, str]
    sizes: Mapping[str, int]
    leaves: tuple[StoredLeaf, ...]

    @property
    def identity(self) -> str:
        """A digest of the weights and of their form, the same whenever they were written."""
        return _digest_of(
            {"dtype": self.dtype, "quantization": self.quantization, "leaves": list(map(asdict, self.leaves))}
        )

    def write(self, folder: Path) -> None:
        """Raises OSError."""
        text = json.dumps({**self._told(), "digest": _digest_of(self._told())}, indent=1)
        (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")

    def says(self, digest: object) -> bool:
        """Whether this is all that was written with a digest."""
        return digest == _digest_of(self._told())

    def _told(self) -> dict[str, object]:
        return {"format": FORMAT, **asdict(self)}


def is_converted(folder: Path) -> bool:
    """Whether a folder is, or was meant to be, a converted one."""
    return (folder / MANIFEST).is_file()


def check_place(folder: Path) -> None:
    """Raise OutputError where a converted folder is to be written over something else, or cannot be looked at."""
    try:
        other = folder.exists() and not is_converted(folder) and (not folder.is_dir() or any(folder.iterdir()))
    except OSError as error:
        why = error.strerror or str(error)
        raise OutputError(name="OUT", value=str(folder), limit=why, fix="Name another folder") from error
    if other:
        limit = f"it is there, and no converted model: it has no {MANIFEST}"
        raise OutputError(name="OUT", value=str(folder), limit=limit, fix="Name another folder")


def read_manifest(folder: Path) -> Manifest:
    """Read it and check what it says of itself. Raises ModelError for one that is damaged, edited or newer."""
    told = read_json(folder / MANIFEST, fix=AGAIN)
    if (form := told.get("format")) != FORMAT:
        limit = f"this version reads format {FORMAT}"
        newer = isinstance(form, int) and form > FORMAT
        fix = "Use the newer jaxpaged that wrote it, or convert the model again" if newer else AGAIN
        raise ModelError(name=f"format of {folder / MANIFEST}", value=form, limit=limit, fix=fix)
    digest = told.pop("digest", None)
    if digest != _digest_of(told):
        raise _damaged(folder, MANIFEST, "it was edited or damaged: its digest is another")
    try:
        manifest = msgspec.convert(told, Manifest)
    except msgspec.ValidationError as error:
        raise _damaged(folder, MANIFEST, f"it is no manifest: {error}") from error
    if not manifest.says(digest):
        raise _damaged(folder, MANIFEST, "it is no manifest: it has keys that are not known")
    names = (*manifest.files, *manifest.sizes, *(leaf.part for leaf in manifest.leaves))
    if strange := next((name for name in names if not _is_inside(name)), None):
        raise _damaged(folder, MANIFEST, f"it names {strange!r}, which is not in the folder")
    return manifest


def check_files(folder: Path, manifest: Manifest) -> None:
    """Raise ModelError for the first file that is another than when the folder was written; leaves are not read."""
    for name in (*manifest.files, *manifest.sizes):
        try:
            size, digest = (folder / name).stat().st_size, manifest.files.get(name)
            changed = size != manifest.sizes[name] if digest is None else digest != digest_of_file(folder / name)
        except (OSError, ValueError) as error:  # ValueError: no file can have such a name
            raise _damaged(folder, name, getattr(error, "strerror", None) or str(error)) from error
        if changed:
            raise _damaged(folder, name, "it was edited or damaged since the model was converted")


def digest_of_file(path: Path) -> str:
    """SHA-256 in hex. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest_of(told: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _is_inside(name: str) -> bool:
    """Whether a name is of something below the folder that it is relative to, as text."""
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts


def _damaged(folder: Path, file: str, limit: str) -> ModelError:
    return ModelError(name="file", value=str(folder / file), limit=limit, fix=AGAIN)
