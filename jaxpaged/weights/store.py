"""From the values of parameters to the arrays that hold them: rounded, quantised, permuted, as each declares."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxpaged.models.decoder import ParamSpec
from jaxpaged.progress import Progress, progress_of
from pallas_kernels.int8 import quantise
from pallas_kernels.packed import pack
from pallas_kernels.packed_f32 import pack_f32
from pallas_kernels.packed_int8 import pack_int8


def store(
    specs: tuple[ParamSpec, ...],
    values_of: Callable[[int, ParamSpec], np.ndarray | Array],
    *,
    phase: str,
    progress: Progress | bool,
) -> tuple[Array, ...]:
    """The leaves of these parameters, in their order. Values come one parameter at a time, so that the host never holds
    more than one beside the device.

    values_of: index and declaration -> values, of `values_dtype`, or an array on the device as it is held already. Not
    asked for scales. phase: what `progress` is told this is; it counts the bytes that are held.
    """
    leaves: dict[str, Array] = {}
    sizes = [0 if spec.is_scale else math.prod(spec.shape) * spec.dtype.itemsize for spec in specs]
    with progress_of(progress).track(phase, total=sum(sizes), unit="B") as advance:
        for i, spec in enumerate(specs):
            if spec.is_scale:
                continue
            values = values_of(i, spec)
            if spec.quantised:
                leaves[spec.path], leaves[f"{spec.path}_scale"] = _quantised(spec, values)
            else:
                leaves[spec.path] = values if isinstance(values, Array) else _plain(spec, values)
            advance(sizes[i])
    return tuple(leaves[spec.path] for spec in specs)


def values_dtype(spec: ParamSpec) -> np.dtype:
    """The type that a parameter's values are best made in: its own, float32 where they are quantised."""
    return np.dtype(np.float32) if spec.quantised else spec.dtype


def _plain(spec: ParamSpec, values: np.ndarray) -> Array:
    values = values.astype(spec.dtype, copy=False)
    if spec.packed:
        pack_values = pack_f32 if spec.dtype == np.float32 else pack
        return jax.device_put(pack_values(values.reshape(-1, spec.shape[-1])))
    return jax.device_put(values.view(spec.storage))


def _quantised(spec: ParamSpec, values: np.ndarray | Array) -> tuple[Array, Array]:
    held, scales = _quantise(jnp.asarray(values))
    if spec.packed:
        held = jax.device_put(pack_int8(np.asarray(held).reshape(-1, spec.shape[-1])))
    return held, scales


_quantise = jax.jit(quantise)
