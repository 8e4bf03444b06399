"""Many streams at once, and many clients who leave: nothing is lost, nothing stays."""

from __future__ import annotations

import asyncio
import json
import random
import time
from pathlib import Path

import aiohttp
import pytest
from real_server import RealServer, real_server

pytestmark = [pytest.mark.soak, pytest.mark.timeout(600)]
PATH = "/v1/completions"


async def settle(server: RealServer, *, within_s: float) -> None:
    """Until nothing is held by anybody."""
    began = time.monotonic()
    while True:
        status = server.request("/status.json")[1]
        held = sum(status["ledger"][name] for name in ("live", "shared", "tail", "behind"))
        if held == status["running"] == status["waiting"] == server.request("/load")[1]["server_load"] == 0:
            return
        assert time.monotonic() - began < within_s, status["ledger"] | {"running": status["running"]}
        await asyncio.sleep(0.02)


async def test_two_thousand_streams_at_once() -> None:
    count = 2000
    flags = ("--max-num-queued-reqs", str(count), "--max-num-queued-tokens", "100000")
    with real_server(*flags, "--max-model-len", "128") as server:
        server.wait_ready()
        text: list[str] = []
        at_once = 0
        most = 0

        async def one(session: aiohttp.ClientSession, i: int) -> None:
            nonlocal at_once, most
            body = {
                "prompt": [i % 4000, 7, i // 4000 + 1],
                "max_tokens": 16,
                "stream": True,
                "ignore_eos": True,
                "seed": i,
            }
            body["stream_options"] = {"include_usage": True}
            at_once += 1
            most = max(most, at_once)
            async with session.post(server.url + PATH, json=body) as response:
                assert response.status == 200, await response.text()
                raw = (await response.read()).decode()
            at_once -= 1
            events = [block.removeprefix("data: ") for block in raw.split("\n\n") if block and block[0] != ":"]
            assert events[-1] == "[DONE]", raw
            assert json.loads(events[-2])["usage"]["completion_tokens"] == 16
            text.append(raw)

        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=400)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            began = time.monotonic()
            await asyncio.gather(*(one(session, i) for i in range(count)))
            seconds = time.monotonic() - began
        print(f"{count} streams in {seconds:.1f} s, {count * 16 / seconds:.0f} tokens/s, {most} at once")
        assert most == count
        await settle(server, within_s=2)
        assert server.metric("jaxpaged:engine_restarts_total") == 0


async def leave(server: RealServer, rng: random.Random) -> None:
    """Send a request, or a part of it; read some bytes; leave in one of three ways."""
    body = json.dumps(
        {
            "prompt": [rng.randrange(4096) for _ in range(rng.choice((1, 8, 60, 120)))],
            "max_tokens": rng.choice((1, 8, 64, 120)),
            "stream": rng.random() < 0.6,
            "n": rng.choice((1, 1, 1, 2)),
            "ignore_eos": True,
        }
    ).encode()
    raw = (
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n" % len(body) + body
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        if rng.random() < 0.2:
            raw = raw[: rng.randrange(len(raw))]
        writer.write(raw)
        await writer.drain()
        await asyncio.sleep(rng.choice((0.0, 0.001, 0.01, 0.1)))
        try:
            async with asyncio.timeout(rng.choice((0.001, 0.05, 0.3))):
                await reader.readexactly(rng.randrange(1, 4000))
        except (TimeoutError, asyncio.IncompleteReadError):
            pass
        how = rng.randrange(3)
        if how == 0:
            writer.transport.abort()
        elif how == 1 and writer.can_write_eof():
            writer.write_eof()
            await asyncio.sleep(0.005)
    except ConnectionError:
        pass
    finally:
        writer.close()


@pytest.mark.parametrize("seed", [0])
async def test_two_thousand_clients_who_leave_at_any_byte(seed: int) -> None:
    rng = random.Random(seed)
    with real_server("--max-num-seqs", "8", "--max-model-len", "256") as server:
        server.wait_ready()
        plain = server.request(PATH, {"prompt": "def f", "max_tokens": 8, "temperature": 0})[1]["choices"][0]["text"]
        left = 2000

        async def leaver(rng: random.Random) -> None:
            nonlocal left
            while left > 0:
                left -= 1
                await leave(server, rng)

        await asyncio.gather(*(leaver(random.Random(rng.random())) for _ in range(24)))
        await settle(server, within_s=2)
        fds = len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))
        assert fds < 60, f"{fds} files are open"
        again = server.request(PATH, {"prompt": "def f", "max_tokens": 8, "temperature": 0})[1]["choices"][0]["text"]
        assert again == plain
        assert server.metric("jaxpaged:engine_restarts_total") == 0
        assert not [line for line in server.lines if "Traceback" in line or "never retrieved" in line]
