"""The run of `jaxpaged bench serve`: look at the server, warm it up, send the load, tell the result."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from random import Random

import aiohttp
from tqdm import tqdm

from jaxpaged.commands import INTERRUPTED
from jaxpaged.commands.terminal import progress_options, say
from jaxpaged.errors import ConfigError
from jaxpaged_server.commands.bench_serve_load import arrivals_of, samples_of, vocabulary_of
from jaxpaged_server.commands.bench_serve_options import BenchServeOptions
from jaxpaged_server.commands.bench_serve_result import tell
from jaxpaged_server.load.arrivals import Arrivals
from jaxpaged_server.load.client import Client, open_session
from jaxpaged_server.load.endpoint import Endpoint
from jaxpaged_server.load.figures import Selection
from jaxpaged_server.load.lag import Lag, LagMeter
from jaxpaged_server.load.outcome import Outcome
from jaxpaged_server.load.run import Job, Run, send_all
from jaxpaged_server.load.sample import Sample
from jaxpaged_server.load.server_facts import look_at, shown_url

_RANDOM = ("random", "prefix_repetition")
"""Datasets whose answers have a length of their own, and no end."""


def bench(options: BenchServeOptions) -> int:
    """Run it; returns the exit status. Raises ConfigError for what cannot be, and where no server answers."""
    wanted = options.result
    selection = Selection.parse(wanted.percentile_metrics, wanted.metric_percentiles, wanted.goodput)
    arrivals = arrivals_of(options.traffic)
    _allow_many_files()
    return asyncio.run(_bench(options, selection, arrivals))


async def _bench(options: BenchServeOptions, selection: Selection, arrivals: Arrivals) -> int:
    server, data, traffic = options.server, options.dataset, options.traffic
    endpoint = Endpoint(
        kind=server.kind,
        url=server.url,
        model=server.served_model_name or server.model or "",
        headers=server.headers(os.environ),
        fields=options.sampling.fields(ignore_eos=data.dataset_name in _RANDOM),
        continuous_usage=options.sampling.continuous_usage_stats,
    )
    async with open_session(endpoint, timeout_s=server.request_timeout, verify=not server.insecure) as session:
        facts = await look_at(session, server.root, model=endpoint.model or None, wait_s=server.ready_check_timeout_sec)
        endpoint = replace(endpoint, model=endpoint.model or str(facts.model["id"]))
        vocabulary = vocabulary_of(server, facts)
        samples = samples_of(
            data, data.num_prompts + traffic.num_warmups, kind=endpoint.kind, vocabulary=vocabulary, facts=facts
        )
        counted = samples[: max(1, len(samples) - traffic.num_warmups)]
        offsets = arrivals.offsets(len(counted), Random(data.seed))
        jobs = [_job(endpoint, *each, index) for index, each in enumerate(zip(counted, offsets, strict=True))]
        await _warm_up(session, endpoint, samples[len(counted) :], options)
        gc.collect()
        gc.freeze()  # the prompts: looking through them again and again would make pauses
        try:
            run, lag = await _measure(session, endpoint, jobs, options)
        finally:
            gc.unfreeze()
    tell(options, selection, endpoint, vocabulary, run, lag)
    if run.interrupted:
        return INTERRUPTED
    return int(any(not outcome.is_done for outcome in run.outcomes))


def _job(endpoint: Endpoint, sample: Sample, due_s: float, index: int) -> Job:
    return Job(index=index, due_s=due_s, body=endpoint.body(sample), num_prompt=sample.num_prompt)


async def _warm_up(
    session: aiohttp.ClientSession, endpoint: Endpoint, samples: Sequence[Sample], options: BenchServeOptions
) -> None:
    """Requests that are not counted. Raises ConfigError where one is not answered: those of the run would not be."""
    if not samples:
        return
    if not options.result.disable_tqdm:
        say(f"warming up with {len(samples)} requests")
    client = Client(session, endpoint, began_s=time.perf_counter())
    run = await send_all(
        client,
        [_job(endpoint, sample, 0.0, index) for index, sample in enumerate(samples)],
        max_concurrency=options.traffic.max_concurrency,
    )
    for outcome in run.outcomes:
        if not outcome.is_done:
            raise ConfigError(
                name="endpoint",
                value=shown_url(endpoint.url),
                limit=f"a warm-up request was not answered ({outcome.kind}: {outcome.error})",
            )


async def _measure(
    session: aiohttp.ClientSession, endpoint: Endpoint, jobs: Sequence[Job], options: BenchServeOptions
) -> tuple[Run, Lag]:
    """Send the load, with a bar; Ctrl-C ends it and keeps what there is."""
    stop = asyncio.Event()
    with contextlib.suppress(NotImplementedError):  # an event loop without signals: Ctrl-C ends the command
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, stop.set)
    num_tokens = 0
    meter = LagMeter()
    with tqdm(total=len(jobs), unit="request", **progress_options(quiet=options.result.disable_tqdm)) as bar:
        async with meter:
            client = Client(session, endpoint, began_s=time.perf_counter(), keep_text=options.result.save_detailed)

            def on_end(outcome: Outcome) -> None:
                nonlocal num_tokens
                num_tokens += outcome.num_output
                bar.set_postfix_str(f"{num_tokens / client.now_s():.0f} output tokens/s", refresh=False)
                bar.update()

            run = await send_all(
                client,
                jobs,
                max_concurrency=options.traffic.max_concurrency,
                request_id_prefix=options.result.request_id_prefix,
                stop=stop,
                on_end=on_end,
            )
    return run, meter.lag()


def _allow_many_files() -> None:
    """As many connections as the system lets this process have."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource  # not on every system

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
