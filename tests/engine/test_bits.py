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

from jaxpaged.config import EngineConfig
from jaxpaged.engine import LLMEngine
from jaxpaged.tiny.corpus import read_corpus

OUTPUT = 6
BLOCKS = {"float32": 129, "bfloat16": 400}  # those of test_bundled and test_compile: the same programs


@pytest.mark.parametrize(
    ("backend", "dtype", "kv_cache_dtype", "quantization"),
    [
        ("native", "float32", "auto", None),
        ("native", "bfloat16", "auto", None),
        ("native", "bfloat16", "int8", None),
        ("native", "bfloat16", "auto", "int8"),
        ("xla", "float32", "int8", None),
        ("xla", "bfloat16", "auto", None),
        # the same sums of integers as the native ones
        pytest.param("xla", "bfloat16", "auto", "int8", marks=pytest.mark.slow),
        # the same sums as with int8, but for scales
        pytest.param("xla", "float32", "auto", None, marks=pytest.mark.slow),
        # encoded and decoded by the same code as int8
        pytest.param("xla", "float32", "fp8", None, marks=pytest.mark.slow),
    ],
)
def test_logits_bits(backend: Any, dtype: Any, kv_cache_dtype: Any, quantization: Any) -> None:
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
            num_gpu_blocks_override=BLOCKS[dtype],
            compile_cache="off",
            warmup=False,
        )
    )
    rng = random.Random(3)
    text = engine.tokenizer.encode("".join(read_corpus().held_out)[:40_000])
    lengths = [2, 17, 63, 64, 66, 100, 127, 128, 200, 260]
    prompts = {f"p{n}": text[(start := rng.randrange(len(text) - 300)) : start + n] for n in lengths}
    alone: dict[tuple[str, int], bytes] = {}
    for name, ids in prompts.items():
        alone |= record(engine, {name: ids}, count=OUTPUT, rows=1, tokens=256, gap=0)
    assert len(alone) == len(prompts) * OUTPUT
    for shape in (
        {"rows": 16, "tokens": 256, "gap": 0},
        {"rows": 10, "tokens": 64, "gap": 1},
        {"rows": 3, "tokens": 128, "gap": 2},
        {"rows": 5, "tokens": 192, "gap": 4},
    ):
        order = list(prompts.items())
        rng.shuffle(order)
        together = record(engine, dict(order), count=OUTPUT, **shape)
        assert together.keys() == alone.keys()
        different = [place for place in alone if together[place] != alone[place]]
        assert not different, f"{shape}: {different}"
