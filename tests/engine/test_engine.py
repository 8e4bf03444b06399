"""The synchronous engine: names of requests, and a pool that a step took with it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import pytest

from jaxpaged.config import EngineConfig
from jaxpaged.engine import LLMEngine
from jaxpaged.errors import EngineError, RequestError
from jaxpaged.request import SamplingParams

GREEDY = SamplingParams(temperature=0.0, max_tokens=4, ignore_eos=True)


@pytest.fixture(scope="module")
def engine() -> LLMEngine:
    return LLMEngine(
        EngineConfig(
            dtype="float32",
            kv_cache_dtype="int8",
            max_model_len=512,
            max_num_seqs=8,
            max_num_batched_tokens=128,
            num_gpu_blocks_override=1000,
            compile_cache="off",
            warmup=False,
        ),
        estimates=True,
    )


def run(engine: LLMEngine, prompt: str) -> tuple[int, ...]:
    request_id = engine.submit(prompt, GREEDY)
    found: tuple[int, ...] = ()
    while engine.has_unfinished:
        for output in engine.step():
            found = output.outputs[0].token_ids if output.request_id == request_id else found
    return found


def test_the_start_up_table_tells_the_kv_cache(engine: LLMEngine) -> None:
    rows = dict(engine.describe())
    # 6 layers, keys and values of 2 heads, each 64 bytes and a scale of 4
    assert engine.kv_bytes_per_token == 6 * 2 * 2 * (64 + 4) == 1632
    assert rows["KV cache"] == "int8, 1,632 bytes a token: asked for; a scale per token and head"
    assert (
        sum(layer.nbytes for layer in engine.runner.pool) == engine.kv_bytes_per_token * 1000 * engine.config.block_size
    )


def test_estimates_count_each_tokens_products_and_each_steps_bytes(engine: LLMEngine) -> None:
    engine.scheduler.reset_prefix_cache()
    metrics = engine.metrics
    before = replace(metrics)
    assert len(run(engine, "one two three")) == 4
    assert metrics.steps - before.steps == 4  # the prompt, and a token for each of three more
    prompt = metrics.step_tokens - before.step_tokens - 3
    # weights of a layer: 512 x 256 of q, k, v, 256 x 256 of o, 3 x 640 x 256 of the network; the head 4096 x 256
    layers, head, token_bytes = 6 * (131072 + 65536 + 491520), 1048576, 1632
    seen = sum(range(1, prompt + 4))  # keys that the tokens see, one after the other
    flops = 2 * ((prompt + 3) * layers + 4 * head) + 4 * 6 * seen * 4 * 64
    assert metrics.flops - before.flops == flops
    read = sum(range(prompt, prompt + 4))  # keys that the steps read
    assert metrics.read_bytes - before.read_bytes == 4 * 4 * (layers + head) + read * token_bytes
    assert metrics.written_bytes - before.written_bytes == (prompt + 3) * token_bytes


def test_names_of_requests_never_meet(engine: LLMEngine) -> None:
    names = [engine.submit("a", GREEDY, request_id=f"request-{i}") for i in range(4)]
    names += [engine.submit("a", GREEDY) for _ in range(4)]
    assert len(set(names)) == 8
    with pytest.raises(RequestError, match=r"'request-2'.*in flight"):
        engine.submit("a", GREEDY, request_id="request-2")
    for bad in ("", 7):
        with pytest.raises(RequestError, match="request_id"):
            engine.submit("a", GREEDY, request_id=bad)  # pyright: ignore[reportArgumentType]
    assert all(engine.abort(name) for name in names)
    assert not engine.has_unfinished


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), RuntimeError("out of memory")])
def test_a_pool_that_a_step_took_is_named_and_made_anew(
    engine: LLMEngine, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    before = run(engine, "import os")
    programs = dict(engine.runner.programs)

    def fail(leaves: Any, pool: Any, *_: Any) -> Any:
        for array in jax.tree.leaves(pool):
            array.delete()
        raise failure

    failing = {name: fail if name.startswith("step") else program for name, program in programs.items()}
    monkeypatch.setattr(engine.runner._programs, "compiled", failing)
    request_id = engine.submit("import sys", GREEDY)
    with pytest.raises(type(failure)):
        engine.step()
    monkeypatch.setattr(engine.runner._programs, "compiled", programs)
    with pytest.raises(EngineError, match=r"KV pool is 'lost'.*rebuild_pool"):
        engine.step()
    with pytest.raises(EngineError, match="no request in flight"):
        engine.rebuild_pool()
    assert engine.pool_is_lost
    engine.abort(request_id)
    engine.rebuild_pool()
    assert not engine.pool_is_lost
    engine.scheduler.check()
    assert run(engine, "import os") == before
