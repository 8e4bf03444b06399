"""I-BITS: the logits of a row are bitwise equal whatever its neighbours, place, bucket and chunk boundaries.

Out of scope by design: decode against recomputed prefill of the same token (another order of summation), so there is
no preemption here, and no prompt whose last chunk is a single token.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
from native_backend import need
from step_recorder import record

from jaxpaged.config import CHUNK_ALIGN, EngineConfig
from jaxpaged.engine import LLMEngine
from jaxpaged.tiny.corpus import read_corpus
from pallas_kernels.backend import Backend
from pallas_kernels.pool_spec import default_block_size

OUTPUT = 6
ENOUGH_BLOCKS = 400  # for 16 of the longest prompts: a preempted one would be computed anew
LENGTHS = (2, 17, 63, 64, 66, 100, 127, 128, 200, 260)
SCHEDULES = (
    {"rows": 16, "tokens": 256, "gap": 0},
    {"rows": 10, "tokens": 64, "gap": 1},
    {"rows": 3, "tokens": 128, "gap": 2},
    {"rows": 5, "tokens": 192, "gap": 4},
)
VARIANTS = (
    ("native", "float32", "auto", None),
    ("native", "bfloat16", "auto", None),
    ("native", "bfloat16", "int8", None),
    ("native", "bfloat16", "auto", "int8"),
    ("xla", "float32", "int8", None),
    ("xla", "bfloat16", "auto", None),
)
MORE_VARIANTS = (
    ("xla", "bfloat16", "auto", "int8"),  # the same sums of integers as the native ones
    ("xla", "float32", "auto", None),  # the same sums as with int8, but for scales
    ("xla", "float32", "fp8", None),  # encoded and decoded by the same code as int8
)
LONG = (pytest.mark.slow, pytest.mark.timeout(3600))


@pytest.mark.parametrize(
    ("backend", "dtype", "kv_cache_dtype", "quantization", "num_random"),
    [
        *((*variant, 0) for variant in VARIANTS),
        *(pytest.param(*variant, 200, marks=LONG) for variant in VARIANTS + MORE_VARIANTS),
    ],
)
def test_logits_bits(backend: Any, dtype: Any, kv_cache_dtype: Any, quantization: Any, num_random: int) -> None:
    """num_random: schedules drawn beside the given ones, over more prompts, each with some of the buckets missing."""
    need(backend)
    engine = LLMEngine(
        EngineConfig(
            dtype=dtype,
            kv_cache_dtype=kv_cache_dtype,
            quantization=quantization,
            max_model_len=512,
            max_num_seqs=16,
            max_num_batched_tokens=256,
            attention_backend=backend,
            num_gpu_blocks_override=ENOUGH_BLOCKS if num_random else few_blocks(backend, dtype),
            compile_cache="off",
            warmup=False,
        )
    )
    rng = random.Random(3)
    text = engine.tokenizer.encode("".join(read_corpus().held_out)[:40_000])
    lengths = [*LENGTHS, *(random_length(rng) for _ in range(30 if num_random else 0))]
    starts = [rng.randrange(len(text) - 300) for _ in lengths]
    prompts = {f"{i}: {n} tokens": text[at : at + n] for i, (n, at) in enumerate(zip(lengths, starts, strict=True))}
    alone: dict[tuple[str, int], bytes] = {}
    for name, ids in prompts.items():
        alone |= record(engine, {name: ids}, count=OUTPUT, rows=1, tokens=256, gap=0)
    assert len(alone) == len(prompts) * OUTPUT
    first = list(prompts)[: len(LENGTHS)]
    plans = [(first, {**schedule, "buckets": engine.buckets}) for schedule in SCHEDULES]
    plans += [(rng.sample(list(prompts), rng.randint(2, 16)), random_schedule(rng, engine)) for _ in range(num_random)]
    compared = 0
    for names, schedule in plans:
        rng.shuffle(names)
        together = record(engine, {name: prompts[name] for name in names}, count=OUTPUT, **schedule)
        assert len(together) == len(names) * OUTPUT
        different = [place for place in together if together[place] != alone[place]]
        assert not different, f"{schedule}: {different}"
        compared += len(together)
    print(f"{len(plans)} schedules, {compared} rows of logits compared, {len(alone)} different ones")


def few_blocks(backend: str, dtype: str) -> int:
    """As many as in test_bundled and in test_compile, with which the compiled programs are shared."""
    return 129 if dtype == "float32" else 64_000 // default_block_size(Backend(backend))


def random_length(rng: random.Random) -> int:
    """Of a prompt whose last chunk is no single token."""
    length = rng.randint(2, 260)
    return length + 1 if length % CHUNK_ALIGN == 1 else length


def random_schedule(rng: random.Random, engine: LLMEngine) -> dict[str, Any]:
    base = list(engine.buckets.base)
    kept = [bucket for bucket in engine.buckets if bucket in base or rng.random() < 0.7]
    return {
        "rows": rng.randint(1, 16),
        "tokens": rng.randint(64, 256),
        "gap": rng.randint(0, 5),
        "buckets": engine.buckets.only(kept),
    }
