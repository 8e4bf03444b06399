"""Loads a Hugging Face folder into a model's leaves: all of it, or an error that lists all that is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jax import Array

from jaxpaged.models.config import ModelConfig
from jaxpaged.models.decoder import Graph, build
from jaxpaged.models.families import FAMILIES, read_config
from jaxpaged.progress import Progress
from jaxpaged.weights.folder import is_gguf, model_folder, read_json
from jaxpaged.weights.gguf_file import GGUFFile
from jaxpaged.weights.header import shown
from jaxpaged.weights.manifest import is_converted
from jaxpaged.weights.mapping import Target, expected_tensors, is_ignorable
from jaxpaged.weights.read import coded_names, read_leaves
from jaxpaged.weights.refusal import refusal
from jaxpaged.weights.safetensors import CODED_DTYPES, DTYPES, INDEX, Checkpoint

_FIX = "Download the model again, or correct its config.json"


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
    """The model that the folder's config.json, or a GGUF file's metadata, describes. context: see `read_config`.

    Raises ModelError or UnsupportedModelError.
    """
    if is_gguf(Path(folder)):
        return read_config(GGUFFile(Path(folder)).config(), context=context)
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
    """Read config.json and the safetensors of a folder, a converted one, or a GGUF file. dtype, packed, quantization:
    see `WeightForm`; context: see `read_config`.

    Raises ModelError, UnsupportedModelError, or WeightsError listing every tensor that is missing,
    unknown, doubled, of a wrong shape or of an unsupported type, and every file that is absent or damaged. Nothing is
    half-loaded.
    """
    form: Mapping[str, Any] = {"dtype": dtype, "packed": packed, "quantization": quantization, "context": context}
    if is_gguf(Path(folder)):
        from jaxpaged.weights.gguf import load_gguf

        return load_gguf(Path(folder), **form, progress=progress)
    place = model_folder(folder)
    if is_converted(place):
        from jaxpaged.weights.converted import load_converted

        return load_converted(place, **form, progress=progress)
    config = read_model_config(place, context=context)
    family = FAMILIES[config.architecture]
    with Checkpoint(place) as checkpoint:
        if len(checkpoint.tensors) < len(config.layers):  # before minutes go to a graph of layers that nothing fills
            few = f"{len(checkpoint.tensors)} tensors cannot be the {len(config.layers)} layers that the config has"
            raise refusal(place, checkpoint.problems or [few], fix=_FIX)
        graph = build(config, dtype=dtype, packed=packed, quantization=quantization)
        targets = _named_as(checkpoint, expected_tensors(graph.specs, family.rules(config)), prefix=family.prefix)
        if problems := checkpoint.problems + _differences(targets, checkpoint, config):
            raise refusal(place, problems, fix=_FIX)
        leaves = read_leaves(graph.specs, targets, checkpoint, progress=progress)
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
        if coded := coded_names(name, target, checkpoint):
            wanted |= {coded[end]: (shape, CODED_DTYPES) for end, shape in target.coded_shapes().items()}
        else:
            wanted[name] = (target.shape, tuple(DTYPES))
    by_lower_case = {name.lower(): name for name in wanted}
    found: list[str] = []
    for name, stored in checkpoint.tensors.items():
        if name not in wanted and not is_ignorable(name, tied=config.tied, more=more):
            near = by_lower_case.get(name.lower())
            case = f", not {near!r} in this case" if near else ""
            found.append(f"unknown: {shown(name)} in {stored.file!r}{case}")
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
