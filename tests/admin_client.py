"""A client of the operator's Unix socket, over a scripted engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from aiohttp import ClientSession, UnixConnector
from jaxpaged_server.app import make_admin_app
from jaxpaged_server.lifecycle import set_up
from served import Served


@asynccontextmanager
async def operator(it: Served, folder: Path) -> AsyncIterator[ClientSession]:
    """A client of the admin socket."""
    async with AsyncExitStack() as stack:
        protocols = await set_up(stack, make_admin_app(it.services, it.connections), it.services.settings)
        listener = await asyncio.get_running_loop().create_unix_server(protocols, folder / "admin")
        stack.callback(listener.close)
        connector = UnixConnector(str(folder / "admin"))
        yield await stack.enter_async_context(ClientSession("http://admin", connector=connector))
