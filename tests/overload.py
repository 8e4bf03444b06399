"""Overload of a server from outside: how fast it refuses, how much it still does, how soon it is well again.

For any OpenAI endpoint. `overload` does it all; the figures are functions of a `Run` each.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

import numpy as np
from jaxpaged_server.load.arrivals import Arrivals
from jaxpaged_server.load.endpoint import Endpoint
from jaxpaged_server.load.lag import Lag, LagMeter
from jaxpaged_server.load.outcome import End
from jaxpaged_server.load.run import Job, Run, send_all
from jaxpaged_server.load.sample import Sample
from lean_client import LeanClient


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Whom to ask and for what: completions of random token ids below `vocab`, greedily and of full length."""

    url: str
    model: str
    input_len: int = 64
    output_len: int = 32
    vocab: int = 256
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float = 120.0

    @property
    def endpoint(self) -> Endpoint:
        fields = {"ignore_eos": True, "temperature": 0.0}
        url = f"{self.url}/v1/completions"
        return Endpoint(kind="completions", url=url, model=self.model, headers=self.headers, fields=fields)

    def jobs(self, offsets: Sequence[float], random: Random) -> list[Job]:
        """A request for each offset, each with another prompt."""
        endpoint = self.endpoint

        def body() -> bytes:
            ids = tuple(random.randrange(1, self.vocab) for _ in range(self.input_len))
            return endpoint.body(Sample(prompt=ids, max_tokens=self.output_len))

        return [Job(index=index, due_s=due_s, body=body()) for index, due_s in enumerate(offsets)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusals:
    """Status 429: how many, how long they took (ms), and how many said when to come again."""

    count: int
    p50_ms: float
    p99_ms: float
    with_retry_after: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Overload:
    """What `overload` found. Rates are requests a second.

    goodput_rps: answers within the time of the flood. recovery_s: from the end of the flood until TTFT's p99 stayed
    within its limit; None: not within the time that was watched. others: what else than answers and refusals came, by
    kind. lag: of the load generator; where it is large, the figures are its own and not the server's.
    """

    capacity_rps: float
    offered_rps: float
    goodput_rps: float
    calm_p99_ttft_ms: float
    recovery_s: float | None
    refusals: Refusals
    others: Mapping[str, int]
    lag: Lag

    @property
    def goodput_share(self) -> float:
        """Of the capacity."""
        return self.goodput_rps / self.capacity_rps


async def closed_loop(client: LeanClient, target: Target, *, concurrency: int, count: int) -> Run:
    """`count` requests with never more than `concurrency` under way: what a server can do."""
    jobs = target.jobs([0.0] * count, Random(1))
    client.began_s = time.perf_counter()
    return await send_all(client, jobs, max_concurrency=concurrency)


def poisson(target: Target, *, rate: float, seconds: float, seed: int) -> list[Job]:
    """Requests at random times, so many a second in the mean."""
    random = Random(seed)
    offsets = Arrivals(rate=rate).offsets(max(1, round(rate * seconds)), random)
    return target.jobs(offsets, random)


async def open_loop(client: LeanClient, jobs: Sequence[Job]) -> Run:
    """Send each at its time, whatever becomes of the others."""
    client.began_s = time.perf_counter()
    return await send_all(client, jobs)


async def overload(
    target: Target, *, concurrency: int, count: int, times: float, seconds: float, watched_s: float, factor: float = 2.0
) -> Overload:
    """Measure the capacity by `count` requests with `concurrency` under way, then flood with `times` as much.

    Before the flood and after it, for `watched_s` each, a fifth of the capacity is sent: recovered is who answers it
    with a TTFT (p99 of each second) of no more than `factor` times the p99 before.
    """
    with contextlib.ExitStack() as stack:
        flooding, watching = (LeanClient(target.endpoint, timeout_s=target.timeout_s) for _ in range(2))
        stack.callback(flooding.close)
        stack.callback(watching.close)
        await closed_loop(flooding, target, concurrency=concurrency, count=concurrency)  # connections, caches
        capacity = goodput_rps(await closed_loop(flooding, target, concurrency=concurrency, count=count))
        calm = await open_loop(watching, poisson(target, rate=capacity / 5, seconds=watched_s, seed=2))
        limit_s = factor * p99_ttft_s(calm)
        jobs = poisson(target, rate=capacity * times, seconds=seconds, seed=4)
        watched = poisson(target, rate=capacity / 5, seconds=watched_s, seed=3)

        async def after() -> Run:
            await asyncio.sleep(seconds)
            return await open_loop(watching, watched)

        with _no_collections():
            async with LagMeter() as meter:
                flood, later = await asyncio.gather(open_loop(flooding, jobs), after())
    return Overload(
        capacity_rps=capacity,
        offered_rps=capacity * times,
        goodput_rps=goodput_rps(flood, within_s=seconds),
        calm_p99_ttft_ms=1000 * p99_ttft_s(calm),
        recovery_s=recovery_s(later, limit_s=limit_s),
        refusals=refusals(flood),
        others=others(flood),
        lag=meter.lag(),
    )


@contextlib.contextmanager
def _no_collections() -> Iterator[None]:
    """The outcomes of a flood are tens of thousands of objects: looking through them would make pauses of its own."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def refusals(run: Run) -> Refusals:
    """Of all that were refused."""
    refused = [outcome for outcome in run.outcomes if outcome.end is End.REFUSED]
    took_ms = [1000 * outcome.latency_s for outcome in refused] or [math.nan]
    return Refusals(
        count=len(refused),
        p50_ms=float(np.percentile(took_ms, 50)),
        p99_ms=float(np.percentile(took_ms, 99)),
        with_retry_after=sum(outcome.retry_after_s is not None for outcome in refused),
    )


def goodput_rps(run: Run, *, within_s: float | None = None, ttft_s: float = math.inf) -> float:
    """Answers a second: those that ended within so many seconds of the start and whose first token came in time."""
    seconds = run.duration_s if within_s is None else within_s
    good = [each for each in run.outcomes if each.is_done and each.ended_s <= seconds and each.ttft_s <= ttft_s]
    return len(good) / seconds


def others(run: Run) -> dict[str, int]:
    """What was neither answered nor refused, by kind."""
    found: dict[str, int] = {}
    for outcome in run.outcomes:
        if outcome.end not in (End.DONE, End.REFUSED):
            found[outcome.kind or outcome.end.value] = found.get(outcome.kind or outcome.end.value, 0) + 1
    return found


def p99_ttft_s(run: Run) -> float:
    """Of the requests that were answered; infinite where none was."""
    times = [outcome.ttft_s for outcome in run.outcomes if outcome.is_done]
    return float(np.percentile(times, 99)) if times else math.inf


def recovery_s(run: Run, *, limit_s: float, window_s: float = 1.0) -> float | None:
    """The end of the last window (by time of sending) that was not well, 0 where all were; None: the last was not.

    A window is well whose requests were all answered, with a p99 of TTFT within the limit.
    """
    last = max((outcome.began_s for outcome in run.outcomes), default=0.0)
    num_windows = int(last / window_s) + 1
    bad_until_s = 0.0
    for number in range(num_windows):
        mine = [outcome for outcome in run.outcomes if int(outcome.began_s / window_s) == number]
        times = [outcome.ttft_s if outcome.is_done else math.inf for outcome in mine]
        if times and np.percentile(times, 99, method="higher") > limit_s:
            bad_until_s = (number + 1) * window_s
    return None if bad_until_s >= num_windows * window_s else bad_until_s
