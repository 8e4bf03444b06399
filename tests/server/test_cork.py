"""Writes of one turn of the event loop go out together, in order, and none is lost."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from jaxpaged_server.cork import Cork, CorkedTransport
from scripted_engine import ScriptedEngine
from served import served


class Pipe(asyncio.Transport):
    """Notes what is done to it."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[Any] = []
        self.closing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.done.append(bytes(data))

    def close(self) -> None:
        self.done.append("close")
        self.closing = True

    def abort(self) -> None:
        self.done.append("abort")
        self.closing = True

    def is_closing(self) -> bool:
        return self.closing

    def get_write_buffer_size(self) -> int:
        return 5


def corked(cork: Cork) -> tuple[Pipe, CorkedTransport]:
    pipe = Pipe()
    return pipe, cork.transport(pipe)


async def test_what_one_turn_writes_is_sent_together() -> None:
    cork = Cork()
    (one, first), (other, second) = corked(cork), corked(cork)
    first.write(b"a")
    second.write(b"x")
    changed = bytearray(b"b")
    first.write(changed)
    changed[:] = b"!"
    first.writelines([b"c", b"d"])
    assert one.done == other.done == []
    assert first.get_write_buffer_size() == 4 + 5
    await asyncio.sleep(0)
    assert one.done == [b"abcd"]
    assert other.done == [b"x"]
    first.write(b"e")
    await asyncio.sleep(0)
    assert one.done == [b"abcd", b"e"]
    assert first.get_write_buffer_size() == 5


async def test_a_close_sends_what_is_held_and_an_abort_does_not() -> None:
    cork = Cork()
    (one, first), (other, second), (third, lost) = corked(cork), corked(cork), corked(cork)
    first.write(b"a")
    first.close()
    second.write(b"b")
    second.abort()
    lost.write(b"c")
    third.closing = True  # the other end is gone
    await asyncio.sleep(0)
    assert one.done == [b"a", "close"]
    assert other.done == ["abort"]
    assert third.done == []


async def test_much_in_one_turn_is_sent_at_once() -> None:
    pipe, transport = corked(Cork())
    for _ in range(3):
        transport.write(bytes(1 << 15))
    assert [len(data) for data in pipe.done] == [3 << 15]
    transport.write(b"end")
    await asyncio.sleep(0)
    assert pipe.done[1:] == [b"end"]


async def test_the_last_event_of_a_stream_goes_with_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[bytes] = []
    flush = CorkedTransport.flush

    def noted(self: CorkedTransport) -> None:
        sent.append(b"".join(self._held))
        flush(self)

    async def pace(stream: Any) -> int:
        await asyncio.sleep(0.01)
        return 1 if stream.sent == 0 else 100

    async with served(ScriptedEngine(pace)) as it:
        monkeypatch.setattr(CorkedTransport, "flush", noted)
        body = {"prompt": "a", "max_tokens": 20, "stream": True}
        async with it.client.post("/v1/completions", json=body) as response:
            assert (await response.text()).endswith("data: [DONE]\n\n")
    head, rest = sent[:2]  # what follows are closed connections
    assert head.startswith(b"HTTP/1.1 200")
    assert head.count(b"data:") == 1
    assert rest.count(b"data:") == 2
    assert b"[DONE]" in rest
    assert rest.endswith(b"\r\n0\r\n\r\n")
