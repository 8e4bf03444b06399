"""What the decode and the mixed kernel share: static facts of a call, and the walk over tiles of keys."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial, reduce
from operator import and_
from typing import Any

import jax.numpy as jnp
from jax import Array, lax
from jax.experimental.pallas import triton as plgpu

from pallas_kernels.launch import next_power_of_two
from pallas_kernels.layer_pool import LayerPool, is_scaled

LOG2E = math.log2(math.e)
# a finite start of the running maximum: a tile in which a row sees nothing is exactly a no-op
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
    dtype: str  # of the pool, the logical one

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

    @property
    def operand(self) -> jnp.dtype:
        """What the dots multiply: the pool's numbers, or bfloat16, which holds every int8 and float8 exactly."""
        return jnp.dtype(jnp.bfloat16 if is_scaled(self.dtype) else self.dtype)


def pool_arrays(pool: LayerPool) -> list[Array]:
    """The arrays of a pool as the kernels take them: K, V and, where there are scales, K's and V's."""
    return [array for array in (pool.k, pool.v, pool.k_scale, pool.v_scale) if array is not None]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySource:
    """Where a program finds the keys of its row and kv head. pool: the refs of `pool_arrays`; table: ref i32[S, W]."""

    pool: tuple[Any, ...]
    table: Any
    row: Array
    kv_head: Array
    problem: Problem

    def tile(self, first: Array, size: int, keys: tuple[Array, Array] | None) -> KeyTile:
        """The tile of `size` keys that starts at `first`, a multiple of it; see `KeyTile`."""
        block_size = self.problem.block_size
        nth = lax.shift_right_logical(first, log2_of(block_size))
        if size <= block_size:
            blocks, shape = self.table[self.row, nth], (1, size)
            start = lax.rem(first, jnp.int32(block_size))
        else:  # the table is read once per block, and nowhere past its end
            shape, start = (size // block_size, block_size), jnp.int32(0)
            nth = nth + lax.iota(jnp.int32, shape[0])
            mask = None if keys is None else nth < jnp.int32(self.table.shape[1])
            blocks = plgpu.load(self.table.at[self.row, nth], mask=mask, other=None if keys is None else 0)
            blocks = blocks[:, None]
        return KeyTile(source=self, first=first, shape=shape, blocks=blocks, start=start, keys=keys)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyTile:
    """A tile of a row's keys: `shape` (blocks, positions of each), from position `start` of its first block on.

    blocks: their numbers i32[blocks, 1], or a scalar. keys: only those in [keys[0], keys[1]) are the row's to read;
    None: all are.
    """

    source: KeySource
    first: Array
    shape: tuple[int, int]
    blocks: Array
    start: Array
    keys: tuple[Array, Array] | None

    @property
    def size(self) -> int:
        """Keys of the tile."""
        return self.shape[0] * self.shape[1]

    def live(self, at: Array) -> Array | None:
        """Which of the keys at these positions of the row may be read; None: all."""
        return None if self.keys is None else (at >= self.keys[0]) & (at < self.keys[1])

    def values(self, which: int) -> Array:
        """The stored keys (which 0) or values (1) as operands [tile, D padded]; zeros where not live."""
        problem, ref = self.source.problem, self.source.pool[which]
        key = lax.iota(jnp.int32, self.size)
        dim = lax.iota(jnp.int32, problem.padded_dim)[None, :]
        block, offset = self.blocks, self.start + key
        if block.ndim:
            block = jnp.broadcast_to(block, self.shape).reshape(self.size, 1)
            offset = key & jnp.int32(problem.block_size - 1)
        live = self.live(self.first + key)
        inside = dim < jnp.int32(problem.head_dim) if problem.padded_dim > problem.head_dim else None
        masks = [mask for mask in (None if live is None else live[:, None], inside) if mask is not None]
        mask = jnp.broadcast_to(reduce(and_, masks), (self.size, problem.padded_dim)) if masks else None
        other = None if mask is None else jnp.zeros((), ref.dtype)
        tile = plgpu.load(ref.at[block, self.source.kv_head, offset[:, None], dim], mask=mask, other=other)
        if tile.dtype != jnp.dtype(problem.dtype):  # on CPU the pool holds bits
            tile = lax.bitcast_convert_type(tile, jnp.dtype(problem.dtype))
        return tile.astype(problem.operand)

    def scales(self, which: int) -> Array | None:
        """The factors f32[tile] of the keys (which 0) or values (1), anything where not live; None: all are 1.

        Loaded as [blocks, positions] and without a mask, so that neighbours in memory arrive in one load.
        """
        if not is_scaled(self.source.problem.dtype):
            return None
        offset = self.start + lax.iota(jnp.int32, self.shape[1])[None, :]
        where = self.source.pool[2 + which].at[self.blocks, self.source.kv_head, offset]
        return plgpu.load(where).reshape(self.size)


def log2_of(size: int) -> Array:
    """The bits by which to shift for a power of two: `//` and `%` would mend signs that are never there."""
    return jnp.int32(size.bit_length() - 1)


def cdiv(a: Array, b: int) -> Array:
    """Ceiling division of a non-negative scalar by a power of two: one add and one shift."""
    return lax.shift_right_logical(a + jnp.int32(b - 1), log2_of(b))


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
    source: KeySource,
    *,
    tiles: tuple[Array, Array],
    whole: tuple[Array, Array] | None = None,
    keys: tuple[Array, Array],
    positions: Array | None,
    kv_tile: int,
) -> Carry:
    """Folds tiles [tiles[0], tiles[1]) of a row's keys, oldest first, into the softmax state of q [M, D padded].

    Only keys in [keys[0], keys[1]) are touched: whatever lies elsewhere, NaN in freed blocks too, never arrives.
    positions i32[M]: the queries' own, for the causal and the window mask; None where `keys` says it all (decode).
    whole: the tiles among them of which every query sees every key; no mask is computed there.
    """
    q = q.astype(source.problem.operand)
    fold = partial(fold_tile, q=q, source=source, kv_tile=kv_tile)
    edge = partial(fold, keys=keys, positions=positions)
    first, last = tiles
    if whole is None:
        return lax.fori_loop(first, last, edge, carry)
    begin = jnp.clip(whole[0], first, last)
    end = jnp.clip(whole[1], begin, last)
    if source.problem.window is not None:  # else `begin` is `first`
        carry = lax.fori_loop(first, begin, edge, carry)
    carry = lax.fori_loop(begin, end, fold, carry)
    return lax.fori_loop(end, last, edge, carry)


