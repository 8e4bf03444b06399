"""A checkpoint's safetensors files, memory-mapped: what is in them, and what is wrong with them."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any

import jax.numpy  # noqa: F401  (numpy learns of bfloat16 by it)
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from jaxpaged.errors import ModelError
from jaxpaged.weights.folder import read_json

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
DTYPES = ("F32", "BF16", "F16")
"""Element types that can be read, in safetensors' own names."""
PACKED_DTYPES = ("U8",)
"""Those of the parts of a packed tensor."""
_DOWNLOAD = "Download the model again"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTensor:
    """One tensor as its file declares it; dtype in safetensors' names."""

    file: str
    shape: tuple[int, ...]
    dtype: str


class Checkpoint:
    """The tensors of a folder and all that is wrong with its files. Close it, or use it in a `with`.

    tensors: by name. problems: sentences for people. Raises ModelError where there are no safetensors at all.
    """

    def __init__(self, folder: Path) -> None:
        self.tensors: dict[str, StoredTensor] = {}
        self.problems: list[str] = []
        self._files: dict[str, Any] = {}
        self._unreadable: set[str] = set()
        self._stack = ExitStack()
        self._index = _index_of(folder)
        try:
            for file in sorted(set(self._index.values())) if self._index is not None else [SINGLE]:
                self._open(folder, file)
        except BaseException:
            self._stack.close()
            raise
        self._compare_with_index()

    def read(self, name: str) -> NDArray[Any]:
        """The values of one tensor, copied out of the file in the file's own dtype."""
        return self._files[self.tensors[name].file].get_tensor(name)

    def is_there(self, name: str) -> bool:
        """Whether a file holds the tensor, or the index says that one does."""
        return name in self.tensors or (self._index is not None and name in self._index)

    def is_lost(self, name: str) -> bool:
        """Whether the tensor's absence is explained by a file that is missing or damaged."""
        if self._index is None:
            return SINGLE in self._unreadable
        return self._index.get(name) in self._unreadable

    def is_unlisted(self, name: str) -> bool:
        """Whether a file holds the tensor though the index does not know of it."""
        return self._index is not None and name not in self._index

    def close(self) -> None:
        self._stack.close()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self, folder: Path, file: str) -> None:
        parts = PurePosixPath(file).parts
        if not parts or PurePosixPath(file).is_absolute() or ".." in parts or "\\" in file or ":" in file:
            return self._lose(file, f"{INDEX} names a file outside the folder: {file!r}")
        if not (folder / file).is_file():
            return self._lose(file, f"{INDEX} names a file that is not there: {file!r}")
        try:
            opened = self._stack.enter_context(safe_open(folder / file, "numpy"))
        except (SafetensorError, OSError) as error:
            return self._lose(file, f"damaged file {file!r}: {error}")
        self._files[file] = opened
        for name in opened.keys():  # noqa: SIM118  (not a mapping)
            piece = opened.get_slice(name)
            stored = StoredTensor(file=file, shape=tuple(piece.get_shape()), dtype=str(piece.get_dtype()))
            if name in self.tensors:
                self.problems.append(f"duplicate: {name!r} is in {self.tensors[name].file!r} and in {file!r}")
            else:
                self.tensors[name] = stored
        return None

    def _lose(self, file: str, problem: str) -> None:
        self._unreadable.add(file)
        self.problems.append(problem)

    def _compare_with_index(self) -> None:
        for name, file in (self._index or {}).items():
            stored = self.tensors.get(name)
            if file in self._unreadable or (stored is not None and stored.file == file):
                continue
            where = "nowhere" if stored is None else f"in {stored.file!r}"
            self.problems.append(f"{INDEX} says that {name!r} is in {file!r}, but it is {where}")


def _index_of(folder: Path) -> dict[str, str] | None:
    """Tensor name to file, None where one file holds all (transformers prefers it too)."""
    if (folder / SINGLE).is_file():
        return None
    if not (folder / INDEX).is_file():
        pickles = sorted(path.name for path in folder.glob("*.bin"))
        if pickles:
            limit = f"weights are only there as pickles ({', '.join(pickles[:3])}), and loading one can run any code"
            fix = "Convert them with transformers: save_pretrained writes safetensors"
        else:
            limit, fix = f"it holds neither {SINGLE} nor {INDEX}", _DOWNLOAD
        raise ModelError(name="model", value=folder.name, limit=limit, fix=fix)
    files = read_json(folder / INDEX, fix=_DOWNLOAD).get("weight_map")
    if not isinstance(files, dict) or not files or not all(isinstance(file, str) for file in files.values()):
        raise ModelError(
            name=f"{INDEX}: weight_map", value=files, limit="it must name a file for every tensor", fix=_DOWNLOAD
        )
    return files
