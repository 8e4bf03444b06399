"""What an operator may do on the admin socket, over a scripted engine."""

from __future__ import annotations

import asyncio
from pathlib import Path

from admin_client import operator
from scripted_engine import ScriptedEngine, ScriptedStream
from served import served

PATH = "/v1/completions"


async def forever(stream: ScriptedStream) -> int:
    await asyncio.sleep(0 if not stream.sent else 30)
    return 1


async def test_abort_ends_all_requests_but_its_own(tmp_path: Path) -> None:
    async with served(ScriptedEngine(forever)) as it, operator(it, tmp_path) as admin:
        async with admin.post("/abort_requests") as response:
            assert await response.json() == {"status": "ok", "count": 0}, "it counts itself"
        asked = [asyncio.create_task(it.post(PATH, prompt=[1])) for _ in range(3)]
        while len(it.engine.live) < 3:
            await asyncio.sleep(0.01)
        async with admin.post("/abort_requests") as response:
            assert await response.json() == {"status": "ok", "count": 3}
        for status, reply in await asyncio.gather(*asked):
            assert (status, reply["error"]["code"]) == (503, "aborted")


async def test_abort_takes_ids_of_requests(tmp_path: Path) -> None:
    async with served(ScriptedEngine(forever)) as it, operator(it, tmp_path) as admin:
        asked = [
            asyncio.create_task(it.client.post(PATH, json={"prompt": [1]}, headers={"X-Request-Id": name}))
            for name in ("a", "b")
        ]
        while len(it.engine.live) < 2:
            await asyncio.sleep(0.01)
        async with admin.post("/abort_requests", json={"ids": ["b", "c"]}) as response:
            assert (await response.json())["count"] == 1
        assert (await asked[1]).status == 503
        assert not asked[0].done()
        asked[0].cancel()


async def test_pause_turns_requests_away_until_resume(tmp_path: Path) -> None:
    async with served() as it, operator(it, tmp_path) as admin:
        async with admin.post("/pause") as response:
            assert (await response.json())["status"] == "paused"
        status, reply = await it.post(PATH, prompt=[1], max_tokens=1)
        assert (status, reply["error"]["code"]) == (503, "not_ready")
        async with admin.post("/resume") as response:
            assert response.status == 200
        assert (await it.post(PATH, prompt=[1], max_tokens=1))[0] == 200
        async with admin.post("/start_profile") as response:
            assert response.status == 400, "no --profile-dir was given"
        async with admin.post("/reset_prefix_cache") as response:
            assert response.status == 200
        assert it.engine.calls == [("reset_prefix_cache", "")]
