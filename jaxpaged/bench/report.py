"""The page of a comparison: one HTML file that needs nothing else, no script and no network. [no jax]"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

from jaxpaged import __version__
from jaxpaged.bench.compare import Absence
from jaxpaged.bench.comparison import Comparison
from jaxpaged.bench.plots import Bar, bars
from jaxpaged.bench.summary import COMPARED, METRICS, Ratio, Result, Row, Spread, ratios, results

_BUSY = 0.1
_PLOTTED = (("out_tok_s", "tokens/s"), ("ttft_p50_ms", "ms"), ("tpot_p50_ms", "ms"))
_ROW_KEYS = ("round", "case", "engine", "started_at", "load_1m", "busy_before", *METRICS, "error")
_TOLD = ("settings", "versions", "threads")
_METHOD = """Every run is a process of its own with nothing else of the comparison beside it: an engine is started,
serves a few short requests that are not counted (jaxpaged runs its step shapes instead), then the trace. A round runs
every engine once; the order turns round from one round to the next. Figures are medians of the rounds, with the least
and the most beside them, a mark in the plots for each round. A ratio is taken within a round, then its median over the
rounds; “ahead” and “behind” are said only where every round agrees. Answers are greedy and of fixed length, so that all
engines compute the same number of tokens; whether they are the same tokens is not looked at here. TTFT: from the moment
a request is there (or, one after the other, is let in) to its first token. TPOT: its mean time a token after that. ITL:
the single times between two readings of a request."""


def page(comparison: Comparison, rows: Sequence[Row], absent: Sequence[Absence], *, interrupted: bool) -> str:
    """The page as text."""
    made, compared = results(comparison, rows), ratios(comparison, rows)
    names = [case.name for case in comparison.cases if any(result.case == case.name for result in made)]
    links = "".join(f'<a href="#case-{number}">{escape(name)}</a>' for number, name in enumerate(names))
    body = [
        '<a class="skip" href="#main">To the results</a>',
        f"<header><h1>{escape(comparison.title)}</h1>{_machine(rows)}",
        f'<nav aria-label="Sections">{links}<a href="#method">Method</a><a href="#settings">Settings</a>'
        '<a href="#rows">All rows</a></nav></header><main id="main">',
        _notes(rows, absent, interrupted=interrupted),
        *(_case(number, name, comparison, made, compared) for number, name in enumerate(names)),
        f'<section id="method"><h2>Method</h2><p>{escape(_METHOD)}</p></section>',
        _settings(rows),
        _rows(rows),
        "</main>",
        f"<footer>Written by jaxpaged {escape(__version__)}, <code>jaxpaged bench compare</code>.</footer>",
    ]
    style = (files("jaxpaged.bench") / "report.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(comparison.title)}</title><style>{style}</style></head>\n<body>{''.join(body)}</body></html>\n"
    )


def _machine(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    machine = rows[-1]["machine"]
    parts = [
        machine["cpu"],
        f"{machine['cores']} cores",
        "" if machine["memory_gib"] is None else f"{machine['memory_gib']} GiB",
        ", ".join(machine["features"]),
        machine["system"],
        f"{rows[0]['started_at']} to {rows[-1]['started_at']}",
    ]
    return f"<p>{' · '.join(escape(part) for part in parts if part)}</p>"


def _notes(rows: Sequence[Row], absent: Sequence[Absence], *, interrupted: bool) -> str:
    notes = [f"Left out: {item.engine} ({', '.join(item.cases)}): {item.why}" for item in absent]
    if interrupted:
        notes.insert(0, "Interrupted: this is what was measured until then.")
    busy = [row for row in rows if (row.get("busy_before") or 0) > _BUSY]
    if busy:
        notes.append(
            f"The machine was not quiet: before {len(busy)} of {len(rows)} runs more than {_BUSY:.0%} of its processor "
            f"time was in use (up to {max(row['busy_before'] for row in busy):.0%}). Read the ratios with care."
        )
    notes += [
        f"Error: {row['engine']}, {row['case']}, round {row['round'] + 1}: {row['error']}"
        for row in rows
        if row.get("error")
    ]
    if not notes:
        return ""
    return (
        f'<section class="notes"><h2>To know</h2><ul>{"".join(f"<li>{escape(n)}</li>" for n in notes)}</ul></section>'
    )


def _case(number: int, name: str, comparison: Comparison, made: Sequence[Result], compared: Sequence[Ratio]) -> str:
    case = next(case for case in comparison.cases if case.name == name)
    mine = [result for result in made if result.case == name]
    about = [f"model {case.model}", f"trace {case.trace.name}"]
    about += [f"the first {case.limit} requests"] if case.limit else []
    about += [f"at most {case.max_concurrency} at once"] if case.max_concurrency else []
    plots = [
        f"<figure><figcaption>{escape(METRICS[metric])} ({'more' if metric == 'out_tok_s' else 'less'} is better)"
        f'</figcaption><div class="plot" tabindex="0" role="region" aria-label="{escape(METRICS[metric])}">'
        f"{bars(f'{METRICS[metric]}, {name}', _bars(mine, metric), unit=unit)}</div></figure>"
        for metric, unit in _PLOTTED
        if any(metric in result.metrics for result in mine)
    ]
    colours = sorted({result.engine.precision for result in mine})
    legend = "".join(f'<li><span class="key p-{escape(colour)}"></span>{escape(colour)}</li>' for colour in colours)
    return (
        f'<section id="case-{number}"><h2>{escape(name)}</h2><p>{escape(", ".join(about))}</p>'
        f'<ul class="legend" aria-label="Colours: precision">{legend}</ul>{"".join(plots)}'
        f"{_medians(mine, name)}{_ratio_table([ratio for ratio in compared if ratio.case == name], name)}</section>"
    )


def _bars(mine: Sequence[Result], metric: str) -> list[Bar]:
    found: list[Bar] = []
    for result in mine:
        if (spread := result.metrics.get(metric)) is not None:
            found.append(
                Bar(
                    label=result.engine.name,
                    values=spread.values,
                    median=spread.median,
                    colour=f"p-{result.engine.precision}",
                    strong=result.engine.kind == "jaxpaged",
                )
            )
    return sorted(found, key=lambda bar: bar.median, reverse=metric == "out_tok_s")


def _medians(mine: Sequence[Result], name: str) -> str:
    lines = [
        [
            result.engine.name,
            result.engine.precision,
            *(_spread(result.metrics.get(metric)) for metric in METRICS),
            str(result.metrics["out_tok_s"].count if "out_tok_s" in result.metrics else 0),
            str(len(result.errors)),
        ]
        for result in mine
    ]
    heads = ["engine", "precision", *METRICS.values(), "rounds", "errors"]
    return _table(f"Medians (least to most), {name}", heads, lines)


def _ratio_table(compared: Sequence[Ratio], name: str) -> str:
    if not compared:
        return ""
    lines = [
        [
            ratio.subject.name,
            ratio.other.name,
            "like for like" if ratio.like else f"UNLIKE: {ratio.subject.precision} against {ratio.other.precision}",
            *(_spread(ratio.metrics.get(metric)) for metric in COMPARED),
            ratio.verdict,
        ]
        for ratio in sorted(compared, key=lambda ratio: not ratio.like)
    ]
    heads = ["this engine", "against", "precision", *(f"{METRICS[m].removesuffix(', ms')}, ratio" for m in COMPARED)]
    note = "<p>Of tokens/s a ratio above 1 is better, of times one below 1.</p>"
    return _table(f"Ratios, medians of pairs (least to most), {name}", [*heads, "tokens/s"], lines) + note


def _settings(rows: Sequence[Row]) -> str:
    """Of each engine in each case, from its last row that has any."""
    found: dict[str, Mapping[str, Any]] = {}
    for row in rows:
        if row.get("settings") or row.get("versions"):
            found[f"{row['engine']}, {row['case']}"] = row
    entries = [
        f'<details><summary>{escape(name)}</summary><pre tabindex="0">'
        f"{escape(json.dumps({key: row.get(key) for key in _TOLD}, indent=2))}</pre></details>"
        for name, row in found.items()
    ]
    return f'<section id="settings"><h2>Settings and versions</h2>{"".join(entries)}</section>'


def _rows(rows: Sequence[Row]) -> str:
    lines = [[_cell(key, row.get(key)) for key in _ROW_KEYS] for row in rows]
    table = _table("Every run, in the order of measurement", list(_ROW_KEYS), lines)
    return (
        f'<section id="rows"><h2>All rows</h2><details><summary>{len(rows)} runs</summary>{table}</details></section>'
    )


def _cell(key: str, value: object) -> str:
    if value is None:
        return "–"
    return str(value + 1) if key == "round" and isinstance(value, int) else str(value)


def _spread(spread: Spread | None) -> str:
    if spread is None:
        return "–"
    ends = f" ({spread.least:.4g} to {spread.most:.4g})" if spread.count > 1 else ""
    return f"{spread.median:.4g}{ends}"


def _table(caption: str, heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table in a frame that scrolls, by keyboard as well."""
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in heads)
    body = "".join(
        f'<tr><th scope="row">{escape(line[0])}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in line[1:])}</tr>'
        for line in lines
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}"><table>'
        f"<caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )
