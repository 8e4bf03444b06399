"""Makes an engine ready: every bucket compiled before the first request, from the cache where it can be.

Owns the persistent compile cache's place and the count of compilations; after `warm_up` that count must not grow.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path

import jax
from jax import monitoring
from jax.experimental.compilation_cache import compilation_cache

from jaxpaged.buckets import Bucket, BucketTable
from jaxpaged.device import machine_digest
from jaxpaged.progress import Progress, progress_of
from jaxpaged.runner import ModelRunner

_COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"


class CompileCounter:
    """Counts XLA compilations of this process from its creation on (loads from the persistent cache included)."""

    def __init__(self) -> None:
        self.count = 0
        monitoring.register_event_duration_secs_listener(self._on_event)

    def _on_event(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        del duration_secs, kwargs
        if event == _COMPILE_EVENT:
            self.count += 1


def use_compile_cache(folder: Path | None) -> Path | None:
    """Point JAX's persistent cache into `folder`, below a name for this jaxlib and CPU; returns the folder in use.

    A cache that the user configured for JAX stays; that of an earlier engine of this process is left for the new one's.
    A folder shared between jaxlib versions or CPU kinds has crashed processes, hence the name. An unwritable folder is
    no reason to fail: programs are then compiled each time.
    """
    name = f"jaxlib-{version('jaxlib')}-{machine_digest()}"
    chosen = getattr(jax.config, "jax_compilation_cache_dir", None)
    if chosen and Path(chosen).name != name:
        return Path(chosen)
    place = None if folder is None else _writable(folder / name)
    if place != (Path(chosen) if chosen else None):
        jax.config.update("jax_compilation_cache_dir", None if place is None else str(place))
        compilation_cache.reset_cache()  # it holds on to the folder it was opened with
    if place is None:
        return None
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return place


@contextmanager
def no_compile_cache() -> Iterator[None]:
    """Neither JAX's persistent cache nor ours within: what is needed is compiled.

    A CPU's program that comes from there and is serialised again lacks functions: it fails where it is loaded.
    """
    before = getattr(jax.config, "jax_enable_compilation_cache", True)
    _enable_cache(False)
    try:
        yield
    finally:
        _enable_cache(before)


def _enable_cache(enabled: bool) -> None:
    jax.config.update("jax_enable_compilation_cache", enabled)
    compilation_cache.reset_cache()  # it remembers whether it was in use


def warm_up(runner: ModelRunner, buckets: Iterable[Bucket], *, progress: Progress | bool) -> int:
    """Compile the step of every bucket and what goes with it, the largest first; returns how many programs there are.

    Several at a time: XLA compiles outside of Python's lock, and tracing the next one meanwhile keeps it busy.
    """
    order = _largest_first(buckets)
    jobs = [partial(runner.compile, bucket) for bucket in order]
    for rows in sorted({bucket.rows for bucket in order}, reverse=True):
        jobs += [partial(runner.compile_sampler, rows), partial(runner.compile_logprob_picker, rows)]
    jobs += [partial(runner.compile_picker, tokens) for tokens in {bucket.tokens for bucket in order}]
    jobs += [runner.compile_scorer, runner.compile_copier]
    _run(jobs, progress=progress)
    return len(jobs)


def warm_up_draft(runner: ModelRunner, buckets: Iterable[Bucket], *, progress: Progress | bool) -> int:
    """The same of a draft model, which is never scored and copies no blocks. Its samplers may be those of the served
    model: that one comes first."""
    order = _largest_first(buckets)
    jobs = [partial(runner.compile, bucket) for bucket in order]
    jobs += [partial(runner.compile_sampler, rows) for rows in {bucket.rows for bucket in order}]
    _run(jobs, progress=progress)
    return len(jobs)


def _run(jobs: Sequence[Callable[[], object]], *, progress: Progress | bool) -> None:
    with (
        ThreadPoolExecutor(max_workers=_workers(), thread_name_prefix="compile") as pool,
        progress_of(progress).track("compiling", total=len(jobs), unit="program") as advance,
    ):
        try:
            for done in as_completed([pool.submit(job) for job in jobs]):
                done.result()
                advance(1)
        except BaseException:  # a program that cannot be, or ctrl-C: the others are not waited for
            pool.shutdown(wait=False, cancel_futures=True)
            raise


class EarlyStart:
    """Lets an engine serve as soon as the largest shapes are compiled; the others come while it does.

    Blocks until the base of `table` is compiled. `grown` then tells the tables that are ready as they grow. draft: runs
    a draft model.
    """

    def __init__(
        self, runner: ModelRunner, table: BucketTable, *, draft: ModelRunner | None = None, progress: Progress | bool
    ) -> None:
        warm_up(runner, table.base, progress=progress)
        if draft is not None:
            warm_up_draft(draft, table.base, progress=progress)
        self._runner, self._draft, self._table = runner, draft, table
        self._ready = set(table.base)
        self._rest = [bucket for bucket in _largest_first(table) if bucket not in self._ready]
        self._ended: queue.SimpleQueue[Bucket | Exception] = queue.SimpleQueue()
        threading.Thread(target=self._compile, name="compile").start()

    @property
    def done(self) -> bool:
        """Whether every program is there."""
        return len(self._ready) == len(self._table)

    def grown(self) -> BucketTable | None:
        """The table that is ready, where that is more than at the last call. Raises what a compilation raised."""
        before = len(self._ready)
        while not self._ended.empty():
            ended = self._ended.get()
            if isinstance(ended, Exception):
                raise ended
            self._ready.add(ended)
        return self._table.only(self._ready) if len(self._ready) > before else None

    def _compile(self) -> None:
        for bucket in self._rest:
            if not threading.main_thread().is_alive():  # the process ends: nobody will run them
                return
            try:
                self._runner.compile(bucket)
                self._runner.compile_sampler(bucket.rows)
                self._runner.compile_logprob_picker(bucket.rows)
                self._runner.compile_picker(bucket.tokens)
                if self._draft is not None:
                    self._draft.compile(bucket)
                    self._draft.compile_sampler(bucket.rows)
            except Exception as error:
                self._ended.put(error)
                return
            self._ended.put(bucket)


def _largest_first(buckets: Iterable[Bucket]) -> list[Bucket]:
    return sorted(buckets, key=lambda bucket: (bucket.tokens, bucket.rows), reverse=True)


def _workers() -> int:
    """Compilations at a time; each keeps about a core busy, and memory for a few is little."""
    return min(8, max(2, os.cpu_count() or 1))


def _writable(folder: Path) -> Path | None:
    """The folder, made where it was missing; None where nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None
