"""AsyncEngine: streams without polling, cancellation frees blocks, failures reach every stream."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from jaxpaged.async_engine import AsyncEngine
from jaxpaged.config import EngineConfig
from jaxpaged.detokenize import Detokenizer
from jaxpaged.engine import LLMEngine
from jaxpaged.errors import EngineError, PromptError
from jaxpaged.outputs import OutputKind
from jaxpaged.request import RequestOutput, SamplingParams, TokenEvent
from jaxpaged.tokenize import Tokenizer


@pytest.fixture(scope="module")
def core() -> LLMEngine:
    return LLMEngine(
        EngineConfig(
            dtype="float32",
            max_model_len=512,
            max_num_seqs=8,
            max_num_batched_tokens=128,
            num_gpu_blocks_override=80,
            compile_cache="off",
        )
    )


@pytest.fixture
def engine(core: LLMEngine) -> Iterator[AsyncEngine]:
    wrapped = AsyncEngine(core)
    yield wrapped
    asyncio.run(wrapped.close())
    assert not core.has_unfinished
    core.scheduler.check()


GREEDY = SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True)


async def collect(
    engine: AsyncEngine, prompt: Any, params: SamplingParams = GREEDY, **options: Any
) -> list[RequestOutput]:
    return [output async for output in engine.generate(prompt, params, **options)]


def test_streams_agree_with_the_synchronous_engine(engine: AsyncEngine) -> None:
    async def main() -> None:
        prompts = ["def a(", "import ", "class B", "for x in "]
        together = await asyncio.gather(*(collect(engine, p, output_kind=OutputKind.DELTA) for p in prompts))
        for prompt, outputs in zip(prompts, together, strict=True):
            final = (await collect(engine, prompt, output_kind=OutputKind.FINAL_ONLY))[-1]
            assert [o.finished for o in outputs] == [False] * (len(outputs) - 1) + [True]
            assert len(outputs) >= 6, "tokens must come as they are made"
            assert "".join(o.outputs[0].text for o in outputs) == final.outputs[0].text
            assert tuple(t for o in outputs for t in o.outputs[0].token_ids) == final.outputs[0].token_ids

    asyncio.run(main())


def test_a_stream_tells_of_the_prompt_with_its_first_token(engine: AsyncEngine) -> None:
    async def main() -> None:
        params = SamplingParams(temperature=0.0, max_tokens=3, ignore_eos=True, prompt_logprobs=2)
        deltas = await collect(engine, "def add(a, b):", params, output_kind=OutputKind.DELTA)
        [final] = await collect(engine, "def add(a, b):", params, output_kind=OutputKind.FINAL_ONLY)
        assert [output.prompt_logprobs for output in deltas] == [final.prompt_logprobs, None, None]
        assert len(final.prompt_logprobs or ()) == len(final.prompt_token_ids) > 3

    asyncio.run(main())


def test_a_stop_string_ends_the_request_below(engine: AsyncEngine) -> None:
    async def main() -> RequestOutput:
        whole = (await collect(engine, "class B"))[-1].outputs[0]
        stop = whole.text[4:7]
        params = SamplingParams(temperature=0.0, max_tokens=400, ignore_eos=True, stop=stop)
        finished = engine.engine.metrics.finished
        last = (await collect(engine, "class B", params))[-1]
        assert (last.outputs[0].finish_reason, last.outputs[0].stop_reason) == ("stop", stop)
        assert last.outputs[0].text == whole.text[: whole.text.index(stop)]
        await asyncio.wait_for(engine.drain(), timeout=2)
        assert engine.engine.metrics.finished == finished + 1
        return last

    assert asyncio.run(main()).finished


def test_text_is_made_outside_of_the_engine_thread(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: set[str] = set()
    encode, push = Tokenizer.encode, Detokenizer.push

    def encoding(self: Tokenizer, *args: Any, **options: Any) -> Any:
        threads.add(threading.current_thread().name)
        return encode(self, *args, **options)

    def pushing(self: Detokenizer, token: int) -> str:
        threads.add(threading.current_thread().name)
        return push(self, token)

    monkeypatch.setattr(Tokenizer, "encode", encoding)
    monkeypatch.setattr(Detokenizer, "push", pushing)
    asyncio.run(collect(engine, "class B"))
    assert "MainThread" in threads  # tokens to text, where the stream is read
    assert len(threads) == 2  # text to tokens in a worker of asyncio
    assert "jaxpaged-engine" not in threads


def test_leaving_a_stream_aborts_its_request(engine: AsyncEngine) -> None:
    async def main() -> None:
        long = SamplingParams(temperature=0.0, max_tokens=400, ignore_eos=True)
        stream = engine.generate("x = ", long)
        await anext(stream)
        await stream.aclose()
        await asyncio.wait_for(engine.drain(), timeout=2)

    asyncio.run(main())
    assert not engine.engine.has_unfinished


def test_a_cancelled_task_frees_its_blocks_at_once(engine: AsyncEngine) -> None:
    async def main() -> float:
        long = SamplingParams(temperature=0.0, max_tokens=480, ignore_eos=True)
        tasks = [asyncio.create_task(collect(engine, f"x{i} = ", long)) for i in range(12)]  # some wait in the queue
        await asyncio.sleep(0.2)
        for task in tasks:
            task.cancel()
        began = time.monotonic()
        await asyncio.gather(*tasks, return_exceptions=True)
        await engine.drain()
        return time.monotonic() - began

    assert asyncio.run(main()) < 1.0
    ledger = engine.engine.scheduler.ledger()
    assert ledger.live == ledger.shared == ledger.tail == 0


def test_a_refused_request_harms_nobody(engine: AsyncEngine) -> None:
    async def main() -> None:
        good = asyncio.create_task(collect(engine, "y = "))
        with pytest.raises(PromptError, match="no token"):
            await collect(engine, [])
        assert (await good)[-1].finished

    asyncio.run(main())


def test_abort_ends_the_stream_with_an_error(engine: AsyncEngine) -> None:
    async def main() -> None:
        long = SamplingParams(temperature=0.0, max_tokens=400, ignore_eos=True)
        task = asyncio.create_task(collect(engine, "z = ", long, request_id="mine"))
        await asyncio.sleep(0.1)
        assert await engine.abort("mine")
        with pytest.raises(EngineError, match="aborted"):
            await task
        assert not await engine.abort("mine")

    asyncio.run(main())


def test_drain_ends_when_an_abort_was_the_last_thing_to_do(engine: AsyncEngine) -> None:
    async def main() -> None:
        long = SamplingParams(temperature=0.0, max_tokens=480, ignore_eos=True)
        task = asyncio.create_task(collect(engine, "q = ", long, request_id="last"))
        await asyncio.sleep(0.05)
        drained = asyncio.create_task(engine.drain())
        given_up = asyncio.create_task(engine.drain())
        await asyncio.sleep(0.05)
        given_up.cancel()
        await engine.abort("last")
        await asyncio.wait_for(drained, timeout=2)
        with pytest.raises(EngineError, match="aborted"):
            await task
        assert (await collect(engine, "r = "))[-1].finished, "a caller who gave up must not stop the engine"

    asyncio.run(main())


def test_close_ends_what_is_in_flight(core: LLMEngine) -> None:
    engine = AsyncEngine(core)

    async def main() -> None:
        long = SamplingParams(temperature=0.0, max_tokens=480, ignore_eos=True)
        tasks = [asyncio.create_task(collect(engine, f"s{i} = ", long)) for i in range(3)]
        await asyncio.sleep(0.1)
        await engine.close()
        for task in tasks:
            with pytest.raises(EngineError, match="stopped before its end"):
                await asyncio.wait_for(task, timeout=2)
        with pytest.raises(EngineError, match="takes no requests"):
            await engine.drain()

    asyncio.run(main())
    assert not core.has_unfinished
    core.scheduler.check()


def test_a_broken_step_ends_every_stream(core: LLMEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = AsyncEngine(core)

    def broken() -> list[TokenEvent]:
        raise RuntimeError("the device is gone")

    async def main() -> None:
        monkeypatch.setattr(core, "step_tokens", broken)
        with pytest.raises(EngineError) as caught:
            await collect(engine, "a = ", request_id="doomed")
        assert isinstance(caught.value.__cause__, RuntimeError)
        with pytest.raises(EngineError, match="takes no requests"):
            await collect(engine, "b = ")
        await engine.close()

    asyncio.run(main())
    core.abort("doomed")
