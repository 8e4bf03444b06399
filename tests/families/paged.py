"""Logits of every place of some prompts, computed in chunks and single tokens over one paged pool, with one program."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpaged.models.decoder import make_context, unflatten
from jaxpaged.models.kv import KVPool, make_pool
from jaxpaged.weights.load import LoadedModel
from pallas_kernels.backend import Backend

WIDTH = 16  # blocks of a table
_ROWS = 4  # of a step
_TOKENS = 96  # of a step
_SHARES = (53, 31)  # of a step's tokens, for each prompt
_DECODED = 3  # tokens at the end of every prompt that are computed one at a time


def paged_logits(
    model: LoadedModel, prompts: Sequence[Sequence[int]], backend: Backend, *, block_size: int, dtype: str = "float32"
) -> list[np.ndarray]:
    """f32[T, V] of each of two prompts, which have at most WIDTH blocks. Unused slots of the pool hold NaN, and so does
    the null block, to which tables lead behind a window.

    dtype: of the pool. Every KV group has tables of its own, whose blocks lie in no order.
    """
    windows = model.config.kv_windows()
    blocks = 1 + len(windows) * len(prompts) * WIDTH
    rng = np.random.default_rng(2)
    tables = rng.permutation(np.arange(1, blocks, dtype=np.int32)).reshape(len(windows), len(prompts), WIDTH)
    pool = make_pool(model.config, backend, num_blocks=blocks, block_size=block_size, dtype=dtype)
    pool = jax.tree.map(poisoned, pool)
    step = _compile(model, backend, block_size)
    done = [0] * len(prompts)
    found: list[list[np.ndarray]] = [[] for _ in prompts]
    for plan in _schedule([len(prompt) for prompt in prompts]):
        token_ids, step_tables = np.zeros(_TOKENS, np.int32), np.zeros((len(windows), _ROWS, WIDTH), np.int32)
        cu_q_lens, kv_lens = np.zeros(_ROWS + 1, np.int32), np.zeros(_ROWS, np.int32)
        start = 0
        for i, (row, count) in enumerate(plan):
            token_ids[start : start + count] = prompts[row][done[row] : done[row] + count]
            done[row] += count
            start += count
            cu_q_lens[i + 1 :], kv_lens[i] = start, done[row]
            used = -(-done[row] // block_size)
            for group, window in enumerate(windows):
                first = 0 if window is None else max(0, done[row] - count - window + 1) // block_size
                step_tables[group, i, first:used] = tables[group, row, first:used]
        logits, pool = step(pool, token_ids, cu_q_lens, kv_lens, step_tables)
        for i, (row, _) in enumerate(plan):
            found[row].append(np.asarray(logits[cu_q_lens[i] : cu_q_lens[i + 1]]))
    return [np.concatenate(pieces) for pieces in found]


def poisoned(array: jax.Array) -> jax.Array:
    """NaN in every slot; of a uint16 pool, the bits of bfloat16's."""
    return jnp.full_like(array, 0x7FC0 if array.dtype == jnp.uint16 else jnp.nan)


def _schedule(lengths: Sequence[int]) -> Iterator[list[tuple[int, int]]]:
    """Steps of (row, count), rows with one token first. Chunks of odd sizes, then single tokens."""
    left = [length - _DECODED for length in lengths]
    while any(left):
        counts = [min(most, rest) for most, rest in zip(_SHARES, left, strict=True)]
        left = [rest - count for rest, count in zip(left, counts, strict=True)]
        rows = [(row, count) for row, count in enumerate(counts) if count]
        yield sorted(rows, key=lambda item: item[1] > 1)
    for _ in range(_DECODED):
        yield [(row, 1) for row in range(len(lengths))]


def _compile(model: LoadedModel, backend: Backend, block_size: int) -> Callable[..., Any]:
    def step(
        leaves: tuple[jax.Array, ...],
        pool: KVPool,
        token_ids: jax.Array,
        cu_q_lens: jax.Array,
        kv_lens: jax.Array,
        tables: jax.Array,
    ) -> tuple[jax.Array, KVPool]:
        context = make_context(
            cu_q_lens,
            kv_lens,
            tuple(tables),
            config=model.config,
            num_tokens=_TOKENS,
            block_size=block_size,
            backend=backend,
        )
        decoder = unflatten(model.graphdef, leaves)
        hidden, pool = decoder(token_ids, context, pool)
        return decoder.logits(hidden), pool

    return partial(jax.jit(step, donate_argnums=1), model.leaves)
