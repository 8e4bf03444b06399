"""What a step costs the host: plan, pack, launch and commit over requests that decode, with no device behind them."""

from __future__ import annotations

import statistics
import time
from collections import deque
from typing import Any

from jaxpaged.batch import Packer, StepLayout
from jaxpaged.bench.circumstances import digits, versions
from jaxpaged.buckets import BucketTable
from jaxpaged.plan import StepPlan
from jaxpaged.request import Request, SamplingParams
from jaxpaged.scheduler import KVPoolSpec, Scheduler, SchedulerConfig

PARTS = ("plan", "pack", "launch", "commit")
_VOCAB, _BLOCK, _STEP_TOKENS, _AHEAD = 32_000, 16, 2048, 1


def measure(rows: int, *, context: int, steps: int) -> dict[str, Any]:
    """Median microseconds of each part of a step of `rows` decoding requests, `steps` times after as many to warm up.

    context: tokens of each request when the measured steps begin. A step is committed after the next one is launched,
    as the engine does; every drawn token is the same.
    """
    spent: dict[str, list[float]] = {part: [] for part in PARTS}
    longest = context + 2 * steps + 2
    config = SchedulerConfig(
        max_rows=rows, max_step_tokens=max(_STEP_TOKENS, rows + 64), max_model_len=longest, chunk_align=64
    )
    buckets = BucketTable.build(max_rows=rows, max_step_tokens=config.max_step_tokens, min_rows=min(rows, 8))
    width = -(-longest // _BLOCK)
    scheduler = Scheduler(config, KVPoolSpec(block_size=_BLOCK, num_blocks=rows * width + 1), buckets)
    packer = Packer(num_seats=config.num_seats, table_width=width, groups=[0], max_model_len=longest, vocab_size=_VOCAB)
    for number in range(rows):
        scheduler.submit(_request(number, context=max(1, context - steps), answer=longest))
    in_flight: deque[StepPlan] = deque()
    counted = 0
    while counted < steps:
        began = time.perf_counter()
        plan = scheduler.plan()
        assert plan is not None, "the requests go on for longer than this"
        planned = time.perf_counter()
        packer.pack(plan, StepLayout(bucket=plan.bucket, table_width=width, num_groups=1))
        packed = time.perf_counter()
        scheduler.launch(plan)
        in_flight.append(plan)
        launched = time.perf_counter()
        if len(in_flight) > _AHEAD:
            done = in_flight.popleft()
            size = len(done.rows)
            scheduler.commit(done, [1] * size, finite=[True] * size, logprobs=[None] * size)
            scheduler.ledger()
        ended = time.perf_counter()
        if len(plan.rows) == rows and plan.rows[0].start >= context:
            counted += 1
            for part, seconds in zip(
                PARTS, (planned - began, packed - planned, launched - packed, ended - launched), strict=True
            ):
                spent[part].append(seconds)
    medians = {f"{part}_us": digits(statistics.median(seconds) * 1e6) for part, seconds in spent.items()}
    totals = [sum(parts) for parts in zip(*spent.values(), strict=True)]
    return {
        "bench": "host",
        "rows": rows,
        "context": context,
        "steps": steps,
        **medians,
        "total_us": digits(statistics.median(totals) * 1e6),
        "total_p99_us": digits(statistics.quantiles(totals, n=100)[98] * 1e6),
        "versions": versions(),
    }


def _request(number: int, *, context: int, answer: int) -> Request:
    prompt = tuple((number * 31 + position) % _VOCAB for position in range(context))  # no two begin alike
    params = SamplingParams(temperature=0.0, max_tokens=answer - context, ignore_eos=True)
    return Request(id=str(number), prompt=prompt, params=params, seed=number, max_tokens=answer - context)
