"""A flood from one key does not take the server from another."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import aiohttp
import numpy as np
import pytest
from real_server import RealServer, real_server

pytestmark = [pytest.mark.soak, pytest.mark.timeout(600)]
KEYS = """
keys:
  - {name: quiet, key: sk-quiet-0123456789}
  - {name: loud, key: sk-loud-0123456789}
"""


async def first_token(
    session: aiohttp.ClientSession, server: RealServer, key: str, i: int, *, again_s: float | None = None, **fields: int
) -> float:
    """Seconds to the first token of a stream, which is read to its end; infinite where it is refused, after waiting
    for `again_s`, or else as long as the refusal says."""
    body = {"prompt": [i % 4096] * 24, "stream": True, "ignore_eos": True, **fields}
    began = time.monotonic()
    headers = {"Authorization": f"Bearer {key}"}
    async with session.post(server.url + "/v1/completions", json=body, headers=headers) as response:
        if response.status != 200:
            await response.read()
            await asyncio.sleep(float(response.headers["Retry-After"]) if again_s is None else again_s)
            return float("inf")
        await response.content.readuntil(b"\n\n")
        took = time.monotonic() - began
        await response.read()
        return took


async def quiet_p99(session: aiohttp.ClientSession, server: RealServer, seconds: float) -> float:
    """p99 of the times to the first token of one request after another."""
    took: list[float] = []
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        took.append(await first_token(session, server, "sk-quiet-0123456789", len(took), max_tokens=4))
        await asyncio.sleep(0.02)
    assert np.isfinite(took).all(), "the quiet key was refused"
    return float(np.percentile(took, 99))


@pytest.mark.parametrize(
    ("times", "again_s"),
    [
        pytest.param(20, None, id="served"),
        # these need a machine that does nothing else
        pytest.param(2, None, id="timed", marks=pytest.mark.slow),
        pytest.param(2, 0.05, id="impatient", marks=pytest.mark.slow),
    ],
)
async def test_a_flood_from_one_key_leaves_another_its_first_tokens(
    tmp_path: Path, times: int, again_s: float | None
) -> None:
    keys = tmp_path / "keys.yaml"
    keys.write_text(KEYS)
    keys.chmod(0o600)
    flags = ("--api-key-file", str(keys), "--max-num-seqs", "8", "--max-model-len", "256")
    with real_server(*flags, key="sk-quiet-0123456789") as server:
        server.wait_ready()
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            # what is compared: the other key as busy as a well-behaved one keeps it, and its flood
            stop = asyncio.Event()

            async def loud(places: int) -> None:
                async def again(i: int) -> None:
                    while not stop.is_set():
                        await first_token(session, server, "sk-loud-0123456789", i, again_s=again_s, max_tokens=64)

                await asyncio.gather(*(again(i) for i in range(places)))

            busy = asyncio.create_task(loud(7))
            await asyncio.sleep(1)
            calm = await quiet_p99(session, server, 8)
            stop.set()
            await busy
            stop.clear()
            flood = asyncio.create_task(loud(200))
            await asyncio.sleep(1)
            flooded = await quiet_p99(session, server, 8)
            stop.set()
            flood.cancel()
            await asyncio.gather(flood, return_exceptions=True)
    print(f"p99 of first tokens: {1000 * calm:.1f} ms beside 7 of another key, {1000 * flooded:.1f} in a flood of 200")
    assert flooded <= times * calm
