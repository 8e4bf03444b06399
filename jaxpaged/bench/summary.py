"""Rows of several rounds made into medians, and ratios of two engines round by round. [no jax]"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from types import MappingProxyType
from typing import Any

from jaxpaged.bench.comparison import Comparison, Engine

Row = Mapping[str, Any]

METRICS: Mapping[str, str] = MappingProxyType(
    {
        "out_tok_s": "output tokens/s",
        "ttft_p50_ms": "TTFT p50, ms",
        "ttft_p99_ms": "TTFT p99, ms",
        "tpot_p50_ms": "TPOT p50, ms",
        "itl_p99_ms": "ITL p99, ms",
        "total_s": "total, s",
        "startup_s": "start, s",
        "peak_rss_mb": "memory, MB",
    }
)
"""What is summed up, and how it is headed. Of the first more is better, of the others less."""
COMPARED = ("out_tok_s", "ttft_p50_ms", "tpot_p50_ms", "itl_p99_ms")


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Some values in the order of their rounds, their middle and their ends."""

    values: tuple[float, ...]
    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """None of nothing."""
        if not values:
            return None
        return cls(values=tuple(values), median=float(median(values)), least=min(values), most=max(values))

    @property
    def count(self) -> int:
        return len(self.values)

    @property
    def width(self) -> float:
        """(most - least) / median."""
        return (self.most - self.least) / self.median if self.median else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """An engine in a case: medians over the rounds that went well, and what went wrong in the others."""

    case: str
    engine: Engine
    metrics: Mapping[str, Spread]
    errors: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """subject / other in a case, each round by itself: `metrics` are spreads of ratios. like: the same precision."""

    case: str
    subject: Engine
    other: Engine
    metrics: Mapping[str, Spread]

    @property
    def like(self) -> bool:
        return self.subject.precision == self.other.precision

    @property
    def verdict(self) -> str:
        """Of the output rate: "ahead" or "behind" only where every round says so."""
        rate = self.metrics["out_tok_s"]
        if rate.count < 2:
            return "one round: says little"
        return "ahead" if rate.least > 1 else "behind" if rate.most < 1 else "within the spread"


def results(comparison: Comparison, rows: Sequence[Row]) -> list[Result]:
    """One for each case and engine that has a row, in the order of the comparison."""
    found: list[Result] = []
    for case in comparison.cases:
        for engine in comparison.engines_of(case):
            mine = [row for row in rows if (row["case"], row["engine"]) == (case.name, engine.name)]
            if not mine:
                continue
            spreads = {name: Spread.of(_values(mine, name)) for name in METRICS}
            found.append(
                Result(
                    case=case.name,
                    engine=engine,
                    metrics={name: spread for name, spread in spreads.items() if spread is not None},
                    errors=tuple(f"round {row['round'] + 1}: {row['error']}" for row in mine if row.get("error")),
                )
            )
    return found


def ratios(comparison: Comparison, rows: Sequence[Row]) -> list[Ratio]:
    """Of every jaxpaged engine to every other engine that served the same case in the same round."""
    found: list[Ratio] = []
    for case in comparison.cases:
        engines = comparison.engines_of(case)
        for subject in engines:
            if subject.kind != "jaxpaged":
                continue
            for other in engines:
                spreads = {name: Spread.of(_pairs(rows, case.name, subject, other, name)) for name in COMPARED}
                metrics = {name: spread for name, spread in spreads.items() if spread is not None}
                if other is not subject and "out_tok_s" in metrics:
                    found.append(Ratio(case=case.name, subject=subject, other=other, metrics=metrics))
    return found


def _pairs(rows: Sequence[Row], case: str, subject: Engine, other: Engine, name: str) -> list[float]:
    """Ratios of a metric in the rounds that both served."""
    ours, theirs = (
        {
            row["round"]: row[name]
            for row in rows
            if (row["case"], row["engine"]) == (case, engine.name) and _is_measured(row, name)
        }
        for engine in (subject, other)
    )
    return [ours[turn] / theirs[turn] for turn in sorted(ours.keys() & theirs.keys()) if theirs[turn]]


def _values(rows: Sequence[Row], name: str) -> list[float]:
    return [row[name] for row in rows if _is_measured(row, name)]


def _is_measured(row: Row, name: str) -> bool:
    value = row.get(name)
    return not row.get("error") and isinstance(value, int | float) and not (name == "peak_rss_mb" and value == 0)


def summary(made: Sequence[Result], compared: Sequence[Ratio]) -> dict[str, Any]:
    """Results and ratios as JSON objects."""
    return {
        "results": [
            {
                "case": result.case,
                "engine": result.engine.name,
                "kind": result.engine.kind,
                "precision": result.engine.precision,
                **{name: asdict(spread) for name, spread in result.metrics.items()},
                "errors": list(result.errors),
            }
            for result in made
        ],
        "ratios": [
            {
                "case": ratio.case,
                "subject": ratio.subject.name,
                "other": ratio.other.name,
                "same_precision": ratio.like,
                "verdict": ratio.verdict,
                **{name: asdict(spread) for name, spread in ratio.metrics.items()},
            }
            for ratio in compared
        ],
    }


def text_table(made: Sequence[Result]) -> str:
    """Medians for a terminal."""
    heads = ("case", "engine", "precision", *METRICS.values(), "spread", "rounds")
    lines: list[tuple[str, ...]] = [heads]
    for result in made:
        rate = result.metrics.get("out_tok_s")
        cells = [f"{spread.median:.4g}" if (spread := result.metrics.get(name)) else "-" for name in METRICS]
        ends = (f"{rate.width:.0%}", str(rate.count)) if rate else ("-", "0")
        lines.append((result.case, result.engine.name, result.engine.precision, *cells, *ends))
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
