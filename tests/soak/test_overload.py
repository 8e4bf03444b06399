"""A flood of ten times what the server can do: what it still does, how fast it refuses, how soon it is well again."""

from __future__ import annotations

import asyncio

import overload
import pytest
from real_server import real_server

pytestmark = [pytest.mark.soak, pytest.mark.timeout(600)]


@pytest.mark.parametrize(
    ("seconds", "timed"),
    [
        pytest.param(20.0, False, id="20s"),
        pytest.param(60.0, True, id="60s", marks=pytest.mark.slow),  # its figures need a machine that does nothing else
    ],
)
async def test_overload(seconds: float, timed: bool) -> None:
    with real_server("--max-num-seqs", "16", "--max-model-len", "256") as server:
        server.wait_ready()
        target = overload.Target(url=server.url, model="jaxpaged-tiny", input_len=32, output_len=128, vocab=4096)
        found = await overload.overload(target, concurrency=24, count=200, times=10.0, seconds=seconds, watched_s=6.0)
        print(found)
        for _ in range(100):
            if server.metric("vllm:num_requests_running") == 0:
                break
            await asyncio.sleep(0.1)
        held = sum(server.metric("jaxpaged:kv_tokens", **{"class": name}) for name in ("live", "shared", "tail"))
        assert held == 0
        assert server.metric("jaxpaged:engine_restarts_total") == 0
    assert found.others == {}
    assert found.refusals.count > 100
    assert found.refusals.with_retry_after == found.refusals.count
    assert found.recovery_s is not None
    assert found.goodput_share >= (0.9 if timed else 0.5)
    if timed:
        assert found.refusals.p99_ms < 50
        assert found.recovery_s <= 5
