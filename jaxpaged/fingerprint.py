"""A short name for all that decides an engine's outputs, so that users can tell when they may change."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from jaxpaged.bundle import BundleSettings
from jaxpaged.config import ResolvedConfig
from jaxpaged.weights.manifest import is_converted, read_manifest

_LENGTH = 16  # hex digits
_SAMPLES = 16
_SAMPLE_BYTES = 4096
_HEADER_BYTES = 8  # of a safetensors file: the length of the JSON that follows


def fingerprint_of_engine(config: ResolvedConfig, programs: Mapping[str, str]) -> str:
    """The first 16 hex digits of a SHA-256 over the weights' identity, the programs' and the options of both.

    programs: what they depend on, `ModelRunner.fingerprint`. The number of KV blocks is left out: it follows from free
    memory and changes no output.
    """
    settings = {name: value for name, value in asdict(BundleSettings.of(config)).items() if "blocks" not in name}
    parts = {"weights": weights_identity(config.model), "programs": dict(programs), "settings": settings}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:_LENGTH]


def weights_identity(folder: Path) -> str:
    """A SHA-256 of what tells the weights of one folder, or GGUF file, from another's, without reading them all.

    Of each safetensors file: name, size, header (names, types, shapes, places) and 16 pieces of 4 KiB, evenly spaced.
    Two files that differ in none of these but elsewhere, such as one changed number, are taken for the same. A
    converted folder is told by the digests of its leaves in its manifest, a GGUF file by its size and pieces. A folder
    without such files has an identity, too.
    """
    found = hashlib.sha256()
    if is_converted(folder):
        found.update(read_manifest(folder).identity.encode())
    for path in [folder] if folder.is_file() else sorted(folder.glob("*.safetensors")):
        size = path.stat().st_size
        found.update(f"{path.name}\0{size}\0".encode())
        with path.open("rb") as file:
            if path != folder:
                length = file.read(_HEADER_BYTES)
                found.update(length + file.read(min(size, int.from_bytes(length, "little"))))
            start = file.tell()
            for i in range(_SAMPLES):
                file.seek(start + (size - start) * i // _SAMPLES)
                found.update(file.read(_SAMPLE_BYTES))
    return found.hexdigest()
