"""`jaxpaged bench compare`: engines in turn on the same model and trace; rows, a page and one JSON object."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from jaxpaged.commands import INTERRUPTED
from jaxpaged.commands.bench import require_counts
from jaxpaged.commands.flags import OptionalCount, OptionalText, Switch, parse
from jaxpaged.commands.terminal import progress_options, say, write
from jaxpaged.errors import ConfigError

if TYPE_CHECKING:
    from jaxpaged.bench.compare import Absence, Rows
    from jaxpaged.bench.comparison import Comparison


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareOptions:
    """Serve the same traces with other engines and this one, in turn, and write rows and a page with the results.

    docs/BENCHMARKS.md says what a config holds and how it is measured. Interrupted, it reports what it has.
    """

    config: Path
    """TOML file with the cases and the engines."""
    output: Path
    """Folder for rows.jsonl, summary.json, report.html and logs."""
    rounds: OptionalCount = None
    """How often each engine serves each case (default: as the config says)."""
    only: OptionalText = None
    """Only the engines and cases with this in "case: engine"."""
    resume: Switch = False
    """Go on in a folder with rows; errors are tried again."""
    quiet: Switch = False
    """No progress and no table."""

    def check(self) -> None:
        """Raise ConfigError for a number that cannot be."""
        require_counts(self, {"rounds": 1})


def main(argv: Sequence[str]) -> int:
    """Run the command; returns the exit status: 1 where a run ended in an error."""
    options = parse(CompareOptions, argv, prog="jaxpaged bench compare")
    options.check()
    from jaxpaged.bench.compare import Rows, absences, measure, turns
    from jaxpaged.bench.comparison import read_comparison
    from jaxpaged.bench.machine import busyness

    comparison = read_comparison(options.config)
    absent = absences(comparison)
    for absence in absent:
        say(f"left out: {absence.engine} ({', '.join(absence.cases)}): {absence.why}")
    rounds = options.rounds or comparison.rounds
    planned = turns(comparison, absent, rounds=rounds)
    if options.only is not None:
        planned = [turn for turn in planned if options.only in f"{turn.case.name}: {turn.engine.name}"]
    if not planned:
        raise ConfigError(
            name="--config",
            value=str(options.config),
            limit="no engine of it can be run here" if options.only is None else f"nothing has {options.only!r} in it",
        )
    rows = Rows(options.output, comparison.text, resume=options.resume)
    told = None if options.quiet else say
    interrupted = False
    try:
        measure(comparison, planned, rows, busy=busyness, progress=progress_options(quiet=options.quiet), told=told)
    except KeyboardInterrupt:
        interrupted = True
        say(f"interrupted: {len(rows.rows)} of {len(planned)} runs have a row; --resume goes on")
    _report(replace(comparison, rounds=rounds), rows, absent, interrupted=interrupted, quiet=options.quiet)
    if interrupted:
        return INTERRUPTED
    return int(any(row.get("error") for row in rows.rows))


def _report(comparison: Comparison, rows: Rows, absent: Sequence[Absence], *, interrupted: bool, quiet: bool) -> None:
    """Write the summary and the page, say the table, print the summary."""
    from jaxpaged.bench.report import page
    from jaxpaged.bench.summary import ratios, results, summary, text_table

    made, compared = results(comparison, rows.rows), ratios(comparison, rows.rows)
    write_file = partial(Path.write_text, encoding="utf-8")
    place = rows.folder / "report.html"
    write_file(place, page(comparison, rows.rows, absent, interrupted=interrupted))
    told = {
        "report": str(place),
        "rows": str(rows.path),
        "interrupted": interrupted,
        **summary(made, compared),
        "left_out": [{"engine": item.engine, "cases": item.cases, "why": item.why} for item in absent],
    }
    write_file(rows.folder / "summary.json", json.dumps(told, indent=2) + "\n")
    if not quiet:
        say(text_table(made))
    write(json.dumps(told) + "\n")
