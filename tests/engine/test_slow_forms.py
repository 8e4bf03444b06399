"""Forms whose grammars take long to read: nobody else waits for them, and they can be left."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from jaxpaged import unready
from jaxpaged.async_engine import AsyncEngine
from jaxpaged.config import EngineConfig
from jaxpaged.engine import LLMEngine
from jaxpaged.errors import EngineError, ParameterError, RequestError
from jaxpaged.outputs import OutputKind
from jaxpaged.request import RequestOutput, SamplingParams
from jaxpaged.structured.grammars import Grammars
from jaxpaged.structured.params import StructuredOutputsParams

PLAIN = SamplingParams(temperature=0.0, max_tokens=60, ignore_eos=True)
LARGE = {
    "type": "object",
    "properties": {f"k{i}": {"type": "number", "minimum": i + 0.5, "maximum": 3 * i + 1.25} for i in range(800)},
}


def asking(n: int = 1, **form: Any) -> SamplingParams:
    return SamplingParams(max_tokens=20, seed=1, n=n, structured_outputs=StructuredOutputsParams(**form))


@pytest.fixture(scope="module")
def core() -> LLMEngine:
    return LLMEngine(
        EngineConfig(
            dtype="float32",
            max_model_len=512,
            max_num_seqs=16,
            max_num_batched_tokens=256,
            num_gpu_blocks_override=129,  # as in test_bundled: the same programs
            compile_cache="off",
        )
    )


@pytest.fixture
def gate(core: LLMEngine, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """No grammar is read until it is set; forms were looked at by others."""
    opened = threading.Event()
    read = Grammars._read

    def waits(self: Grammars, *args: Any) -> Any:
        opened.wait(60)
        return read(self, *args)

    monkeypatch.setattr(Grammars, "check", lambda *_: None)
    monkeypatch.setattr(Grammars, "_read", waits)
    yield opened
    opened.set()
    assert not core.has_unfinished
    core.scheduler.check()


@asynccontextmanager
async def running(core: LLMEngine) -> AsyncIterator[AsyncEngine]:
    async with AsyncEngine(core) as engine:
        yield engine


async def last(engine: AsyncEngine, params: SamplingParams, **options: Any) -> RequestOutput:
    outputs = [out async for out in engine.generate("x = ", params, output_kind=OutputKind.FINAL_ONLY, **options)]
    return outputs[-1]


async def test_steps_go_on_while_grammars_are_read(core: LLMEngine, gate: threading.Event) -> None:
    async with running(core) as engine:
        alone = await last(engine, PLAIN)
        held = asyncio.create_task(last(engine, asking(8, choice=["one", "two"]), request_id="held"))
        await asyncio.sleep(0.05)
        beside = await asyncio.wait_for(last(engine, PLAIN), 30)
        assert beside.outputs[0].token_ids == alone.outputs[0].token_ids
        with pytest.raises(RequestError, match="in flight"):
            await last(engine, PLAIN, request_id="held")
        drained = asyncio.create_task(engine.drain())
        await asyncio.sleep(0.05)
        assert not held.done()
        assert not drained.done()
        gate.set()
        answers = await asyncio.wait_for(held, 30)
        assert {said.text for said in answers.outputs} <= {"one", "two"}
        assert len(answers.outputs) == 8
        await asyncio.wait_for(drained, 5)


async def test_one_that_waits_for_its_grammar_can_be_left(core: LLMEngine, gate: threading.Event) -> None:
    async with running(core) as engine:
        aborted = asyncio.create_task(last(engine, asking(3, choice=["a"]), request_id="a"))
        cancelled = asyncio.create_task(last(engine, asking(2, choice=["b"])))
        await asyncio.sleep(0.1)
        assert core.has_unfinished
        assert await engine.abort("a")
        with pytest.raises(EngineError, match="aborted"):
            await aborted
        cancelled.cancel()
        await asyncio.wait_for(engine.drain(), 5)
        assert not core.has_unfinished
        assert not gate.is_set()


async def test_closing_ends_what_waits(core: LLMEngine, gate: threading.Event) -> None:
    del gate
    async with running(core) as engine:
        task = asyncio.create_task(last(engine, asking(choice=["a", "z"])))
        await asyncio.sleep(0.1)
        await asyncio.wait_for(engine.close(), 5)
        with pytest.raises(EngineError, match="stopped"):
            await task


async def test_what_takes_too_long_ends_alone(
    core: LLMEngine, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unready, "MAX_WAIT_S", 0.2)
    async with running(core) as engine:
        late, plain = await asyncio.gather(last(engine, asking(choice=["a", "y"])), last(engine, PLAIN))
    assert not gate.is_set()
    assert late.outputs[0].finish_reason == "error"
    assert "was not read within 0.2 s" in (late.error or "")
    assert plain.outputs[0].finish_reason == "length"


async def test_a_large_form_of_eight_answers_holds_no_token_up(
    core: LLMEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, took = Grammars._read, list[float]()

    def timed(self: Grammars, *args: Any) -> Any:
        began = time.monotonic()
        try:
            return read(self, *args)
        finally:
            took.append(time.monotonic() - began)

    monkeypatch.setattr(Grammars, "check", lambda *_: None)
    monkeypatch.setattr(Grammars, "_read", timed)
    params = SamplingParams(temperature=0.0, max_tokens=480, ignore_eos=True)
    gaps, form = list[float](), None
    async with running(core) as engine:
        before = time.monotonic()
        async for _ in engine.generate("x = ", params, output_kind=OutputKind.DELTA):
            gaps.append(time.monotonic() - before)
            before = time.monotonic()
            if form is None:
                form = asyncio.create_task(last(engine, asking(8, json=LARGE)))
        assert form is not None
        answers = await form
    assert len(took) == 1, "it is read once for all answers"
    assert max(gaps[1:]) < took[0] / 2, f"a token came after {max(gaps[1:]):.2f} s; the form took {took[0]:.2f} s"
    assert [said.text[:1] for said in answers.outputs] == ["{"] * 8


def test_beams_keep_to_no_form(core: LLMEngine) -> None:
    params = [SamplingParams(logprobs=4, structured_outputs=StructuredOutputsParams(choice=["a"]))] * 2
    with pytest.raises(ParameterError, match="keeps to no form"):
        core.enqueue_forks((5, 6), params, request_ids=["b0", "b1"], length_penalty=1.0)
    assert not core.has_unfinished
