"""GET /status.json and /metrics: who may see what."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from admin_client import operator
from admission_door import line_up
from aiohttp import ClientSession
from jaxpaged_server.access.keys import Keys
from jaxpaged_server.metrics.request_figures import RequestFigures
from served import Served, served

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
