"""Sends a load: each request at its time, whatever the server does with the ones before."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from jaxpaged_server.load.outcome import Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A request that is ready to be sent. due_s: seconds after the start; num_prompt: tokens, 0: unknown."""

    index: int
    due_s: float
    body: bytes
    num_prompt: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What became of a load. outcomes: of the requests that were sent, in their order; duration_s: until the last
    one ended, or the run was stopped."""

    outcomes: tuple[Outcome, ...]
    duration_s: float
    interrupted: bool


class Sender(Protocol):
    """What is asked of a `Client`."""

    def now_s(self) -> float: ...
    async def send(self, body: bytes, outcome: Outcome, headers: Mapping[str, str] | None = None) -> None: ...


async def send_all(
    client: Sender,
    jobs: Sequence[Job],
    *,
    max_concurrency: int | None = None,
    request_id_prefix: str = "",
    stop: asyncio.Event | None = None,
    on_end: Callable[[Outcome], None] = lambda _: None,
) -> Run:
    """Send all jobs at their times and wait for the answers.

    max_concurrency: with so many under way a request waits until one ends; its clock starts when it is sent.
    stop: once set, nothing more is sent, what is under way is cut off, and what was measured is returned.
    """
    places = asyncio.Semaphore(max_concurrency) if max_concurrency else contextlib.nullcontext()
    outcomes: list[Outcome] = []

    async def serve(job: Job) -> None:
        async with places:
            outcome = Outcome(index=job.index, due_s=job.due_s, began_s=client.now_s(), num_prompt=job.num_prompt)
            outcomes.append(outcome)
            headers = {"X-Request-Id": f"{request_id_prefix}{job.index}"} if request_id_prefix else None
            await client.send(job.body, outcome, headers)
        on_end(outcome)

    async def start(tasks: asyncio.TaskGroup) -> None:
        for job in jobs:
            if (wait_s := job.due_s - client.now_s()) > 0:
                await asyncio.sleep(wait_s)
            tasks.create_task(serve(job))

    async def whole() -> None:
        async with asyncio.TaskGroup() as tasks:
            await start(tasks)

    interrupted = await _until(whole(), stop)
    for outcome in outcomes:
        outcome.ended_s = outcome.ended_s or client.now_s()
    ordered = tuple(sorted(outcomes, key=lambda outcome: outcome.index))
    return Run(outcomes=ordered, duration_s=client.now_s(), interrupted=interrupted)


async def _until(work: Awaitable[None], stop: asyncio.Event | None) -> bool:
    """Do the work, or cancel it once `stop` is set; whether it was."""
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(stop.wait()) if stop is not None else None
    try:
        await asyncio.wait([task, *([watch] if watch else [])], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in (task, watch):
            if each is not None and not each.done():
                each.cancel()
                await asyncio.wait([each])
    if task.cancelled():
        return True
    task.result()
    return False
