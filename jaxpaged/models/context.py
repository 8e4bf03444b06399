"""Where the tokens of a step stand and what they see: made once per step, shared by all layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from jax import Array

from jaxpaged.models.config import ModelConfig
from pallas_kernels.backend import Backend
from pallas_kernels.ragged_attention import AttentionWork, attention_work
from pallas_kernels.tuning import NO_TUNING, Table


@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True, kw_only=True)
class StepContext:
    """positions i32[T]; real bool[T] (False for padding tokens); slots: i32[T] per KV group; works: one per
    `ModelConfig.attention_kinds()`. Padding tokens have position 0 and write to slot 0, in the null block. tuning: what
    the kernels ask before their shipped tables.
    """

    positions: Array
    real: Array
    slots: tuple[Array, ...]
    works: tuple[AttentionWork, ...]
    block_size: int = field(metadata={"static": True})
    backend: Backend = field(metadata={"static": True})
    tuning: Table = field(default=NO_TUNING, metadata={"static": True})

    @property
    def count(self) -> Array:
        """i32[1], the tokens that are no padding; these come first."""
        return self.works[0].count


def make_context(
    cu_q_lens: Array,
    kv_lens: Array,
    block_tables: Sequence[Array] | Array,
    *,
    config: ModelConfig,
    num_tokens: int,
    block_size: int,
    backend: Backend,
    tuning: Table = NO_TUNING,
) -> StepContext:
    """The context of a step, computed on the device.

    cu_q_lens i32[S+1]: row i owns the tokens cu_q_lens[i]..cu_q_lens[i+1]. kv_lens i32[S]: tokens in the cache after
    this step. block_tables: i32[S, W] (or [groups, S, W]) for every KV group; entries wholly behind a group's window
    are not followed. num_tokens: T, padding included. tuning: the user's table.
    """
    q_lens = cu_q_lens[1:] - cu_q_lens[:-1]  # [S]
    token = jnp.arange(num_tokens, dtype=jnp.int32)
    real = token < cu_q_lens[-1]
    row = jnp.repeat(
        jnp.arange(kv_lens.shape[0], dtype=jnp.int32), q_lens, total_repeat_length=num_tokens
    )  # [T]; the last row's tokens go on into the padding
    first = kv_lens - q_lens - cu_q_lens[:-1]  # [S]: position of a token less its place in the step
    positions = jnp.where(real, token + first[row], 0)
    slots = tuple(
        jnp.where(real, table[row, positions // block_size] * block_size + positions % block_size, 0)
        for table in block_tables
    )
    works = tuple(
        attention_work(
            cu_q_lens,
            kv_lens,
            block_tables[kind.group],
            num_tokens=num_tokens,
            block_size=block_size,
            window=kind.window,
            backend=backend,
            tuning=tuning,
        )
        for kind in config.attention_kinds()
    )
    return StepContext(
        positions=positions,
        real=real,
        slots=slots,
        works=works,
        block_size=block_size,
        backend=backend,
        tuning=tuning,
    )
