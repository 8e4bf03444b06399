"""I-COMPILE: nothing compiles after warm-up, and no bucket's program copies the pool or the weights."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, replace
from typing import Any

import pytest
from native_backend import need

from jaxpaged.assembly import make_scheduler
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
        n=rng.choice([1, 1, 1, 1, 1, 1, 2, 5]),
        temperature=rng.choice([0.0, 0.7, 1.3]),
        top_k=rng.choice([0, 1, 40, 2000]),
        top_p=rng.choice([1.0, 0.9, 0.1]),
        min_p=rng.choice([0.0, 0.05]),
        seed=rng.choice([None, 1, 2]),
        max_tokens=rng.randint(1, 6),
        min_tokens=rng.choice([0, 1]),
        stop_token_ids=[rng.randrange(vocab)],
        logprobs=rng.choice([None, 0, 5]),
        prompt_logprobs=rng.choice([None, None, 0, 5]),
        presence_penalty=rng.choice([0.0, 0.5]),
        frequency_penalty=rng.choice([0.0, 0.5]),
        repetition_penalty=rng.choice([1.0, 1.2]),
        logit_bias=rng.choice([None, {rng.randrange(vocab): 5.0}]),
    )


@dataclass(slots=True, kw_only=True)
class Counts:
    """What random requests came to."""

    submitted: int = 0
    finished: int = 0
    aborted: int = 0
    steps: int = 0
    preemptions: int = 0
    cached_tokens: int = 0


def drive(engine: LLMEngine, counts: Counts, rng: random.Random, *, requests: int = 0, steps: int = 0) -> None:
    """Random requests, some aborted, until so many came and so many steps were done; then all of them to their end."""
    vocab = engine.model_config.vocab
    known = [[rng.randrange(vocab) for _ in range(300)] for _ in range(4)]  # beginnings that come again
    came, began = 0, engine.metrics.steps
    live: list[str] = []
    arrivals = crowded = [0, 0, 1, 3, 12]
    while (arriving := came < requests or engine.metrics.steps - began < steps) or engine.has_unfinished:
        if rng.random() < 0.01:
            arrivals = rng.choice([crowded, *(2 * [[0] * 20 + [1], [0, 0, 0, 0, 1]])])  # next: nearly alone, a few
        for _ in range(rng.choice(arrivals) if arriving and engine.scheduler.num_waiting < 20 else 0):
            length = rng.choice([1, 3, 20, 63, 64, 65, 130, 300])
            again = rng.choice(known)[:length]
            prompt = again if rng.random() < 0.3 else [rng.randrange(vocab) for _ in range(length)]
            live.append(engine.submit(prompt, random_params(rng, vocab), output_kind=OutputKind.FINAL_ONLY))
            came += 1
        if live and rng.random() < 0.03:
            counts.aborted += engine.abort(live.pop(rng.randrange(len(live))))
        for output in engine.step():
            live.remove(output.request_id)
            counts.finished += 1
    engine.step()  # one may be in flight that computes for nobody any more
    counts.submitted += came
    counts.steps += engine.metrics.steps - began
    counts.preemptions += engine.scheduler.num_preemptions
    counts.cached_tokens += engine.scheduler.num_cached_tokens
    engine.scheduler.check()


def test_nothing_compiles_after_warm_up(engine: LLMEngine) -> None:
    counts = Counts()
    assert engine.metrics.compiles_at_start >= len(list(engine.buckets))
    drive(engine, counts, random.Random(5), requests=250)  # for each dtype: 500 in all
    assert counts.finished + counts.aborted == counts.submitted >= 250
    assert counts.aborted < 50
    assert engine.metrics.compiles_after_ready == 0


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_nothing_compiles_in_many_steps(engine: LLMEngine) -> None:
    """Steps one by one and overlapped, with room for all requests and with so little that some are preempted."""
    config, scheduler, counts = engine.config, engine.scheduler, Counts()
    windows = engine.model_config.kv_windows()
    rng = random.Random(6)
    began = time.monotonic()
    for overlapped in (True, False):
        for num_blocks in (config.num_blocks, 1 + 500 // config.block_size):
            engine.config = replace(config, num_blocks=num_blocks, async_scheduling=overlapped)
            engine.scheduler = make_scheduler(engine.config, windows, engine.buckets, clock=time.monotonic)
            drive(engine, counts, rng, steps=25_000)
    seconds = time.monotonic() - began
    engine.config, engine.scheduler = config, scheduler
    print(f"{counts}; {counts.steps / seconds:.0f} steps/s; {engine.metrics.compiles_after_ready} compilations")
    assert counts.steps >= 100_000
    assert counts.finished + counts.aborted == counts.submitted
    assert min(counts.preemptions, counts.aborted, counts.cached_tokens) > 20
    assert engine.metrics.compiles_after_ready == 0


def test_no_step_copies_pool_or_weights(engine: LLMEngine) -> None:
    check_steps_copy_nothing(engine)


def test_scoring_copies_no_weights(engine: LLMEngine) -> None:
    rows, vocab, width = engine.config.score_rows, engine.model_config.vocab, engine.model_config.embed
    head_bytes = vocab * width * (2 if engine.config.dtype == "bfloat16" else 4)
    memory = engine.runner.compile_scorer().memory_analysis()
    assert memory is not None
    # the logits, one more array of their size that XLA makes on a CPU of whatever it sums up, and what is small
    allowed = 2.2 * rows * vocab * 4 + 2**18
    assert memory.temp_size_in_bytes < allowed
    assert allowed < 2 * head_bytes, "a copy would hide"
    for bucket in engine.buckets:
        memory = engine.runner.compile_picker(bucket.tokens).memory_analysis()
        assert memory is not None
        assert memory.temp_size_in_bytes == 0
        assert memory.output_size_in_bytes <= rows * width * 4


def test_copying_blocks_copies_nothing_else(engine: LLMEngine) -> None:
    check_copier(engine)


def check_copier(engine: LLMEngine) -> None:
    pool_bytes = sum(layer.nbytes for layer in engine.runner.pool)
    memory = engine.runner.compile_copier().memory_analysis()
    assert memory is not None
    assert memory.alias_size_in_bytes >= pool_bytes, "the pool is not updated in place"
    allowed = pool_bytes // engine.config.num_blocks + 2**16
    assert allowed < pool_bytes // (4 * len(engine.runner.pool)), "a copy of an array would hide"
    assert memory.temp_size_in_bytes <= allowed, f"{memory.temp_size_in_bytes:,} bytes"


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
    check_copier(engine)


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
