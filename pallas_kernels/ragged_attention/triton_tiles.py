"""What the decode and the mixed kernel share: static facts of a call, and the walk over tiles of keys."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax import Array, lax
from jax.experimental.pallas import triton as plgpu

from pallas_kernels.launch import next_power_of_two

LOG2E = math.log2(math.e)
# a finite start of the running maximum: a tile in which a row sees nothing is exactly a no-op, exp2(-inf - LOWEST) = 0
LOWEST = -1e30
MIN_TILE = 16  # smallest side of a tile that reaches the matrix units

Carry = tuple[Array, Array, Array]  # running maximum f32[M], sum f32[M], accumulator f32[M, D padded]


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Static facts of one call. Tiles are powers of two; what sticks out of the arrays is masked."""

    kv_heads: int
    group: int  # query heads of a kv head
    head_dim: int
    block_size: int
    window: int | None
    scale: float
    softcap: float | None

    def __post_init__(self) -> None:
        if self.block_size & (self.block_size - 1):
            raise ValueError(f"block_size is {self.block_size}: the Triton kernels need a power of two")

    @property
    def padded_group(self) -> int:
        """Rows that a token's query heads take in a tile."""
        return next_power_of_two(self.group)

    @property
    def padded_dim(self) -> int:
        """Columns of a tile."""
        return next_power_of_two(self.head_dim, least=MIN_TILE)


def cdiv(a: Array, b: int) -> Array:
    """Ceiling division of a non-negative scalar by a power of two: one add and one shift."""
    return lax.shift_right_logical(a + jnp.int32(b - 1), jnp.int32(b.bit_length() - 1))


def first_key(position: Array, problem: Problem) -> Array:
    """The oldest key that a query at `position` sees."""
    if problem.window is None:
        return jnp.int32(0)
    return jnp.maximum(position - jnp.int32(problem.window - 1), jnp.int32(0))


def start_carry(sinks: Array, rows: int, problem: Problem) -> Carry:
    """The softmax state before any key: sinks f32[M] are logits already seen (-inf: none)."""
    sinks = sinks * jnp.float32(LOG2E)
    highest = jnp.maximum(sinks, jnp.float32(LOWEST))
    return highest, jnp.exp2(sinks - highest), jnp.zeros((rows, problem.padded_dim), jnp.float32)


def finish(total: Array, acc: Array) -> Array:
    """The attention output f32[M, D padded] of a softmax state: zeros where a row saw nothing, NaN where it saw NaN."""
    return acc / nonzero(total)[:, None]


def nonzero(total: Array) -> Array:
    """Sums fit to divide by. No `maximum`: that drops NaN on some platforms, and a broken row must be seen."""
    return jnp.where(total == jnp.float32(0), jnp.float32(1), total)


def walk_keys(
    q: Array,
    carry: Carry,
    *,
    pools: tuple[Any, Any],
    table: Any,
    row: Array,
    kv_head: Array,
    tiles: tuple[Array, Array],
    keys: tuple[Array, Array],
    positions: Array | None,
    kv_tile: int,
    problem: Problem,
) -> Carry:
    """Folds tiles [tiles[0], tiles[1]) of a row's keys into the softmax state of q [M, D padded].

    Only keys in [keys[0], keys[1]) are touched: whatever lies elsewhere, NaN in freed blocks too, never arrives.
    positions i32[M]: the queries' own, for the causal and the window mask; None where `keys` says it all (decode).
    """
    column = lax.iota(jnp.int32, kv_tile)
    dim = lax.iota(jnp.int32, problem.padded_dim)[None, :]
    block_bits = jnp.int32(problem.block_size.bit_length() - 1)

    def gather(pool: Any, block: Array, offset: Array, live: Array) -> Array:
        mask = live[:, None] & (dim < jnp.int32(problem.head_dim))  # [tile, D padded]
        tile = plgpu.load(pool.at[block[:, None], kv_head, offset[:, None], dim], mask=mask, other=0)
        return lax.bitcast_convert_type(tile, jnp.bfloat16) if tile.dtype == jnp.uint16 else tile

    def step(tile: Array, carry: Carry) -> Carry:
        highest, total, acc = carry
        at = tile * jnp.int32(kv_tile) + column
        live = (at >= keys[0]) & (at < keys[1])
        block = plgpu.load(table.at[row, lax.shift_right_logical(at, block_bits)], mask=live, other=0)
        offset = at & jnp.int32(problem.block_size - 1)
        k = gather(pools[0], block, offset, live)
        scores = _dot(q.astype(k.dtype), k, contract=1)  # [M, tile], in log2 units from here
        if problem.softcap is None:
            scores = scores * jnp.float32(problem.scale * LOG2E)
        else:
            scores = jnp.tanh(scores * jnp.float32(problem.scale / problem.softcap))
            scores = scores * jnp.float32(problem.softcap * LOG2E)
        seen = jnp.broadcast_to(live[None, :], scores.shape)
        if positions is not None:
            seen &= at[None, :] <= positions[:, None]
            if problem.window is not None:
                seen &= at[None, :] > positions[:, None] - jnp.int32(problem.window)
        scores = jnp.where(seen, scores, jnp.float32(-jnp.inf))
        now = jnp.maximum(highest, jnp.max(scores, axis=1))
        fade = jnp.exp2(highest - now)
        weights = jnp.exp2(scores - now[:, None])
        v = gather(pools[1], block, offset, live)
        acc = acc * fade[:, None] + _dot(weights.astype(v.dtype), v, contract=0)
        return now, total * fade + jnp.sum(weights, axis=1), acc

    return lax.fori_loop(tiles[0], tiles[1], step, carry)


def _dot(a: Array, b: Array, *, contract: int) -> Array:
    # float32 operands ask for IEEE: the default would be TF32, ten bits of mantissa
    precision = lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    return lax.dot_general(
        a, b, (((1,), (contract,)), ((), ())), precision=precision, preferred_element_type=jnp.float32
    )
