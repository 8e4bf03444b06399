"""One server's life: the socket opens at once, the engine starts behind it, signals drain it, and it ends with a status.

SIGTERM: not ready at once; requests are still taken for the grace that gateways need to learn it; then those in flight
are finished for `shutdown_timeout`, the rest is aborted with an error. A second SIGTERM or SIGINT aborts at once.
SIGINT leaves the grace out: somebody sits in front of it. SIGHUP reads keys and certificates again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from aiohttp import web

from jaxpaged.config import EngineConfig
from jaxpaged.errors import JaxPagedError
from jaxpaged_server.access.keys import Keys
from jaxpaged_server.admission.admission import Admission
from jaxpaged_server.app import make_admin_app, make_app
from jaxpaged_server.connections import Connections
from jaxpaged_server.engine_process.supervisor import EngineSupervisor
from jaxpaged_server.listening import close_sockets, listen
from jaxpaged_server.logs import configure_logging
from jaxpaged_server.metrics.registry import ServerMetrics
from jaxpaged_server.metrics.status_line import status_lines
from jaxpaged_server.services import Services
from jaxpaged_server.settings import ServerConfig
from jaxpaged_server.text import TextWorker
from jaxpaged_server.tls import TlsContext

ENGINE_FAILED = 70
"""Exit status where the engine is beyond starting again (EX_SOFTWARE: supervisors start the server again)."""
_MAX_CONNECTIONS = 8192
_CHARACTERS_PER_BYTE = 4
"""A rendered conversation may have so many characters per byte that a body may have."""
_log = logging.getLogger("jaxpaged")


def serve(engine_config: EngineConfig, server_config: ServerConfig) -> int:
    """Serve until a signal or the engine's end; returns the exit status. Raises JaxPagedError and OSError before it
    serves: for keys, certificates, a tokenizer or an address that cannot be."""
    configure_logging(server_config)
    run = asyncio.run
    if "uvloop" in sys.modules or _has_uvloop():
        import uvloop

        run = uvloop.run
    return run(_serve(engine_config, server_config))


def _has_uvloop() -> bool:
    from importlib.util import find_spec

    return find_spec("uvloop") is not None


async def _serve(engine_config: EngineConfig, server_config: ServerConfig) -> int:
    async with Server.open(engine_config, server_config) as server:
        server.handle_signals()
        return await server.run()


class Server:
    """A server that listens, and its engine. Made by `open`."""

    def __init__(
        self,
        services: Services,
        connections: Connections,
        runners: list[web.AppRunner],
        tls: TlsContext | None,
        address: str,
    ) -> None:
        self.services = services
        self.address = address
        self._connections = connections
        self._runners = runners
        self._tls = tls
        self._asked = asyncio.Event()  # to stop
        self._abort = asyncio.Event()  # at once
        self._grace_s = 0.0

    @classmethod
    @asynccontextmanager
    async def open(cls, engine_config: EngineConfig, server_config: ServerConfig) -> AsyncIterator[Server]:
        """Listen, start the engine, and take all of it down at the end."""
        services = make_services(engine_config, server_config)
        tls = TlsContext.of(server_config)
        connections = Connections(header_timeout_s=server_config.header_timeout_s, most=_MAX_CONNECTIONS)
        sockets = listen(server_config)
        runners: list[web.AppRunner] = []
        servers: list[asyncio.Server] = []
        loop = asyncio.get_running_loop()
        try:
            public = await _runner(make_app(services, connections), server_config)
            runners.append(public)
            assert public.server is not None
            for socket in sockets.public:
                guarded = connections.guard(public.server)
                context = None if tls is None else tls.context
                servers.append(await loop.create_server(guarded, sock=socket, ssl=context, backlog=1024))
            if sockets.admin is not None:
                admin = await _runner(make_admin_app(services, connections), server_config)
                runners.append(admin)
                assert admin.server is not None
                servers.append(await loop.create_unix_server(connections.guard(admin.server), sock=sockets.admin))
            services.engine.start()
            server = cls(services, connections, runners, tls, sockets.address)
            _log.info("listening on %s", sockets.address)
            yield server
        finally:
            for listener in servers:
                listener.close()
            await services.engine.stop(grace_s=5.0)
            for runner in runners:
                await runner.cleanup()
            await services.text.close()
            close_sockets(sockets)

    async def run(self) -> int:
        """Serve until asked to stop, then drain; or until the engine is given up. Returns the exit status."""
        services = self.services
        ticker = asyncio.create_task(status_lines(services.metrics, services.settings))
        asked = asyncio.create_task(self._asked.wait())
        gone = asyncio.ensure_future(services.engine.gone)
        announce = asyncio.create_task(self._announce())
        try:
            await asyncio.wait({asked, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not self._asked.is_set():
                _log.error("the engine is given up: %s", services.engine.state.error)
                return _status_of(gone)
            await self._drain()
            return 0
        finally:
            for task in (ticker, asked, announce):
                task.cancel()

    def handle_signals(self) -> None:
        """Let signals of this process stop it, and read keys again."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.stop, self.services.settings.drain_grace)
        loop.add_signal_handler(signal.SIGINT, self.stop, 0.0)
        if hasattr(signal, "SIGHUP"):
            loop.add_signal_handler(signal.SIGHUP, self.reload)

    def stop(self, grace_s: float = 0.0) -> None:
        """Drain and end; a second time: end now."""
        if self._asked.is_set():
            _log.warning("asked again: what is in flight is aborted")
            self._abort.set()
            return
        self._grace_s = grace_s
        self._asked.set()

    def reload(self) -> None:
        """Read keys and certificates again; what is broken is logged, and what was there before stays."""
        for name, action in (("keys", self.services.keys.reload), ("certificates", self._reload_tls)):
            try:
                action()
                _log.info("%s are read again", name)
            except (JaxPagedError, OSError) as error:
                _log.error("%s stay as they were: %s", name, error)

    def _reload_tls(self) -> None:
        if self._tls is not None:
            self._tls.reload()

    async def _announce(self) -> None:
        with contextlib.suppress(JaxPagedError):
            info = await self.services.engine.wait_ready()
            width = max(len(name) for name, _ in info.table)
            for name, value in info.table:
                _log.info("%-*s  %s", width, name, value)
            _log.info("ready: %s", self.address)

    async def _drain(self) -> None:
        """In the order that the module's docstring tells."""
        services, settings = self.services, self.services.settings
        services.draining = True
        _log.info("stopping: %d requests in flight", len(services.flights))
        if services.engine.state.phase == "ready":
            await self._unless_aborted(asyncio.sleep(self._grace_s))
        services.admission.drain()
        await self._unless_aborted(self._until_idle(settings.shutdown_timeout))
        if len(services.flights):
            _log.warning("%d requests are aborted", len(services.flights))
            services.flights.abort()
            await self._until_idle(2.0)
        self._forget_idle()

    async def _until_idle(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while len(self.services.flights) and time.monotonic() < until:
            await asyncio.sleep(0.02)

    async def _unless_aborted(self, waiting: object) -> None:
        task, abort = asyncio.ensure_future(waiting), asyncio.create_task(self._abort.wait())  # type: ignore[arg-type]
        try:
            await asyncio.wait({task, abort}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            task.cancel()
            abort.cancel()

    def _forget_idle(self) -> None:
        """Nothing here yet: kept connections are closed with their runner."""


def make_services(engine_config: EngineConfig, server_config: ServerConfig) -> Services:
    """The parts of a server, none of them started. Raises JaxPagedError for keys or a tokenizer that cannot be read."""
    folder = engine_config.tokenizer or engine_config.model
    template = None if server_config.chat_template is None else Path(server_config.chat_template).read_text("utf-8")
    text = TextWorker(
        folder, template=template, most_characters=server_config.max_body_bytes * _CHARACTERS_PER_BYTE
    )
    keys = load_keys(server_config)
    engine = EngineSupervisor(
        engine_config, max_restarts=server_config.max_engine_restarts, hang_timeout_s=server_config.engine_hang_timeout_s
    )
    names = server_config.served_model_name or (Path(engine_config.model).name,)
    return Services(
        settings=server_config,
        names=tuple(names),
        engine=engine,
        admission=Admission(),
        authenticator=Authenticator(keys),
        text=text,
        metrics=ServerMetrics(model_name=names[0]),
        created=int(time.time()),
    )


async def _runner(app: web.Application, config: ServerConfig) -> web.AppRunner:
    runner = web.AppRunner(
        app,
        handler_cancellation=True,
        keepalive_timeout=config.keep_alive_s,
        shutdown_timeout=1.0,
        access_log=None,
        max_line_size=8190,
        max_field_size=8190,
        handle_signals=False,
    )
    await runner.setup()
    return runner


def _status_of(gone: asyncio.Future[object]) -> int:
    return ENGINE_FAILED if gone.done() else 0


__all__ = ["ENGINE_FAILED", "Callable", "Server", "make_services", "replace", "serve"]
