"""Searches how kernels are best cut on this device, and writes what it found as a tuning table."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jax.errors import JaxRuntimeError
from tqdm import tqdm

from jaxpaged.bench.cases import Case
from jaxpaged.bench.circumstances import digits
from jaxpaged.bench.kernels import seconds_of
from jaxpaged.bench.rates import DeviceRates
from jaxpaged.bench.searches import SEARCHES, Search, Space, Values
from jaxpaged.errors import ConfigError
from jaxpaged.tuning import read_tuning
from pallas_kernels.backend import Backend
from pallas_kernels.section import Fact
from pallas_kernels.target import current_target
from pallas_kernels.tuning import Entry, Table, as_json

# how XLA and the drivers say that tiles do not fit: shared memory, registers; that Triton cannot compile them
_TOO_MUCH = ("RESOURCE_EXHAUSTED", "OUT_OF_RESOURCES", "OutOfResources", "Failed to compile Triton")


def require_gpu(backend: str) -> None:
    """Raise ConfigError where kernels are interpreted or not ours: times would say nothing of a GPU."""
    platform = current_target().platform
    if platform == "cpu":
        raise ConfigError(
            name="--tune",
            value=platform,
            limit="kernels are interpreted on a CPU, so their times say nothing",
            fix="Run it on a machine with a GPU",
        )
    if backend not in ("auto", Backend.TRITON):
        raise ConfigError(
            name="--backend", value=backend, limit="only the triton kernels have a tuning", fix="Use triton with --tune"
        )


def tunable(cases: Sequence[Case]) -> tuple[Case, ...]:
    """The cases of ops that have a tuning. Raises ConfigError where there is none."""
    found = tuple(case for case in cases if case.op in SEARCHES)
    if not found:
        raise ConfigError(
            name="--tune",
            value=", ".join(sorted({case.op for case in cases})),
            limit="it has no tuning: its products are XLA's own",
            fix=f"Let --only name one of {', '.join(SEARCHES)}",
        )
    return found


def descend(start: Values, space: Space, seconds: Callable[[Values], float | None]) -> tuple[Values, float, int]:
    """The quickest values found by changing one at a time for as long as that helps.

    seconds: of some values, None where they cannot be. Returns the values, their seconds and how many were tried.
    Raises ValueError where `start` itself cannot be.
    """
    tried: dict[tuple[tuple[str, int], ...], float | None] = {}

    def spent(values: Values) -> float | None:
        key = tuple(sorted(values.items()))
        if key not in tried:
            tried[key] = seconds(values)
        return tried[key]

    best, best_s = start, spent(start)
    if best_s is None:
        raise ValueError(f"the tuning to begin with, {start}, cannot be run")
    improved = True
    while improved:
        improved = False
        for name, choices in space.items():
            for value in choices:
                candidate = best | {name: value}
                candidate_s = spent(candidate)
                if candidate_s is not None and candidate_s < best_s:
                    best, best_s, improved = candidate, candidate_s, True
    return best, best_s, len(tried)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Alike:
    """Cases of one op that the tables do not tell apart: they share an entry, and so a search."""

    search: Search
    when: Mapping[str, Fact]
    cases: list[Case]

    @property
    def op(self) -> str:
        return self.cases[0].op

    def entry(self, use: Values) -> Entry:
        when = tuple((name, (fact,)) for name, fact in self.when.items())
        return Entry(section=self.search.section.name, when=when, use=tuple(use.items()))


def tune(
    cases: Sequence[Case], backend: Backend, rates: DeviceRates, *, path: Path, progress: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """A row per entry that the cases of `tunable` ask for; after each the table at `path` holds all that was found.

    What it held already stays behind that, but for entries of the same conditions. Raises ConfigError for a path that
    cannot be written and for a file there that is no table.
    """
    table = _table_at(path)
    together = _alike(cases)
    with tqdm(total=len(together), unit="entry", **progress) as bar:
        for alike in together:
            bar.set_postfix_str(f"{alike.op}/{alike.cases[-1].name}")
            row, use = _tune(alike, backend, rates)
            if use is not None:
                table = placed(table, alike.entry(use))
                save_table(path, table)
            yield row | {"table": str(path)}
            bar.update()


def _alike(cases: Sequence[Case]) -> list[_Alike]:
    found: dict[tuple[str, tuple[tuple[str, Fact], ...]], _Alike] = {}
    for case in cases:
        search = SEARCHES[case.op]
        when = search.conditions(case, current_target())
        alike = found.setdefault((case.op, tuple(when.items())), _Alike(search=search, when=when, cases=[]))
        alike.cases.append(case)
    return list(found.values())


def _tune(alike: _Alike, backend: Backend, rates: DeviceRates) -> tuple[dict[str, Any], Values | None]:
    """The row, and the best values; None for those where the search failed."""
    names = [case.name for case in alike.cases]
    row: dict[str, Any] = {"bench": "tune", "op": alike.op, "cases": names, "when": dict(alike.when)}
    spent_s: dict[str, list[float]] = {}
    refused: list[str] = []

    def timed(values: Values) -> list[float]:
        table = Table(entries=(alike.entry(values),))
        spent_s[str(values)] = [seconds_of(case, backend, rates, table)[0] for case in alike.cases]
        return spent_s[str(values)]

    def relative(values: Values) -> float | None:
        """The mean over the cases of the time against that of the values to begin with."""
        try:
            spent = timed(values)
        except Exception as error:
            if not is_refusal(error):
                raise
            refused.append(_message(error))
            return None
        return sum(a / b for a, b in zip(spent, base, strict=True)) / len(base)

    try:
        first = alike.cases[-1]
        start = alike.search.start(first, current_target())
        base = timed(start)
        best, ratio, tried = descend(start, alike.search.space(first), relative)
    except Exception as error:  # whatever one entry meets, the others are searched all the same
        return row | {"error": _message(error), **_refusals(refused)}, None
    return (
        row
        | {
            "use": best,
            "time_us": [digits(s * 1e6) for s in spent_s[str(best)]],
            "shipped": start,
            "shipped_time_us": [digits(s * 1e6) for s in base],
            "time_ratio": digits(ratio),
            "tried": tried,
            **_refusals(refused),
        },
        best,
    )


def is_refusal(error: Exception) -> bool:
    """Whether tiles alone are at fault: the device has no room for them, or the kernel cannot be cut so.

    For values that replace others with which the same call was made: what both meet is no refusal.
    """
    if isinstance(error, JaxRuntimeError):
        return any(sign in str(error) for sign in _TOO_MUCH)
    return isinstance(error, ValueError | NotImplementedError)  # of this package and of JAX's lowering


def _message(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _refusals(refused: Sequence[str]) -> dict[str, Any]:
    return {"refused": len(refused), **({"refusal": refused[0]} if refused else {})}


def placed(table: Table, entry: Entry) -> Table:
    """The table with `entry` in front, in place of one with the same conditions.

    Those that differ from it only in a range of sizes that ends lower stay before it, so that each size is cut as the
    nearest one above that was searched.
    """

    def others(one: Entry) -> Any:
        return one.section, [condition for condition in one.when if not condition[0].startswith(("min_", "max_"))]

    def ends(one: Entry) -> list[Any]:
        return [wanted for name, wanted in one.when if name.startswith("max_")]

    kept = [one for one in table.entries if (one.section, one.when) != (entry.section, entry.when)]
    family = [one for one in kept if others(one) == others(entry) and len(ends(one)) == len(ends(entry))]
    before = [one for one in family if ends(one) < ends(entry)]
    return Table(entries=(*before, entry, *(one for one in kept if one not in before)))


def save_table(path: Path, table: Table) -> None:
    """Write a table in whole or not at all. Raises ConfigError naming the path."""
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(as_json(table), encoding="utf-8")
        os.replace(part, path)
    except OSError as error:
        raise ConfigError(name="--output", value=str(path), limit=error.strerror or str(error)) from error


def _table_at(path: Path) -> Table:
    """The table that is there, or a new one: a path that cannot be written is told before the search."""
    if path.exists():
        return read_tuning(path)
    save_table(path, Table())
    return Table()
