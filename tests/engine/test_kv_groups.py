"""A hybrid model through the whole engine: layers with a window and layers without, two groups on one pool."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from jaxpaged.assembly import make_scheduler
from jaxpaged.config import EngineConfig
from jaxpaged.demand import spanned
from jaxpaged.engine import LLMEngine
from jaxpaged.outputs import OutputKind
from jaxpaged.request import SamplingParams
from jaxpaged.weights.random import random_model

BLOCK, WINDOW, STEP, OUTPUT = 16, 24, 80, 60
SHAPE: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "vocab_size": 211,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "use_sliding_window": True,
    "sliding_window": WINDOW,
    "max_window_layers": 2,
}
Prompts = list[tuple[int, ...]]

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def engine() -> LLMEngine:
    config = EngineConfig(
        model="hybrid",
        dtype="float32",
        attention_backend="xla",
        max_model_len=256,
        max_num_seqs=4,
        max_num_batched_tokens=STEP,
        num_gpu_blocks_override=129,
        block_size=BLOCK,
        compile_cache="off",
        warmup=False,
    )
    return LLMEngine(config, model=random_model(SHAPE, seed=3))


@pytest.fixture(scope="module")
def prompts() -> Prompts:
    rng = random.Random(1)
    shared = [rng.randrange(211) for _ in range(100)]
    alone: Prompts = [tuple(rng.randrange(211) for _ in range(length)) for length in (3, 40, 50, 45, 31, 180)]
    return [*alone, (*shared[:40], 7), (*shared[:90], 8), (*shared, 9), (*alone[5][:150], 8)]


def renew(engine: LLMEngine, *, blocks: int, prefix: bool) -> None:
    """A fresh scheduler over the same programs and pool."""
    engine.steps.in_flight.clear()
    config = replace(engine.config, num_blocks=blocks, enable_prefix_caching=prefix)
    windows = engine.model_config.kv_windows()
    engine.scheduler = make_scheduler(config, windows, engine.buckets.base, clock=engine._clock)


def run(engine: LLMEngine, prompts: Prompts) -> list[tuple[int, ...]]:
    """Greedy tokens of prompts served together, the invariants asserted after every step."""
    params = SamplingParams(temperature=0.0, max_tokens=OUTPUT, ignore_eos=True)
    ids = [engine.submit(prompt, params, output_kind=OutputKind.FINAL_ONLY) for prompt in prompts]
    done: dict[str, tuple[int, ...]] = {}
    while engine.has_unfinished:
        done |= {output.request_id: output.outputs[0].token_ids for output in engine.step()}
        engine.scheduler.check()
        for request in engine.scheduler.roster.running:
            if request.num_uncomputed == 1 and request.num_computed - request.num_committed <= 1:  # no chunk in flight
                live = sum(map(bool, request.block_ids[1]))
                assert live <= spanned(WINDOW, BLOCK) == 3, "I-WINDOW: ceil(24 / 16) + 1 blocks"
    return [done[i] for i in ids]


@pytest.fixture(scope="module")
def alone(engine: LLMEngine, prompts: Prompts) -> list[tuple[int, ...]]:
    """Tokens of each prompt with nobody beside it, nothing cached and nothing lacking."""
    tokens = []
    for prompt in prompts:
        renew(engine, blocks=129, prefix=False)
        tokens += run(engine, [prompt])
    return tokens


def test_the_model_has_two_groups_on_two_arrays(engine: LLMEngine) -> None:
    assert engine.model_config.kv_windows() == (None, WINDOW)
    assert len(engine.runner.pool) == engine.model_config.kv_arrays() == 2
    shown = dict(engine.describe())
    assert shown["KV groups"] == "2 groups: 2 layers without a window, 2 layers with a window of 24; 2 arrays"
    assert engine.kv_bytes_per_token == 4 * 2 * 2 * 16 * 4  # all layers, K and V, two heads of 16 in float32
    # a context of 256 tokens holds 16 blocks and, of the window, 3
    assert shown["concurrency"] == "4 rows a step; 6.7 longest contexts fit"


@pytest.mark.parametrize(("blocks", "prefix"), [(129, True), (30, True), (30, False)])
def test_tokens_do_not_depend_on_room_or_cache(
    engine: LLMEngine, prompts: Prompts, alone: list[tuple[int, ...]], blocks: int, prefix: bool
) -> None:
    renew(engine, blocks=blocks, prefix=prefix)
    assert run(engine, prompts) == alone
    scheduler = engine.scheduler
    assert (scheduler.num_preemptions > 0) == (blocks == 30)
    assert (scheduler.num_cached_tokens > 0) == prefix
    if prefix:  # those who come again find all of it, or what the others left of it
        cached = scheduler.num_cached_tokens
        assert run(engine, prompts[-4:]) == alone[-4:]
        assert scheduler.num_cached_tokens > cached
