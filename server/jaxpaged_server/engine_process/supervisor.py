"""Keeps one engine process going: starts it, watches it, ends it when it hangs, and starts it again. [no jax]"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

from jaxpaged.config import EngineConfig
from jaxpaged.errors import ConfigError, EngineError, JaxPagedError, ModelError
from jaxpaged.request import SamplingParams
from jaxpaged_server.engine_process.client import EngineClient, Said
from jaxpaged_server.engine_process.error_fields import error_of
from jaxpaged_server.engine_process.process import WORKER, EngineProcess
from jaxpaged_server.engine_process.restart_policy import RestartPolicy
from jaxpaged_server.engine_process.token_stream import TokenStream
from jaxpaged_server.engine_process.watchdog import Watchdog, WatchLimits
from jaxpaged_server.engine_process.wire import (
    Beat,
    Broken,
    CacheEvents,
    Cleared,
    EngineInfo,
    Phase,
    Ready,
    Start,
    Stop,
)
from jaxpaged_server.logs import LogForm

log = logging.getLogger(__name__)
T = TypeVar("T")

PhaseName = Literal["starting", "loading", "compiling", "ready", "restarting", "failed", "stopped"]
BeatListener = Callable[[Beat], object]
CacheListener = Callable[[CacheEvents], object]
StateListener = Callable[["EngineState"], None]
_CALL_S = 30.0
_COMPILE_S = 1800.0  # a step that compiles its own program first


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineState:
    """How far the engine is. done of total: bytes while loading, programs while compiling; total 0: not countable.

    left_s: seconds to the end of the phase, where that can be told. error: why it is restarted, or failed. restarts: in
    the window that bounds them.
    """

    phase: PhaseName
    done: int = 0
    total: int = 0
    left_s: float | None = None
    error: str = ""
    restarts: int = 0


class EngineSupervisor:
    """One engine in a process of its own, for one event loop. `start`, then `wait_ready` or look at `state`.

    policy: when it is started again. One that calls itself impossible (a bad model, a bad option) before it ever served
    is not.
    limits: how long what may take. block_share, estimates: what else the engine measures, see `wire.Start`. log_form:
    of the lines that its process logs. faults: the engine may be told to break (`call("fault", ...)`), for tests.
    command: what is started. The thread that runs the event loop must outlive the engine.
    """

    def __init__(
        self,
        config: EngineConfig,
        *,
        policy: RestartPolicy | None = None,
        limits: WatchLimits | None = None,
        block_share: float = 0.0,
        estimates: bool = False,
        log_form: LogForm | None = None,
        faults: bool = False,
        command: Sequence[str] = WORKER,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config = config
        self.state = EngineState(phase="stopped")
        self.info: EngineInfo | None = None
        """Of the last engine that was ready; it stays while another is started."""
        self.beat: Beat | None = None
        """The last one of the engine that serves; its counters begin at 0 with each engine."""
        self.pid: int | None = None
        """Of the engine's process, where there is one."""
        self._limits = limits or WatchLimits()
        if not config.warmup and config.bundle is None:
            self._limits = replace(self._limits, step_s=_COMPILE_S, first_step_s=_COMPILE_S)
        self._policy = policy or RestartPolicy(clock=clock)
        self._faults, self._command, self._clock = faults, command, clock
        self._block_share, self._estimates = block_share, estimates
        self.log_form = log_form or LogForm()
        self._numbers = itertools.count(1)
        self._listeners: list[BeatListener] = []
        self._cache_listeners: list[CacheListener] = []
        self._state_listeners: list[StateListener] = []
        self._client: EngineClient | None = None
        self._process: EngineProcess | None = None
        self._watchdog: Watchdog | None = None
        self._broken: Broken | None = None  # what the present process said of its end
        self._stopping: asyncio.Event | None = None
        self._changed: asyncio.Event | None = None  # of `state`; a new one after each change
        self._task: asyncio.Task[None] | None = None
        self._gone: asyncio.Future[JaxPagedError] | None = None

    @property
    def gone(self) -> asyncio.Future[JaxPagedError]:
        """Resolves, with the reason, when it gives up: no engine will be started any more."""
        if self._gone is None:
            raise _no_engine("not started")
        return self._gone

    def start(self) -> None:
        """Start the engine; returns at once. To be called once, in the event loop."""
        assert self._task is None, "a supervisor is started once"
        loop = asyncio.get_running_loop()
        self._stopping, self._changed, self._gone = asyncio.Event(), asyncio.Event(), loop.create_future()
        self.state = EngineState(phase="starting")
        self._task = loop.create_task(self._run(), name="engine supervisor")

    def add_beat_listener(self, listener: BeatListener) -> None:
        """Call it with every beat, four times a second, in the event loop. What it raises is logged."""
        self._listeners.append(listener)

    def add_cache_listener(self, listener: CacheListener) -> None:
        """Call it with what enters and leaves the prefix cache, in the event loop. To be called before `start`.

        An engine's end clears its cache, which is told, too. What the listener raises is logged.
        """
        assert self._task is None, "the engine is told at its start whether anybody listens"
        self._cache_listeners.append(listener)

    def add_state_listener(self, listener: StateListener) -> None:
        """Call it with every state, in the event loop. It must not raise."""
        self._state_listeners.append(listener)

    @property
    def silence_s(self) -> float | None:
        """Seconds since anything was heard of the engine's process; None where there is none. A ready one beats every
        250 ms.
        """
        return None if self._client is None else self._clock() - self._client.heard_at

    @property
    def num_streams(self) -> int:
        """Requests in flight."""
        return 0 if self._client is None else self._client.num_streams

    def submit(self, ids: Sequence[int], params: SamplingParams, salt: str = "") -> TokenStream:
        """Queue token ids. salt: the namespace of their cached prefixes.

        Raises EngineError unless the engine is ready. What the engine refuses is raised by the stream.
        """
        return self._serving().submit(ids, params, salt=salt)

    def submit_forks(
        self,
        ids: Sequence[int],
        params: Sequence[SamplingParams],
        salt: str = "",
        length_penalty: float | None = None,
    ) -> list[TokenStream]:
        """The same for requests of one prompt; see `EngineClient.submit_forks`."""
        return self._serving().submit_forks(ids, params, salt=salt, length_penalty=length_penalty)

    async def call(self, name: str, argument: str = "", timeout_s: float = _CALL_S) -> Any:
        """Ask the engine for something else, see `wire.Call`; "pool_map" gives a `wire.PoolMap`.

        Raises EngineError unless it is ready and answers in time, and the error that it answers with.
        """
        return await self._serving().call(name, argument, timeout_s=timeout_s)

    def abort_all(self) -> int:
        """End all requests in flight with finish reason "abort"; returns how many."""
        return 0 if self._client is None else self._client.abort_all()

    async def wait_ready(self) -> EngineInfo:
        """Wait until it serves. Raises why it never will: the engine's own error where it named one."""
        while self.state.phase != "ready":
            if self.gone.done():
                raise self.gone.result()
            if self.state.phase == "stopped":
                raise _no_engine("stopped")
            assert self._changed is not None
            await self._changed.wait()
        assert self.info is not None
        return self.info

    async def stop(self, grace_s: float = 5.0) -> None:
        """End the engine for good: it has so long to end by itself. Streams in flight raise EngineError."""
        if self._task is None or self._stopping is None:
            return
        self._stopping.set()
        if self._client is not None:
            self._client.send(Stop())
        done, _ = await asyncio.wait([self._task], timeout=grace_s)
        if not done and self._process is not None:
            self._process.kill()
        await asyncio.wait([self._task])

    def _serving(self) -> EngineClient:
        stopping = self._stopping is not None and self._stopping.is_set()
        if self.state.phase != "ready" or self._client is None or stopping:
            raise _no_engine("stopping" if stopping else self.state.phase)
        return self._client

    def _set(self, state: EngineState) -> None:
        assert self._changed is not None
        self.state = state
        for listener in self._state_listeners:
            listener(state)
        self._changed.set()
        self._changed = asyncio.Event()

    # The supervisor's own task.

    async def _run(self) -> None:
        assert self._stopping is not None
        error: JaxPagedError = _no_engine("broken")
        try:
            while not self._stopping.is_set():
                error = await self._one_life()
                if self._stopping.is_set():
                    break
                # not for one that has served: a device may be full until the last of the one before it is gone
                final = self.info is None and isinstance(error, ConfigError | ModelError)
                delay_s = None if final else self._policy.next_delay()
                if delay_s is None:
                    log.error("the engine has failed and is not started again: %s", error)
                    self._fail(error)
                    return
                log.error("the engine has failed and is started again in %g s: %s", delay_s, error)
                restarts = self._policy.num_recent
                self._set(EngineState(phase="restarting", left_s=delay_s, error=str(error), restarts=restarts))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), delay_s)
            self._set(EngineState(phase="stopped"))
        except Exception as mistake:
            log.exception("the supervisor of the engine has failed")
            error.__cause__ = mistake
            self._fail(error)

    def _fail(self, error: JaxPagedError) -> None:
        if not self.gone.done():
            self.gone.set_result(error)
        self._set(EngineState(phase="failed", error=str(error), restarts=self._policy.num_recent))

    async def _one_life(self) -> JaxPagedError:
        """Of one process, from its start to its burial; returns why it ended."""
        self._broken, self.beat = None, None
        self._set(EngineState(phase="starting", error=self.state.error, restarts=self._policy.num_recent))
        try:
            process = EngineProcess(self._command, log_form=self.log_form, faults=self._faults)
        except OSError as error:
            return EngineError(name="engine", value="no process", limit=f"it cannot be started: {error}")
        self._process, self.pid = process, process.pid
        self._watchdog = Watchdog(self._limits, clock=self._clock)
        trouble: str | None = None
        client = EngineClient(self._hear, on_gone=self._leave_ready, numbers=self._numbers, clock=self._clock)
        try:
            try:
                await asyncio.get_running_loop().create_unix_connection(lambda: client, sock=process.sock)
            except BaseException:
                process.sock.close()
                raise
            self._client = client
            client.send(Start(self.config, bool(self._cache_listeners), self._block_share, self._estimates))
            if self._stopping is not None and self._stopping.is_set():  # meanwhile
                client.send(Stop())
            trouble = await self._watch(client, self._watchdog)
            self._lose(trouble or "its process has ended")
            if trouble is not None:
                client.fail(lambda: _ended(trouble))
                if not client.lost.done():  # it hangs: let it say where
                    process.dump_stacks()
                    await asyncio.sleep(self._limits.dump_s)
        finally:
            if not client.lost.done():
                process.kill()
            client.close()
            self._client = None
            how = await process.reap()
            self._process, self.pid = None, None
            self._tell(self._cache_listeners, CacheEvents(time.time(), [Cleared()]))
        await client.lost
        if self._broken is not None:
            return error_of(self._broken.error)
        return _ended(how if trouble is None else f"{trouble}; {how}")

    async def _watch(self, client: EngineClient, watchdog: Watchdog) -> str | None:
        """What is wrong with it; None when its connection has ended."""
        while not client.lost.done():
            await asyncio.wait([client.lost], timeout=self._limits.check_s)
            if client.trouble is not None:
                return client.trouble
            if not client.lost.done() and (trouble := watchdog.trouble(heard_at=client.heard_at)):
                return trouble
        return None

    def _hear(self, said: Said) -> None:
        """Whatever concerns no single request."""
        if isinstance(said, Beat):
            self._take_beat(said)
        elif isinstance(said, Phase):
            phase: PhaseName = "compiling" if said.name == "compiling" else "loading"
            self._set(replace(self.state, phase=phase, done=said.done, total=said.total, left_s=said.left_s))
        elif isinstance(said, Ready):
            self.info = said.info
            if self._watchdog is not None:
                self._watchdog.ready()
            self._set(EngineState(phase="ready", restarts=self._policy.num_recent))
        elif isinstance(said, CacheEvents):
            self._tell(self._cache_listeners, said)
        else:
            self._broken, why = said, str(error_of(said.error))
            self._lose(why)
            if self._client is not None:
                self._client.fail(lambda: _ended(why))

    def _lose(self, why: str) -> None:
        """It serves no longer."""
        if self._stopping is None or not self._stopping.is_set():
            self._set(replace(self.state, phase="restarting", error=why))

    def _leave_ready(self) -> None:
        """Its connection has ended, and its streams are about to."""
        if self.state.phase == "ready":
            self._lose("its process has ended")

    def _take_beat(self, beat: Beat) -> None:
        self.beat = beat
        if self._watchdog is not None:
            self._watchdog.beat(beat)
        self._tell(self._listeners, beat)

    def _tell(self, listeners: Sequence[Callable[[T], object]], said: T) -> None:
        for listener in listeners:
            try:
                listener(said)
            except Exception:
                log.exception("a listener to the engine has failed")


def _ended(why: str) -> EngineError:
    return EngineError(name="engine", value="ended", limit=why, fix="Send the request again when the engine is ready")


def _no_engine(state: str) -> EngineError:
    return EngineError(name="engine", value=state, limit="it takes no requests now", fix="Try again when it is ready")
