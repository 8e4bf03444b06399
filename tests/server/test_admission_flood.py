"""Some keys flood: what another sees of it. In fake time, with a model of an engine that serves in order of arrival."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field

import pytest
from admission_door import A, B, C, assert_empty, enter, line_up, opened
from fake_time import now, run
from jaxpaged_server.access.keys import ANONYMOUS, Key
from jaxpaged_server.admission.admission import Admission
from jaxpaged_server.admission.limits import AdmissionConfig
from jaxpaged_server.admission.ticket import Ticket
from jaxpaged_server.refusals import QueueFullError

D = Key(name="d")
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

    async def serve(self, ticket: Ticket, answer: int) -> float:
        """Seconds on the clock at the first token; returns after the last."""
        job = Job(ticket, answer, ticket.prompt_tokens)
        self.queue.append(job)
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
        return 0.02 + 0.00005 * spent

    def give_token(self, job: Job) -> None:
        if not job.ticket.started:
            job.first_s = now()
        job.ticket.charge(1)
        job.answer -= 1
        if job.answer == 0:
            job.done.set()


async def ask(engine: EngineModel, key: Key, prompt: int, answer: int) -> float:
    """Seconds to the first token, by a client that asks again half a second after a refusal."""
    came = now()
    while True:
        try:
            with await enter(engine.admission, key, prompt) as ticket:
                return await engine.serve(ticket, answer) - came
        except QueueFullError:
            await asyncio.sleep(0.5)


async def flood(engine: EngineModel, key: Key, prompt: int, answer: int) -> None:
    while True:
        await ask(engine, key, prompt, answer)


def trickle(flooding: dict[Key, int], *, prompt: int, answer: int, pool: int, shared: bool = True) -> float:
    """Seconds to the first token, at worst, of key C, which asks 60 short questions, four a second.

    flooding: keys that ask for more than there is, and how many clients each has. shared: False gives all of them the
    same key.
    """

    async def main() -> float:
        victim = C if shared else ANONYMOUS
        admission = opened(*([*flooding, C, B] if shared else [ANONYMOUS]), clock=now, config=CONFIG)
        engine = EngineModel(admission, pool)
        background = [asyncio.create_task(engine.steps()), asyncio.create_task(engine.beat())]
        for key, clients in flooding.items():
            flooder = key if shared else ANONYMOUS
            background += [asyncio.create_task(flood(engine, flooder, prompt, answer)) for _ in range(clients)]
        await asyncio.sleep(5.003)
        mine: list[asyncio.Task[float]] = []
        for _ in range(60):
            mine.append(asyncio.create_task(ask(engine, victim, 20, 8)))
            await asyncio.sleep(0.2503)
        worst_s = max(await asyncio.gather(*mine))
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        assert_empty(admission)
        return worst_s

    return run(main())


ALONE_S = 0.0408
"""Up to one step on the way and its own, both nearly empty."""


def test_alone() -> None:
    assert trickle({}, prompt=1, answer=1, pool=10**6) == pytest.approx(ALONE_S, abs=1e-3)


@pytest.mark.parametrize("flooding", [{A: 40}, {A: 20, D: 20}], ids=["one key", "two keys"])
@pytest.mark.parametrize(
    ("prompt", "answer", "pool", "most_s"),
    [
        pytest.param(30, 40, 10**6, 0.045, id="rows are short"),
        pytest.param(100, 2, 10**6, 2 * ALONE_S, id="steps are full of prompts"),
        # one of a flood's requests may be ahead in the engine, and wait there for another to end
        pytest.param(60, 100, 900, 5 * ALONE_S, id="the pool is short"),
    ],
)
def test_a_flood_hardly_moves_the_first_token_of_others(
    flooding: dict[Key, int], prompt: int, answer: int, pool: int, most_s: float
) -> None:
    assert ALONE_S < trickle(flooding, prompt=prompt, answer=answer, pool=pool) < most_s


@pytest.mark.parametrize("pool", [10**6, 900])
def test_without_keys_a_flood_is_felt(pool: int) -> None:
    """What the rules of several keys are for; 30 clients do not even fill the queue."""
    assert trickle({A: 30}, prompt=60, answer=100, pool=pool, shared=False) > 50 * ALONE_S


def test_a_newcomer_waits_for_one_release_where_many_keys_fill_all_places() -> None:
    async def main() -> None:
        many = [A, *(Key(name=f"k{number}") for number in range(8))]
        admission = opened(B, *many, clock=now, config=CONFIG)
        inside = [line_up(admission, key, 1, tokens=1)[0] for key in many]
        flood = line_up(admission, A, 16)
        newcomer = asyncio.create_task(enter(admission, B))
        await asyncio.sleep(1)
        assert not newcomer.done()
        inside[4].release()
        ticket = await newcomer
        assert ticket.entered_s == ticket.came_s + 1
        for other in [*inside, *flood, ticket]:
            other.release()
        assert_empty(admission)

    run(main())
