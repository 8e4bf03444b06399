"""Loads a Hugging Face folder into a model's leaves: all of it, or an error that lists all that is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jax import Array

from jaxpaged.errors import WeightsError
from jaxpaged.models.config import ModelConfig
from jaxpaged.models.decoder import Graph, ParamSpec, build
from jaxpaged.models.families import FAMILIES, read_config
from jaxpaged.progress import Progress
from jaxpaged.weights.folder import model_folder, read_json
from jaxpaged.weights.mapping import Target, expected_tensors, is_ignorable
from jaxpaged.weights.safetensors import DTYPES, INDEX, PACKED_DTYPES, Checkpoint
from jaxpaged.weights.store import store, values_dtype


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A model ready to be stepped: `decoder.unflatten(graphdef, leaves)` inside the traced function.

    dtype, quantization: how its matrices are held, see `WeightForm`.
    """

    config: ModelConfig
    dtype: str
    graphdef: Graph
    leaves: tuple[Array, ...]
    quantization: str | None = None


def read_model_config(folder: str | Path, *, context: int | None = None) -> ModelConfig:
    """The model that the folder's config.json describes. context: see `read_config`.

    Raises ModelError or UnsupportedModelError.
    """
    path = model_folder(folder) / "config.json"
    return read_config(read_json(path, fix="Give the folder of a model in Hugging Face layout"), context=context)


def load_model(
    folder: str | Path,
    *,
    dtype: str,
    packed: bool = False,
    quantization: str | None = None,
    context: int | None = None,
    progress: Progress | bool = False,
) -> LoadedModel:
    """Read config.json and the safetensors of a folder. dtype, packed, quantization: see `WeightForm`; context: see
    `read_config`.

    Raises ModelError, UnsupportedModelError, or WeightsError listing every tensor that is missing,
    unknown, doubled, of a wrong shape or of an unsupported type, and every file that is absent or damaged. Nothing is
    half-loaded.
    """
    place = model_folder(folder)
    config = read_model_config(place, context=context)
    graph = build(config, dtype=dtype, packed=packed, quantization=quantization)
    family = FAMILIES[config.architecture]
    with Checkpoint(place) as checkpoint:
        targets = _named_as(checkpoint, expected_tensors(graph.specs, family.rules(config)), prefix=family.prefix)
        if problems := checkpoint.problems + _differences(targets, checkpoint, config):
            raise WeightsError(
                name=f"weights of {place.name}",
                value=f"{len(problems)} problem{'s' if len(problems) > 1 else ''}",
                limit="\n  " + "\n  ".join(problems) + "\n",
                fix="Download the model again, or correct its config.json",
            )
        leaves = _read_leaves(graph, targets, checkpoint, progress=progress)
    return LoadedModel(config=config, dtype=dtype, quantization=quantization, graphdef=graph, leaves=leaves)


def _named_as(checkpoint: Checkpoint, targets: dict[str, Target], *, prefix: str) -> dict[str, Target]:
    """The targets under the checkpoint's names: one of the bare model leaves out the prefix of the whole."""
    if any(name.startswith(prefix) for name in checkpoint.tensors):
        return targets
    return {name.removeprefix(prefix): target for name, target in targets.items()}


def _differences(targets: dict[str, Target], checkpoint: Checkpoint, config: ModelConfig) -> list[str]:
    """Sentences: where the checkpoint's tensors are not what the model expects."""
    more = FAMILIES[config.architecture].ignorable
    wanted: dict[str, tuple[tuple[int, ...], tuple[str, ...]]] = {}  # shape and types
    for name, target in targets.items():
        if packed := _packed_names(name, target, checkpoint):
            wanted |= {packed[end]: (shape, PACKED_DTYPES) for end, shape in target.packed_shapes().items()}
        else:
            wanted[name] = (target.shape, DTYPES)
    found = [
        f"unknown: {name!r} in {stored.file!r}"
        for name, stored in checkpoint.tensors.items()
        if name not in wanted and not is_ignorable(name, tied=config.tied, more=more)
    ]
    for name, (shape, dtypes) in wanted.items():
        stored = checkpoint.tensors.get(name)
        if stored is None:
            if not checkpoint.is_lost(name):
                found.append(f"missing: {name!r} {list(shape)}")
            continue
        if checkpoint.is_unlisted(name):
            found.append(f"not in {INDEX}: {name!r}, though {stored.file!r} holds it")
        if stored.shape != shape:
            found.append(f"wrong shape: {name!r} is {list(stored.shape)}, the config makes it {list(shape)}")
        if stored.dtype not in dtypes:
            found.append(f"unsupported type: {name!r} is {stored.dtype}, not one of {', '.join(dtypes)}")
    return found


def _packed_names(name: str, target: Target, checkpoint: Checkpoint) -> dict[str, str]:
    """The tensors that hold this one in its packed form, by the ends of their names; none where it is held plainly."""
    names = {end: name + end for end in target.packed_shapes()}
    return (
        {} if name in checkpoint.tensors or not any(checkpoint.is_there(other) for other in names.values()) else names
    )


def _read_leaves(
    graph: Graph, targets: dict[str, Target], checkpoint: Checkpoint, *, progress: Progress | bool
) -> tuple[Array, ...]:
    names: list[list[str]] = [[] for _ in graph.specs]
    for name, target in targets.items():
        names[target.parameter].append(name)

    def values_of(i: int, spec: ParamSpec) -> np.ndarray:
        parameter = np.empty(spec.shape, values_dtype(spec))
        for name in names[i]:
            if packed := _packed_names(name, targets[name], checkpoint):
                tensors = {end: checkpoint.read(other) for end, other in packed.items()}
                targets[name].fill_packed(parameter, tensors)
            else:
                targets[name].fill(parameter, checkpoint.read(name))
        return parameter

    return store(graph.specs, values_of, phase="loading", progress=progress)
