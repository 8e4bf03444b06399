"""Converted folders: a model's leaves as they are held, fused and cast, so that a start only reads them.

Leaves lie in plain form (row-major, not packed for a CPU's native products), so that one folder serves every machine;
they are packed as they are read. They are cut into parts, an orbax checkpoint each, written and read one after another:
beside the leaves themselves the host never holds more than a part, and progress can be told.
"""

from __future__ import annotations

import json
import logging
import shutil
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import Array

from jaxpaged.errors import ModelError, OutputError
from jaxpaged.fingerprint import weights_identity
from jaxpaged.models.decoder import ParamSpec, build
from jaxpaged.progress import Progress, progress_of
from jaxpaged.weights.gguf_file import GGUFFile
from jaxpaged.weights.header import shown
from jaxpaged.weights.hub import OLDER_TEXT, TEXT
from jaxpaged.weights.leaf import packer
from jaxpaged.weights.load import LoadedModel, read_model_config
from jaxpaged.weights.manifest import (
    AGAIN,
    Manifest,
    StoredLeaf,
    check_files,
    check_place,
    digest_of_file,
    read_manifest,
)
from jaxpaged.weights.refusal import refusal
from jaxpaged.weights.source import shown_name
from jaxpaged.whole_folder import whole_folder

PART_BYTES = 256 * 2**20
"""Of leaves in one part, unless one alone is larger."""
_LEAVES = "leaves"
_SMALL_BYTES = 2**16
"""Files up to this size have a digest of their own; larger ones hold leaves."""


def write_converted(
    folder: Path,
    model: LoadedModel,
    *,
    source: Path,
    texts: Path | None = None,
    part_bytes: int = PART_BYTES,
    progress: Progress | bool = False,
) -> int:
    """Write a model whose leaves are not packed, in whole or not at all, over a converted folder that may be there.

    source: the folder or GGUF file it was loaded from. texts: folder of the tokenizer (default: source). Returns the
    bytes of the leaves. Raises OutputError where the folder cannot be written, or holds anything else.
    """
    specs = model.graphdef.specs
    assert not any(spec.packed for spec in specs), "leaves are stored in plain form"
    total = sum(leaf.nbytes for leaf in model.leaves)
    with _whole_or_nothing(folder, total) as part:
        _copy_texts(texts or source, part)
        _copy_config(source, part)
        stored: list[StoredLeaf] = []
        with progress_of(progress).track("writing", total=total, unit="B") as advance:
            for number, indices in enumerate(_parts([leaf.nbytes for leaf in model.leaves], part_bytes)):
                values = {specs[i].path: _plain(specs[i], model.leaves[i]) for i in indices}
                name = f"{number:04d}"
                _save_part(part, name, values)
                stored += [_leaf(specs[i], values[specs[i].path], name) for i in indices]
                advance(sum(array.nbytes for array in values.values()))
        sizes = {path.relative_to(part).as_posix(): path.stat().st_size for path in part.rglob("*") if path.is_file()}
        small = set(sizes) - {name for name in sizes if name.startswith(f"{_LEAVES}/") and sizes[name] > _SMALL_BYTES}
        Manifest(
            dtype=model.dtype,
            quantization=model.quantization,
            source=weights_identity(source),
            source_name=shown_name(source),
            files={name: digest_of_file(part / name) for name in sorted(small)},
            sizes={name: size for name, size in sorted(sizes.items()) if name not in small},
            leaves=tuple(stored),
        ).write(part)
    return total


def load_converted(
    folder: Path,
    *,
    dtype: str,
    packed: bool,
    quantization: str | None,
    context: int | None = None,
    progress: Progress | bool = False,
) -> LoadedModel:
    """The model of a converted folder; nothing is fused or cast. dtype, packed, quantization: see `WeightForm`;
    context: see `read_config`.

    Raises ModelError for another form than the folder's and for files that were changed, WeightsError listing the
    leaves that are missing, unknown, of another shape or type, or damaged.
    """
    manifest = read_manifest(folder)
    for name, asked, held in (("dtype", dtype, manifest.dtype), ("quantization", quantization, manifest.quantization)):
        if asked != held:
            limit = f"the model in {folder} was converted with {held}"
            raise ModelError(name=name, value=asked, limit=limit, fix=f"Leave it out, or {AGAIN[0].lower()}{AGAIN[1:]}")
    check_files(folder, manifest)
    config = read_model_config(folder, context=context)
    graph = build(config, dtype=dtype, packed=packed, quantization=quantization)
    if problems := _differences(graph.specs, manifest.leaves):
        raise refusal(folder, problems, fix=AGAIN)
    specs = {spec.path: spec for spec in graph.specs}
    parts: dict[str, list[StoredLeaf]] = {}
    for leaf in manifest.leaves:
        parts.setdefault(leaf.part, []).append(leaf)
    held_leaves: dict[str, Array] = {}
    with progress_of(progress).track("loading", total=graph.nbytes, unit="B") as advance:
        for name, leaves in parts.items():
            values = _read_part(folder, name, leaves)
            for leaf in leaves:
                array = values.pop(leaf.path)
                if _crc32(array) != leaf.crc32:
                    problems.append(f"damaged: {leaf.path!r} of part {name}")
                held_leaves[leaf.path] = _held(specs[leaf.path], array)
                advance(array.nbytes)
    if problems:
        raise refusal(folder, problems, fix=AGAIN)
    ordered = tuple(held_leaves[spec.path] for spec in graph.specs)
    return LoadedModel(config=config, dtype=dtype, quantization=quantization, graphdef=graph, leaves=ordered)


