"""One server's life: the socket opens at once, the engine starts behind it, signals drain it, it ends with a status.

A model that is named, and not here, is fetched before all that.

SIGTERM: not ready at once; requests are still taken for the grace that gateways need to learn it; then those in flight
are finished for `shutdown_timeout`, and the rest ends with finish reason "abort". A second SIGTERM or SIGINT aborts at
once. SIGINT leaves the grace out: somebody sits in front of it. SIGHUP reads keys and certificates again.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import resource
import signal
import socket
import ssl
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from importlib.util import find_spec
from typing import Any

from aiohttp import web

from jaxpaged.config import EngineConfig
from jaxpaged.errors import JaxPagedError
from jaxpaged.weights.source import localised
from jaxpaged_server.app import make_admin_app, make_app
from jaxpaged_server.assembly import make_services
from jaxpaged_server.connections import Connections
from jaxpaged_server.listening import BACKLOG, close_sockets, listen
from jaxpaged_server.logs import configure_logging
from jaxpaged_server.metrics.status_line import report
from jaxpaged_server.protocol import protocols_of
from jaxpaged_server.services import Services
from jaxpaged_server.settings import ServerConfig
from jaxpaged_server.tls import ServerTls

ENGINE_FAILED = 70
"""Exit status where the engine is beyond starting again (EX_SOFTWARE of sysexits.h)."""
_MAX_CONNECTIONS = 8192
_TLS_LOOK_S = 10.0
_LAST_WORDS_S = 2.0
"""For handlers to tell their clients that they were aborted."""
_OPEN_TO_ALL = (
    "%s asks for no key: whoever reaches it from another machine may use it. Give keys by --api-key-file, or listen on "
    "this machine alone by --host 127.0.0.1"
)
_log = logging.getLogger("jaxpaged")


def serve(engine_config: EngineConfig, server_config: ServerConfig) -> int:
    """Serve until a signal, or until the engine is given up; returns the exit status.

    A model that the hub has is fetched first. Raises JaxPagedError and OSError before it serves: for keys,
    certificates, a model, a tokenizer or an address that cannot be.
    """
    token = () if engine_config.hf_token is None else (engine_config.hf_token,)
    configure_logging(server_config.log_form, secrets=(*server_config.api_key, *token))
    engine_config = localised(engine_config, progress=sys.stderr.isatty())
    _allow_many_files()
    main = _serve(engine_config, server_config)
    if find_spec("uvloop") is None:
        return asyncio.run(main)
    import uvloop

    return uvloop.run(main)


def _allow_many_files() -> None:
    """A connection is a file, and the usual limit is for programs that have few."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * _MAX_CONNECTIONS if hard == resource.RLIM_INFINITY else min(hard, 2 * _MAX_CONNECTIONS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def _serve(engine_config: EngineConfig, server_config: ServerConfig) -> int:
    try:
        async with Server.open(engine_config, server_config, signals=True) as server:
            _keep_what_is_there()
            return await server.run()
    finally:
        _ignore_signals()


def _keep_what_is_there() -> None:
    """Modules, schemas and the tokenizer stay until the end: a collector that looked through them would make pauses."""
    gc.collect()
    gc.freeze()


