"""Searches how attention is best cut on this device, and writes what it found as a tuning table."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from jaxpaged.bench.cases import AttentionCase, Case, label
from jaxpaged.bench.circumstances import digits
from jaxpaged.bench.kernels import seconds_of
from jaxpaged.bench.programs import machine_dtype
from jaxpaged.bench.rates import DeviceRates
from jaxpaged.errors import ConfigError
from pallas_kernels.backend import Backend
from pallas_kernels.ragged_attention.tuning import SECTION, case_of, tuning_for
from pallas_kernels.target import current_target
from pallas_kernels.tuning import Entry, Table, as_json, load_table, merged

Values = dict[str, int]
Space = Mapping[str, tuple[int, ...]]

SPACES: Mapping[str, Space] = {
    "decode": {"kv_tile": (32, 64, 128), "num_warps": (2, 4, 8), "num_stages": (1, 2, 3, 4), "waves": (2, 4, 8)},
    "mixed": {"q_tile": (32, 64, 128), "kv_tile": (32, 64, 128), "num_warps": (4, 8), "num_stages": (1, 2, 3)},
    "prefill": {"q_tile": (64, 128), "kv_tile": (32, 64, 128), "num_warps": (4, 8), "num_stages": (1, 2, 3)},
}
"""Values worth trying, by the case that the kernels distinguish."""


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


def tune(
    cases: Sequence[Case], backend: Backend, rates: DeviceRates, *, path: Path, progress: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """A row per attention case; after each the table at `path` holds all that was found, before what it held already.

    Raises ConfigError for a path that cannot be written and for a file there that is no table.
    """
    before = _table_at(path)
    found: dict[tuple[tuple[str, str | int], ...], Entry] = {}
    attention = [case for case in cases if isinstance(case, AttentionCase)]
    with tqdm(total=len(attention), unit="case", **progress) as bar:
        for case in attention:
            bar.set_postfix_str(label(case))
            row, when, use = _tune(case, backend, rates)
            if use is not None:
                # of cases alike for the kernels the last one holds: they are listed from small to large
                conditions = tuple((name, (fact,)) for name, fact in when.items())
                entry = Entry(section=SECTION, when=conditions, use=tuple(use.items()))
                found[tuple(when.items())] = entry
                save_table(path, merged(Table(entries=tuple(found.values())), before))
            yield row | {"table": str(path)}
            bar.update()


def _tune(
    case: AttentionCase, backend: Backend, rates: DeviceRates
) -> tuple[dict[str, Any], dict[str, str | int], Values | None]:
    target = current_target()
    kind = case_of(sum(case.q_lens), len(case.q_lens))
    dtype = case.dtype or machine_dtype()
    group = case.heads // case.kv_heads
    when: dict[str, str | int] = {
        "kind": target.kind,
        "case": kind,
        "head_dim": case.head_dim,
        "group": group,
        "dtype": dtype,
    }
    row = {"bench": "tune", "op": case.op, "case": case.name, "when": when}
    shipped = tuning_for(
        kind,
        target=target,
        head_dim=case.head_dim,
        group=group,
        dtype=dtype,
        num_rows=len(case.q_lens),
        kv_heads=case.kv_heads,
        most_keys=max(case.kv_lens),
    )
    names = ("q_tile", "kv_tile", "num_warps", "num_stages", *(("waves",) if kind == "decode" else ()))
    start = {name: getattr(shipped, name) for name in names}
    conditions = tuple((name, (fact,)) for name, fact in when.items())

    def seconds(values: Values) -> float | None:
        entry = Entry(section=SECTION, when=conditions, use=tuple(values.items()))
        try:
            return seconds_of(case, backend, rates, Table(entries=(entry,)))[0]
        except Exception:  # does not fit the device, or is no tuning of this kernel
            return None

    try:
        best, best_s, tried = descend(start, SPACES[kind], seconds)
    except ValueError as error:
        return row | {"error": str(error)}, when, None
    shipped_s = seconds(start)
    return (
        row
        | {
            "use": best,
            "time_us": digits(best_s * 1e6),
            "shipped": start,
            "shipped_time_us": None if shipped_s is None else digits(shipped_s * 1e6),
            "tried": tried,
        },
        when,
        best,
    )


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
    if not path.exists():
        save_table(path, Table())
        return Table()
    try:
        return load_table(path)
    except (OSError, ValueError) as error:
        limit = f"it is there and no tuning table: {error}"
        raise ConfigError(name="--output", value=str(path), limit=limit, fix="Move it away") from error
