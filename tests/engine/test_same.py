"""I-SAME: a request's tokens do not depend on what runs beside it, nor on how its prompt is cut.

Random schedules over the bundled model: batch mix, chunk sizes, a pool so small that requests are preempted, prefix
hits, neighbours that are aborted, steps planned before the results of the one before them are there. Every request's
tokens must equal its tokens when run alone, step by step.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from greedy_oracle import TIE
from native_backend import need

from jaxpaged.config import CHUNK_ALIGN, EngineConfig
from jaxpaged.engine import LLMEngine
from jaxpaged.outputs import OutputKind
from jaxpaged.request import SamplingParams
from jaxpaged.scheduler import KVPoolSpec, Scheduler, SchedulerConfig
from jaxpaged.tiny.corpus import read_corpus

VARIANTS = [
    ("native", "auto", 30),
    pytest.param(("native", "auto", 270), marks=pytest.mark.long),
    ("native", "int8", 30),
    ("xla", "auto", 30),
    pytest.param(("xla", "auto", 300), marks=[pytest.mark.slow, pytest.mark.timeout(900)]),
]
OUTPUT = 20
BLOCK = 16


@pytest.fixture(scope="module", params=VARIANTS, ids=str)
def variant(request: pytest.FixtureRequest) -> Any:
    """Backend, type of the KV cache, and how many schedules."""
    need(request.param[0])
    return request.param


@pytest.fixture(scope="module")
def engine(variant: Any) -> LLMEngine:
    return LLMEngine(
        EngineConfig(
            dtype="float32",
            attention_backend=variant[0],
            kv_cache_dtype=variant[1],
            max_model_len=256,
            max_num_seqs=8,
            max_num_batched_tokens=256,
            num_gpu_blocks_override=129,
            block_size=BLOCK,
            compile_cache="off",
        )
    )


@pytest.fixture(scope="module")
def requests(engine: LLMEngine) -> list[tuple[tuple[int, ...], SamplingParams]]:
    """Prompts of 1 to 200 tokens, many with a common beginning; half greedy, half seeded."""
    rng = random.Random(7)
    text = engine.tokenizer.encode("".join(read_corpus().held_out)[:60_000])
    shared = text[:100]
    made = []
    for i in range(24):
        start, length = rng.randrange(len(text) - 250), rng.choice([1, 5, 15, 16, 17, 40, 63, 64, 65, 90, 130, 200])
        prompt = text[start : start + length]
        if i % 3 == 0:
            prompt = shared[: rng.choice([16, 48, 80, 100])] + prompt[:100]
        greedy = SamplingParams(temperature=0.0, max_tokens=OUTPUT, ignore_eos=True, logprobs=1)
        seeded = SamplingParams(
            temperature=0.9, top_p=0.95, top_k=rng.choice([0, 20]), seed=i, max_tokens=OUTPUT, ignore_eos=True
        )
        made.append((tuple(prompt), greedy if i % 2 == 0 else seeded))
    return made


def new_scheduler(engine: LLMEngine, *, rows: int, tokens: int, blocks: int, prefix: bool) -> None:
    """Give the engine a fresh scheduler of its own making over the same compiled steps and pool."""
    engine.steps.in_flight.clear()  # a step that computes for nobody any more
    config = SchedulerConfig(
        max_rows=rows, max_step_tokens=tokens, max_model_len=256, chunk_align=CHUNK_ALIGN, prefix_caching=prefix
    )
    engine.scheduler = Scheduler(config, KVPoolSpec(block_size=BLOCK, num_blocks=blocks), engine.buckets)


def run(engine: LLMEngine, jobs: list[tuple[tuple[int, ...], SamplingParams]]) -> list[tuple[int, ...]]:
    ids = [engine.submit(prompt, params, output_kind=OutputKind.FINAL_ONLY) for prompt, params in jobs]
    done = {}
    while engine.has_unfinished:
        for output in engine.step():
            done[output.request_id] = output
    return [done[i].outputs[0].token_ids for i in ids]


@pytest.fixture(scope="module")
def alone(engine: LLMEngine, requests: list[tuple[tuple[int, ...], SamplingParams]]) -> list[tuple[int, ...]]:
    """Each request by itself, every step committed before the next one is planned."""
    outputs = []
    config = engine.config
    engine.config = replace(config, async_scheduling=False)
    for job in requests:
        new_scheduler(engine, rows=8, tokens=256, blocks=129, prefix=False)
        outputs += run(engine, [job])
    engine.config = config
    return outputs


def is_tie(
    engine: LLMEngine, prompt: tuple[int, ...], params: SamplingParams, tokens: tuple[int, ...], at: int
) -> bool:
    """Whether the two likeliest tokens after this prefix lie within TIE (greedy only)."""
    if not params.greedy:
        return False
    new_scheduler(engine, rows=8, tokens=256, blocks=129, prefix=False)
    probe = SamplingParams(temperature=0.0, max_tokens=1, logprobs=2, ignore_eos=True)
    engine.submit((*prompt, *tokens[:at]), probe, output_kind=OutputKind.FINAL_ONLY)
    outputs = []
    while engine.has_unfinished:
        outputs += engine.step()
    logprobs = sorted((p.logprob for p in outputs[0].outputs[0].logprobs[0].values()), reverse=True)
    return logprobs[0] - logprobs[1] <= TIE


def schedules(rng: random.Random, count: int) -> Iterator[tuple[random.Random, dict[str, int | bool]]]:
    for _ in range(count):
        yield (
            random.Random(rng.random()),
            {
                "rows": rng.randint(1, 8),
                "tokens": rng.choice([64, 100, 128, 200, 256]),
                # 15 blocks hold one request of the longest prompt; fewer rows fit than are asked, so some are preempted
                "blocks": rng.choice([16, 20, 28, 129]),
                "prefix": rng.random() < 0.6,
            },
        )


def test_tokens_do_not_depend_on_the_schedule(
    engine: LLMEngine,
    requests: list[tuple[tuple[int, ...], SamplingParams]],
    alone: list[tuple[int, ...]],
    variant: tuple[str, str, int],
) -> None:
    count = variant[2]
    ties: list[str] = []
    preemptions = hits = aborted = 0
    for number, (rng, shape) in enumerate(schedules(random.Random(11), count)):
        new_scheduler(engine, **shape)  # pyright: ignore[reportArgumentType]
        chosen = rng.sample(range(len(requests)), rng.randint(4, 8))
        arrivals = sorted((rng.randint(0, 12), i) for i in chosen)
        doomed = {i: rng.randint(1, 10) for i in chosen if rng.random() < 0.2}
        ids: dict[str, int] = {}
        outputs: dict[int, tuple[int, ...]] = {}
        step = 0
        while arrivals or engine.has_unfinished:
            while arrivals and (arrivals[0][0] <= step or not engine.has_unfinished):
                _, i = arrivals.pop(0)
                prompt, params = requests[i]
                ids[engine.submit(prompt, params, output_kind=OutputKind.FINAL_ONLY)] = i
            for request_id, i in ids.items():
                if doomed.get(i) == step:
                    aborted += engine.abort(request_id)
            for output in engine.step():
                outputs[ids[output.request_id]] = output.outputs[0].token_ids
            step += 1
        engine.scheduler.check()
        preemptions += engine.scheduler.num_preemptions
        hits += engine.scheduler.num_cached_tokens
        assert set(chosen) - set(doomed) <= set(outputs)
        for i, tokens in outputs.items():
            if tokens != alone[i]:
                at = int(np.argmax([a != b for a, b in zip(tokens, alone[i], strict=True)]))
                prompt, params = requests[i]
                assert is_tie(engine, prompt, params, alone[i], at), (
                    f"schedule {number}, request {i}, token {at}: {shape}"
                )
                ties.append(f"schedule {number}, request {i}, token {at}")
    assert preemptions > count // 6
    assert hits > count * 3
    assert aborted > count // 6
    assert len(ties) <= count // 30, ties
    print(f"{count} schedules, {preemptions} preemptions, {hits} cached tokens, {aborted} aborts; ties: {ties}")