def _ignore_signals() -> None:
    """The end has a status of its own by now, which a last signal must not change."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.remove_signal_handler(number)
        signal.signal(number, signal.SIG_IGN)


class Server:
    """A server that listens, and its engine. Made by `open`."""

    def __init__(self, services: Services, tls: ServerTls | None) -> None:
        self.services = services
        self.address = ""
        self._tls = tls
        self._asked = asyncio.Event()  # to stop
        self._hurried = asyncio.Event()  # asked again
        self._grace_s = 0.0
        self._reloading: asyncio.Task[None] | None = None

    @classmethod
    @asynccontextmanager
    async def open(
        cls, engine_config: EngineConfig, server_config: ServerConfig, *, signals: bool = False
    ) -> AsyncIterator[Server]:
        """Listen, start the engine, and take all of it down at the end. signals: of this process are the server's."""
        services = make_services(engine_config, server_config)
        tls = ServerTls.of(server_config)
        server = cls(services, tls)
        if signals:
            server.handle_signals()
        sockets = listen(server_config)
        connections = Connections(
            header_timeout_s=server_config.header_timeout_s,
            write_timeout_s=server_config.write_timeout_s,
            most=_MAX_CONNECTIONS,
        )
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(close_sockets, sockets)
            stack.push_async_callback(services.close)
            public = await set_up(stack, make_app(services, connections), server_config)
            admin = await set_up(stack, make_admin_app(services, connections), server_config)
            stack.push_async_callback(services.engine.stop)
            loop = asyncio.get_running_loop()
            for one in sockets.public:
                stack.callback((await accept(one, connections.guard(public), server_config, tls)).close)
            if sockets.admin is not None:
                factory = connections.guard(admin)
                stack.callback((await loop.create_unix_server(factory, sock=sockets.admin)).close)
            services.engine.start()
            _log.info("listening on %s", sockets.address)
            if sockets.reach_others and not services.keys.required and server_config.ssl_cert_reqs != ssl.CERT_REQUIRED:
                _log.warning(_OPEN_TO_ALL, sockets.address)
            server.address = sockets.address
            yield server

    async def run(self) -> int:
        """Serve until asked to stop, then drain; or until the engine is given up. Returns the exit status."""
        services = self.services
        async with contextlib.AsyncExitStack() as stack:
            if not services.settings.disable_log_stats:
                interval_s = services.settings.log_stats_interval
                _spawn(stack, report(services.metrics.snapshot, _log, interval_s=interval_s))
            if self._tls is not None and services.settings.enable_ssl_refresh:
                _spawn(stack, self._watch_tls(self._tls))
            asked, announced = _spawn(stack, self._asked.wait()), _spawn(stack, self._announce())
            await asyncio.wait({asked, services.engine.gone}, return_when=asyncio.FIRST_COMPLETED)
            announced.cancel()
            if not self._asked.is_set():
                _log.error("the engine is given up: %s", services.engine.gone.result())
                services.admission.drain()
                await self._abort()  # those that wait for an engine are told that there will be none
                return ENGINE_FAILED
            await self._drain()
            return 0

    def handle_signals(self) -> None:
        """Let signals of this process stop it, and read keys again."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.stop, self.services.settings.drain_grace)
        loop.add_signal_handler(signal.SIGINT, self.stop, 0.0)
        loop.add_signal_handler(signal.SIGHUP, self.reload)

    def stop(self, grace_s: float = 0.0) -> None:
        """Drain and end; a second time: end now."""
        if self._asked.is_set():
            _log.warning("asked to stop again: what is in flight is aborted")
            self._hurried.set()
            return
        self._grace_s = grace_s
        self._asked.set()

    def reload(self) -> None:
        """Read keys and certificates again; what is broken is logged, and what was there before stays."""
        self._reloading = asyncio.create_task(self._reload())

    async def _reload(self) -> None:
        """In a thread: a thousand keys take a third of a second."""
        keys = self.services.keys
        actions = [("keys", keys.reload), *([] if self._tls is None else [("certificates", self._tls.reload)])]
        for name, action in actions:
            try:
                await asyncio.to_thread(action)
                _log.info("%s were read again", name)
            except (JaxPagedError, OSError) as error:
                _log.error("%s stay as they were: %s", name, error)
        self.services.admission.use_keys(keys.keys)
        self.services.metrics.use_keys(key.name for key in keys.keys)

    async def _watch_tls(self, tls: ServerTls) -> None:
        while True:
            await asyncio.sleep(_TLS_LOOK_S)
            try:
                if tls.reload_if_changed():
                    _log.info("certificates were read again")
            except (JaxPagedError, OSError) as error:
                _log.error("certificates stay as they were: %s", error)

    async def _announce(self) -> None:
        with contextlib.suppress(JaxPagedError):  # `run` sees why
            info = await self.services.engine.wait_ready()
            width = max((len(name) for name, _ in info.table), default=0)
            for name, value in info.table:
                _log.info("%-*s  %s", width, name, value)
            _log.info("ready on %s in %.1f s", self.address, time.monotonic() - self.services.began)

    async def _drain(self) -> None:
        services, settings = self.services, self.services.settings
        services.draining = True
        services.metrics.on_phase("draining")
        _log.info("stopping; in flight: %d", len(services.flights))
        if services.engine.state.phase == "ready":
            await self._unless_hurried(asyncio.sleep(self._grace_s))
        services.admission.drain()
        await self._unless_hurried(self._until_idle(settings.shutdown_timeout))
        await self._abort()

    async def _abort(self) -> None:
        """End what is in flight, each with its answer."""
        services = self.services
        if not len(services.flights):
            return
        _log.warning("aborted: %d", len(services.flights))
        services.admission.abort_all()
        services.engine.abort_all()
        await self._until_idle(_LAST_WORDS_S)
        if services.flights.abort():
            await self._until_idle(_LAST_WORDS_S)

    async def _until_idle(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while len(self.services.flights) and time.monotonic() < until:
            await asyncio.sleep(0.02)

    async def _unless_hurried(self, waiting: Coroutine[Any, Any, None]) -> None:
        async with contextlib.AsyncExitStack() as stack:
            tasks = {_spawn(stack, waiting), _spawn(stack, self._hurried.wait())}
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)


async def accept(
    one: socket.socket, factory: Callable[[], asyncio.Protocol], config: ServerConfig, tls: ServerTls | None
) -> asyncio.Server:
    """Take connections of a listening socket. The greeting of TLS has the time of a request's head: a connection is not
    counted, nor watched by its protocol, before it."""
    loop = asyncio.get_running_loop()
    if tls is None:
        return await loop.create_server(factory, sock=one, backlog=BACKLOG)
    limit_s = config.header_timeout_s
    return await loop.create_server(
        factory, sock=one, backlog=BACKLOG, ssl=tls.context, ssl_handshake_timeout=limit_s, ssl_shutdown_timeout=limit_s
    )


def _spawn(stack: contextlib.AsyncExitStack, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """A task that is ended with the stack."""
    task = asyncio.create_task(work)
    stack.callback(task.cancel)
    return task


async def set_up(
    stack: contextlib.AsyncExitStack, app: web.Application, config: ServerConfig
) -> Callable[[], asyncio.BaseProtocol]:
    """A factory of protocols for an application, which is set up until the stack's end."""
    runner = web.AppRunner(
        app,
        handle_signals=False,
        handler_cancellation=True,  # a client who leaves ends its handler
        shutdown_timeout=1.0,
        access_log=None,
    )
    stack.push_async_callback(runner.cleanup)
    await runner.setup()
    assert runner.server is not None
    return protocols_of(
        runner.server,
        access_log=None,
        auto_decompress=False,
        keepalive_timeout=config.keep_alive_s,
        max_line_size=8190,
        max_field_size=8190,
    )
