"""Engines side by side: who runs when, and the rows that stay whatever happens. [no jax]"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tqdm import tqdm

from jaxpaged.bench.comparison import Case, Comparison, Engine
from jaxpaged.bench.launch import run_once
from jaxpaged.bench.machine import describe_machine
from jaxpaged.bench.presence import missing_engine, missing_file
from jaxpaged.errors import ConfigError

ROWS, CONFIG = "rows.jsonl", "compare.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """An engine's run of a case in a round (from 0)."""

    round: int
    case: Case
    engine: Engine


@dataclass(frozen=True, slots=True, kw_only=True)
class Absence:
    """An engine that is left out of some cases, and what to install or make."""

    engine: str
    cases: tuple[str, ...]
    why: str


def absences(comparison: Comparison) -> list[Absence]:
    """What cannot be compared on this machine. Starts each engine's Python once."""
    found: list[Absence] = []
    for engine in comparison.engines:
        cases = [case for case in comparison.cases if engine in comparison.engines_of(case)]
        if why := missing_engine(engine):
            found.append(Absence(engine=engine.name, cases=tuple(case.name for case in cases), why=why))
            continue
        whys = {case.name: missing_file(comparison, engine, case) for case in cases}
        for why in sorted({why for why in whys.values() if why}):
            names = tuple(name for name, other in whys.items() if other == why)
            found.append(Absence(engine=engine.name, cases=names, why=why))
    return found


def turns(comparison: Comparison, absent: Sequence[Absence], *, rounds: int) -> list[Turn]:
    """Every engine once in each case of a round, in the order of the config and back in turn.

    So a drift of the machine falls on all engines, and none always runs after the same other one.
    """
    gone = {(absence.engine, case) for absence in absent for case in absence.cases}
    planned: list[Turn] = []
    for turn in range(rounds):
        for case in comparison.cases:
            present = [engine for engine in comparison.engines_of(case) if (engine.name, case.name) not in gone]
            order = present if turn % 2 == 0 else reversed(present)
            planned += [Turn(round=turn, case=case, engine=engine) for engine in order]
    return planned


class Rows:
    """The rows of a comparison in a folder: one JSON object a line, each in the file as soon as it is measured.

    Raises ConfigError for a folder that holds rows already, unless `resume`, and then for one of another config.
    """

    def __init__(self, folder: Path, text: str, *, resume: bool) -> None:
        self.folder = folder
        self.path = folder / ROWS
        self.rows: list[dict[str, Any]] = []
        if self.path.exists() and self.path.stat().st_size:
            if not resume:
                raise ConfigError(
                    name="--output",
                    value=str(folder),
                    limit="it holds rows of an earlier run",
                    fix="Name another folder, or give --resume to go on with that run",
                )
            if (folder / CONFIG).read_text(encoding="utf-8") != text:
                raise ConfigError(
                    name="--resume",
                    value=True,
                    limit=f"the rows in {folder} were measured with another config",
                    fix="Name another folder",
                )
            self._read()
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG).write_text(text, encoding="utf-8")

    def is_done(self, turn: Turn) -> bool:
        """Whether the run was measured without an error."""
        key = (turn.round, turn.case.name, turn.engine.name)
        return any((row["round"], row["case"], row["engine"]) == key and not row.get("error") for row in self.rows)

    def add(self, row: Mapping[str, Any]) -> None:
        """Add a row; it is on the disk at return. A row of the same run that ended in an error is replaced."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._keep(dict(row))

    def _read(self) -> None:
        text = self.path.read_text(encoding="utf-8")
        if not text.endswith("\n"):  # the next row must not be glued to the half of another
            with self.path.open("a", encoding="utf-8") as file:
                file.write("\n")
        for line in text.splitlines():
            try:
                self._keep(json.loads(line))
            except ValueError:  # a crash in the middle of a write
                continue

    def _keep(self, row: dict[str, Any]) -> None:
        names = ("round", "case", "engine")
        self.rows = [other for other in self.rows if any(other[name] != row[name] for name in names)]
        self.rows.append(row)


def measure(
    comparison: Comparison,
    planned: Sequence[Turn],
    rows: Rows,
    *,
    busy: Callable[[], Mapping[str, Any]],
    progress: Mapping[str, Any],
    run: Callable[..., dict[str, Any]] = run_once,
    told: Callable[[str], None] | None = None,
) -> None:
    """Do every run that has no row yet, one after the other. Interrupted, it leaves the rows measured so far."""
    machine = describe_machine()
    with tqdm(total=len(planned), unit="run", **progress) as bar:
        for number, turn in enumerate(planned):
            bar.set_postfix_str(f"{turn.case.name}: {turn.engine.name}")
            if not rows.is_done(turn):
                row = {
                    "case": turn.case.name,
                    "engine": turn.engine.name,
                    "kind": turn.engine.kind,
                    "precision": turn.engine.precision,
                    "model": turn.case.model,
                    "max_concurrency": turn.case.max_concurrency,
                    "round": turn.round,
                    "place": number,
                    "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
                    **busy(),
                }
                log = rows.folder / "logs" / f"{_file_name(turn)}.log"
                found = run(comparison, turn.engine, turn.case, log=log)
                kept = {key: value for key, value in found.items() if key not in row}
                rows.add({**row, **kept, "machine": machine})
                if told is not None:
                    told(_line(turn, found))
            bar.update()


def _line(turn: Turn, row: Mapping[str, Any]) -> str:
    figure = f"error: {row['error']}" if row.get("error") else f"{row['out_tok_s']} tokens/s"
    return f"round {turn.round + 1}, {turn.case.name}, {turn.engine.name}: {figure}"


def _file_name(turn: Turn) -> str:
    words = f"{turn.case.name}-{turn.engine.name}-{turn.round + 1}"
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in words)
