"""From a job to its outputs, over a scripted engine."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing

from jaxpaged_server.access.keys import ANONYMOUS
from jaxpaged_server.flights import Flight
from jaxpaged_server.forks import Forks
from jaxpaged_server.generation import Job, Prompt, answering, outputs_of
from served import served

from jaxpaged.outputs import OutputKind
from jaxpaged.request import SamplingParams


async def test_several_answers_are_read_no_faster_than_they_are_taken() -> None:
    task = asyncio.current_task()
    assert task is not None
    job = Job(
        flight=Flight("a", task),
        headers={},
        model="tiny",
        key=ANONYMOUS,
        prompts=(Prompt(ids=(1,)),),
        params=SamplingParams(max_tokens=200),
        n=3,
        kind=OutputKind.DELTA,
        salt="",
        deadline=time.monotonic() + 60,
        asked_tokens=200,
        stream_interval=1,
        alternatives=None,
    )
    async with served() as it:
        with answering(it.services, job) as answers:
            async with aclosing(outputs_of(answers)) as outputs:
                await anext(outputs)
                await asyncio.sleep(0.1)  # a slow reader
                assert [stream.sent < 8 for stream in it.engine.streams] == [True] * 3, "outputs pile up"
                rest = [(answer.index, output.finish_reason is not None) async for answer, output in outputs]
        assert sorted(index for index, finished in rest if finished) == [0, 1, 2]
        assert [answer.num_tokens for answer in answers] == [200] * 3


async def test_answers_whose_turn_comes_together_go_together() -> None:
    class Engine:
        def __init__(self) -> None:
            self.calls: list[tuple[str, int]] = []

        def submit(self, ids: tuple[int, ...], params: SamplingParams, salt: str) -> str:
            self.calls.append(("submit", 1))
            return "alone"

        def submit_forks(
            self, ids: tuple[int, ...], params: list[SamplingParams], salt: str, length_penalty: float | None
        ) -> list[Stream]:
            self.calls.append(("submit_forks", len(params)))
            return [Stream() for _ in params]

    class Stream:
        closed = False

        def close(self) -> None:
            self.closed = True

    def forks(count: int, length_penalty: float | None = None) -> Forks:
        return Forks(engine, (1, 2), "salt", count=count, length_penalty=length_penalty)  # pyright: ignore[reportArgumentType]

    engine, params = Engine(), SamplingParams()
    assert await forks(1).submit(params) == "alone"
    three = forks(3)
    tasks = [asyncio.create_task(three.submit(params)) for _ in range(3)]
    await asyncio.gather(*tasks)
    assert engine.calls == [("submit", 1), ("submit_forks", 3)]
    two = forks(3)
    first, gone, last = (asyncio.create_task(two.submit(params)) for _ in range(3))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.gather(first, last)
    assert engine.calls[-1] == ("submit_forks", 2)
    late = asyncio.create_task(two.submit(params))
    await late
    assert engine.calls[-1] == ("submit_forks", 1)
    beams = forks(2, 1.0)
    early = asyncio.create_task(beams.submit(params))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not early.done()
    await asyncio.gather(early, beams.submit(params))
    assert engine.calls[-1] == ("submit_forks", 2)
