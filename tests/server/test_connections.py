"""HTTP as bytes: what is malformed, slow or too much, against the real connections (HTTP of the advisories)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import time

import pytest
from jaxpaged_server.access.keys import Keys
from scripted_engine import ScriptedEngine, ScriptedStream
from served import Served, served

BODY = b'{"prompt": "a", "max_tokens": 1}'
POST = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


async def exchange(it: Served, raw: bytes, *, timeout_s: float = 3.0) -> bytes:
    """What comes back for these bytes until the server closes, or `timeout_s` is over."""
    reader, writer = await asyncio.open_connection("127.0.0.1", it.url.port)
    writer.write(raw)
    got = b""
    try:
        async with asyncio.timeout(timeout_s):
            while data := await reader.read(65536):
                got += data
    except (TimeoutError, ConnectionError):
        pass
    finally:
        writer.close()
    return got


MALFORMED = {
    "length and chunks": POST + b"Content-Length: 32\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": POST + b"Content-Length: 32\r\nContent-Length: 33\r\n\r\n" + BODY,
    "a negative length": POST + b"Content-Length: -1\r\n\r\n" + BODY,
    "a length in words": POST + b"Content-Length: many\r\n\r\n" + BODY,
    "bare line feeds": b"GET /v1/models HTTP/1.1\nHost: localhost\n\n",
    "a bad chunk": POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n",
    "a space before the colon": b"GET /v1/models HTTP/1.1\r\nHost : localhost\r\n\r\n",
    "a header of 9 kB": b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nX-Long: " + b"a" * 9000 + b"\r\n\r\n",
    "a line of 9 kB": b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "200 headers": b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n" + b"X-A: 1\r\n" * 200 + b"\r\n",
    "an unknown encoding": POST + b"Transfer-Encoding: rot13\r\n\r\n",
    "a NUL in a header": b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nX-A: a\0b\r\n\r\n",
    "no method": b" /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "not HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 20,
    "no host": b"GET /v1/models HTTP/1.1\r\n\r\n",
}


async def test_http_malformed_requests_are_refused_and_closed() -> None:
    async with served(header_timeout_s=1.0) as it:
        for name, raw in MALFORMED.items():
            began = time.monotonic()
            got = await exchange(it, raw, timeout_s=10.0)
            assert time.monotonic() - began < 9.0, f"{name}: the connection stays open"
            status = got.split(b" ", 2)[1] if got.startswith(b"HTTP/1.") else b""
            assert status in (b"", b"400", b"413", b"431"), (name, got[:200])
            assert b"Traceback" not in got, name
            assert b"site-packages" not in got, name
            if status == b"400":
                error = json.loads(got.partition(b"\r\n\r\n")[2])["error"]
                assert error["type"] == "invalid_request_error", name
                assert re.fullmatch(r"[A-Za-z0-9 '(),./:-]{1,100}", error["message"]), "what was sent is not told back"
        assert not it.engine.streams
        assert (await it.post("/v1/completions", prompt="a", max_tokens=1))[0] == 200


async def test_http_what_is_answered_before_any_route_has_openais_form(caplog: pytest.LogCaptureFixture) -> None:
    async with served(keys=Keys(plain=["sk-the-right-one-0123456789"])) as it:
        for path in (b"/v1/completions", b"/nothing", b"/health"):
            head = b"POST " + path + b" HTTP/1.1\r\nHost: localhost\r\nExpect: sk-secret\r\nConnection: close\r\n\r\n"
            got = await exchange(it, head)
            assert got.startswith(b"HTTP/1.1 417 "), path
            assert got.count(b"HTTP/1.1") == 1
            top, _, body = got.partition(b"\r\n\r\n")
            error = json.loads(body)["error"]
            assert error["type"] == "invalid_request_error"
            assert "100-continue" in error["message"]
            assert b"Content-Type: application/json" in top
            assert re.search(rb"X-Request-Id: [0-9a-f]{32}\r\n", top)
            assert b"secret" not in got
        got = await exchange(it, MALFORMED["a line of 9 kB"])
        assert b" 400 " in got.split(b"\r\n")[0]
        assert json.loads(got.partition(b"\r\n\r\n")[2])["error"] == {
            "message": "A line of the request's head is too long",
            "type": "invalid_request_error",
            "param": None,
            "code": "malformed_request",
        }
    assert not caplog.records, "anybody can send such, and as often as they like"


async def test_http_unusual_requests_are_served_once_each() -> None:
    whole = POST + b"Content-Length: %d\r\n" % len(BODY)
    async with served() as it:
        got = await exchange(it, (whole + b"\r\n" + BODY) * 2 + whole + b"Connection: close\r\n\r\n" + BODY)
        assert got.count(b"HTTP/1.1 200 OK") == 3
        assert len(it.engine.streams) == 3
        got = await exchange(it, whole + b"Expect: 100-continue\r\nConnection: close\r\n\r\n" + BODY)
        assert b"100 Continue" in got
        assert b"200 OK" in got
        got = await exchange(
            it, b"GET http://evil.example/v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        )
        assert b" 403 " in got, "the server goes by no such name"
        got = await exchange(it, b"GET /v1/models HTTP/1.0\r\n\r\n")
        assert got.startswith(b"HTTP/1.0 200") or b" 400 " in got
        upgrade = b"GET /v1/models HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\n\r\n"
        assert b"101" not in (await exchange(it, upgrade)).split(b"\r\n")[0]


async def test_http_a_body_in_many_small_chunks_is_one_body() -> None:
    chunked = POST + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    spaces = 20_000  # others' parsers went one call deeper for each chunk
    async with served(max_body_bytes=spaces) as it:
        small = b"".join(b"1\r\n%c\r\n" % byte for byte in BODY)
        got = await exchange(it, chunked + small + b"1\r\n \r\n" * (spaces - len(BODY)) + b"0\r\n\r\n")
        assert got.startswith(b"HTTP/1.1 200 OK"), got[:100]
        got = await exchange(it, chunked + small + b"1\r\n \r\n" * spaces + b"0\r\n\r\n")
        assert got.startswith(b"HTTP/1.1 413 "), got[:100]
        assert len(it.engine.streams) == 1


async def test_a_head_that_does_not_come_is_cut() -> None:
    async with served(header_timeout_s=0.3) as it:
        for raw in (b"", b"GET /v1/models HTTP/1.1\r\nHost:", POST, b"\r\n\r\n", b"\r\n\r\n" + POST):
            began = time.monotonic()
            got = await exchange(it, raw, timeout_s=3)
            assert time.monotonic() - began < 1.5, raw
            assert b"200" not in got
        # one byte at a time is as slow as none
        reader, writer = await asyncio.open_connection("127.0.0.1", it.url.port)
        began = time.monotonic()
        with contextlib.suppress(ConnectionError):
            for byte in b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n" * 4:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0.02)
                if reader.at_eof():
                    break
        assert time.monotonic() - began < 1.5
        writer.close()
        assert (await it.post("/v1/completions", prompt="a", max_tokens=1))[0] == 200


async def test_a_kept_connection_has_the_same_deadline_for_its_next_head() -> None:
    async with served(header_timeout_s=0.3, keep_alive_s=0.6) as it:
        reader, writer = await asyncio.open_connection("127.0.0.1", it.url.port)
        get = b"GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n"
        for _ in range(2):
            writer.write(get)
            head = await reader.readuntil(b"\r\n\r\n")
            assert b"200 OK" in head
            await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
        began = time.monotonic()
        writer.write(get[:20])
        assert await reader.read() == b""
        assert time.monotonic() - began < 0.55
        writer.close()


async def test_an_answer_that_takes_long_is_not_cut_by_the_deadline_of_heads() -> None:
    async def pace(stream: ScriptedStream) -> int:
        await asyncio.sleep(0.25)
        return 1

    async with served(ScriptedEngine(pace), header_timeout_s=0.2) as it:
        assert (await it.post("/v1/completions", prompt="a", max_tokens=3))[0] == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_abort_a_client_who_leaves_at_any_time_ends_its_request(stream: bool) -> None:
    async def pace(stream: ScriptedStream) -> int:
        await asyncio.sleep(0.01)
        return 1

    body = json.dumps({"prompt": "a", "max_tokens": 200, "stream": stream}).encode()
    raw = POST + b"Content-Length: %d\r\n\r\n" % len(body) + body
    async with served(ScriptedEngine(pace)) as it:
        for wait_s in (0.0, 0.001, 0.01, 0.05, 0.1):
            for reset in (False, True):
                _, writer = await asyncio.open_connection("127.0.0.1", it.url.port)
                writer.write(raw)
                await asyncio.sleep(wait_s)
                if reset:
                    writer.transport.abort()
                else:
                    writer.close()
        async with asyncio.timeout(0.25):
            while len(it.services.flights) or it.engine.live:
                await asyncio.sleep(0.005)
        assert it.services.admission.num_inside == 0


async def test_abort_one_who_waits_leaves_the_queue() -> None:
    async def pace(stream: ScriptedStream) -> int:
        await asyncio.sleep(0.05)
        return 1

    body = b'{"prompt": "a", "max_tokens": 10}'
    raw = POST + b"Content-Length: %d\r\n\r\n" % len(body) + body
    async with served(ScriptedEngine(pace)) as it:
        writers = [(await asyncio.open_connection("127.0.0.1", it.url.port))[1] for _ in range(20)]
        for writer in writers:
            writer.write(raw)
        async with asyncio.timeout(2):
            while it.services.admission.num_waiting < 10:
                await asyncio.sleep(0.005)
        for writer in writers:
            writer.close()
        async with asyncio.timeout(0.25):
            while it.services.admission.num_waiting or it.services.admission.num_inside:
                await asyncio.sleep(0.005)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_reader_who_takes_nothing_is_cut(stream: bool) -> None:
    body = json.dumps({"prompt": "a", "n": 8, "max_tokens": 250, "stream": stream, "logprobs": 20}).encode()
    raw = POST + b"Content-Length: %d\r\n\r\n" % len(body) + body
    async with served(write_timeout_s=0.3) as it:
        with socket.socket() as reader:
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            reader.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(reader, ("127.0.0.1", it.url.port))
            while not len(it.connections):
                await asyncio.sleep(0.01)
            it.limit_send_buffer(4096)
            await loop.sock_sendall(reader, raw)
            async with asyncio.timeout(5):
                while len(it.connections):
                    await asyncio.sleep(0.02)
            got = b""
            while data := await loop.sock_recv(reader, 65536):
                got += data
            head, _, rest = got.partition(b"\r\n\r\n")
            assert b"200 OK" in head
            whole = rest.endswith(b"0\r\n\r\n") if stream else f"Content-Length: {len(rest)}".encode() in head
            assert not whole, "it was sent to its end"
