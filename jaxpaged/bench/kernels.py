"""Times cases: one row each, beside what the device could do at most."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from tqdm import tqdm

from jaxpaged.bench.cases import Case, label
from jaxpaged.bench.circumstances import digits
from jaxpaged.bench.programs import Program, program_of
from jaxpaged.bench.rates import DeviceRates
from jaxpaged.bench.timing import round_seconds
from pallas_kernels.backend import Backend
from pallas_kernels.tuning import NO_TUNING, Table

_PROGRAM_S = 0.03  # long enough that launching it is nothing
_MOST_ROUNDS = 200
_REPEATS = 5


def measure(
    cases: Sequence[Case],
    backend: Backend,
    rates: DeviceRates,
    *,
    progress: Mapping[str, Any],
    tuning: Table = NO_TUNING,
) -> Iterator[dict[str, Any]]:
    """A row per case as soon as it is timed. A case that the backend cannot do gives a row with "error" instead."""
    with tqdm(total=len(cases), unit="case", **progress) as bar:
        for case in cases:
            bar.set_postfix_str(label(case))
            yield _row(case, backend, rates, tuning)
            bar.update()


def seconds_of(case: Case, backend: Backend, rates: DeviceRates, tuning: Table) -> tuple[float, Program]:
    """Median seconds of one call, and the program that was timed; its state is used up."""
    program = program_of(case, backend, tuning=tuning)
    least_s = rates.measured.seconds(num_bytes=program.num_bytes, flops=program.flops) * program.calls
    rounds = min(_MOST_ROUNDS, max(1, round(_PROGRAM_S / max(least_s, 1e-9))))
    spent = round_seconds(program.body, program.state, program.operands, rounds=rounds, repeats=_REPEATS)
    return statistics.median(spent) / program.calls, program


def _row(case: Case, backend: Backend, rates: DeviceRates, tuning: Table) -> dict[str, Any]:
    facts = {name: value for name, value in asdict(case).items() if name not in ("name", "dtype")}
    row = {"bench": "kernels", "op": case.op, "case": case.name, "backend": str(backend), **facts}
    try:
        seconds, program = seconds_of(case, backend, rates, tuning)
    except Exception as error:  # whatever one case meets, the others are timed all the same
        return row | {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    at_peak = {name: r.seconds(num_bytes=program.num_bytes, flops=program.flops) for name, r in _limits(rates)}
    measured = rates.measured
    memory_bound = program.num_bytes / measured.gb_s > program.flops / measured.tflop_s / 1e3
    return row | {
        "dtype": program.dtype,
        "time_us": digits(seconds * 1e6),
        "gb_s": digits(program.num_bytes / seconds / 1e9),
        "tflop_s": digits(program.flops / seconds / 1e12),
        "bound": "memory" if memory_bound else "compute",
        "num_bytes": program.num_bytes,
        "flops": program.flops,
        **{f"share_{name}": digits(least_s / seconds) for name, least_s in at_peak.items()},
        "measured_gb_s": digits(measured.gb_s),
        "measured_tflop_s": digits(measured.tflop_s),
        "device": measured.name,
    }


def _limits(rates: DeviceRates) -> list[tuple[str, Any]]:
    return [("measured", rates.measured), *([("sheet", rates.sheet)] if rates.sheet else [])]
