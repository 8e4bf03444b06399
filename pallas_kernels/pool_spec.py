"""How a backend wants one layer's KV pool: layout, storage dtype, block size. Only the kernels look inside."""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from pallas_kernels.backend import Backend

DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSpec:
    """One layer's pool: two arrays, K and V.

    k_shape, v_shape: N blocks first. storage: the dtype of the arrays; dtype: the logical one, "float32" or
    "bfloat16" (they differ where bfloat16 is stored as uint16 bits). k_axes, v_axes: the logical axis of every
    dimension, None where it is never sharded. block_size: P, the positions of a block.
    """

    k_shape: tuple[int, ...]
    v_shape: tuple[int, ...]
    storage: np.dtype
    dtype: str
    k_axes: tuple[str | None, ...]
    v_axes: tuple[str | None, ...]
    block_size: int

    @property
    def bytes_per_block(self) -> int:
        """Bytes that one block takes in K and V together, in this layer."""
        return (math.prod(self.k_shape[1:]) + math.prod(self.v_shape[1:])) * self.storage.itemsize


def default_block_size(backend: Backend) -> int:
    """P where nobody asks for another: a block is one dot operand for XLA, a unit of sharing for the others."""
    return 64 if backend == Backend.XLA else 16


def pool_spec(
    backend: Backend,
    *,
    num_blocks: int,
    block_size: int,
    kv_heads: int,
    head_dim: int,
    dtype: str,
    platform: str = "cpu",
) -> PoolSpec:
    """The pool of one layer. K is [N, K, D, P] for XLA, [N, K, P, D] for the others; V is [N, K, P, D].

    On CPU bfloat16 is stored as uint16: XLA's CPU compiler widens a whole bfloat16 array to write one element of it.
    Raises ValueError for a size below 1 and for a dtype other than "float32" and "bfloat16".
    """
    sizes = {"num_blocks": num_blocks, "block_size": block_size, "kv_heads": kv_heads, "head_dim": head_dim}
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} is {size}: it must be at least 1")
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}: a pool holds {' or '.join(DTYPES)}")
    v_shape = (num_blocks, kv_heads, block_size, head_dim)
    k_shape = (num_blocks, kv_heads, head_dim, block_size) if backend == Backend.XLA else v_shape
    axes = (None, "kv_heads", None, None)
    storage = jnp.uint16 if dtype == "bfloat16" and platform == "cpu" else jnp.dtype(dtype)
    return PoolSpec(
        k_shape=k_shape,
        v_shape=v_shape,
        storage=np.dtype(storage),
        dtype=dtype,
        k_axes=axes,
        v_axes=axes,
        block_size=block_size,
    )


def stored_as(values: Array, storage: np.dtype) -> Array:
    """Values in the form a pool of dtype `storage` holds: uint16 pools hold bfloat16 bits."""
    if storage == jnp.uint16:
        return lax.bitcast_convert_type(values.astype(jnp.bfloat16), jnp.uint16)
    return values.astype(storage)


def read_as_float32(stored: Array) -> Array:
    """What a pool of any storage holds, as float32. Gather first, then convert: see `pool_spec`."""
    logical = lax.bitcast_convert_type(stored, jnp.bfloat16) if stored.dtype == jnp.uint16 else stored
    return logical.astype(jnp.float32)
