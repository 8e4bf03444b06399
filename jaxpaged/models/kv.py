"""The KV pool: one K and one V array per layer, in the layout that the attention backend declares."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array

from jaxpaged.models.config import ModelConfig
from pallas_kernels.backend import Backend
from pallas_kernels.pool_spec import PoolSpec, pool_spec


@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True, kw_only=True)
class KVPool:
    """K and V of every layer, as `pool_spec` lays them out. Donated through every step; nobody else looks inside."""

    k: tuple[Array, ...]
    v: tuple[Array, ...]


def pool_specs(
    config: ModelConfig, backend: Backend, *, num_blocks: int, block_size: int, dtype: str
) -> tuple[PoolSpec, ...]:
    """The pool of every layer on JAX's default device. dtype: "float32" or "bfloat16"."""
    spec = pool_spec(
        backend,
        num_blocks=num_blocks,
        block_size=block_size,
        kv_heads=config.kv_heads,
        head_dim=config.head_dim,
        dtype=dtype,
        platform=jax.default_backend(),
    )
    return (spec,) * len(config.layers)


def make_pool(config: ModelConfig, backend: Backend, *, num_blocks: int, block_size: int, dtype: str) -> KVPool:
    """A pool of zeros."""
    specs = pool_specs(config, backend, num_blocks=num_blocks, block_size=block_size, dtype=dtype)
    return KVPool(
        k=tuple(jnp.zeros(spec.k_shape, spec.storage) for spec in specs),
        v=tuple(jnp.zeros(spec.v_shape, spec.storage) for spec in specs),
    )


def bytes_per_block(config: ModelConfig, backend: Backend, *, block_size: int, dtype: str) -> int:
    """Bytes that one block takes in all layers together."""
    specs = pool_specs(config, backend, num_blocks=1, block_size=block_size, dtype=dtype)
    return sum(spec.bytes_per_block for spec in specs)
