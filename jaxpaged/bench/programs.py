"""From a case to arrays on the device and the calls that are timed on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxpaged.bench.cases import AttentionCase, Case, GroupedCase, LinearCase, WriteCase
from jaxpaged.bench.timing import Body, after
from pallas_kernels.backend import Backend
from pallas_kernels.grouped_matmul import grouped_matmul
from pallas_kernels.layer_pool import LayerPool, encode, is_scaled
from pallas_kernels.linear import linear
from pallas_kernels.pool_spec import PoolSpec, default_block_size, pool_spec
from pallas_kernels.ragged_attention import attention_work, ragged_attention
from pallas_kernels.target import current_target, on_cpu
from pallas_kernels.tuning import NO_TUNING, Table
from pallas_kernels.write_kv import write_kv

_MOST_CALLS = 8
_COLD_BYTES = 2**29  # operands of one round take this together, so that none is found in a cache
_MOST_POOL_BYTES = 2**32  # a larger pool is read through tables that name its blocks several times
_SLAB_BLOCKS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A round of `calls` calls on operands of their own: `body(state, operands) -> state`.

    num_bytes and flops: the least that one call must move and compute. dtype: of weights or pool.
    """

    body: Body
    state: Any
    operands: Any
    calls: int
    num_bytes: float
    flops: float
    dtype: str


def machine_dtype() -> str:
    """What weights and pools are held as where a case does not say."""
    return "float32" if on_cpu() else "bfloat16"


def program_of(case: Case, backend: Backend, *, tuning: Table = NO_TUNING) -> Program:
    """Make a case's arrays. tuning: asked before the shipped tables.

    Raises ValueError where the backend cannot do it.
    """
    match case:
        case AttentionCase():
            return _attention(case, backend, tuning)
        case WriteCase():
            return _write(case, backend, tuning)
        case GroupedCase():
            return _grouped(case, backend, tuning)
        case LinearCase():
            return _linear(case)


