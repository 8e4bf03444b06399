"""The same weights and requests by the engine alone and through the HTTP server, in turn.

Two engines, each in a process of its own, as people run them: the server's is a child of its front end. One engine
behind both would share Python's lock with the front end, and something else would be measured. One engine after the
other would be measured on a GPU that is warmer by then; so each may take two fifths of its memory, and has nothing to
do while the other is measured. The client is in the process of the engine alone.

A small model makes more tokens a second than a large one, at the same work for the server: who keeps the floor with
it does so with Llama-8B.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))  # client and server of the tests

from comparison import answer_ids, engine_options, requests, same_beginning
from jaxpaged_server.load.endpoint import Endpoint
from jaxpaged_server.load.run import Job, send_all
from jaxpaged_server.load.sample import Sample
from lean_client import LeanClient
from real_server import RealServer, real_server

from jaxpaged.bench.model_folder import write_model
from jaxpaged.bench.programs import machine_dtype
from jaxpaged.bench.throughput import measure
from jaxpaged.bench.trace import TraceRequest
from jaxpaged.config import EngineConfig
from jaxpaged.device import claim_share
from jaxpaged.engine import LLMEngine
from jaxpaged.tiny import TINY_MODEL

SHARE = 0.4
"""Of a GPU's memory, for each of the engines: what is left is for the two processes' contexts."""
_MOST_S = 120.0  # for one answer
_QUEUE = ("--max-num-queued-reqs", "1024", "--max-num-queued-tokens", "1000000")  # all clients come at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """One pass through the server. Seconds; those of processors are of all threads of a process."""

    wall_s: float
    front_cpu_s: float
    client_cpu_s: float
    ttft_p50_s: float


def compare(*, rounds: int, quick: bool) -> Iterator[dict[str, Any]]:
    """After each of the interleaved rounds a row with the median ratio so far. All requests come at once, each from a
    client of its own, streamed, an event a token; bfloat16 on a GPU."""
    claim_share(SHARE)
    dtype = machine_dtype()
    options = engine_options(quick=quick) | {"dtype": dtype, "gpu_memory_utilization": SHARE}
    shape = str(Path(TINY_MODEL) / "config.json") if quick else "llama-3.2-1b"
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        write_model(shape, folder, dtype=dtype)
        trace = requests(24 if quick else 256, vocab=spell_all(folder), quick=quick)
        engine = LLMEngine(EngineConfig(model=str(folder), **options))  # the server finds its programs in the cache
        about = {
            "shape": "the bundled model's" if quick else shape,
            "dtype": dtype,
            "clients": len(trace),
            "rows": engine.config.max_num_seqs,
        }
        environ = {"PYTHONPATH": os.environ.get("PYTHONPATH", "")}  # packages may lie there
        flags = (*_flags(options), *_QUEUE, "--shutdown-timeout", "1")
        with real_server(str(folder), *flags, environ=environ) as server:
            server.wait_ready()
            try:
                for row in _rounds(engine, server, trace, rounds):
                    yield about | row
            finally:
                with contextlib.suppress(subprocess.TimeoutExpired):  # it is killed then
                    server.stop(timeout_s=3)  # its engine has left the GPU when it ends


def _flags(options: Mapping[str, Any]) -> Iterator[str]:
    for name, value in options.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            yield f"--{flag}" if value else f"--no-{flag}"
        else:
            yield from (f"--{flag}", str(value))


def spell_all(folder: Path) -> int:
    """Give every token of the model's table a text, as the tokens of real answers have; returns how many there are."""
    vocab = json.loads((folder / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    file = folder / "tokenizer.json"
    tokenizer = json.loads(file.read_text(encoding="utf-8"))
    words = tokenizer["model"]["vocab"]
    words |= {f"Ġword{number}": number for number in range(len(words), vocab)}
    file.write_text(json.dumps(tokenizer), encoding="utf-8")
    return vocab


def _rounds(
    engine: LLMEngine, server: RealServer, trace: Sequence[TraceRequest], rounds: int
) -> Iterator[dict[str, Any]]:
    endpoint = Endpoint(
        kind="completions",
        url=f"{server.url}/v1/completions",
        model=str(engine.config.model),
        fields={"ignore_eos": True, "temperature": 0.0},
    )
    samples = [Sample(prompt=request.prompt_ids, max_tokens=request.max_tokens) for request in trace]
    jobs = [Job(index=i, due_s=0.0, body=endpoint.body(sample)) for i, sample in enumerate(samples)]
    tokens = sum(request.max_tokens for request in trace)

    def alone() -> float:
        return measure(engine, trace, startup_s=0, progress={"disable": True})["out_tok_s"]

    def behind() -> Served:
        return asyncio.run(_serve(server, endpoint, jobs, tokens))

    same = same_beginning(_answer_through(server, endpoint, trace[0]), answer_ids(engine, trace[0]))
    alone()  # what is slow only once
    behind()
    gc.collect()
    gc.freeze()  # as the server does
    offline: list[float] = []
    passes: list[Served] = []
    for number in range(rounds):
        if number % 2:
            offline.append(alone())
        passes.append(behind())
        if number % 2 == 0:
            offline.append(alone())
        through = [tokens / one.wall_s for one in passes]
        yield {
            "id": "E6",
            "value": statistics.median(a / b for a, b in zip(through, offline, strict=True)),
            "in_tokens": sum(len(request.prompt_ids) for request in trace),
            "out_tokens": tokens,
            "same_tokens": same,
            "out_tok_s": {"offline": statistics.median(offline), "server": statistics.median(through)},
            "rounds": {"offline": offline, "server": through},
            **_costs(passes, tokens),
            "compiles_after_ready": {
                "offline": engine.metrics.compiles_after_ready,
                "server": server.metric("jaxpaged:compiles_total", when="ready"),
            },
        }


def _costs(passes: Sequence[Served], tokens: int) -> dict[str, float]:
    """Of the server's front end and of the client: near 1 of a core, one of them is what was measured."""
    wall_s = sum(one.wall_s for one in passes)
    front_s, client_s = sum(one.front_cpu_s for one in passes), sum(one.client_cpu_s for one in passes)
    return {
        "front_us_per_token": front_s / (tokens * len(passes)) * 1e6,
        "front_core_share": front_s / wall_s,
        "client_core_share": client_s / wall_s,
        "ttft_p50_ms": statistics.median(one.ttft_p50_s for one in passes) * 1e3,
    }


async def _serve(server: RealServer, endpoint: Endpoint, jobs: Sequence[Job], tokens: int) -> Served:
    """Raises RuntimeError where an answer did not come to its end, or the engine made other than all tokens."""
    made = server.metric("vllm:generation_tokens_total")
    front_s, client_s = _cpu_s(server.process.pid), time.process_time()
    client = LeanClient(endpoint, timeout_s=_MOST_S)
    try:
        run = await send_all(client, jobs)
    finally:
        client.close()
    front_s, client_s = _cpu_s(server.process.pid) - front_s, time.process_time() - client_s
    if bad := [outcome for outcome in run.outcomes if not outcome.is_done]:
        raise RuntimeError(f"{len(bad)} of {len(jobs)} requests failed: {bad[0].kind} {bad[0].error}")
    _expect_tokens(server, made + tokens)
    return Served(
        wall_s=max(outcome.ended_s for outcome in run.outcomes),
        front_cpu_s=front_s,
        client_cpu_s=client_s,
        ttft_p50_s=statistics.median(outcome.ttft_s for outcome in run.outcomes),
    )


def _expect_tokens(server: RealServer, wanted: float) -> None:
    """The engine tells its counts a few times a second."""
    until_s = time.monotonic() + 5
    while (made := server.metric("vllm:generation_tokens_total")) != wanted:
        if time.monotonic() > until_s:
            raise RuntimeError(f"the engine made {made:.0f} tokens so far, {wanted:.0f} were asked for")
        time.sleep(0.05)


def _answer_through(server: RealServer, endpoint: Endpoint, request: TraceRequest) -> list[int]:
    asked = {"model": endpoint.model, "prompt": request.prompt_ids, "max_tokens": request.max_tokens, **endpoint.fields}
    status, reply = server.request("/v1/completions", asked | {"return_token_ids": True})
    if status != 200:
        raise RuntimeError(f"the server answered {status}: {reply}")
    return reply["choices"][0]["token_ids"]


def _cpu_s(pid: int) -> float:
    """Seconds that a process had of processors, in all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
