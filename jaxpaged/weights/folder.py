"""A model folder, the names and JSON files in it; and whether a file is one that holds a model."""

from __future__ import annotations

from pathlib import Path

from jaxpaged.bounded_json import parse_json, read_bounded
from jaxpaged.errors import ModelError

SINGLE = "model.safetensors"
"""The file that holds all weights, where one does."""
INDEX = "model.safetensors.index.json"
"""The file that says which file holds which tensor, where there are several."""

_GGUF_MAGIC = b"GGUF"


def is_gguf(path: Path) -> bool:
    """Whether it is a file that begins as a GGUF file does. Raises ModelError for one that cannot be read."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return file.read(len(_GGUF_MAGIC)) == _GGUF_MAGIC
    except OSError as error:
        limit = f"it cannot be read: {error.strerror}"
        raise ModelError(name="model", value=str(path), limit=limit, fix="Make it readable, or name another") from error


def model_folder(folder: str | Path) -> Path:
    """The folder as a path. Raises ModelError where there is none."""
    path = Path(folder)
    if not path.is_dir():
        limit = "it is a file, not a folder" if path.exists() else "there is no such folder"
        raise ModelError(
            name="model", value=str(folder), limit=limit, fix="Give the folder that holds config.json and the weights"
        )
    return path


def read_json(path: Path, *, fix: str) -> dict[str, object]:
    """The object in a JSON file. Raises ModelError for a file that is missing, unreadable, not JSON or no object."""
    try:
        value = parse_json(read_bounded(path))
    except FileNotFoundError:
        raise ModelError(name="file", value=path.name, limit="it is missing from the model folder", fix=fix) from None
    except OSError as error:
        raise ModelError(name="file", value=path.name, limit=f"it cannot be read: {error.strerror}", fix=fix) from error
    except ValueError as error:
        raise ModelError(name="file", value=path.name, limit=f"it is not valid JSON: {error}", fix=fix) from error
    if not isinstance(value, dict):
        raise ModelError(
            name="file", value=path.name, limit=f"it holds a {type(value).__name__}, not an object", fix=fix
        )
    return value