def _copy_texts(source: Path, target: Path) -> None:
    """Config, tokenizer and their companions."""
    for path in (path for pattern in (*TEXT, *OLDER_TEXT) for path in source.glob(pattern)):
        place = target / path.relative_to(source)
        place.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, place)


def _copy_config(source: Path, target: Path) -> None:
    """Config and defaults are the model's, wherever the tokenizer comes from; a GGUF file's are written here."""
    names = ("config.json", "generation_config.json")
    for name in names:
        (target / name).unlink(missing_ok=True)
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    if source.is_file():
        file = GGUFFile(source)
        ends = file.end_ids()
        for name, told in zip(names, (file.config(), {"eos_token_id": ends} if ends else None), strict=True):
            if told is not None:
                (target / name).write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


def _parts(sizes: Sequence[int], most: int) -> Iterator[list[int]]:
    """Neighbours together, as many as fit."""
    part: list[int] = []
    total = 0
    for i, size in enumerate(sizes):
        if part and total + size > most:
            yield part
            part, total = [], 0
        part.append(i)
        total += size
    if part:
        yield part


def _plain(spec: ParamSpec, leaf: Array) -> np.ndarray:
    """The values of a leaf that is not packed, in their own type; no copy on a CPU."""
    return np.asarray(leaf).view(spec.dtype)


def _held(spec: ParamSpec, values: np.ndarray) -> Array:
    """The array that holds the values of a parameter here."""
    if not spec.packed:
        return jax.device_put(values.view(spec.storage))
    return jax.device_put(packer(spec)(values.reshape(-1, spec.shape[-1])))


def _leaf(spec: ParamSpec, values: np.ndarray, part: str) -> StoredLeaf:
    return StoredLeaf(
        path=spec.path,
        shape=spec.shape,
        dtype=str(spec.dtype),
        axes=tuple(spec.axes),
        part=part,
        crc32=_crc32(values),
    )


def _crc32(values: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)


def _differences(specs: Sequence[ParamSpec], leaves: Sequence[StoredLeaf]) -> list[str]:
    """Sentences: where the leaves that there are differ from those that the model needs."""
    stored = {leaf.path: leaf for leaf in leaves}
    needed = {spec.path: spec for spec in specs}
    found = [f"unknown: {shown(path)}" for path in stored if path not in needed]
    for path, spec in needed.items():
        if (leaf := stored.get(path)) is None:
            found.append(f"missing: {path!r} {list(spec.shape)}")
        elif leaf.shape != spec.shape:
            found.append(f"wrong shape: {path!r} is {list(leaf.shape)}, the config makes it {list(spec.shape)}")
        elif leaf.dtype != str(spec.dtype):
            found.append(f"wrong type: {path!r} is {leaf.dtype}, and {spec.dtype} is needed")
    return found


def _checkpointer() -> Any:
    import orbax.checkpoint as ocp  # a third of a second: only for those who convert

    # not compressed: random bits do not shrink, and reading would take three times as long
    return ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=True, use_zarr3=True, use_compression=False))


def _save_part(folder: Path, name: str, values: Mapping[str, np.ndarray]) -> None:
    import orbax.checkpoint as ocp

    with _without_log_of_orbax():
        _checkpointer().save((folder / _LEAVES / name).absolute(), ocp.args.PyTreeSave(dict(values)))


def _read_part(folder: Path, name: str, leaves: Sequence[StoredLeaf]) -> dict[str, np.ndarray]:
    """The leaves of a part by path. Raises WeightsError where it cannot be read, or holds others."""
    import orbax.checkpoint as ocp

    wanted = {leaf.path: ocp.RestoreArgs(restore_type=np.ndarray, dtype=np.dtype(leaf.dtype)) for leaf in leaves}
    args = ocp.args.PyTreeRestore(restore_args=wanted)
    try:
        with _without_log_of_orbax():
            found = _checkpointer().restore((folder / _LEAVES / name).absolute(), args=args)
    except (OSError, ValueError, KeyError) as error:
        raise refusal(
            folder, [f"part {name} cannot be read: {' '.join(str(error).split())[:300]}"], fix=AGAIN
        ) from error
    if strange := [leaf.path for leaf in leaves if found[leaf.path].shape != leaf.shape]:
        raise refusal(folder, [f"damaged: {path!r} of part {name}" for path in strange], fix=AGAIN)
    return found


@contextmanager
def _without_log_of_orbax() -> Iterator[None]:
    """Its threads log the tracebacks of errors that it raises as well."""
    log = logging.getLogger("absl")
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before


@contextmanager
def _whole_or_nothing(folder: Path, num_bytes: int) -> Iterator[Path]:
    """A new folder beside the one to write, which takes its place at the end, and is gone after any error."""
    check_place(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        if num_bytes > (free := shutil.disk_usage(folder.parent).free):
            limit = f"its weights take {num_bytes / 1e9:.2f} GB, and there is room for {free / 1e9:.2f} GB"
            raise OutputError(name="OUT", value=str(folder), limit=limit, fix="Make room, or name another place")
        with whole_folder(folder) as part:
            yield part
    except (OSError, ValueError) as error:  # tensorstore tells of a full disk by a ValueError
        if isinstance(error, OutputError):
            raise
        why = getattr(error, "strerror", None) or " ".join(str(error).split())[:300]
        raise OutputError(name="OUT", value=str(folder), limit=why, fix="Make room, or name another place") from error
