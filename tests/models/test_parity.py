"""Float32 logits of every family against transformers: chunked through a paged pool, then token by token."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hf_zoo import CASES, make_folder, oracle_logits

from jaxpaged.models.decoder import make_context, unflatten
from jaxpaged.models.kv import KVPool, make_pool
from jaxpaged.weights.load import LoadedModel, load_model
from pallas_kernels.backend import Backend

TOLERANCE = 1e-4  # of the largest logit
LENGTHS = (170, 101)  # beyond every window and many blocks
ROWS, WIDTH = 4, 16  # rows of a step, blocks of a table
MIXED = 96  # tokens of a mixed step
DECODED = 3  # tokens at the end of every prompt that are computed one at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class Oracle:
    loaded: LoadedModel
    prompts: tuple[list[int], ...]
    logits: tuple[np.ndarray, ...]


@pytest.fixture(scope="module", params=CASES)
def oracle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Oracle:
    folder: Path = tmp_path_factory.mktemp(request.param)
    case = CASES[request.param]
    model = make_folder(folder, case)
    rng = np.random.default_rng(1)
    prompts = tuple(rng.integers(0, case.config["vocab_size"], length).tolist() for length in LENGTHS)
    logits = tuple(oracle_logits(model, prompt) for prompt in prompts)
    return Oracle(loaded=load_model(folder, dtype="float32"), prompts=prompts, logits=logits)


def schedule(lengths: tuple[int, ...]) -> Iterator[list[tuple[int, int]]]:
    """Steps of (row, count), rows with one token first. Chunks of odd sizes, then single tokens."""
    left = [length - DECODED for length in lengths]
    share = (53, 31)
    while any(left):
        counts = [min(most, rest) for most, rest in zip(share, left, strict=True)]
        left = [rest - count for rest, count in zip(left, counts, strict=True)]
        rows = [(row, count) for row, count in enumerate(counts) if count]
        yield sorted(rows, key=lambda item: item[1] > 1)
    for _ in range(DECODED):
        yield [(row, 1) for row in range(len(lengths))]


def poisoned(array: jax.Array) -> jax.Array:
    """NaN in every slot; of a uint16 pool, the bits of bfloat16's."""
    return jnp.full_like(array, 0x7FC0 if array.dtype == jnp.uint16 else jnp.nan)


def compile_step(model: LoadedModel, backend: Backend, block_size: int) -> Callable[..., Any]:
    def step(
        leaves: tuple[jax.Array, ...],
        pool: KVPool,
        token_ids: jax.Array,
        cu_q_lens: jax.Array,
        kv_lens: jax.Array,
        tables: jax.Array,
        num_tokens: int,
    ) -> tuple[jax.Array, KVPool]:
        context = make_context(
            cu_q_lens,
            kv_lens,
            tables,
            config=model.config,
            num_tokens=num_tokens,
            block_size=block_size,
            backend=backend,
        )
        decoder = unflatten(model.graphdef, leaves)
        hidden, pool = decoder(token_ids, context, pool)
        return decoder.logits(hidden), pool

    return partial(jax.jit(step, static_argnums=6, donate_argnums=1), model.leaves)


def paged_logits(oracle: Oracle, backend: Backend, block_size: int, *, dtype: str = "float32") -> list[np.ndarray]:
    """Logits of every position of every prompt, from steps over one pool whose unused slots hold NaN, and so does the
    null block, to which tables lead behind a window."""
    model = oracle.loaded
    windows = model.config.kv_windows()
    rng = np.random.default_rng(2)
    blocks = 1 + len(windows) * len(oracle.prompts) * WIDTH
    tables = rng.permutation(np.arange(1, blocks, dtype=np.int32)).reshape(len(windows), len(oracle.prompts), WIDTH)
    pool = make_pool(model.config, backend, num_blocks=blocks, block_size=block_size, dtype=dtype)
    pool = jax.tree.map(poisoned, pool)
    step = compile_step(model, backend, block_size)
    done = [0] * len(oracle.prompts)
    found: list[list[np.ndarray]] = [[] for _ in oracle.prompts]
    for plan in schedule(tuple(map(len, oracle.prompts))):
        decode = all(count == 1 for _, count in plan) and backend is not Backend.REFERENCE  # whose one program serves
        num_tokens = ROWS if decode else MIXED
        token_ids = np.zeros(num_tokens, np.int32)
        cu_q_lens, kv_lens = np.zeros(ROWS + 1, np.int32), np.zeros(ROWS, np.int32)
        step_tables = np.zeros((len(windows), ROWS, WIDTH), np.int32)
        start = 0
        for i, (row, count) in enumerate(plan):
            token_ids[start : start + count] = oracle.prompts[row][done[row] : done[row] + count]
            done[row] += count
            start += count
            cu_q_lens[i + 1 :], kv_lens[i] = start, done[row]
            used = -(-done[row] // block_size)
            for group, window in enumerate(windows):
                first = 0 if window is None else max(0, done[row] - count - window + 1) // block_size
                step_tables[group, i, first:used] = tables[group, row, first:used]
        logits, pool = step(pool, token_ids, cu_q_lens, kv_lens, step_tables, num_tokens)
        for i, (row, _) in enumerate(plan):
            found[row].append(np.asarray(logits[cu_q_lens[i] : cu_q_lens[i + 1]]))
    return [np.concatenate(pieces) for pieces in found]


@pytest.mark.parametrize(("backend", "block_size"), [(Backend.REFERENCE, 16), (Backend.XLA, 64)])
def test_logits_are_those_of_transformers(oracle: Oracle, backend: Backend, block_size: int) -> None:
    for found, wanted in zip(paged_logits(oracle, backend, block_size), oracle.logits, strict=True):
        assert found.shape == wanted.shape
        assert wanted.std() > 0.5, "logits too flat to tell anything"
        worst = np.abs(found - wanted).max() / np.abs(wanted).max()
        assert worst < TOLERANCE


def test_bfloat16_stays_near(tmp_path: Path) -> None:
    case = CASES["llama_llama3"]
    model = make_folder(tmp_path, case)
    prompts = tuple([(7 * i + 3 * i * i) % case.config["vocab_size"] for i in range(length)] for length in LENGTHS)
    logits = tuple(oracle_logits(model, prompt) for prompt in prompts)
    oracle = Oracle(loaded=load_model(tmp_path, dtype="bfloat16"), prompts=prompts, logits=logits)
    for found, wanted in zip(paged_logits(oracle, Backend.XLA, 64, dtype="bfloat16"), logits, strict=True):
        assert np.abs(found - wanted).mean() < 0.05 * wanted.std()
