"""Turns at threads and processes: fair between keys, and every place is given back."""

from __future__ import annotations

import asyncio
import random

import pytest
from jaxpaged_server.access.keys import ANONYMOUS, Key
from jaxpaged_server.refusals import QueueFullError
from jaxpaged_server.turns import MAX_WAITING, Turns

FLOOD, OTHER = Key(name="flood"), Key(name="other")


async def test_a_flood_of_one_key_leaves_a_place_and_the_next_turn_to_others() -> None:
    turns, order = Turns(2, shared=lambda: True), list[str]()

    async def work(key: Key, size: int) -> None:
        await turns.take(key, size)
        order.append(key.name)
        await asyncio.sleep(0.001)
        turns.give(key)

    flood = [asyncio.create_task(work(FLOOD, 1000)) for _ in range(8)]
    await asyncio.sleep(0)
    assert order == ["flood"]  # the other place is kept
    await asyncio.gather(*flood, *(work(OTHER, 10) for _ in range(4)))
    assert "other" in order[:2]
    assert max(place for place, name in enumerate(order) if name == "other") < 8
    assert not turns._flows


async def test_where_there_is_one_key_it_has_all_places() -> None:
    turns = Turns(2)
    async with asyncio.timeout(1):
        await turns.take(ANONYMOUS, 5)
        await turns.take(ANONYMOUS, 5)
        last = asyncio.create_task(turns.take(ANONYMOUS, 5))
        await asyncio.sleep(0)
        assert not last.done()
        turns.give(ANONYMOUS)
        await last
    turns.give(ANONYMOUS)
    turns.give(ANONYMOUS)
    assert not turns._flows


async def test_more_of_a_key_than_may_wait_is_refused_and_others_are_not() -> None:
    turns = Turns(1)
    await turns.take(FLOOD, 1)

    async def work(key: Key, size: int) -> None:
        await turns.take(key, size)
        turns.give(key)

    waiting = [asyncio.create_task(work(FLOOD, MAX_WAITING // 2)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(QueueFullError, match="flood") as refused:
        await turns.take(FLOOD, 1)
    assert refused.value.retry_after_s == 1
    other = asyncio.create_task(work(OTHER, MAX_WAITING + 1))  # one is never too long
    await asyncio.sleep(0)
    turns.give(FLOOD)
    async with asyncio.timeout(1):
        await asyncio.gather(*waiting, other)
    assert not turns._flows


async def test_whoever_leaves_gives_the_place_back_wherever_they_were() -> None:
    rng, turns, held = random.Random(0), Turns(2, shared=lambda: True), 0
    keys = [Key(name=f"k{i}") for i in range(4)]

    async def work(key: Key) -> None:
        nonlocal held
        await turns.take(key, rng.randrange(1, 100))
        held += 1
        assert held <= 2
        try:
            for _ in range(rng.randrange(3)):
                await asyncio.sleep(0)
        finally:
            held -= 1
            turns.give(key)

    tasks = list[asyncio.Task[None]]()
    for _ in range(2000):
        tasks.append(asyncio.create_task(work(rng.choice(keys))))
        if rng.random() < 0.4:
            rng.choice(tasks).cancel()
        if rng.random() < 0.3:
            await asyncio.sleep(0)
    async with asyncio.timeout(5):
        results = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(result) for result in results} == {type(None), asyncio.CancelledError}
    assert (held, turns._free, turns._flows, turns._at_work, turns._waiting) == (0, 2, {}, {}, {})
