"""The end of a server, over a scripted engine; real processes and signals are in tests/soak."""

from __future__ import annotations

import asyncio
from pathlib import Path

from jaxpaged_server.access.keys import Keys
from jaxpaged_server.lifecycle import ENGINE_FAILED, Server
from prometheus_client.parser import text_string_to_metric_families as parse_text
from scripted_engine import ScriptedEngine, ScriptedStream
from served import Served, served

from jaxpaged.errors import EngineError

PATH = "/v1/completions"


async def forever(stream: ScriptedStream) -> int:
    await asyncio.sleep(0.01)
    return 0 if stream.sent else 1


async def full(it: Served) -> list[asyncio.Task[tuple[int, object]]]:
    """More requests than the engine takes: some are in it, some wait."""
    asked = [asyncio.create_task(it.post(PATH, prompt=[1])) for _ in range(12)]
    while len(it.engine.live) < 10 or it.services.admission.num_waiting < 2:
        await asyncio.sleep(0.01)
    return asked


async def test_those_who_wait_are_told_when_the_engine_is_given_up() -> None:
    async with served(ScriptedEngine(forever)) as it:
        asked = await full(it)
        running = asyncio.create_task(Server(it.services, None).run())
        await asyncio.sleep(0.05)
        it.services.admission.pause("starting its engine again")
        it.engine.break_down()
        it.engine.gone.set_result(EngineError(name="engine", value="ended", limit="for a test"))
        assert await running == ENGINE_FAILED
        ended = [task for task in asked if task.done()]
        assert len(ended) == 12, "somebody was left without an answer"
        assert {status for status, _ in await asyncio.gather(*asked)} == {503}


async def test_a_drain_finishes_what_runs_and_what_waits_and_takes_nothing_new() -> None:
    async def pace(stream: ScriptedStream) -> int:
        await asyncio.sleep(0.05)
        return 4

    async with served(ScriptedEngine(pace), shutdown_timeout=10.0) as it:
        asked = await full(it)
        server = Server(it.services, None)
        running = asyncio.create_task(server.run())
        server.stop(grace_s=0.2)
        await asyncio.sleep(0.05)
        assert (await it.post(PATH, prompt=[1], max_tokens=1))[0] == 200, "it is still taken in the grace"
        await asyncio.sleep(0.2)
        assert await running == 0
        assert {status for status, _ in await asyncio.gather(*asked)} == {200}
        status, _ = await it.post(PATH, prompt=[1], max_tokens=1)
        assert status == 503


async def test_keys_that_a_reload_brings_are_counted_and_those_it_takes_stay_so(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"

    def write(*names: str) -> None:
        entries = "".join(f"\n  - {{name: {name}, key: k-{name}, admin: true}}" for name in names)
        file.write_text(f"keys:{entries}\n")
        file.chmod(0o600)

    async def ask(it: Served, name: str) -> dict[str, float]:
        headers = {"Authorization": f"Bearer k-{name}"}
        async with it.client.post(PATH, json={"prompt": [1], "max_tokens": 1}, headers=headers) as response:
            assert response.status == 200
        async with it.client.get("/metrics", headers=headers) as response:
            families = parse_text(await response.text())
        found = [sample for family in families for sample in family.samples]
        return {one.labels["key"]: one.value for one in found if one.name == "jaxpaged:key_requests_total"}

    write("old", "other")
    async with served(keys=Keys(file=file)) as it:
        assert await ask(it, "old") == {"old": 1, "other": 0}
        write("new", "other")
        await Server(it.services, None)._reload()
        assert await ask(it, "new") == {"old": 1, "other": 0, "new": 1}
