"""A model out of a GGUF file: config from its metadata, tensors dequantised, or an error that lists what is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jax import Array

from jaxpaged.models.decoder import ParamSpec, build
from jaxpaged.models.families import FAMILIES, read_config
from jaxpaged.progress import Advance, Progress
from jaxpaged.weights.gguf_file import GGUFFile
from jaxpaged.weights.header import shown
from jaxpaged.weights.leaf import values_dtype
from jaxpaged.weights.load import LoadedModel
from jaxpaged.weights.mapping import Target, expected_tensors
from jaxpaged.weights.refusal import refusal
from jaxpaged.weights.store import held_bytes, hold, store

_FIX = "Use the model's folder in Hugging Face layout, or another file of it"


def load_gguf(
    path: Path,
    *,
    dtype: str,
    packed: bool,
    quantization: str | None,
    context: int | None = None,
    progress: Progress | bool = False,
) -> LoadedModel:
    """The model of a file. dtype, packed, quantization: see `WeightForm`; blocks become float32 and then this type.
    context: see `read_config`.

    Raises ModelError and UnsupportedModelError as `GGUFFile` does, WeightsError listing every tensor that is missing,
    unknown, of another shape or of a type that cannot be read.
    """
    file = GGUFFile(path)
    config = read_config(file.config(), context=context)
    if len(file.shapes) < len(config.layers):  # before minutes go to a graph of layers that nothing fills
        few = f"{len(file.shapes)} tensors cannot be the {len(config.layers)} layers that the metadata has"
        raise refusal(path, [few], fix=_FIX)
    graph = build(config, dtype=dtype, packed=packed, quantization=quantization)
    targets = expected_tensors(graph.specs, FAMILIES[config.architecture].rules(config))
    if problems := _differences(file, targets):
        raise refusal(path, problems, fix=_FIX)
    names: list[list[str]] = [[] for _ in graph.specs]
    for name, target in targets.items():
        names[target.parameter].append(name)

    def arrays_of(i: int, spec: ParamSpec, advance: Advance) -> tuple[Array, ...]:
        parameter = np.empty(spec.shape, values_dtype(spec))
        for name in names[i]:
            targets[name].fill(parameter, file.read(name))
        arrays = hold(spec, parameter)
        advance(held_bytes(spec))
        return arrays

    leaves = store(graph.specs, arrays_of, phase="loading", progress=progress)
    return LoadedModel(config=config, dtype=dtype, quantization=quantization, graphdef=graph, leaves=leaves)


def _differences(file: GGUFFile, targets: Mapping[str, Target]) -> list[str]:
    """Sentences: where the file's tensors are not what the model needs."""
    found = [f"unknown: {shown(name)}" for name in file.strangers]
    found += [f"unknown: {shown(name)}" for name in file.shapes if name not in targets]
    for name, target in targets.items():
        if (shape := file.shapes.get(name)) is None:
            found.append(f"missing: {name!r} {list(target.shape)}")
        elif shape != target.shape:
            found.append(f"wrong shape: {name!r} is {list(shape)}, the metadata makes it {list(target.shape)}")
    return found + file.unsupported
