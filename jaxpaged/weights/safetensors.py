"""A checkpoint's safetensors files: what is in them, what is wrong with them, and their bytes."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path, PurePosixPath
from types import MappingProxyType, TracebackType
from typing import Any

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from jaxpaged.errors import ModelError, WeightsError
from jaxpaged.weights.folder import INDEX, SINGLE, read_json
from jaxpaged.weights.header import StoredTensor, Unreadable, read_header, shown

DTYPES: Mapping[str, np.dtype[Any]] = MappingProxyType(
    {"F32": np.dtype(np.float32), "BF16": np.dtype(jnp.bfloat16), "F16": np.dtype(np.float16)}
)
"""Element types that can be read, in safetensors' own names."""
CODED_DTYPES = ("U8",)
"""Those of the parts of a coded tensor."""
_NUMPY: Mapping[str, np.dtype[Any]] = MappingProxyType({**DTYPES, "U8": np.dtype(np.uint8)})
_DOWNLOAD = "Download the model again"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_OTHERS = (".gguf", ".h5", ".msgpack", ".npz", ".onnx")
_MOST_FILES = 512
"""Shards of a model, all open at once; processes may have 1,024 files open by default."""
_MOST_READ = 2**30
"""Bytes asked for at once; Linux gives at most 2 GiB."""


