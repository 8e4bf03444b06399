"""One key floods: what another key sees of it. In fake time, with a model of the engine that is first come, first served."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field, replace

import pytest
from admission_door import A, B, C, assert_empty, line_up, opened
from fake_time import now, run

from jaxpaged_server.access.keys import ANONYMOUS, Key
from jaxpaged_server.admission.admission import Admission
from jaxpaged_server.admission.limits import AdmissionConfig
from jaxpaged_server.admission.ticket import Ticket
from jaxpaged_server.refusals import QueueFullError

CONFIG = AdmissionConfig(max_num_seqs=8, max_num_batched_tokens=64, max_model_len=200)


@dataclass(eq=False)
class Job:
    ticket: Ticket
    answer: int
    left: int  # of the prompt
    first_s: float = 0.0
    done: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(eq=False)
class EngineModel:
    """Rows, a token budget a step and a pool; a step takes 20 ms and 0.05 ms a token. Says how long its queue is."""

    admission: Admission
    pool: int
    queue: deque[Job] = field(default_factory=deque)
    running: list[Job] = field(default_factory=list)
    longest_queue: int = 0
    tokens: int = 0

    async def serve(self, ticket: Ticket, answer: int) -> float:
        """Seconds on the clock at the first token; returns after the last."""
        job = Job(ticket, answer, ticket.prompt_tokens)
        self.queue.append(job)
        self.longest_queue = max(self.longest_queue, len(self.queue))
        await job.done.wait()
        return job.first_s

    async def beat(self) -> None:
        while True:
            await asyncio.sleep(0.25)
            self.admission.observe(len(self.queue))
            self.admission.check()

    async def steps(self) -> None:
        while True:
            await asyncio.sleep(self.step())

    def step(self) -> float:
        """Plans and computes; tokens come as soon as it is over, at the next call."""
        for job in self.running:
            if job.left == 0:
                self.give_token(job)
        self.running = [job for job in self.running if not job.done.is_set()]
        budget = CONFIG.max_num_batched_tokens - sum(job.left == 0 for job in self.running)
        held = sum(job.ticket.prompt_tokens + job.answer for job in self.running)
        while self.queue and len(self.running) < CONFIG.max_num_seqs:
            held += self.queue[0].ticket.prompt_tokens + self.queue[0].answer
            if held > self.pool:
                break
            self.running.append(self.queue.popleft())
        spent = CONFIG.max_num_batched_tokens - budget
        for job in self.running:
            chunk = min(job.left, budget)
            job.left, budget, spent = job.left - chunk, budget - chunk, spent + chunk
        self.tokens += spent
        return 0.02 + 0.00005 * spent

    def give_token(self, job: Job) -> None:
        if not job.ticket.started:
            job.first_s = now()
        job.ticket.charge(1)
        job.answer -= 1
        if job.answer == 0:
            job.done.set()


async def ask(engine: EngineModel, key: Key, prompt: int, answer: int) -> float:
    """Seconds to the first token, by a client that asks again a tenth of a second after a refusal."""
    came = now()
    while True:
        try:
            with await engine.admission.enter(key, prompt_tokens=prompt) as ticket:
                return await engine.serve(ticket, answer) - came
        except QueueFullError:
            await asyncio.sleep(0.1)


async def flood(engine: EngineModel, key: Key, prompt: int, answer: int) -> None:
    while True:
        await ask(engine, key, prompt, answer)


@dataclass(frozen=True)
class Seen:
    p99_s: float
    longest_queue: int
    tokens_per_s: float


def trickle(flooding: dict[Key, int], *, prompt: int, answer: int, pool: int, shared: bool = True) -> Seen:
    """Key C asks 200 short questions, four a second; the others flood with that many clients each."""

    async def main() -> Seen:
        victim = C if shared else ANONYMOUS
        admission = opened(*([*flooding, C, B] if shared else [ANONYMOUS]), clock=now, config=CONFIG)
        engine = EngineModel(admission, pool)
        background = [asyncio.create_task(engine.steps()), asyncio.create_task(engine.beat())]
        for key, clients in flooding.items():
            flooder = key if shared else ANONYMOUS
            background += [asyncio.create_task(flood(engine, flooder, prompt, answer)) for _ in range(clients)]
        await asyncio.sleep(5.003)
        mine: list[asyncio.Task[float]] = []
        for _ in range(200):
            mine.append(asyncio.create_task(ask(engine, victim, 20, 8)))
            await asyncio.sleep(0.2503)
        times = sorted(await asyncio.gather(*mine))
        tokens_per_s = engine.tokens / now()
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        assert_empty(admission)
        return Seen(times[197], engine.longest_queue, tokens_per_s)

    return run(main())
