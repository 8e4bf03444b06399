"""A stream of tokens: what its reader is given, and how often it is woken."""

from __future__ import annotations

import asyncio

import pytest
from jaxpaged_server.engine_process.token_stream import TokenStream
from jaxpaged_server.engine_process.wire import Abort, Finish, Item

from jaxpaged.errors import EngineError


def make() -> tuple[TokenStream, list[Abort | Finish]]:
    told: list[Abort | Finish] = []
    return TokenStream(7, lambda number, message: told.append(message)), told


async def turns(count: int = 3) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_reader_is_woken_when_as_many_came_as_it_wants() -> None:
    stream, _ = make()
    reader = asyncio.create_task(stream.next(3))
    await turns()
    for i in range(2):
        stream.push(Item(7, i), at=float(i))
        await turns()
        assert not reader.done()
    stream.push(Item(7, 2), at=2.0)
    assert [item.token for item in await reader] == [0, 1, 2]
    assert stream.times == [0.0, 1.0, 2.0]
    stream.push(Item(7, 3), at=3.0)
    assert [item.token for item in await stream.next()] == [3]
    assert stream.times == [3.0]


async def test_an_end_wakes_a_reader_who_wants_more() -> None:
    stream, _ = make()
    reader = asyncio.create_task(stream.next(100))
    await turns()
    stream.push(Item(7, 1), at=0.0)
    stream.push(Item(7, 2, "length"), at=0.5)
    assert [item.token for item in await reader] == [1, 2]
    assert stream.ended
    with pytest.raises(AssertionError, match="read to its end"):
        await stream.next(100)


async def test_a_failure_wakes_a_reader_who_wants_more_and_comes_after_what_came_before() -> None:
    stream, told = make()
    reader = asyncio.create_task(stream.next(100))
    await turns()
    stream.push(Item(7, 1), at=0.0)
    stream.fail(EngineError(name="engine", value="gone", limit="it is"))
    assert [item.token for item in await reader] == [1]
    with pytest.raises(EngineError, match="gone"):
        await stream.next(100)
    stream.close()
    assert told == [], "an engine that is gone is told nothing"


async def test_a_reader_who_is_cancelled_loses_nothing() -> None:
    stream, told = make()
    reader = asyncio.create_task(stream.next(2))
    await turns()
    stream.push(Item(7, 1), at=0.0)
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    assert [item.token for item in await stream.next()] == [1]
    stream.close()
    assert told == [Abort([7])]
