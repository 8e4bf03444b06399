"""The proxy does what it says, to an echo server: otherwise the tests that use it would prove nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest
from chaos_proxy import PLAIN, ChaosProxy, Faults

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def through(talk: Talk, up: Faults = PLAIN, down: Faults = PLAIN) -> ChaosProxy:
    """Talk to an echo server through a proxy with these faults, 10 seconds at most."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def run() -> ChaosProxy:
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        target = server.sockets[0].getsockname()[1]
        async with server, ChaosProxy("127.0.0.1", target, lambda _: (up, down)) as proxy, asyncio.timeout(10):
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            try:
                await talk(reader, writer)
            finally:
                writer.close()
        assert not proxy._tasks
        return proxy

    return asyncio.run(run())


async def say(writer: asyncio.StreamWriter, text: bytes) -> None:
    writer.write(text)
    await writer.drain()


def test_without_faults_it_passes_everything_both_ways() -> None:
    sent = bytes(range(256)) * 4096

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sending = asyncio.create_task(say(writer, sent))
        assert await reader.readexactly(len(sent)) == sent
        await sending
        writer.write_eof()
        assert await reader.read() == b""

    proxy = through(talk)
    assert (proxy.connections, proxy.up, proxy.down) == (1, len(sent), len(sent))


def test_cut_ends_the_connection_after_so_many_bytes() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await say(writer, b"0123456789")
        assert await reader.read() == b"0123"

    assert through(talk, down=Faults(cut_at=4)).down == 4


def test_reset_is_a_reset() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await say(writer, b"0123456789")
        with pytest.raises(ConnectionResetError):
            await reader.read()

    through(talk, up=Faults(reset_at=3))


def test_half_close_shuts_one_way_and_leaves_the_other() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await say(writer, b"0123456789")
        assert await reader.read() == b"01234"  # the echo server saw the end, and answered what it had

    assert through(talk, up=Faults(half_close_at=5)).up == 5


def test_stall_keeps_the_connection_and_passes_nothing_more() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await say(writer, b"0123456789")
        assert await reader.readexactly(2) == b"01"
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.1)

    through(talk, down=Faults(stall_at=2))


def test_delay_and_throttle_take_at_least_their_time() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        began_s = time.perf_counter()
        await say(writer, b"x" * 200)
        assert await reader.readexactly(200) == b"x" * 200
        assert time.perf_counter() - began_s >= 0.15  # 0.05 s up, 200 bytes at 2,000 a second down

    through(talk, up=Faults(delay_s=0.05), down=Faults(bytes_per_s=2000, piece=20))


def test_pieces_come_one_by_one() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await say(writer, b"abcdef")
        got = [await reader.read(100) for _ in range(3)]
        assert [len(each) for each in got] == [2, 2, 2]

    through(talk, down=Faults(piece=2, delay_s=0.02))


def test_swap_changes_the_order_and_no_byte() -> None:
    assert b"".join(Faults(piece=2, swap=True).pieces(b"aabbccddee")) == b"bbaaddccee"
    assert b"".join(Faults(piece=3, swap=True).pieces(b"aaabbb")) == b"bbbaaa"

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await say(writer, b"aabbccdd")
        assert await reader.readexactly(8) == b"bbaaddcc"

    through(talk, up=Faults(piece=2, swap=True))


def test_a_server_that_is_not_there_closes_the_connection() -> None:
    async def run() -> bytes:
        server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        server.close()
        await server.wait_closed()
        async with ChaosProxy("127.0.0.1", port) as proxy, asyncio.timeout(10):
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            try:
                return await reader.read()
            finally:
                writer.close()

    assert asyncio.run(run()) == b""
