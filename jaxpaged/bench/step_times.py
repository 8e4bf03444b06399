"""Times every bucket of an engine on this machine, at several lengths of its rows, for a table of costs."""

from __future__ import annotations

import statistics
import time
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
from tqdm import tqdm

from jaxpaged.batch import Packer, StepInputs
from jaxpaged.bench import host
from jaxpaged.bench.cost_table import BucketCost, CostTable, HostCost
from jaxpaged.buckets import Bucket
from jaxpaged.plan import RowPlan, StepPlan
from jaxpaged.request import Request, SamplingParams
from jaxpaged.roofline import keys_and_pairs

if TYPE_CHECKING:
    from jaxpaged.engine import LLMEngine

_LONGEST = 2048  # of the rows that are timed: from there on the line is drawn on
_BATCH_S = 0.05  # steps that are waited for together take about so long
_REPEATS = 5
_HOST_ROWS, _HOST_STEPS = (4, 32), 100


@dataclass(frozen=True, slots=True, kw_only=True)
class _Point:
    """A step that is timed: what it is given, and the keys or pairs that it has."""

    bucket: Bucket
    inputs: StepInputs
    units: int


def time_steps(
    engine: LLMEngine,
    *,
    subject: Mapping[str, str],
    progress: Mapping[str, Any],
    clock: Callable[[], float] = time.perf_counter,
) -> CostTable:
    """Run every bucket of an idle engine and fit its costs; the pool's contents are spoilt, its prefix cache emptied.

    The points take turns, so that a drift of the machine falls on all. Takes seconds on a GPU, and on a CPU about
    0.3 s for each bucket and length.
    """
    engine.require_idle("time_steps")
    engine.scheduler.reset_prefix_cache()
    points = [point for bucket in engine.buckets for point in _points(engine, bucket)]
    launches: list[float] = []
    sizes = [max(1, round(_BATCH_S / min(_run(engine, p, 1, launches, clock) for _ in range(3)))) for p in points]
    launches.clear()
    spent: list[list[float]] = [[] for _ in points]
    with tqdm(total=_REPEATS * len(points), unit="point", **progress) as bar:
        for _ in range(_REPEATS):
            for point, size, seconds in zip(points, sizes, spent, strict=True):
                seconds.append(_run(engine, point, size, launches, clock))
                bar.update()
    found: dict[Bucket, list[tuple[float, float]]] = {}
    for point, seconds in zip(points, spent, strict=True):
        found.setdefault(point.bucket, []).append((point.units, statistics.median(seconds)))
    return CostTable(
        subject=dict(subject),
        host=_host_cost(statistics.median(launches)),
        buckets=tuple(BucketCost.fit(bucket, pairs) for bucket, pairs in found.items()),
    )


def _run(engine: LLMEngine, point: _Point, steps: int, launches: list[float], clock: Callable[[], float]) -> float:
    """Seconds of one of so many steps, one launched behind the other; how long each launch took is appended."""
    runner = engine.runner
    began_s = clock()
    for _ in range(steps):
        launching_s = clock()
        result = runner.execute(point.inputs, point.bucket)
        launches.append(clock() - launching_s)
        last = result.sampled.tokens
    jax.block_until_ready(last)  # pyright: ignore[reportPossiblyUnboundVariable]
    return (clock() - began_s) / steps


def _points(engine: LLMEngine, bucket: Bucket) -> list[_Point]:
    """Steps of the bucket: decode with short, middling and long rows; mixed with one prompt's first and later chunks,
    and with many short prompts."""
    config = engine.config
    room = min(config.max_model_len, (config.num_blocks - 1) * config.block_size)
    longest = min(room, _LONGEST)
    if bucket.is_decode:
        lengths = sorted({max(1, longest // part) for part in (32, 4, 1)})
        plans = [[(length - 1, 1)] * bucket.rows for length in lengths]
    else:
        chunk = min(bucket.tokens, longest)
        short = bucket.tokens // min(bucket.rows, max(1, bucket.tokens // 16))
        plans = [[(start, chunk)] for start in sorted({0, (longest - chunk) // 2, longest - chunk})]
        plans += [[(0, short)] * (bucket.tokens // short)] if 1 < short < chunk else []
    return [_point(engine, bucket, rows) for rows in plans]


def _point(engine: LLMEngine, bucket: Bucket, rows: Sequence[tuple[int, int]]) -> _Point:
    config, model = engine.config, engine.model_config
    groups = len(model.kv_groups())
    packer = Packer(
        num_seats=config.num_seats,
        table_width=config.table_width,
        groups=range(groups),
        max_model_len=config.max_model_len,
        vocab_size=model.vocab,
    )
    usable, taken, plans = config.num_blocks - 1, 0, []
    for seat, (start, length) in enumerate(rows):
        count = -(-(start + length) // config.block_size)
        # rows share blocks where the pool has not enough: what they hold is of no interest
        tables = [array("i", ((taken + g * count + i) % usable + 1 for i in range(count))) for g in range(groups)]
        taken += count * groups
        request = Request(
            id=str(seat),
            prompt=tuple((seat * 31 + place) % model.vocab for place in range(start + length)),
            params=SamplingParams(temperature=0.0, ignore_eos=True),
            seed=0,
            max_tokens=1,
            seat=seat,
            num_computed=start,
            block_ids=tables,
            table_starts=[0] * groups,
        )
        plans.append(RowPlan.of(request, length))
    inputs = packer.pack(StepPlan(rows=tuple(plans), bucket=bucket), engine.runner.layout(bucket))
    keys, pairs = keys_and_pairs(model, rows)
    return _Point(bucket=bucket, inputs=inputs, units=keys if bucket.is_decode else pairs)


def _host_cost(execute_s: float) -> HostCost:
    """execute_s: of launching a step's programs, however many rows it has."""
    few, many = (host.measure(rows, context=256, steps=_HOST_STEPS) for rows in _HOST_ROWS)
    span = _HOST_ROWS[1] - _HOST_ROWS[0]

    def line(parts: Sequence[str]) -> tuple[float, float]:
        low, high = (sum(row[f"{part}_us"] for part in parts) / 1e6 for row in (few, many))
        a_row = max(0.0, (high - low) / span)
        return max(0.0, low - a_row * _HOST_ROWS[0]), a_row

    launch_s, launch_row_s = line(("plan", "pack", "launch"))
    commit_s, commit_row_s = line(("commit",))
    return HostCost(
        launch_s=launch_s + execute_s, launch_row_s=launch_row_s, commit_s=commit_s, commit_row_s=commit_row_s
    )
