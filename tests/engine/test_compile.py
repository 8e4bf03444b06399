"""I-COMPILE: nothing compiles after warm-up, and no bucket's program copies the pool or the weights."""

from __future__ import annotations

import random
from typing import Any

import pytest
from native_backend import need

from jaxpaged.config import EngineConfig
from jaxpaged.engine import LLMEngine
from jaxpaged.outputs import OutputKind
from jaxpaged.request import SamplingParams
from pallas_kernels.backend import Backend
from pallas_kernels.pool_spec import default_block_size


@pytest.fixture(scope="module", params=[("native", "float32"), ("native", "bfloat16"), ("xla", "bfloat16")], ids=str)
def engine(request: pytest.FixtureRequest) -> LLMEngine:
    backend, dtype = request.param
    need(backend)
    return LLMEngine(
        EngineConfig(
            dtype=dtype,
            attention_backend=backend,
            max_model_len=512,
            max_num_seqs=16,
            max_num_batched_tokens=256,
            num_gpu_blocks_override=64_000 // default_block_size(Backend(backend)),
            compile_cache="off",
        )
    )


def random_params(rng: random.Random, vocab: int) -> SamplingParams:
    return SamplingParams(
        temperature=rng.choice([0.0, 0.7, 1.3]),
        top_k=rng.choice([0, 1, 40, 2000]),
        top_p=rng.choice([1.0, 0.9, 0.1]),
        min_p=rng.choice([0.0, 0.05]),
        seed=rng.choice([None, 1, 2]),
        max_tokens=rng.randint(1, 6),
        min_tokens=rng.choice([0, 1]),
        stop_token_ids=[rng.randrange(vocab)],
        logprobs=rng.choice([None, 0, 5]),
        presence_penalty=rng.choice([0.0, 0.5]),
        frequency_penalty=rng.choice([0.0, 0.5]),
        repetition_penalty=rng.choice([1.0, 1.2]),
        logit_bias=rng.choice([None, {rng.randrange(vocab): 5.0}]),
    )


def test_nothing_compiles_after_warm_up(engine: LLMEngine) -> None:
    rng = random.Random(5)
    vocab = engine.model_config.vocab
    assert engine.metrics.compiles_at_start >= len(list(engine.buckets))
    left, done = 250, 0  # for each dtype: 500 in all
    while left or engine.has_unfinished:
        for _ in range(min(left, rng.choice([0, 0, 1, 3, 12]))):
            length = rng.choice([1, 3, 20, 63, 64, 65, 130, 300])
            prompt = [rng.randrange(vocab) for _ in range(length)]
            engine.submit(prompt, random_params(rng, vocab), output_kind=OutputKind.FINAL_ONLY)
            left -= 1
        done += len(engine.step())
    assert done == 250
    assert engine.metrics.compiles_after_ready == 0


def test_no_step_copies_pool_or_weights(engine: LLMEngine) -> None:
    check_steps_copy_nothing(engine)


@pytest.mark.parametrize("kv_cache_dtype", ["int8", "fp8"])
def test_no_step_copies_a_pool_of_bytes(kv_cache_dtype: Any) -> None:
    engine = LLMEngine(
        EngineConfig(
            dtype="float32",
            kv_cache_dtype=kv_cache_dtype,
            max_model_len=512,
            max_num_seqs=8,
            max_num_batched_tokens=128,
            num_gpu_blocks_override=4000,
            compile_cache="off",
            warmup=False,
        )
    )
    assert len(engine.buckets) == 3  # decode and two mixed ones
    check_steps_copy_nothing(engine)


def check_steps_copy_nothing(engine: LLMEngine) -> None:
    pool_bytes = sum(layer.nbytes for layer in engine.runner.pool)
    weight_bytes = sum(leaf.nbytes for leaf in engine.runner.leaves)
    layer_bytes = pool_bytes // (2 * len(engine.runner.pool))
    for bucket in engine.buckets:
        memory = engine.runner.compile(bucket).memory_analysis()
        assert memory is not None
        assert memory.alias_size_in_bytes >= pool_bytes, f"{bucket}: the pool is not updated in place"
        # what a step may need: a few times its widest activations, far below one layer's pool and the weights
        logits = bucket.rows * engine.model_config.vocab * 4
        activations = bucket.tokens * engine.model_config.ffn * 2 * 4
        table = bucket.rows * engine.config.table_width
        partials = table * engine.model_config.heads * (engine.model_config.head_dim + 2) * 4
        allowed = 3 * logits + 3 * activations + 2 * partials + 2**20
        assert allowed < min(layer_bytes, weight_bytes), "a copy would hide among a step's own needs"
        assert memory.temp_size_in_bytes < allowed, f"{bucket}: {memory.temp_size_in_bytes:,} bytes"
