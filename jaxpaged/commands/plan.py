"""`jaxpaged plan`: what of a model fits on a device, and how fast it would serve a trace, with no such device here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from jaxpaged.bench.cost_table import TableCost, default_costs, read_costs
from jaxpaged.bench.shapes import SHAPES
from jaxpaged.bench.step_cost import RooflineCost, StepCost
from jaxpaged.bench.trace import read_trace
from jaxpaged.commands.bench import bench_engine, require_counts
from jaxpaged.commands.flags import EngineFlags, OptionalCount, OptionalPath, Switch, parse
from jaxpaged.commands.terminal import progress_options, say, table, write
from jaxpaged.config import EngineConfig
from jaxpaged.errors import ConfigError
from jaxpaged.weights.folder import is_gguf
from jaxpaged.weights.source import is_hub_name, localised

if TYPE_CHECKING:
    from jaxpaged.bench.capacity import Capacity
    from jaxpaged.buckets import BucketTable

_LEAST: dict[str, int] = dict.fromkeys(("limit", "max_concurrency"), 1)
_BUSY = 0.1  # share of processor time: from there on, times are not those of a machine of one's own


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanOptions:
    """Say what of a model fits on a device, and how fast it would serve a trace there; no such device is needed.

    The real scheduler, buckets and block pool run the trace against a clock that each step moves on: by a table of
    measured times, or, for a GPU without one, by the roofline of its data sheet. --model takes a well-known shape, too
    (llama-3.1-8b, ...).
    """

    device: Annotated[str, tyro.conf.arg(metavar="NAME")] = "here"
    """mi300x, mi325x, mi355x, h200, h100, h100-nvl, h100-pcie, a100, a100-40gb; here: JAX's own device; cpu."""
    trace: OptionalPath = None
    """Trace, one JSON object a line: "prompt_ids", "max_tokens" and "arrival_s"; without it, only what fits is told."""
    limit: OptionalCount = None
    """Take only so many requests of the trace."""
    max_concurrency: OptionalCount = None
    """So many requests under way at most, 1: one after the other."""
    measure: Switch = False
    """Time every step shape on this device first, and keep the table: the model is loaded, or drawn at random."""
    costs: OptionalPath = None
    """Table of measured times to use, or with --measure to write (default: one in the user's cache folder)."""
    json: Switch = False
    """Print one JSON object instead of tables."""
    quiet: Switch = False
    """With --measure: no start-up table and no progress."""
    engine: EngineFlags = field(default_factory=EngineConfig)
    """As in `LLM(...)`; names and meanings are vLLM's."""

    def check(self) -> None:
        """Raise ConfigError for options that cannot be."""
        require_counts(self, _LEAST)
        if self.engine.bundle is not None:
            raise ConfigError(
                name="--bundle", value=self.engine.bundle, limit="a plan has no programs", fix="Leave it out"
            )
        for name, value in (("limit", self.limit), ("max-concurrency", self.max_concurrency)):
            if self.trace is None and value is not None:
                raise ConfigError(name=f"--{name}", value=value, limit="it is of a trace", fix="Give --trace, too")


def main(argv: Sequence[str]) -> int:
    """Run the command; returns the exit status."""
    options = parse(PlanOptions, argv, prog="jaxpaged plan")
    options.check()
    trace = [] if options.trace is None else read_trace(options.trace, limit=options.limit, option="--trace")
    from jaxpaged.bench.capacity import HERE, capacity  # starts jax

    if options.measure and options.device not in HERE:
        raise ConfigError(
            name="--measure",
            value=options.device,
            limit="only the device that is here can be timed",
            fix="Leave it out",
        )
    if is_hub_name(options.engine.model) and not Path(options.engine.model).exists():
        # only what is timed needs weights
        engine = localised(options.engine, weights=options.measure, progress=not options.quiet)
        options = replace(options, engine=engine)
    found = capacity(options.engine, options.device)
    from jaxpaged.assembly import make_buckets
    from jaxpaged.bench.prediction import capacity_row, capacity_table, predict, prediction_table

    buckets = make_buckets(found.config)
    if options.measure:
        _measure(options, found)
    row: dict[str, Any] = {"plan": "jaxpaged", **capacity_row(found, buckets, trace)}
    told = table(capacity_table(found, buckets, trace))
    if trace:
        cost, source = _cost(options, found, buckets)
        predicted = predict(found, cost, trace, max_concurrency=options.max_concurrency)
        row |= {"trace": str(options.trace), "costs": source, "prediction": predicted}
        lines = [("trace", str(options.trace)), ("costs", source), *prediction_table(predicted)]
        told += f"\n\n{table(lines)}"
    write((json.dumps(row) if options.json else told) + "\n")
    return 0


def _measure(options: PlanOptions, found: Capacity) -> None:
    """Time the steps of the engine of these options and write the table."""
    from jaxpaged.bench.machine import busyness
    from jaxpaged.bench.prediction import subject_of
    from jaxpaged.bench.step_times import time_steps

    asked, shape = options.engine, None
    if asked.model in SHAPES or (Path(asked.model).is_file() and not is_gguf(Path(asked.model))):
        asked, shape = replace(asked, model=EngineConfig().model), asked.model
    engine = bench_engine(asked, shape, quiet=options.quiet)
    busy = busyness()["busy_before"]
    if busy is not None and busy > _BUSY:
        say(f"{busy:.0%} of the processor time is in use by others: the table will be that of a busy machine")
    subject = subject_of(found)
    costs = time_steps(engine, subject=subject, progress=progress_options(quiet=options.quiet))
    place = options.costs or default_costs(subject)
    costs.write(place)
    if not options.quiet:
        say(f"{len(costs.buckets)} step shapes timed: {place}")


def _cost(options: PlanOptions, found: Capacity, buckets: BucketTable) -> tuple[StepCost, str]:
    """What steps cost, and a sentence about where that is from. Raises ConfigError where nothing says it."""
    from jaxpaged.bench.prediction import subject_of

    subject = subject_of(found)
    place = options.costs or default_costs(subject)
    if options.costs is not None or (found.is_here and place.exists()):
        costs = read_costs(place)
        costs.check(subject, buckets, where=place)
        return TableCost(table=costs, model=found.model), f"measured on {subject['device']}: {place}"
    if found.sheet is None:
        raise ConfigError(
            name="--trace",
            value=str(options.trace),
            limit=f"nobody timed the steps of this model on {found.device.name} yet",
            fix="Add --measure, or name a table with --costs",
        )
    config = found.config
    types = {"dtype": config.weight_dtype, "kv_dtype": config.kv_cache_dtype}
    cost = RooflineCost(model=found.model, rates=found.sheet.rates, **types)
    return cost, f"UPPER BOUND, never measured: every step at the roofline of {found.sheet.kind}, the host for nothing"