class Checkpoint:
    """The tensors of a folder and all that is wrong with its files. Close it, or use it in a `with`.

    tensors: by name. problems: sentences for people. Raises ModelError where there are no safetensors at all.
    """

    def __init__(self, folder: Path) -> None:
        self.tensors: dict[str, StoredTensor] = {}
        self.problems: list[str] = []
        self._folder = folder
        self._files: dict[str, int] = {}  # descriptors
        self._unreadable: set[str] = set()
        self._stack = ExitStack()
        self._index = _index_of(folder)
        files = sorted(set(self._index.values())) if self._index is not None else [SINGLE]
        if len(files) > _MOST_FILES:
            limit = f"it names {len(files)} files, and at most {_MOST_FILES} are opened"
            raise ModelError(name=INDEX, value=files, limit=limit, fix=_DOWNLOAD)
        try:
            for file in files:
                self._open(file)
        except BaseException:
            self._stack.close()
            raise
        self._compare_with_index()

    def read(self, name: str) -> NDArray[Any]:
        """The values of one tensor, in the file's own dtype. Raises WeightsError."""
        stored = self.tensors[name]
        values = np.empty(stored.shape, _NUMPY[stored.dtype])
        self.read_into(name, values)
        return values

    def read_into(self, name: str, values: NDArray[Any], *, skip: int = 0) -> None:
        """Fill a contiguous array with a tensor's elements from the one numbered `skip` on, rounded to its dtype.

        Several threads may read at once. Raises WeightsError where the file has become unreadable.
        """
        stored = self.tensors[name]
        dtype = _NUMPY[stored.dtype]
        raw = values if values.dtype == dtype else np.empty(values.shape, dtype)
        left = raw.reshape(-1).view(np.uint8).data
        place = stored.start + skip * dtype.itemsize
        while left:
            try:
                count = os.preadv(self._files[stored.file], [left[:_MOST_READ]], place)
            except OSError as error:
                raise self._broken(stored.file, f"it cannot be read: {error.strerror}") from error
            if not count:
                raise self._broken(stored.file, "it has become shorter while it was read")
            left, place = left[count:], place + count
        if raw is not values:
            values[...] = raw

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

    def _open(self, file: str) -> None:
        if problem := _misplaced(self._folder, file):
            return self._lose(file, problem)
        try:
            # without waiting for whoever may write to a pipe
            descriptor = os.open(self._folder / file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            self._stack.callback(os.close, descriptor)
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return self._lose(file, f"{shown(file)} is not a file")
            tensors, problems = read_header(descriptor, file)
        except (Unreadable, OSError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            return self._lose(file, f"damaged file {shown(file)}: {why}")
        self._files[file] = descriptor
        self.problems += [f"damaged file {shown(file)}: {problem}" for problem in problems]
        if problems:
            self._unreadable.add(file)
        for name, stored in tensors.items():
            if name in self.tensors:
                self.problems.append(
                    f"duplicate: {shown(name)} is in {shown(self.tensors[name].file)} and in {shown(file)}"
                )
            else:
                self.tensors[name] = stored
        return None

    def _lose(self, file: str, problem: str) -> None:
        self._unreadable.add(file)
        self.problems.append(problem)

    def _broken(self, file: str, limit: str) -> WeightsError:
        return WeightsError(name=f"weights of {self._folder.name}", value=file, limit=limit, fix=_DOWNLOAD)

    def _compare_with_index(self) -> None:
        for name, file in (self._index or {}).items():
            stored = self.tensors.get(name)
            if file in self._unreadable or (stored is not None and stored.file == file):
                continue
            where = "nowhere" if stored is None else f"in {shown(stored.file)}"
            self.problems.append(f"{INDEX} says that {shown(name)} is in {shown(file)}, but it is {where}")


def _misplaced(folder: Path, file: str) -> str | None:
    """What is wrong with a file's name, None where it may be opened.

    A link to a file is followed wherever it leads: the cache of huggingface_hub is made of such links, and only who
    may write to the folder can make one. A name from the index, or a folder on its way, may not lead out.
    """
    path = PurePosixPath(file)
    try:
        outside = not path.parts or path.is_absolute() or ".." in path.parts or "\\" in file or ":" in file
        if outside or not (folder / file).parent.resolve().is_relative_to(folder.resolve()):
            return f"{INDEX} names a file outside the folder: {shown(file)}"
        if path.suffix in _PICKLES:
            return f"{INDEX} names a pickle, and loading one can run any code: {shown(file)}"
        if not (folder / file).exists():
            near = [each.name for each in folder.iterdir() if each.name.lower() == file.lower()]
            told = f"; there is {shown(near[0])}" if near else ""
            return f"{INDEX} names a file that is not there: {shown(file)}{told}"
    except (OSError, ValueError, RuntimeError) as error:  # a name that no file can have, a link to itself
        return f"{INDEX} names a file that cannot be: {shown(file)} ({str(error)[:200]})"
    return None


def _index_of(folder: Path) -> dict[str, str] | None:
    """Tensor name to file, None where one file holds all (transformers prefers it too)."""
    if (folder / SINGLE).is_file():
        return None
    if not (folder / INDEX).is_file():
        raise _no_safetensors(folder)
    files = read_json(folder / INDEX, fix=_DOWNLOAD).get("weight_map")
    if not isinstance(files, dict) or not files or not all(isinstance(file, str) for file in files.values()):
        raise ModelError(
            name=f"{INDEX}: weight_map", value=files, limit="it must name a file for every tensor", fix=_DOWNLOAD
        )
    return files


def _no_safetensors(folder: Path) -> ModelError:
    """The refusal of a folder by what is there instead."""
    names: list[str] = []
    with suppress(OSError):
        names = sorted(path.name for path in folder.iterdir())

    def ending(suffixes: tuple[str, ...]) -> str:
        found = [shown(name) for name in names if name.lower().endswith(suffixes)]
        return ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")

    limit, fix = f"it holds neither {SINGLE} nor {INDEX}", _DOWNLOAD
    if pickles := ending(_PICKLES):
        limit = f"weights are only there as pickles ({pickles}), and loading one can run any code"
        fix = "Convert them with transformers: save_pretrained writes safetensors"
    elif others := ending(_OTHERS):
        limit = f"weights are only there in a form that is not read ({others})"
        fix = "Take the model's folder in Hugging Face layout with safetensors"
    elif others := ending((".safetensors",)):
        limit = f"{limit}, but other safetensors: {others}"
        fix = f"Rename a whole model to {SINGLE}, or add the {INDEX} of its parts"
    return ModelError(name="model", value=folder.name, limit=limit, fix=fix)
