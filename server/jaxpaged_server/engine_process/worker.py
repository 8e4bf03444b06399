"""The engine's process: reads commands, steps the engine, sends tokens. Run as `python -m` with `--fd N`.

Four threads. The main one owns the engine: it takes commands between steps, and sleeps on their queue when there is
nothing to step. One reads the socket, one sends what the socket did not take at once (`Outbox`), one tells how it goes
(`beats`). The process never outlives the front end, and leaves every decision to end to it.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import logging
import os
import queue
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

from jaxpaged.errors import JaxPagedError, RequestError
from jaxpaged.parent import end_with_parent
from jaxpaged.residency import BlockResidency
from jaxpaged_server.engine_process.beats import StepWatch, beat_for_ever
from jaxpaged_server.engine_process.cache_journal import CacheJournal
from jaxpaged_server.engine_process.error_fields import fields_of
from jaxpaged_server.engine_process.faults import Faults
from jaxpaged_server.engine_process.outbox import Outbox
from jaxpaged_server.engine_process.own_log import add_log_arguments, start_log
from jaxpaged_server.engine_process.phase_teller import PhaseTeller
from jaxpaged_server.engine_process.runs import runs_of
from jaxpaged_server.engine_process.wire import (
    Abort,
    Broken,
    CacheEvents,
    Call,
    EngineInfo,
    Finish,
    Frames,
    Item,
    Phase,
    PoolMap,
    Ready,
    Refused,
    Reply,
    Start,
    Stop,
    Submit,
    ToEngine,
    engine_decoder,
    pairs,
    token_messages,
)

if TYPE_CHECKING:
    from jaxpaged.engine import LLMEngine
    from jaxpaged.request import Request, TokenEvent

Inbox = queue.SimpleQueue[ToEngine]

_FLUSH_S = 2.0
_READ_BYTES = 1 << 18
_log = logging.getLogger("jaxpaged_server.engine_process.worker")  # not __main__, which is what this is when it runs


class Worker:
    """Does what the front end says, with one engine. All of it in one thread. journal: the engine's, to be told of."""

    def __init__(
        self,
        engine: LLMEngine,
        inbox: Inbox,
        outbox: Outbox,
        *,
        watch: StepWatch,
        faults: Faults | None = None,
        journal: CacheJournal | None = None,
    ) -> None:
        self._engine, self._inbox, self._outbox = engine, inbox, outbox
        self._watch, self._faults, self._journal = watch, faults, journal
        self._silent: dict[str, Request] = {}  # in flight, and no token said yet
        self._calls: dict[str, Callable[[str], object]] = {
            "reset_prefix_cache": self._reset_prefix_cache,
            "start_profile": _start_profile,
            "stop_profile": _stop_profile,
            "pool_map": self._pool_map,
        }
        if faults is not None:
            self._calls["fault"] = faults.set

    def serve(self) -> None:
        """Until the front end says `Stop`; raises what a step raises."""
        while True:
            if idle := not self._engine.has_unfinished:
                self._watch.rest()
            try:
                message = self._inbox.get(block=idle)
            except queue.Empty:
                self._step()
                continue
            if isinstance(message, Stop):
                return
            self._obey(message)

    def _obey(self, message: ToEngine) -> None:
        match message:
            case Submit():
                self._submit(message)
            case Abort(ids):
                for number in ids:
                    self._silent.pop(str(number), None)
                    self._engine.abort(str(number))
            case Finish(number):
                self._silent.pop(str(number), None)
                self._engine.finish(str(number))
            case Call():
                self._outbox.put(self._answer(message))
            case _:
                raise AssertionError(f"a {type(message).__name__} while serving")

    def _submit(self, message: Submit) -> None:
        asked = [(message.id, message.params), *message.followers]
        names, of_each = [str(number) for number, _ in asked], [params for _, params in asked]
        try:
            ids = self._engine.check(message.ids, message.params, vetted=True)  # the front end has looked at its form
            requests = self._engine.enqueue_forks(
                ids, of_each, request_ids=names, salt=message.salt, length_penalty=message.length_penalty
            )
            self._silent.update(zip(names, requests, strict=True))
        except Exception as error:  # of this prompt alone, whatever it is
            _log_mistake(error, f"request {names[0]}")
            for number, _ in asked:
                self._outbox.put(Refused(number, fields_of(error, of_request=True)))

    def _step(self) -> None:
        self._watch.begin()
        if self._faults is not None:
            self._faults.before_step()
        events = self._engine.step_tokens()
        self._watch.end()
        for message in token_messages([self._item(event) for event in events]):
            self._outbox.put(message)
        self._tell_cache()

    def _tell_cache(self) -> None:
        if self._journal is not None and (events := self._journal.take()):
            self._outbox.put(CacheEvents(time.time(), events))

    def _item(self, event: TokenEvent) -> Item:
        name = event.request_id
        finish = None if event.finish is None else event.finish.value
        first = self._silent.pop(name, None)
        return Item(
            int(name),
            event.token,
            finish,
            event.stop_reason,
            0 if first is None else first.num_cached,
            pairs(event.logprobs),
            None if event.prompt_logprobs is None else [pairs(entry) for entry in event.prompt_logprobs],
            event.error,
            0.0 if first is None else max(0.0, first.admitted_s - first.arrival_s),
        )

    def _answer(self, call: Call) -> Reply:
        try:
            if call.name not in self._calls:
                known = ", ".join(self._calls)
                raise RequestError(name="call", value=call.name, limit=f"there is no such call. There are: {known}")
            return Reply(call.call, self._calls[call.name](call.argument))
        except Exception as error:  # of this call alone
            _log_mistake(error, f"the call {call.name!r}")
            return Reply(call.call, error=fields_of(error, of_request=True))

    def _reset_prefix_cache(self, _: str) -> bool:
        self._engine.scheduler.reset_prefix_cache()
        self._tell_cache()
        return True

    def _pool_map(self, _: str) -> PoolMap:
        found = self._engine.scheduler.block_map()
        requests = [(int(name), tokens, computed, held) for name, tokens, computed, held in found.requests]
        return PoolMap(runs_of(found.classes), runs_of(found.owners), requests)


