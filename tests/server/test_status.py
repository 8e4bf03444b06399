"""GET /status.json and /metrics: who may see what, and what it costs; what /server_info keeps."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from admin_client import operator
from admission_door import line_up
from aiohttp import ClientSession
from jaxpaged_server.access.keys import Keys
from jaxpaged_server.engine_process.runs import runs_of
from jaxpaged_server.engine_process.supervisor import EngineState
from jaxpaged_server.metrics.request_figures import RequestFigures
from jaxpaged_server.settings import ServerConfig
from long_runs import numbers_of
from scripted_engine import ScriptedEngine
from served import Served, served

from jaxpaged.errors import EngineError

NAMES = ("team-a", "team-b", "operations")
KEYS = """
keys:
  - {name: team-a, key: a}
  - {name: team-b, key: b}
  - {name: operations, key: o, admin: true}
"""


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    file = tmp_path / "keys.yaml"
    file.write_text(KEYS)
    file.chmod(0o600)
    return Keys(file=file)


@contextmanager
def in_use(it: Served) -> Iterator[None]:
    """Every key has asked, asks, and waits."""
    tickets = []
    for key in it.services.keys.keys:
        ended = RequestFigures(model="tiny", finish_reason="stop", prompt_tokens=20, e2e_s=1.0, key=key.name)
        it.services.metrics.on_request(ended)
        it.services.metrics.on_first_token(0.25)
        tickets += line_up(it.services.admission, key, 8)
    yield
    for ticket in tickets:
        ticket.release()


async def read(client: ClientSession, path: str, key: str = "") -> Any:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with client.get(path, headers=headers) as response:
        assert response.status == 200
        return await (response.json() if path.endswith("json") else response.text())


def names_in(text: str) -> list[str]:
    return [name for name in (*NAMES, "api-key-1", "anonymous") if f'"{name}"' in text]


async def test_an_ordinary_key_sees_totals_and_itself(keys: Keys) -> None:
    async with served(keys=keys) as it:
        with in_use(it):
            told = await read(it.client, "/status.json", "a")
            assert told["scope"] == "key"
            (own,) = told["queue"]
            assert own["key"] == "team-a"
            assert 0 < own["waiting"] < told["waiting"], "the total is of all keys"
            assert told["ledger"] is not None
            assert (told["pool"], told["steps"], told["latency"]) == (None, [], {"ttft": [], "itl": []})
            assert it.engine.calls == [], "the engine drew a pool that is not told"
            for key, name in (("a", "team-a"), ("b", "team-b")):
                assert names_in(await read(it.client, "/metrics", key)) == [name]


async def test_an_admin_key_sees_what_all_do(keys: Keys) -> None:
    async with served(keys=keys) as it:
        with in_use(it):
            told = await read(it.client, "/status.json", "o")
            assert [line["key"] for line in told["queue"]] == list(NAMES)
            assert told["scope"] == "all"
            assert told["pool"] is not None
            assert len(told["latency"]["ttft"]) == 3
            assert names_in(await read(it.client, "/metrics", "o")) == list(NAMES)


@pytest.mark.parametrize("key", ["", "k"])
async def test_where_nobody_else_is_all_is_shown(key: str) -> None:
    async with served(keys=Keys(plain=[key] if key else [])) as it:
        told = await read(it.client, "/status.json", key)
        assert told["scope"] == "all"
        assert told["pool"] is not None
        assert names_in(await read(it.client, "/metrics", key)) == ["api-key-1" if key else "anonymous"]


async def test_keys_of_the_command_line_do_not_see_each_other() -> None:
    async with served(keys=Keys(plain=["k", "l"])) as it:
        assert (await read(it.client, "/status.json", "k"))["scope"] == "key"


async def test_the_operators_socket_shows_all(keys: Keys, tmp_path: Path) -> None:
    async with served(keys=keys) as it, operator(it, tmp_path) as admin:
        with in_use(it):
            told = await read(admin, "/status.json")
            assert [line["key"] for line in told["queue"]] == list(NAMES)
            assert told["pool"] is not None
            assert names_in(await read(admin, "/metrics")) == list(NAMES)


class SlowlyDrawn(ScriptedEngine):
    """Its pool is drawn when it is told to, or cannot be."""

    def __init__(self) -> None:
        super().__init__()
        self.drawn = asyncio.Event()
        self.busy = False

    async def call(self, name: str, argument: str = "", timeout_s: float = 10.0) -> Any:
        found = await super().call(name, argument, timeout_s)
        await self.drawn.wait()
        if self.busy:
            raise EngineError(name="engine", value="busy", limit="it does not answer in time")
        return found

    def beats(self) -> None:
        assert self.beat is not None
        self.beat = msgspec.structs.replace(self.beat)


async def test_the_pool_is_drawn_once_a_beat_for_all_who_look() -> None:
    engine = SlowlyDrawn()
    async with served(engine) as it:
        looking = [asyncio.create_task(read(it.client, "/status.json")) for _ in range(4)]
        await asyncio.sleep(0.1)
        looking.pop(0).cancel()  # who closes the page does not end what the others wait for
        await asyncio.sleep(0.1)
        engine.drawn.set()
        pools = [told["pool"] for told in await asyncio.gather(*looking)]
        assert pools == [pools[0]] * 3
        assert (pools[0]["classes"], pools[0]["owners"]) == ([5, [0, 64]], [[-1, 65]])
        assert (await read(it.client, "/status.json"))["pool"] == pools[0]
        assert len(engine.calls) == 1
        engine.beats()
        assert (await read(it.client, "/status.json"))["pool"] == pools[0]
        assert len(engine.calls) == 2
        engine.busy = True
        engine.beats()
        assert (await read(it.client, "/status.json"))["pool"] is None
        engine.state = EngineState(phase="restarting")
        assert (await read(it.client, "/status.json"))["pool"] is None
        assert len(engine.calls) == 3


def test_runs_say_the_same_and_are_never_longer() -> None:
    draw = random.Random(0)
    for _ in range(200):
        numbers = [draw.choice((-1, -1, 0, 300)) for _ in range(draw.randrange(30))]
        assert numbers_of(runs_of(numbers)) == numbers
        assert len(msgspec.json.encode(runs_of(numbers))) <= len(msgspec.json.encode(numbers))
    assert runs_of(b"\5\0\0\0\2") == [5, (0, 3), 2]


async def test_a_setting_is_told_only_where_it_was_decided(tmp_path: Path) -> None:
    @dataclass(frozen=True, slots=True, kw_only=True)
    class Later(ServerConfig):
        new_secret: str = "sesame"

    async with served(profile_dir=str(tmp_path), host="127.0.0.2") as it:
        it.services.settings = Later(profile_dir=str(tmp_path), host="127.0.0.2", log_level="WARNING")
        text = await read(it.client, "/server_info")
        told = msgspec.json.decode(text)["server"]
        assert (told["log_level"], told["ttft_target_s"]) == ("WARNING", 30.0)
        assert not {"new_secret", "host", "port", "api_key", "api_key_file", "profile_dir"} & told.keys()
        for hidden in ("sesame", str(tmp_path), "127.0.0.2"):
            assert hidden not in text