def fold_tile(
    tile: Array,
    carry: Carry,
    *,
    q: Array,
    source: KeySource,
    kv_tile: int,
    keys: tuple[Array, Array] | None = None,
    positions: Array | None = None,
) -> Carry:
    """The softmax state after one more tile of keys; see `walk_keys`. keys None: every query sees all of the tile."""
    highest, total, acc = carry
    problem = source.problem
    first = tile * jnp.int32(kv_tile)
    at = first + lax.iota(jnp.int32, kv_tile)
    part = source.tile(first, kv_tile, keys)
    live = part.live(at)
    scores = log2_scores(_dot(q, part.values(0), contract=1), part.scales(0), problem)  # [M, tile]
    seen = None
    if live is not None:
        seen = jnp.broadcast_to(live[None, :], scores.shape)
        if positions is not None:
            seen &= at[None, :] <= positions[:, None]
            if problem.window is not None:
                seen &= at[None, :] > positions[:, None] - jnp.int32(problem.window)
    # masks are put on results only: both kinds of tile do the same sums, so that where a row's tiles are cut, and hence
    # which are whole, changes no bit
    logits = scores if seen is None else jnp.where(seen, scores, jnp.float32(-jnp.inf))
    now = jnp.maximum(highest, jnp.max(logits, axis=1))
    fade = jnp.exp2(highest - now)
    weights = jnp.exp2(scores - now[:, None])
    if seen is not None:
        weights = jnp.where(seen, weights, jnp.float32(0))
    total = total * fade + jnp.sum(weights, axis=1)
    v, v_scale = part.values(1), part.scales(1)
    if v_scale is not None:
        weights = weights * v_scale[None, :]
        if seen is not None:  # a scale that is NaN breaks those who see it, not those before
            weights = jnp.where(seen, weights, jnp.float32(0))
    acc = acc * fade[:, None] + _dot(weights.astype(v.dtype), v, contract=0)
    return now, total, acc


def log2_scores(products: Array, k_scale: Array | None, problem: Problem) -> Array:
    """Products q.k f32[M, tile] as logits in units of log2, so that the softmax is all exp2. k_scale f32[tile]."""
    factor = problem.scale * LOG2E
    if problem.softcap is not None:
        factor *= 2 / problem.softcap
    scale = jnp.float32(factor) if k_scale is None else (k_scale * jnp.float32(factor))[None, :]
    if problem.softcap is None:
        return products * scale
    # tanh x = 1 - 2 / (exp 2x + 1), right at both infinities; the library's own is some hundred instructions
    cap = jnp.float32(problem.softcap * LOG2E)
    return cap - jnp.float32(2) * cap / (jnp.exp2(products * scale) + jnp.float32(1))


def _dot(a: Array, b: Array, *, contract: int) -> Array:
    # float32 operands ask for IEEE: the default would be TF32, ten bits of mantissa
    precision = lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    return lax.dot_general(
        a, b, (((1,), (contract,)), ((), ())), precision=precision, preferred_element_type=jnp.float32
    )