def _log_mistake(error: Exception, what: str) -> None:
    """With its stack, unless it is the caller's."""
    if not isinstance(error, JaxPagedError):
        _log.error("%s failed", what, exc_info=error)


def make_engine(
    start: Start, outbox: Outbox, *, journal: CacheJournal | None = None, residency: BlockResidency | None = None
) -> LLMEngine:
    """Load and compile; tells the front end how far it is. Raises what `LLMEngine` raises."""
    outbox.put(Phase("loading"))
    from jaxpaged.engine import LLMEngine  # only now: jax takes a second, and the front end waits for a sign

    return LLMEngine(
        start.config,
        progress=PhaseTeller(outbox.put),
        prefix_listener=journal,
        residency=residency,
        estimates=start.estimates,
    )


def info_of(engine: LLMEngine) -> EngineInfo:
    """What the front end must know of it."""
    config, model = engine.config, engine.model_config
    return EngineInfo(
        model=str(config.model),
        architecture=model.architecture,
        max_model_len=config.max_model_len,
        vocab=model.vocab,
        block_size=config.block_size,
        num_blocks=config.num_blocks,
        num_groups=len(model.kv_groups()),
        max_num_seqs=config.max_num_seqs,
        max_logprobs=engine.max_logprobs,
        max_num_batched_tokens=config.max_num_batched_tokens,
        dtype=config.dtype,
        kv_cache_dtype=config.kv_cache_dtype,
        quantization=config.quantization,
        enable_prefix_caching=config.enable_prefix_caching,
        attention_backend=config.attention_backend,
        device=engine.device.name,
        fingerprint=engine.fingerprint(),
        startup_s=engine.startup_s,
        sampling_defaults=engine.sampling_defaults,
        table=engine.describe(),
    )


