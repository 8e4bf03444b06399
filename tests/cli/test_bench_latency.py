"""The timing of batches, with a clock that only steps move."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from jaxpaged.bench.latency import measure
from jaxpaged.config import EngineConfig


def run(engine: Any, *, iterations: int, warmup: int = 1, batch_size: int = 2) -> dict[str, Any]:
    now_s = [0.0]
    steps = [0]

    def tick() -> None:
        steps[0] += 1
        now_s[0] += 0.5 if steps[0] > 3 * warmup else 100.0  # warm-up steps take longer

    engine.on_step = tick
    engine.device = SimpleNamespace(name="test", platform="cpu")
    engine.config = EngineConfig(max_num_seqs=batch_size)
    engine.model_config = SimpleNamespace(vocab=90)
    return measure(
        engine,
        batch_size=batch_size,
        input_len=4,
        output_len=3,
        warmup=warmup,
        iterations=iterations,
        seed=0,
        startup_s=1.0,
        progress={"disable": True},
        clock=lambda: now_s[0],
    )


def test_figures_of_two_batches(engine: Any) -> None:
    row = run(engine, iterations=2)
    assert (row["mode"], row["batch_size"], row["iterations"], row["short"], row["errors"]) == ("latency", 2, 2, 0, 0)
    assert (row["ttft_p50_ms"], row["tpot_p50_ms"], row["itl_p99_ms"]) == (500.0, 500.0, 500.0)
    assert (row["latency_p50_ms"], row["out_tok_s"]) == (1500.0, 4.0)  # 2 x 3 tokens in 1.5 s
    json.dumps(row)


def test_every_batch_has_prompts_of_its_own(engine: Any) -> None:
    run(engine, iterations=3)
    prompts = [prompt for prompt, _ in engine.submitted]
    assert len(prompts) == 8
    assert len(set(prompts)) == 8


def test_every_request_is_greedy_and_full_length(engine: Any) -> None:
    run(engine, iterations=1)
    assert {(p.temperature, p.max_tokens, p.ignore_eos) for _, p in engine.submitted} == {(0.0, 3, True)}


@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_last_request_sets_the_latency_of_a_batch(engine: Any, batch_size: int) -> None:
    row = run(engine, iterations=1, batch_size=batch_size)
    assert row["latency_p99_ms"] == 1500.0
