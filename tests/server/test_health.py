"""Health tells what is true: readiness comes from what the engine does, not from a flag (HEALTH of the advisories)."""

from __future__ import annotations

import time
from dataclasses import replace as replaced
from typing import Any

import msgspec
from jaxpaged_server.engine_process.supervisor import EngineState
from scripted_engine import BEAT
from served import Served, served


async def asked(it: Served, path: str) -> tuple[int, Any]:
    async with it.client.get(path) as response:
        return response.status, await response.json() if response.content_type == "application/json" else None


async def test_ready_is_told_while_the_engine_serves() -> None:
    async with served() as it:
        for path in ("/health", "/health/ready"):
            assert await asked(it, path) == (
                200,
                {"status": "ok", "phase": "ready", "done": 0, "total": 0, "left_s": None, "detail": ""},
            )
        assert await asked(it, "/ping") == (200, None)
        assert (await asked(it, "/health/live"))[0] == 200


async def test_a_start_tells_its_phase_and_progress() -> None:
    async with served() as it:
        it.engine.state = EngineState(phase="compiling", done=7, total=24, left_s=12.4)
        status, reply = await asked(it, "/health/ready")
        assert status == 503
        assert (reply["phase"], reply["done"], reply["total"], reply["left_s"]) == ("compiling", 7, 24, 12.4)
        async with it.client.get("/health") as response:
            assert response.headers["Retry-After"] == "12"
        assert (await asked(it, "/ping"))[0] == 503
        assert (await asked(it, "/health/live"))[0] == 200
        status, reply = await it.post("/v1/completions", prompt="a")
        assert (status, reply["error"]["code"]) == (503, "not_ready")


async def test_an_engine_that_says_nothing_or_does_not_move_is_not_ready() -> None:
    async with served() as it:
        it.services.last_beat = time.monotonic() - 3
        status, reply = await asked(it, "/health/ready")
        assert (status, reply["phase"], reply["detail"]) == (503, "stalled", "the engine's process says nothing")
        it.services.last_beat = time.monotonic()
        it.engine.beat = msgspec.structs.replace(BEAT, step_age_s=11.0)
        assert (await asked(it, "/health/ready"))[1]["detail"] == "the engine's step does not end"
        it.engine.beat = msgspec.structs.replace(BEAT, step_age_s=20.0, longest_step_s=8.0)
        assert (await asked(it, "/health/ready"))[0] == 200, "steps are long here"
        it.engine.beat = msgspec.structs.replace(BEAT, step_age_s=25.0, longest_step_s=8.0)
        assert (await asked(it, "/health/ready"))[0] == 503
        it.engine.beat = None
        assert (await asked(it, "/health/ready"))[0] == 200, "it is ready since less than a beat"
        it.engine.beat = msgspec.structs.replace(BEAT, waiting=3, oldest_wait_s=11.0)
        assert (await asked(it, "/health/ready"))[1]["detail"] == "the engine's queue does not move"
        it.engine.beat = msgspec.structs.replace(BEAT, waiting=3, running=2, oldest_wait_s=11.0)
        assert (await asked(it, "/health/ready"))[0] == 200
        assert (await asked(it, "/health/live"))[0] == 200


async def test_a_server_that_drains_or_is_paused_is_not_ready() -> None:
    async with served() as it:
        it.services.admission.pause("for a test")
        assert (await asked(it, "/health/ready"))[1]["phase"] == "paused"
        it.services.admission.resume()
        it.services.draining = True
        status, reply = await asked(it, "/health/ready")
        assert (status, reply["phase"]) == (503, "draining")
        async with it.client.get("/version") as response:
            assert response.headers["Connection"] == "close"


async def test_an_engine_given_up_is_told_without_its_reasons() -> None:
    async with served() as it:
        it.engine.state = replaced(EngineState(phase="failed"), error="/secret/path broke")
        status, reply = await asked(it, "/health/ready")
        assert status == 503
        assert reply["phase"] == "failed"
        assert "secret" not in str(reply)
