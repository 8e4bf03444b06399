"""How long a batch of equal requests takes from end to end, and between its tokens."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from jaxpaged.bench.circumstances import circumstances, percentile_ms
from jaxpaged.outputs import OutputKind
from jaxpaged.request import SamplingParams

if TYPE_CHECKING:
    from jaxpaged.engine import LLMEngine


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Of every request when each token came, and when all was done, in seconds from the batch's submission."""

    token_s: list[list[float]]
    total_s: float
    errors: int


def measure(
    engine: LLMEngine,
    *,
    batch_size: int,
    input_len: int,
    output_len: int,
    warmup: int,
    iterations: int,
    seed: int,
    startup_s: float,
    progress: Mapping[str, Any],
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """Serve `iterations` batches, after `warmup` uncounted ones, and return the figures as one flat row.

    A batch is `batch_size` prompts of `input_len` random tokens, other ones each time, answered greedily to
    `output_len` tokens. ttft: from the submission of the batch to a request's first token. tpot: a request's mean time
    a token after the first. itl: every single time between two tokens. latency: of a whole batch. Raises RequestError
    where such a request cannot be served; nothing is measured then.
    """
    draws = random.Random(f"{seed}:latency")
    vocab = engine.model_config.vocab
    params = SamplingParams(temperature=0.0, max_tokens=output_len, ignore_eos=True)
    engine.check([0] * input_len, params)
    batches: list[Batch] = []
    compiles = 0
    for iteration in tqdm(range(warmup + iterations), unit="batch", **progress):
        if iteration == warmup:
            compiles = engine.metrics.compiles_after_ready
        prompts = [[draws.randrange(vocab) for _ in range(input_len)] for _ in range(batch_size)]
        batch = _serve(engine, prompts, params, clock)
        if iteration >= warmup:
            batches.append(batch)
    times = [tokens for batch in batches for tokens in batch.token_s if tokens]
    tpot = [(tokens[-1] - tokens[0]) / (len(tokens) - 1) for tokens in times if len(tokens) > 1]
    itl = [late - early for tokens in times for early, late in pairwise(tokens)]
    ttft = [tokens[0] for tokens in times]
    latencies = [batch.total_s for batch in batches]
    return {
        "engine": "jaxpaged",
        "mode": "latency",
        "batch_size": batch_size,
        "input_len": input_len,
        "output_len": output_len,
        "iterations": iterations,
        "short": sum(len(tokens) != output_len for batch in batches for tokens in batch.token_s),
        "errors": sum(batch.errors for batch in batches),
        **{
            f"{name}_p{percent}_ms": percentile_ms(values, percent)
            for name, values in (("ttft", ttft), ("tpot", tpot), ("itl", itl), ("latency", latencies))
            for percent in (50, 99)
        },
        "out_tok_s": round(sum(map(len, times)) / max(sum(latencies), 1e-9), 2),
        "compiles_at_start": engine.metrics.compiles_at_start,
        "compiles_while_measured": engine.metrics.compiles_after_ready - compiles,
        **circumstances(engine, startup_s=startup_s),
    }


def _serve(engine: LLMEngine, prompts: list[list[int]], params: SamplingParams, clock: Callable[[], float]) -> Batch:
    began_s = now_s = clock()
    times = {engine.submit(prompt, params, output_kind=OutputKind.DELTA): [] for prompt in prompts}
    errors = 0
    while engine.has_unfinished:
        outputs = engine.step()
        now_s = clock()
        for output in outputs:
            times[output.request_id] += [now_s - began_s] * len(output.outputs[0].token_ids)
            errors += output.error is not None
    return Batch(token_s=list(times.values()), total_s=now_s - began_s, errors=errors)
