"""The KV pool: as many `LayerPool`s as the deepest KV group has layers, as the attention backend lays them out.

A block id is a place in all of them. It belongs to one group at a time, whose k-th layer keeps its tokens in the k-th
array, so memory goes to whichever group needs it, and layers that are all alike have an array each.
"""

from __future__ import annotations

import jax
from jax import Array, lax

from jaxpaged.models.config import ModelConfig
from pallas_kernels.backend import Backend
from pallas_kernels.layer_pool import LayerPool
from pallas_kernels.pool_spec import PoolSpec, pool_spec
from pallas_kernels.target import current_target

KVPool = tuple[LayerPool, ...]
"""The pool's arrays. Donated through every step; nobody but the ops looks inside."""


def pool_specs(
    config: ModelConfig, backend: Backend, *, num_blocks: int, block_size: int, dtype: str
) -> tuple[PoolSpec, ...]:
    """The pool's arrays on JAX's default device. dtype: see `PoolSpec`."""
    spec = pool_spec(
        backend,
        num_blocks=num_blocks,
        block_size=block_size,
        kv_heads=config.kv_heads,
        head_dim=config.head_dim,
        dtype=dtype,
        platform=current_target().platform,
    )
    return (spec,) * config.kv_arrays()


def make_pool(config: ModelConfig, backend: Backend, *, num_blocks: int, block_size: int, dtype: str) -> KVPool:
    """A pool of zeros."""
    specs = pool_specs(config, backend, num_blocks=num_blocks, block_size=block_size, dtype=dtype)
    return tuple(spec.zeros() for spec in specs)


def copy_blocks(pool: KVPool, pairs: Array) -> KVPool:
    """The pool with the blocks pairs[1] made equal to the blocks pairs[0], i32[2, any], one pair after the other and in
    all arrays; in place where the pool is donated. A pair of null blocks changes nothing.

    Slices in a loop: a scatter of whole blocks writes number by number on a CPU.
    """

    def one(i: Array, pool: KVPool) -> KVPool:
        def copy(array: Array) -> Array:
            block = lax.dynamic_index_in_dim(array, pairs[0, i], 0)
            # read before the write begins: fused with it, it would have to be a copy of the whole array
            return lax.dynamic_update_slice_in_dim(array, lax.optimization_barrier(block), pairs[1, i], 0)

        return jax.tree.map(copy, pool)

    return lax.fori_loop(0, pairs.shape[1], one, pool)


def bytes_per_block(config: ModelConfig, backend: Backend, *, block_size: int, dtype: str) -> int:
    """Bytes that one block takes: its tokens' keys and values in all layers of a group."""
    specs = pool_specs(config, backend, num_blocks=1, block_size=block_size, dtype=dtype)
    return sum(spec.bytes_per_block for spec in specs)
