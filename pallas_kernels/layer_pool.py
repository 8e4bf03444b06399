"""One layer's keys and values in the pool, and the way values go in and come out. Only the ops look inside."""

from __future__ import annotations

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from pallas_kernels.backend import Backend

_BITS = {"uint16": ("bfloat16", "float16"), "uint8": ("float8_e4m3fn",)}
_LARGEST = {"int8": 127.0, "float8_e4m3fn": 448.0}
"""What the largest value of a token's head becomes in each scaled dtype."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True, kw_only=True)
class LayerPool:
    """K and V arrays as `pool_spec` lays them out, donated through every step.

    k_scale, v_scale: f32[N, K, P] where the dtype is scaled, one factor per token and head, else None.
    dtype: the logical one (see `PoolSpec.dtype`); the arrays may hold its bits.
    """

    k: Array
    v: Array
    k_scale: Array | None = None
    v_scale: Array | None = None
    dtype: str = field(metadata={"static": True})

    @property
    def block_size(self) -> int:
        """P, positions of a block."""
        return self.v.shape[2]

    @property
    def kv_heads(self) -> int:
        """K."""
        return self.v.shape[1]

    @property
    def head_dim(self) -> int:
        """D."""
        return self.v.shape[3]

    @property
    def nbytes(self) -> int:
        """Bytes of all its arrays."""
        return sum(array.nbytes for array in jax.tree.leaves(self))


def check_pool(pool: LayerPool, *, backend: Backend, block_size: int, head_dim: int) -> None:
    """Raise ValueError unless the arrays have the layout that `backend` wants."""
    if pool.k.ndim != 4 or pool.v.ndim != 4 or 0 in pool.v.shape:
        raise ValueError(f"pool is {pool.k.shape} and {pool.v.shape}: both must be of rank 4, and not empty")
    v_shape = (*pool.v.shape[:2], block_size, head_dim)
    k_shape = (*v_shape[:2], head_dim, block_size) if backend.transposes_keys else v_shape
    if pool.k.shape != k_shape or pool.v.shape != v_shape:
        raise ValueError(f"pool is {pool.k.shape} and {pool.v.shape}: {backend} wants {k_shape} and {v_shape}")
    if pool.k.dtype != pool.v.dtype:
        raise ValueError(f"pool is {pool.k.dtype} and {pool.v.dtype}: both must be of one dtype")
    scales = (pool.k_scale, pool.v_scale)
    wanted = v_shape[:3] if is_scaled(pool.dtype) else None
    if any((None if scale is None else scale.shape) != wanted for scale in scales):
        raise ValueError(f"scales are {scales}: a pool of {pool.dtype} has {'none' if wanted is None else wanted}")


def is_scaled(dtype: str) -> bool:
    """Whether values of this dtype come with a scale per token and head."""
    return dtype in _LARGEST


def encode(values: Array, dtype: str, storage: np.dtype) -> tuple[Array, Array | None]:
    """Values [..., D] in the form a pool of `dtype` holds, and their scales f32[...] where it is scaled.

    int8 and float8_e4m3fn: symmetric, scale = largest magnitude of a head's values / largest of the dtype (127, 448).
    A head that holds NaN or infinity gets the scale NaN, so that it is seen.
    """
    if not is_scaled(dtype):
        return as_bits(values.astype(jnp.dtype(dtype)), storage), None
    values = values.astype(jnp.float32)
    scale = scale_for(jnp.max(jnp.abs(values), axis=-1), dtype)
    return as_bits(quantise(values, scale[..., None], dtype), storage), scale


def scale_for(top: Array, dtype: str) -> Array:
    """The scale of a head whose largest magnitude is `top` f32: 0 for zeros, NaN where it is not finite."""
    return jnp.where(jnp.isfinite(top), top / jnp.float32(_LARGEST[dtype]), jnp.float32(jnp.nan))


def quantise(values: Array, scale: Array, dtype: str) -> Array:
    """Values f32 over their scale, in the scaled dtype; zeros where the scale is 0 or NaN. Kernels call this too."""
    one, nothing = jnp.float32(1), jnp.float32(0)
    quotient = values * jnp.where(scale > nothing, one / scale, nothing)
    quotient = jnp.where(jnp.isfinite(quotient), quotient, nothing)
    if dtype == "int8":
        # to nearest, ties to even, in operations that a Triton kernel has
        below = jnp.floor(quotient)
        rest, odd = quotient - below, below.astype(jnp.int32) & jnp.int32(1)
        up = (rest > jnp.float32(0.5)) | ((rest == jnp.float32(0.5)) & (odd == jnp.int32(1)))
        quotient = below + jnp.where(up, one, nothing)
    return quotient.astype(jnp.dtype(dtype))


def decode(stored: Array, dtype: str) -> Array:
    """What a pool of `dtype` holds, as float32, without its scale. Gather first, then decode: see `pool_spec`."""
    logical = jnp.dtype(dtype)
    if stored.dtype != logical:
        assert dtype in _BITS[stored.dtype.name], f"{stored.dtype} does not hold {dtype}"
        stored = lax.bitcast_convert_type(stored, logical)
    return stored.astype(jnp.float32)


def as_bits(values: Array, storage: np.dtype) -> Array:
    """Values in the dtype of the arrays that hold them: bits of the same width where that is another."""
    return values if values.dtype == storage else lax.bitcast_convert_type(values, storage)
