"""A model with random weights, from its config alone: for benchmarks and tests that need no checkpoint."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxpaged.models.decoder import ParamSpec, build
from jaxpaged.models.families import read_config
from jaxpaged.progress import Advance, Progress
from jaxpaged.weights.leaf import values_dtype
from jaxpaged.weights.load import LoadedModel
from jaxpaged.weights.store import held_bytes, hold, store

_MOST_AT_ONCE = 2**24  # elements; drawing needs some 16 bytes of scratch memory for each


def random_model(
    config: Mapping[str, object],
    *,
    seed: int = 0,
    dtype: str = "float32",
    packed: bool = False,
    quantization: str | None = None,
    context: int | None = None,
    progress: Progress | bool = False,
) -> LoadedModel:
    """The model of a parsed config.json, with weights drawn on the device as its parameters declare.

    A parameter depends on the seed and its path alone. dtype, packed, quantization: see `WeightForm`; context: see
    `read_config`.
    Beside the weights themselves the device holds about 256 MiB while they are drawn. Raises ModelError or
    UnsupportedModelError as `read_config` does.
    """
    model = read_config(config, context=context)
    graph = build(model, dtype=dtype, packed=packed, quantization=quantization)
    root = jax.random.key(seed & 0xFFFFFFFF, impl="threefry2x32")

    def arrays_of(_: int, spec: ParamSpec, advance: Advance) -> tuple[Array, ...]:
        arrays = hold(spec, _parameter(spec, root))
        advance(held_bytes(spec))
        return arrays

    leaves = store(graph.specs, arrays_of, phase="drawing", progress=progress)
    return LoadedModel(config=model, dtype=dtype, quantization=quantization, graphdef=graph, leaves=leaves)


def _parameter(spec: ParamSpec, root: Array) -> np.ndarray | Array:
    """As it is held already, unless it is to be packed or quantised."""
    if spec.init != "normal":
        return np.full(spec.shape, {"ones": 1, "zeros": 0}[spec.init], np.float32)
    key = jax.random.fold_in(root, zlib.crc32(spec.path.encode()))
    dtype = values_dtype(spec)
    made = spec.packed or spec.quantised
    drawn = _draw(key, shape=spec.shape, dtype=dtype, storage=dtype if made else spec.storage)
    return np.asarray(drawn) if spec.packed and not spec.quantised else drawn


@partial(jax.jit, static_argnames=("shape", "dtype", "storage"))
def _draw(key: Array, *, shape: tuple[int, ...], dtype: np.dtype, storage: np.dtype) -> Array:
    """Normal values of variance 1 / last dimension, piece after piece in their final type."""
    size = math.prod(shape)
    pieces = next(n for n in range(-(-size // _MOST_AT_ONCE), size + 1) if size % n == 0)
    scale = np.float32(shape[-1] ** -0.5)

    def piece(key: Array) -> Array:
        values = (jax.random.normal(key, (size // pieces,), jnp.float32) * scale).astype(dtype)
        return values if dtype == storage else lax.bitcast_convert_type(values, storage)

    return lax.map(piece, jax.random.split(key, pieces)).reshape(shape)
