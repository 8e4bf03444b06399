"""From a job to its outputs, over a scripted engine."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing

from jaxpaged_server.access.keys import ANONYMOUS
from jaxpaged_server.flights import Flight
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
