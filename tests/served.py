"""A server's application over a scripted engine, for tests of HTTP alone."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, cast

from aiohttp import ClientSession
from jaxpaged_server.access.keys import Keys
from jaxpaged_server.admission.admission import Admission
from jaxpaged_server.app import make_app
from jaxpaged_server.assembly import admission_sizes, make_forms
from jaxpaged_server.connections import Connections
from jaxpaged_server.flights import Flights
from jaxpaged_server.forms import Forms
from jaxpaged_server.lifecycle import set_up
from jaxpaged_server.metrics.registry import ServerMetrics
from jaxpaged_server.services import Services
from jaxpaged_server.settings import ServerConfig
from jaxpaged_server.text import TextWorker
from scripted_engine import INFO, ScriptedEngine
from yarl import URL

from jaxpaged.structured.params import StructuredOutputsParams
from jaxpaged.tiny import TINY_MODEL


class Served:
    """The application's client, and what is behind it."""

    def __init__(
        self, client: ClientSession, url: URL, services: Services, engine: ScriptedEngine, connections: Connections
    ) -> None:
        self.connections = connections
        self.client = client
        self.url = url
        self.services = services
        self.engine = engine

    def limit_send_buffer(self, num_bytes: int) -> None:
        """Of the connections that are open now: the kernel would take megabytes for a reader who takes nothing."""
        for guard in self.connections.open_guards():
            assert guard.transport is not None
            guard.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, num_bytes)

    async def post(self, path: str, **body: Any) -> tuple[int, Any]:
        """Status and reply."""
        async with self.client.post(path, json=body) as response:
            return response.status, await response.json()


@asynccontextmanager
async def served(
    engine: ScriptedEngine | None = None,
    *,
    keys: Keys | None = None,
    look: Callable[[StructuredOutputsParams], object] | None = None,
    **settings: Any,
) -> AsyncIterator[Served]:
    """Serve in this process, on a free port. look: in place of what says whether a grammar can be made of a form."""
    engine = engine or ScriptedEngine()
    config, keys = ServerConfig(**settings), keys or Keys()
    admission = Admission(keys.keys)
    admission.ready(admission_sizes(INFO, config))

    def shared() -> bool:
        return len(keys.keys) > 1

    text = TextWorker(str(TINY_MODEL), template=None, most_characters=100_000, shared=shared)
    services = Services(
        settings=config,
        names=config.served_model_name or ("tiny",),
        engine=cast("Any", engine),
        keys=keys,
        text=text,
        forms=Forms(look, shared=shared) if look else make_forms(text.tokenizer, shared),
        metrics=ServerMetrics("tiny", keys=[key.name for key in keys.keys], queue=admission.waiting_by_reason),
        flights=Flights(),
        admission=admission,
        created=1_700_000_000,
        began=time.monotonic(),
        last_beat=time.monotonic() + 3600,
    )
    connections = Connections(
        header_timeout_s=config.header_timeout_s, write_timeout_s=config.write_timeout_s, most=1000
    )
    async with AsyncExitStack() as stack:
        stack.push_async_callback(services.close)
        protocols = await set_up(stack, make_app(services, connections), config)
        listener = await asyncio.get_running_loop().create_server(connections.guard(protocols), "127.0.0.1", 0)
        stack.callback(listener.close)
        url = URL.build(scheme="http", host="127.0.0.1", port=listener.sockets[0].getsockname()[1])
        client = await stack.enter_async_context(ClientSession(url))
        yield Served(client, url, services, engine, connections)
    for _ in range(100):  # the last handlers may still be told that their clients have left
        if not engine.live and not len(services.flights):
            break
        await asyncio.sleep(0.01)
    admission.check()
    assert admission.num_inside == admission.num_waiting == 0, "a place was not given back"
    assert not engine.live, "a stream was not ended"
    assert not len(services.flights)


async def events_of(it: Served, path: str = "/v1/completions", **body: Any) -> list[Any]:
    """The data of a stream's events, [DONE] as a string."""
    async with it.client.post(path, json={"stream": True, **body}) as response:
        assert response.status == 200, await response.text()
        assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        raw = (await response.read()).decode()
    lines = [block.removeprefix("data: ") for block in raw.split("\n\n") if block and not block.startswith(":")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]