def _attention(case: AttentionCase, backend: Backend, tuning: Table) -> Program:
    dtype = case.dtype or machine_dtype()
    block_size = default_block_size(backend)
    widest = max(-(-length // block_size) for length in case.kv_lens)
    num_rows, tokens = len(case.q_lens), sum(case.q_lens)
    spec = _pool_spec(backend, case.kv_heads, case.head_dim, dtype, blocks=num_rows * widest + 1)
    num_blocks = spec.v_shape[0]
    ids = np.random.default_rng(0).permutation(num_blocks - 1) + 1
    tables = np.resize(ids, (num_rows, widest)).astype(np.int32)
    work = attention_work(
        jnp.asarray(np.concatenate([[0], np.cumsum(case.q_lens)]), jnp.int32),
        jnp.asarray(case.kv_lens, jnp.int32),
        jnp.asarray(tables),
        num_tokens=tokens,
        block_size=block_size,
        window=case.window,
        backend=backend,
        tuning=tuning,
    )
    calls = _calls(num_blocks * spec.bytes_per_block)
    pools = [_random_pool(spec, backend, seed) for seed in range(calls)]
    # as the engine has them: float32 on a CPU, elsewhere in the type of the weights
    q_dtype = jnp.dtype(jnp.float32 if on_cpu() or dtype == "float32" else jnp.bfloat16)
    q = jax.random.normal(jax.random.key(1), (tokens, case.heads, case.head_dim), q_dtype)

    def body(q: Array, operands: Any) -> Array:
        pools, work = operands
        for pool in pools:
            q = ragged_attention(q, pool, work, scale=case.head_dim**-0.5)
        return q

    token_bytes = spec.bytes_per_block / block_size
    return Program(
        body=body,
        state=q,
        operands=(pools, work),
        calls=calls,
        num_bytes=case.seen_keys() * token_bytes + 2 * q.nbytes,
        flops=4 * case.scores() * case.heads * case.head_dim,
        dtype=dtype,
    )


def _write(case: WriteCase, backend: Backend, tuning: Table) -> Program:
    dtype = case.dtype or machine_dtype()
    spec = _pool_spec(backend, case.kv_heads, case.head_dim, dtype, blocks=max(64, 4 * case.tokens))
    slots = np.random.default_rng(0).permutation(np.arange(spec.block_size, spec.v_shape[0] * spec.block_size))
    keys = jax.random.split(jax.random.key(1), 3)
    shape = (case.tokens, case.kv_heads, case.head_dim)
    k, v = (jax.random.normal(key, shape, jnp.float32) for key in keys[:2])
    angles = jax.random.normal(keys[2], (case.tokens, case.head_dim // 2), jnp.float32)
    operands = (k, v, jnp.asarray(slots[: case.tokens], jnp.int32), (jnp.cos(angles), jnp.sin(angles)))

    def body(pools: Sequence[LayerPool], operands: Any) -> list[LayerPool]:
        k, v, slots, rope = operands
        return [write_kv(pool, k, v, slots, rope=rope, backend=backend, tuning=tuning) for pool in pools]

    return Program(
        body=body,
        state=[spec.zeros() for _ in range(_MOST_CALLS)],
        operands=operands,
        calls=_MOST_CALLS,
        num_bytes=k.nbytes + v.nbytes + case.tokens * spec.bytes_per_block / spec.block_size,
        flops=0,
        dtype=dtype,
    )


def _grouped(case: GroupedCase, backend: Backend, tuning: Table) -> Program:
    dtype = case.dtype or machine_dtype()
    sizes = np.random.default_rng(0).multinomial(case.rows, [1 / case.experts] * case.experts)
    one = case.height * case.width * jnp.dtype(dtype).itemsize

    def call(x: Array, w: Array, sizes: Array) -> Array:
        return grouped_matmul(x, w, sizes, backend=backend, tuning=tuning)

    return _products(
        call,
        rows=case.rows,
        shape=(case.experts, case.height, case.width),
        dtype=dtype,
        others=(jnp.asarray(sizes, jnp.int32),),
        weight_bytes=float(np.count_nonzero(sizes) * one),
    )


def _linear(case: LinearCase) -> Program:
    dtype = case.dtype or machine_dtype()
    weight_bytes = case.height * case.width * jnp.dtype(dtype).itemsize
    return _products(
        linear, rows=case.rows, shape=(case.height, case.width), dtype=dtype, others=(), weight_bytes=weight_bytes
    )


def _products(
    call: Callable[..., Array],
    *,
    rows: int,
    shape: tuple[int, ...],
    dtype: str,
    others: tuple[Array, ...],
    weight_bytes: float,
) -> Program:
    height, width = shape[-2:]
    calls = _calls(int(weight_bytes))
    bits = on_cpu() and dtype == "bfloat16" and len(shape) == 3  # as the experts of a model are held there
    weights = [_random_weights(shape, dtype, bits, seed) for seed in range(calls)]
    x = jax.random.normal(jax.random.key(1), (rows, width), jnp.float32)

    def body(x: Array, operands: Any) -> Array:
        weights, others = operands
        for w in weights:
            x = after(x, call(x, w, *others))
        return x

    return Program(
        body=body,
        state=x,
        operands=(weights, others),
        calls=calls,
        num_bytes=weight_bytes + x.nbytes + 4 * rows * height,
        flops=2 * rows * height * width,
        dtype=dtype,
    )


def _calls(operand_bytes: int) -> int:
    return 2 if on_cpu() else min(_MOST_CALLS, -(-_COLD_BYTES // operand_bytes))


def _pool_spec(backend: Backend, kv_heads: int, head_dim: int, dtype: str, *, blocks: int) -> PoolSpec:
    def spec(num_blocks: int) -> PoolSpec:
        return pool_spec(
            backend,
            num_blocks=num_blocks,
            block_size=default_block_size(backend),
            kv_heads=kv_heads,
            head_dim=head_dim,
            dtype=dtype,
            platform=current_target().platform,
        )

    return spec(min(blocks, max(2, _MOST_POOL_BYTES // spec(1).bytes_per_block)))


def _random_pool(spec: PoolSpec, backend: Backend, seed: int) -> LayerPool:
    """A pool of normal values, the same some hundred blocks over and over."""
    num_blocks = spec.v_shape[0]
    slab = min(num_blocks, _SLAB_BLOCKS)

    @jax.jit
    def fill(key: Array) -> tuple[Array, Array | None]:
        values = jax.random.normal(key, (slab, *spec.v_shape[1:]), jnp.float32)
        stored, scale = encode(values, spec.dtype, spec.storage)
        which = jnp.arange(num_blocks) % slab
        return stored[which], None if scale is None else scale[which]

    (k, k_scale), (v, v_scale) = (fill(key) for key in jax.random.split(jax.random.key(seed)))
    k = jnp.swapaxes(k, 2, 3) if backend.transposes_keys else k
    assert is_scaled(spec.dtype) == (k_scale is not None)
    return LayerPool(k=k, v=v, k_scale=k_scale, v_scale=v_scale, dtype=spec.dtype)


def _random_weights(shape: tuple[int, ...], dtype: str, bits: bool, seed: int) -> Array:
    @jax.jit
    def draw(key: Array) -> Array:
        def matrix(key: Array) -> Array:
            values = (jax.random.normal(key, shape[-1:], jnp.float32) * shape[-1] ** -0.5).astype(dtype)
            return lax.bitcast_convert_type(values, jnp.uint16) if bits else values

        return lax.map(matrix, jax.random.split(key, int(np.prod(shape[:-1]))), batch_size=256).reshape(shape)

    return draw(jax.random.key(seed))