def _start_profile(folder: str) -> None:
    import jax  # it is there: an engine runs

    with _profiling("started"):
        jax.profiler.start_trace(folder)


def _stop_profile(_: str) -> None:
    import jax

    with _profiling("stopped"):
        jax.profiler.stop_trace()


@contextmanager
def _profiling(done: str) -> Iterator[None]:
    """Say what the profiler says: it is about what was asked for, and the engine goes on."""
    try:
        yield
    except Exception as error:
        raise RequestError(name="profile", value=done, limit=f"it cannot be {done} now: {error}") from error


def read_for_ever(sock: socket.socket, inbox: Inbox, outbox: Outbox, serving: threading.Event) -> NoReturn:
    """Hand commands on. Ends the process when the front end is gone, and at once when it says `Stop` during a start."""
    frames, decoder = Frames(), engine_decoder()
    while True:
        try:
            data = sock.recv(_READ_BYTES)
        except OSError:
            data = b""
        if not data:
            os._exit(1)
        try:
            messages = [decoder.decode(body) for body in frames.push(data)]
        except (ValueError, msgspec.MsgspecError) as error:  # the other end is not of this version
            _break(outbox, error, while_starting=not serving.is_set())
        for message in messages:
            if isinstance(message, Stop) and not serving.is_set():
                os._exit(0)
            inbox.put(message)


def _break(outbox: Outbox, error: BaseException, *, while_starting: bool) -> NoReturn:
    """Tell why, and end the process: a broken device must not hold it up."""
    _log.critical("the engine cannot %s", "start" if while_starting else "go on", exc_info=error)
    outbox.put(Broken(fields_of(error), while_starting))
    outbox.flush(_FLUSH_S)
    os._exit(1)


def _options(argv: Sequence[str] | None) -> Any:
    parser = argparse.ArgumentParser(prog="engine process", description="Started by the server, not by people.")
    parser.add_argument("--fd", type=int, required=True, help="one end of a Unix socket pair")
    add_log_arguments(parser)
    parser.add_argument("--faults", action="store_true", help="let the other end break this one, for tests")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """One engine, from its `Start` message to its end."""
    options = _options(argv)
    end_with_parent()
    start_log(options)
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    sock = socket.socket(fileno=options.fd)
    sock.set_inheritable(False)  # a compiler that is started from here must not keep it open
    inbox, outbox, serving = Inbox(), Outbox(sock), threading.Event()
    threading.Thread(target=read_for_ever, args=(sock, inbox, outbox, serving), name="reader", daemon=True).start()
    try:
        start = inbox.get()
        assert isinstance(start, Start), f"a {type(start).__name__} before the start"
        journal = CacheJournal() if start.cache_events else None
        residency = BlockResidency.every(start.block_share) if start.block_share else None
        engine = make_engine(start, outbox, journal=journal, residency=residency)
        speculator = engine.scheduler.speculator
        watch = StepWatch(
            engine,
            max_step_tokens=engine.config.max_num_batched_tokens,
            residency=residency,
            speculation=speculator and speculator.counts,
        )
        faults = Faults() if options.faults else None
        worker = Worker(engine, inbox, outbox, watch=watch, faults=faults, journal=journal)
        gc.collect()
        gc.freeze()  # model, programs and modules stay: a collector that looked through them would make long steps
        serving.set()
        outbox.put(Ready(info_of(engine)))
        threading.Thread(target=beat_for_ever, args=(watch, outbox), name="beat", daemon=True).start()
        worker.serve()
    except BaseException as error:
        _break(outbox, error, while_starting=not serving.is_set())
    outbox.flush(_FLUSH_S)
    os._exit(0)  # nothing is left to do, and threads that compile ahead are not waited for


if __name__ == "__main__":
    main()
