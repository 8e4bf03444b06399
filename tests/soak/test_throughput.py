"""The server beside the engine alone, on the same trace: what HTTP costs where both share the cores."""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
from jaxpaged_server.load.endpoint import Endpoint
from jaxpaged_server.load.run import Job, send_all
from jaxpaged_server.load.sample import Sample
from lean_client import LeanClient
from offline_engine import offline_engine
from real_server import RealServer, real_server

pytestmark = [pytest.mark.soak, pytest.mark.slow, pytest.mark.timeout(1800)]
ROWS = 32
ROUNDS = 5
FLAGS = ("--max-num-seqs", str(ROWS), "--dtype", "bfloat16", "--no-enable-prefix-caching")


def make_model(folder: Path) -> Path:
    command = (sys.executable, "-m", "jaxpaged_server.cli", "bench", "make-model", "--shape", "llama-150m", "--quiet")
    subprocess.run([*command, "--output", str(folder)], check=True, stdout=subprocess.DEVNULL)
    return folder


def make_trace(file: Path) -> list[Sample]:
    """As many requests as there are rows, all at once, of many lengths."""
    draw = random.Random(0)
    lengths = [(round(30 * 1.12**i), round(40 * 1.08**i)) for i in range(ROWS)]
    samples = [Sample(prompt=tuple(draw.choices(range(1, 4096), k=n)), max_tokens=m) for n, m in lengths]
    draw.shuffle(samples)
    rows = [{"prompt_ids": each.prompt, "max_tokens": each.max_tokens} for each in samples]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return samples


async def served(server: RealServer, samples: list[Sample]) -> float:
    """Output tokens a second of the trace, streamed, an event a token."""
    fields = {"ignore_eos": True, "temperature": 0.0}
    endpoint = Endpoint(kind="completions", url=f"{server.url}/v1/completions", model="model", fields=fields)
    client = LeanClient(endpoint, timeout_s=300)
    try:
        jobs = [Job(index=i, due_s=0.0, body=endpoint.body(sample)) for i, sample in enumerate(samples)]
        run = await send_all(client, jobs)
    finally:
        client.close()
    assert all(outcome.is_done for outcome in run.outcomes)
    return sum(sample.max_tokens for sample in samples) / max(outcome.ended_s for outcome in run.outcomes)


async def test_the_server_is_as_fast_as_the_engine_alone(tmp_path: Path) -> None:
    """In pairs, each process warm: needs a machine that does nothing else."""
    model, trace = make_model(tmp_path / "model"), tmp_path / "trace.jsonl"
    samples = make_trace(trace)
    with (
        offline_engine(model, trace, max_num_seqs=ROWS, dtype="bfloat16") as offline,
        real_server(str(model), *FLAGS) as server,
    ):
        server.wait_ready()
        offline()  # what is slow only once
        await served(server, samples)
        ratios: list[float] = []
        for i in range(ROUNDS):
            alone = offline() if i % 2 else None
            behind = await served(server, samples)
            alone = offline() if alone is None else alone
            ratios.append(behind / alone)
            print(f"alone {alone:.0f} tokens/s, behind the server {behind:.0f}: {ratios[-1]:.3f}")
    assert statistics.median(ratios) >= 0.95
