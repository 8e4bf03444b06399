"""n answers from one prompt: each equals that of a request of its own with the seed + i, whatever the schedule."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from native_backend import need

from jaxpaged.async_engine import AsyncEngine
from jaxpaged.config import CHUNK_ALIGN, EngineConfig
from jaxpaged.engine import LLMEngine
from jaxpaged.errors import EngineError, ParameterError, RequestError
from jaxpaged.kv_pool_spec import KVPoolSpec
from jaxpaged.llm import LLM
from jaxpaged.outputs import OutputKind
from jaxpaged.request import RequestOutput, SamplingParams
from jaxpaged.scheduler import Scheduler, SchedulerConfig
from jaxpaged.tiny.corpus import read_corpus

BLOCK = 16
Job = tuple[tuple[int, ...], SamplingParams]


@pytest.fixture(scope="module", params=[("native", "auto"), ("native", "int8"), ("xla", "auto")], ids=str)
def engine(request: pytest.FixtureRequest) -> LLMEngine:
    backend, kv = request.param
    need(backend)
    return LLMEngine(
        EngineConfig(
            dtype="float32",
            attention_backend=backend,
            kv_cache_dtype=kv,
            max_model_len=256,
            max_num_seqs=8,
            max_num_batched_tokens=256,
            num_gpu_blocks_override=129,
            block_size=BLOCK,
            compile_cache="off",
        )
    )


@pytest.fixture(scope="module")
def text(engine: LLMEngine) -> tuple[int, ...]:
    return tuple(engine.tokenizer.encode("".join(read_corpus().held_out)[:60_000]))


@pytest.fixture(scope="module")
def jobs(text: tuple[int, ...]) -> list[Job]:
    rng = random.Random(3)
    made = []
    for i, length in enumerate([1, 15, 16, 17, 40, 64, 65, 130]):
        start = 100 if i % 3 == 0 else rng.randrange(len(text) - 200)  # some have a common beginning
        params = SamplingParams(
            n=[4, 3, 2, 5, 8, 4, 3, 2][i],
            seed=10 * i,
            temperature=0.9,
            top_p=0.95,
            max_tokens=rng.randint(3, 24),
            ignore_eos=True,
            logprobs=1 if i % 2 else None,
            prompt_logprobs=1 if i == 3 else None,
            repetition_penalty=1.1 if i == 4 else 1.0,
        )
        made.append((text[start : start + length], params))
    return made


def new_scheduler(
    engine: LLMEngine, *, rows: int = 8, tokens: int = 256, blocks: int = 129, prefix: bool = True
) -> None:
    while engine.steps.in_flight:
        engine.step()
    config = SchedulerConfig(
        max_rows=rows, max_step_tokens=tokens, max_model_len=256, chunk_align=CHUNK_ALIGN, prefix_caching=prefix
    )
    engine.scheduler = Scheduler(config, KVPoolSpec(block_size=BLOCK, num_blocks=blocks), engine.buckets)


def run(engine: LLMEngine, jobs: list[Job]) -> list[RequestOutput]:
    ids = [engine.submit(prompt, params, output_kind=OutputKind.FINAL_ONLY) for prompt, params in jobs]
    done = {}
    while engine.has_unfinished:
        for output in engine.step():
            done[output.request_id] = output
        engine.scheduler.check()
    return [done[name] for name in ids]


def answers_of(output: RequestOutput) -> list[tuple[int, ...]]:
    assert [said.index for said in output.outputs] == list(range(len(output.outputs)))
    return [said.token_ids for said in output.outputs]


@pytest.fixture(scope="module")
def alone(engine: LLMEngine, jobs: list[Job]) -> list[list[tuple[int, ...]]]:
    """Every answer by a request of its own, one after the other."""
    found = []
    for prompt, params in jobs:
        of_job = []
        for i in range(params.n):
            new_scheduler(engine, prefix=False)
            assert params.seed is not None
            (output,) = run(engine, [(prompt, replace(params, n=1, seed=params.seed + i))])
            of_job += answers_of(output)
        found.append(of_job)
    return found


def test_each_answer_is_that_of_a_request_of_its_own(
    engine: LLMEngine, jobs: list[Job], alone: list[list[tuple[int, ...]]]
) -> None:
    preemptions = hits = 0
    config = engine.config
    for number in range(20):
        rng = random.Random(number)
        shape = {
            "rows": rng.choice([1, 3, 8, 8]),
            "tokens": rng.choice([64, 100, 256]),
            "blocks": rng.choice([11, 12, 129]),
            "prefix": rng.random() < 0.6,
        }
        engine.config = replace(config, async_scheduling=rng.random() < 0.7)
        new_scheduler(engine, **shape)  # pyright: ignore[reportArgumentType]
        chosen = rng.sample(range(len(jobs)), 4)
        for i, output in zip(chosen, run(engine, [jobs[i] for i in chosen]), strict=True):
            assert answers_of(output) == alone[i], f"schedule {number}, prompt {i}: {shape}"
        preemptions += engine.scheduler.num_preemptions
        hits += engine.scheduler.num_cached_tokens
    engine.config = config
    assert preemptions > 5
    assert hits > 100
    assert engine.metrics.compiles_after_ready == 0
    print(f"{preemptions} preemptions, {hits} cached tokens")


def test_the_prompt_is_computed_and_held_once(engine: LLMEngine, text: tuple[int, ...]) -> None:
    new_scheduler(engine)
    before = engine.metrics.step_tokens
    engine.submit(text[:100], SamplingParams(n=8, max_tokens=1, seed=1), output_kind=OutputKind.FINAL_ONLY)
    (output,) = engine.step() or engine.step()
    assert len(output.outputs) == 8
    assert engine.metrics.step_tokens - before == 100
    engine.submit(text[:100], SamplingParams(n=8, max_tokens=9, seed=1, ignore_eos=True))
    engine.step()
    assert engine.scheduler.ledger().shared == 100
    while engine.has_unfinished:
        engine.step()


def test_more_answers_than_rows(engine: LLMEngine, text: tuple[int, ...]) -> None:
    new_scheduler(engine)
    params = SamplingParams(n=11, seed=5, max_tokens=4, ignore_eos=True)
    (output,) = run(engine, [(text[:50], params)])
    new_scheduler(engine)
    last = run(engine, [(text[:50], replace(params, n=1, seed=15))])
    assert answers_of(output)[10:] == answers_of(last[0])


def test_the_best_are_those_with_the_highest_logprob_per_token(engine: LLMEngine, text: tuple[int, ...]) -> None:
    new_scheduler(engine)
    params = SamplingParams(n=6, seed=5, max_tokens=6, min_tokens=2, logprobs=0)
    (every,) = run(engine, [(text[:50], params)])

    def mean(said: Any) -> float:
        return said.cumulative_logprob / len(said.token_ids)

    wanted = sorted(every.outputs, key=mean, reverse=True)[:2]
    (best,) = run(engine, [(text[:50], replace(params, n=2, best_of=6, logprobs=None))])
    assert answers_of(best) == [said.token_ids for said in wanted]
    assert (
        [said.logprobs for said in best.outputs] == [said.cumulative_logprob for said in best.outputs] == [None, None]
    )
    with pytest.raises(ParameterError, match="best_of"):
        engine.submit(text[:5], replace(params, n=2, best_of=6))


def test_outputs_before_the_end_tell_one_answer_each(engine: LLMEngine, text: tuple[int, ...]) -> None:
    new_scheduler(engine)
    params = SamplingParams(n=3, seed=5, max_tokens=5, ignore_eos=True)
    (whole,) = run(engine, [(text[:50], params)])
    name = engine.submit(text[:50], params, output_kind=OutputKind.DELTA, request_id="mine")
    with pytest.raises(RequestError, match="in flight"):
        engine.submit(text[:50], params, request_id="mine")
    found: dict[int, tuple[int, ...]] = {}
    told: list[RequestOutput] = []
    while engine.has_unfinished:
        for output in engine.step():
            (said,) = output.outputs
            assert output.request_id == name
            found[said.index] = found.get(said.index, ()) + said.token_ids
            told.append(output)
    assert [found[i] for i in range(3)] == answers_of(whole)
    assert [output.finished for output in told] == [False] * (len(told) - 1) + [True]


def test_an_abort_ends_all_answers(engine: LLMEngine, text: tuple[int, ...]) -> None:
    new_scheduler(engine)
    name = engine.submit(text[:50], SamplingParams(n=4, max_tokens=50, ignore_eos=True))
    engine.step()
    assert engine.abort(name)
    assert not engine.has_unfinished
    assert not engine.abort(name)
    engine.step()
    engine.scheduler.check()
    assert engine.scheduler.ledger().held == 0


@pytest.fixture
def loose(engine: LLMEngine) -> Iterator[LLMEngine]:
    new_scheduler(engine)
    yield engine
    new_scheduler(engine)


async def test_the_async_engine_tells_all_answers(loose: LLMEngine, text: tuple[int, ...]) -> None:
    params = SamplingParams(n=3, seed=5, max_tokens=5, ignore_eos=True)
    (whole,) = run(loose, [(text[:50], params)])
    async with AsyncEngine(loose) as served:
        outputs = [o async for o in served.generate(text[:50], params, output_kind=OutputKind.FINAL_ONLY)]
        assert [answers_of(output) for output in outputs] == [answers_of(whole)]
        last: dict[int, tuple[int, ...]] = {}
        async for output in served.generate(text[:50], params):
            last[output.outputs[0].index] = output.outputs[0].token_ids
        assert [last[i] for i in range(3)] == answers_of(whole)
        long = replace(params, max_tokens=100)

        async def abort_at_once() -> None:
            async for output in served.generate(text[:50], long, request_id="mine"):
                await served.abort(output.request_id)

        with pytest.raises(EngineError, match="aborted"):
            await abort_at_once()
        await served.drain()
        assert not loose.has_unfinished


def test_llm_generate(text: tuple[int, ...]) -> None:
    llm = LLM(max_model_len=128, max_num_seqs=4, max_num_batched_tokens=128, compile_cache="off")
    params = SamplingParams(n=3, seed=1, max_tokens=4, ignore_eos=True)
    several, one = llm.generate([list(text[:9]), list(text[:9])], [params, replace(params, n=1)], use_tqdm=False)
    assert [len(several.outputs), len(one.outputs)] == [3, 1]
    assert several.outputs[0].text == one.outputs[0].text
