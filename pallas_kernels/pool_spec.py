"""How a backend wants one layer's KV pool: layout, storage dtype, block size. Only the kernels look inside."""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels.backend import Backend
from pallas_kernels.layer_pool import LayerPool, is_scaled

DTYPES = ("float32", "bfloat16", "float16", "int8", "float8_e4m3fn")
_BITS = {2: jnp.uint16, 1: jnp.uint8}
# Pallas-Triton addresses arrays of at most 2**32 bytes with 32 bits, signed: elements past 2**31 would be out of reach
_REACH, _WIDE = 2**31, 2**32


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSpec:
    """One layer's pool: two arrays, K and V, and their scales where the dtype is scaled.

    k_shape, v_shape: N blocks first; scale_shape [N, K, P], None where there are none. storage: the dtype of the
    arrays; dtype: the logical one, of `DTYPES` (they differ where bits are stored). k_axes, v_axes, scale_axes: the
    logical axis of every dimension, None where it is never sharded. block_size: P, the positions of a block.
    """

    k_shape: tuple[int, ...]
    v_shape: tuple[int, ...]
    scale_shape: tuple[int, ...] | None
    storage: np.dtype
    dtype: str
    k_axes: tuple[str | None, ...]
    v_axes: tuple[str | None, ...]
    scale_axes: tuple[str | None, ...]
    block_size: int

    @property
    def bytes_per_block(self) -> int:
        """Bytes that one block takes in K and V together, in this layer, scales included."""
        values = (math.prod(self.k_shape[1:]) + math.prod(self.v_shape[1:])) * self.storage.itemsize
        return values + (2 * 4 * math.prod(self.scale_shape[1:]) if self.scale_shape else 0)

    def abstract(self) -> LayerPool:
        """The pool's shapes and dtypes, without arrays."""
        scale = None if self.scale_shape is None else jax.ShapeDtypeStruct(self.scale_shape, jnp.float32)
        k, v = (jax.ShapeDtypeStruct(shape, self.storage) for shape in (self.k_shape, self.v_shape))
        return LayerPool(k=k, v=v, k_scale=scale, v_scale=scale, dtype=self.dtype)  # pyright: ignore[reportArgumentType]

    def zeros(self) -> LayerPool:
        """A pool of zeros."""
        return jax.tree.map(lambda array: jnp.zeros(array.shape, array.dtype), self.abstract())


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
    """The pool of one layer. K is [N, K, D, P] for XLA and native, [N, K, P, D] for the others; V is [N, K, P, D].

    On CPU bfloat16 and float16 are stored as uint16 and float8 as uint8: XLA's CPU compiler widens a whole array of
    such numbers to write one element of it. Raises ValueError for a size below 1, for a dtype not of `DTYPES`, and on a
    GPU for arrays of 1-byte numbers between 2 and 4 GiB, which the kernels cannot address.
    """
    sizes = {"num_blocks": num_blocks, "block_size": block_size, "kv_heads": kv_heads, "head_dim": head_dim}
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} is {size}: it must be at least 1")
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}: a pool holds {', '.join(DTYPES)}")
    logical = jnp.dtype(dtype)
    as_bits = platform == "cpu" and dtype not in ("float32", "int8")
    v_shape = (num_blocks, kv_heads, block_size, head_dim)
    k_shape = (num_blocks, kv_heads, head_dim, block_size) if backend.transposes_keys else v_shape
    nbytes = math.prod(v_shape) * logical.itemsize
    if platform != "cpu" and logical.itemsize == 1 and _REACH < nbytes <= _WIDE:
        per_block = nbytes // num_blocks
        raise ValueError(
            f"num_blocks is {num_blocks}: K of a layer would take {nbytes} bytes of {dtype}, and the kernels address "
            f"at most {_REACH} or more than {_WIDE}; take at most {_REACH // per_block} blocks or at least "
            f"{_WIDE // per_block + 1}"
        )
    axes = (None, "kv_heads", None, None)
    return PoolSpec(
        k_shape=k_shape,
        v_shape=v_shape,
        scale_shape=v_shape[:3] if is_scaled(dtype) else None,
        storage=np.dtype(_BITS[logical.itemsize] if as_bits else logical),
        dtype=dtype,
        k_axes=axes,
        v_axes=axes,
        scale_axes=axes[:3],
        block_size=block_size,
    )
