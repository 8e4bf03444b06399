"""Log probabilities of prompts: those of transformers, whatever the schedule, and nothing done where nobody asks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from families.folder import make_folder, oracle_logits
from families.zoo import CASES
from native_backend import need

from jaxpaged.config import CHUNK_ALIGN, EngineConfig
from jaxpaged.engine import LLMEngine
from jaxpaged.outputs import OutputKind
from jaxpaged.request import FinishReason, Logprob, PromptLogprobs, RequestOutput, SamplingParams
from jaxpaged.scheduler import KVPoolSpec, Scheduler, SchedulerConfig
from jaxpaged.weights.load import load_model
from pallas_kernels.backend import Backend
from pallas_kernels.native.library import packs_f32_weights

TOLERANCE = 1e-4  # of a log probability, float32 beside transformers' float32
BLOCK = 16
LENGTHS = (1, 2, 17, 64, 65, 130, 200)  # the last ones are cut into chunks


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """An engine over random weights, prompts, and the log probabilities f64[n, V] after each token of a prompt."""

    engine: LLMEngine
    prompts: tuple[tuple[int, ...], ...]
    oracle: tuple[np.ndarray, ...]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    path = tmp_path_factory.mktemp("llama")
    return path, make_folder(path, CASES["llama_llama3"])


@pytest.fixture(scope="module", params=[Backend.NATIVE, Backend.XLA])
def subject(request: pytest.FixtureRequest, folder: tuple[Path, Any]) -> Subject:
    backend: Backend = request.param
    need(backend)
    path, theirs = folder
    packed = backend == Backend.NATIVE and packs_f32_weights()
    config = EngineConfig(
        attention_backend=backend.value,
        max_model_len=256,
        max_num_seqs=8,
        max_num_batched_tokens=128,
        num_gpu_blocks_override=129,
        block_size=BLOCK,
        compile_cache="off",
    )
    engine = LLMEngine(config, model=load_model(path, dtype="float32", packed=packed))
    rng = np.random.default_rng(3)
    prompts = tuple(tuple(rng.integers(0, engine.model_config.vocab, length).tolist()) for length in LENGTHS)
    logits = [np.asarray(oracle_logits(theirs, list(prompt)), np.float64) for prompt in prompts]
    oracle = tuple(x - np.log(np.sum(np.exp(x - x.max(axis=1, keepdims=True)), axis=1, keepdims=True)) for x in logits)
    oracle = tuple(x - y.max(axis=1, keepdims=True) for x, y in zip(oracle, logits, strict=True))
    return Subject(engine=engine, prompts=prompts, oracle=oracle)


def schedule(engine: LLMEngine, *, rows: int = 8, tokens: int = 128, blocks: int = 129, prefix: bool = True) -> None:
    """Give the engine a fresh scheduler over the same programs and pool."""
    engine.steps.in_flight.clear()  # a step that computes for nobody any more
    config = SchedulerConfig(
        max_rows=rows, max_step_tokens=tokens, max_model_len=256, chunk_align=CHUNK_ALIGN, prefix_caching=prefix
    )
    engine.scheduler = Scheduler(config, KVPoolSpec(block_size=BLOCK, num_blocks=blocks), engine.buckets)


def run(engine: LLMEngine, jobs: Sequence[tuple[Sequence[int], SamplingParams]]) -> list[RequestOutput]:
    ids = [engine.submit(prompt, params, output_kind=OutputKind.FINAL_ONLY) for prompt, params in jobs]
    done: dict[str, RequestOutput] = {}
    while engine.has_unfinished:
        done |= {output.request_id: output for output in engine.step()}
    engine.scheduler.check()
    return [done[request_id] for request_id in ids]


def asking(count: int | None, max_tokens: int = 1) -> SamplingParams:
    return SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True, prompt_logprobs=count)


def check(output: RequestOutput, oracle: np.ndarray, count: int) -> None:
    """That an output tells of its prompt what the oracle does, ranks too where they are not close to a tie."""
    prompt, told = output.prompt_token_ids, output.prompt_logprobs
    assert told is not None
    assert len(told) == len(prompt)
    assert told[0] is None
    for token, place, row in zip(prompt[1:], told[1:], oracle, strict=False):
        assert place is not None
        order = np.argsort(-row, kind="stable")
        assert set(place) >= {token}
        assert len(place) in (count, count + 1)
        assert {p.rank for p in place.values()} == {*range(1, count + 1), place[token].rank}
        for other, p in place.items():
            assert abs(p.logprob - row[other]) < TOLERANCE
            assert p.rank is not None
            assert abs(row[order[p.rank - 1]] - row[other]) < TOLERANCE  # it, or one that is as likely, has this rank


def plain(told: PromptLogprobs | None) -> list[dict[int, tuple[float, int | None]] | None]:
    assert told is not None
    return [None if place is None else {token: (p.logprob, p.rank) for token, p in place.items()} for place in told]


@pytest.fixture(scope="module")
def alone(subject: Subject) -> list[RequestOutput]:
    """Each prompt by itself, every step committed before the next one is planned."""
    engine, config = subject.engine, subject.engine.config
    engine.config = replace(config, async_scheduling=False)
    outputs: list[RequestOutput] = []
    for prompt in subject.prompts:
        schedule(engine, prefix=False)
        outputs += run(engine, [(prompt, asking(3))])
    engine.config = config
    return outputs


def test_alone(subject: Subject, alone: list[RequestOutput]) -> None:
    for output, oracle in zip(alone, subject.oracle, strict=True):
        check(output, oracle, 3)


@pytest.mark.parametrize("count", [0, 1, 20])
def test_counts(subject: Subject, count: int) -> None:
    schedule(subject.engine)
    for output, oracle in zip(
        run(subject.engine, [(p, asking(count)) for p in subject.prompts]), subject.oracle, strict=True
    ):
        check(output, oracle, count)
    assert subject.engine.metrics.compiles_after_ready == 0


def same(outputs: Sequence[RequestOutput], alone: Sequence[RequestOutput]) -> None:
    for output, other in zip(outputs, alone, strict=True):
        assert plain(output.prompt_logprobs) == plain(other.prompt_logprobs)  # to the bit


@pytest.mark.parametrize("overlapped", [False, True])
def test_beside_others(subject: Subject, alone: list[RequestOutput], overlapped: bool) -> None:
    engine, config = subject.engine, subject.engine.config
    engine.config = replace(config, async_scheduling=overlapped)
    schedule(engine)
    others = [(prompt[::-1], asking(None, 5)) for prompt in subject.prompts[:4]]
    outputs = run(engine, [*others, *((prompt, asking(3, 4)) for prompt in subject.prompts)])
    engine.config = config
    assert all(output.prompt_logprobs is None for output in outputs[:4])
    same(outputs[4:], alone)
    assert engine.metrics.compiles_after_ready == 0


@pytest.mark.parametrize("prefix", [False, True])
def test_preempted_half_way(subject: Subject, alone: list[RequestOutput], prefix: bool) -> None:
    """The prompt loses its blocks after two chunks, and goes on from what the cache kept of them, if there is one."""
    engine, prompt = subject.engine, subject.prompts[-1]
    schedule(engine, blocks=17, prefix=prefix)
    # three that come to need three blocks each: 9 and the 8 of two chunks are more than 16
    old = [(prompt[start : start + 15], asking(0, 20)) for start in (0, 15, 30)]
    *outputs, last = run(engine, [*old, (prompt, asking(3, 2))])
    assert last.metrics is not None
    assert last.metrics.num_preemptions == 1
    same([last], alone[-1:])
    for output in outputs:
        assert len(output.prompt_logprobs or ()) == 15


def test_with_a_cached_beginning(subject: Subject, alone: list[RequestOutput]) -> None:
    engine = subject.engine
    schedule(engine)
    jobs = [(prompt, asking(None)) for prompt in subject.prompts]
    run(engine, jobs)
    assert [output.num_cached_tokens for output in run(engine, jobs)] == [0, 0, 16, 48, 64, 128, 192]
    outputs = run(engine, [(prompt, asking(3)) for prompt in subject.prompts])
    assert [output.num_cached_tokens for output in outputs] == [0] * len(outputs)
    same(outputs, alone)


def test_each_answer_tells_them_as_its_kind_says(subject: Subject) -> None:
    engine, prompt = subject.engine, subject.prompts[2]
    told: dict[OutputKind, list[bool]] = {}
    for kind in OutputKind:
        schedule(engine)
        engine.submit(prompt, asking(1, 3), output_kind=kind)
        told[kind] = []
        while engine.has_unfinished:
            told[kind] += [output.prompt_logprobs is not None for output in engine.step()]
    assert told == {
        OutputKind.CUMULATIVE: [True] * 3,
        OutputKind.DELTA: [True, False, False],
        OutputKind.FINAL_ONLY: [True],
    }


def test_events_carry_them_once(subject: Subject) -> None:
    engine, prompt = subject.engine, subject.prompts[2]
    schedule(engine)
    engine.enqueue(prompt, asking(1, 3), request_id="a")
    events = []
    while engine.has_unfinished:
        events += engine.step_tokens()
    assert [event.prompt_logprobs is not None for event in events] == [True, False, False]
    assert len(events[0].prompt_logprobs) == len(prompt)


class Refused(Exception):
    """What must not run was run."""


@pytest.fixture
def no_scoring(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def fail(*_: Any) -> Any:
        raise Refused

    compiled = subject.engine.runner.programs
    names = [name for name in compiled if name == "score" or name.startswith("pick-")]
    assert len(names) > 2
    monkeypatch.setattr(subject.engine.runner._programs, "compiled", compiled | dict.fromkeys(names, fail))
    schedule(subject.engine)
    yield
    schedule(subject.engine)


@pytest.mark.usefixtures("no_scoring")
def test_nothing_runs_where_nobody_asks(subject: Subject) -> None:
    params = SamplingParams(temperature=0.0, max_tokens=3, ignore_eos=True, logprobs=5)
    assert len(run(subject.engine, [(prompt, params) for prompt in subject.prompts])) == len(LENGTHS)
    assert run(subject.engine, [(subject.prompts[0], asking(2))])[0].prompt_logprobs == (None,)
    subject.engine.submit(subject.prompts[1], asking(0))
    with pytest.raises(Refused):
        subject.engine.step()


def test_a_prompt_that_is_not_finite_ends_its_request_alone(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = subject.engine
    score = engine.runner.programs["score"]

    def spoil(leaves: Any, hidden: Any, targets: np.ndarray) -> Any:
        scored = score(leaves, hidden, targets)
        return scored._replace(finite=targets != subject.prompts[2][5])

    schedule(engine)
    monkeypatch.setitem(engine.runner.programs, "score", spoil)
    good = next(prompt for prompt in subject.prompts[1:2])
    assert subject.prompts[2][5] not in good
    first, second = run(engine, [(subject.prompts[2], asking(1, 4)), (good, asking(1, 4))])
    assert (first.outputs[0].finish_reason, first.prompt_logprobs) == (FinishReason.ERROR.value, None)
    assert "not finite" in (first.error or "")
    assert (second.outputs[0].finish_reason, len(second.prompt_logprobs or ())) == ("length", 2)


def test_a_token_is_told_once_though_it_is_among_the_likeliest() -> None:
    from jaxpaged.scoring import by_token

    likeliest = ([7, 3, 9], [-0.5, -1.0, -2.0])
    assert by_token(3, -1.0, 2, *likeliest, count=2) == {
        7: Logprob(logprob=-0.5, rank=1),
        3: Logprob(logprob=-1.0, rank=2),
    }
    assert by_token(3, -1.0, 2, *likeliest, count=1) == {
        7: Logprob(logprob=-0.5, rank=1),
        3: Logprob(logprob=-1.0, rank=2),
    }
    assert list(by_token(4, -9.0, 30, *likeliest, count=0)) == [4]
