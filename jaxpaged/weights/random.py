"""A model with random weights, from its config alone: for benchmarks and tests that need no checkpoint."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np
from jax import Array

from jaxpaged.models.decoder import ParamSpec, build
from jaxpaged.models.families import read_config
from jaxpaged.weights.load import LoadedModel


def random_model(config: Mapping[str, object], *, seed: int = 0, dtype: str = "float32") -> LoadedModel:
    """The model of a parsed config.json, with weights drawn as its parameters declare.

    A parameter depends on the seed and its path alone. dtype: "float32" or "bfloat16", what matrices are held as.
    Raises ModelError or UnsupportedModelError as `read_config` does.
    """
    model = read_config(config)
    graph = build(model, dtype=dtype)
    return LoadedModel(config=model, graphdef=graph, leaves=tuple(_draw(spec, seed) for spec in graph.specs))


def _draw(spec: ParamSpec, seed: int) -> Array:
    if spec.init != "normal":
        return spec.stored(np.full(spec.shape, {"ones": 1, "zeros": 0}[spec.init], np.float32))
    random = np.random.default_rng([seed, zlib.crc32(spec.path.encode())])
    values = random.standard_normal(spec.shape, np.float32)
    values *= np.float32(spec.shape[-1] ** -0.5)
    return spec.stored(values)
