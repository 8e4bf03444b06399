"""How soon a key learns that it is refused."""

from __future__ import annotations

import asyncio
import time

import pytest
from admission_door import A, B, Clock, opened
from jaxpaged_server.access.keys import Keys
from jaxpaged_server.admission.pace import BURST, MOST_S, PER_S, LastSeen, RefusalPace
from scripted_engine import ScriptedEngine, ScriptedStream
from served import served


def test_few_refusals_are_told_at_once_and_many_at_a_steady_rate() -> None:
    pace = RefusalPace()
    assert max(pace.delay_s(0.0) for _ in range(int(BURST) + 1)) < 1e-9
    waits = [pace.delay_s(0.0) for _ in range(3)]
    assert [wait * PER_S for wait in waits] == pytest.approx([1, 2, 3])
    assert pace.delay_s(4 / PER_S) < 1e-9, "its turn has come meanwhile"
    assert pace.delay_s(100.0) == 0.0


def test_nobody_is_held_back_for_longer_than_the_limit() -> None:
    pace = RefusalPace()
    waits = [pace.delay_s(0.0) for _ in range(10_000)]
    assert max(waits) == MOST_S
    assert pace.delay_s(MOST_S) <= 2 / PER_S, "the excess is forgotten"
    assert pace.delay_s(MOST_S + 2.0) == 0.0


def test_refusals_at_an_allowed_rate_are_never_held_back() -> None:
    pace = RefusalPace()
    assert not any(pace.delay_s(i / (PER_S - 1)) for i in range(5000))


def test_the_last_of_another_key_is_known() -> None:
    seen = LastSeen()
    assert seen.other_than("a") == float("-inf")
    for name, at in (("a", 1.0), ("b", 2.0), ("b", 3.0), ("a", 4.0), ("a", 5.0)):
        seen.note(name, at)
    assert (seen.other_than("a"), seen.other_than("b"), seen.other_than("c")) == (3.0, 5.0, 5.0)


def test_only_a_key_beside_another_is_held_back() -> None:
    clock = Clock()
    admission = opened(A, B, clock=clock)
    many = int(BURST + PER_S)
    (ticket,) = admission.line_up(A, prompt_tokens=(5,))
    assert not any(admission.hold_s(A) for _ in range(many)), "nobody else is there"
    (other,) = admission.line_up(B, prompt_tokens=(5,))
    assert any(admission.hold_s(A) for _ in range(many))
    assert admission.hold_s(B) == 0.0
    clock.now += 3.0
    assert not any(admission.hold_s(A) for _ in range(many)), "the other has gone"
    for one in (ticket, other):
        one.release()


async def test_a_flood_asks_less_often_while_another_key_is_served() -> None:
    go, stop = asyncio.Event(), asyncio.Event()

    async def pace(stream: ScriptedStream) -> int:
        await go.wait()
        return 1

    async with served(ScriptedEngine(pace), keys=Keys(plain=["sk-quiet", "sk-loud"]), max_num_queued_reqs=2) as it:

        async def ask(key: str) -> int:
            headers = {"Authorization": f"Bearer {key}"}
            body = {"prompt": "a", "max_tokens": 1}
            async with it.client.post("/v1/completions", json=body, headers=headers) as response:
                await response.read()
                return response.status

        async def again() -> int:
            refused = 0
            while not stop.is_set():
                refused += await ask("sk-loud") == 429
            return refused

        quiet = asyncio.create_task(ask("sk-quiet"))
        while not it.engine.live:
            await asyncio.sleep(0.001)
        flood = [asyncio.create_task(again()) for _ in range(60)]
        began = time.monotonic()
        await asyncio.sleep(1.0)
        stop.set()
        go.set()
        refused = sum(await asyncio.gather(*flood))
        assert BURST < refused <= BURST + PER_S * (time.monotonic() - began) + len(flood)
        assert await quiet == 200
