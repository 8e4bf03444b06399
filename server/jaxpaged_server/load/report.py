"""The page of a run: one HTML file with plots that needs nothing else, no script and no network."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

from jaxpaged import __version__
from jaxpaged_server.load.figures import percentile_name
from jaxpaged_server.load.outcome import End, Outcome
from jaxpaged_server.load.plots import Line, Stretch, columns, histogram, lines, scatter, timeline
from jaxpaged_server.load.run import Run
from jaxpaged_server.load.series import ends, num_slices, rates, token_events, under_way, waiting_here
from jaxpaged_server.load.spread import COLUMNS, MARKS, METRICS, Spread

_WIDE, _HALF = (960, 250), (560, 260)
_ROWS = 240
_COLOURS = {End.DONE: "c-out", End.FAILED: "c-failed", End.REFUSED: "c-refused", End.UNFINISHED: "c-queue"}
_DRAWN = {"ttft": "c-wait", "itl": "c-out", "tpot": "c-out", "e2el": "c-req"}
_METHOD = """All times are of one monotonic clock on the side of the client. TTFT: from the sending of a request to
the event with its first token, the making of a connection included. ITL: the time between two events of an answer
that hold tokens; an event may hold several. TPOT: the time from the first token to the end of an answer, by its
tokens but the first. E2EL: from the sending to the end. Latencies and token counts are of the requests that were
answered to their end; tokens are as the server counts them. Requests are sent at their times whatever the server
does, unless a limit of concurrency holds them back; time spent waiting for such a place is not part of the
latencies. Refused: status 429. Failed: anything else that is no whole answer."""


def page(
    result: Mapping[str, Any],
    run: Run,
    found: Mapping[str, Spread],
    *,
    notes: Sequence[str],
    settings: Mapping[str, Any],
) -> str:
    """The page as text.

    result: what is saved as JSON. found: how the metrics lie. notes: sentences to know before the figures.
    """
    title = f"Serving benchmark: {result['model_id']}"
    about = f"{result['label']}, {result['endpoint_type']} at {result['server']} · {result['date']} · {_load(result)}"
    body = [
        '<a class="skip" href="#main">To the results</a>',
        f"<header><h1>{escape(title)}</h1><p>{escape(about)}</p>",
        '<nav aria-label="Sections"><a href="#time">Over time</a><a href="#latency">Latencies</a>'
        '<a href="#requests">Requests</a><a href="#errors">Errors</a><a href="#settings">Settings</a></nav>',
        '</header><main id="main">',
        _tiles(result),
        _notes(notes),
        _over_time(run),
        _latencies(found),
        _requests(run),
        _errors(result, run),
        f'<section id="method"><h2>Method</h2><p>{escape(_METHOD)}</p></section>',
        _settings(result, settings),
        "</main>",
        f"<footer>Written by jaxpaged {escape(__version__)}, <code>jaxpaged bench serve</code>.</footer>",
    ]
    style = (files("jaxpaged.bench") / "report.css").read_text(encoding="utf-8")
    style += (files("jaxpaged_server.load") / "report.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title><style>{style}</style></head>\n<body>{''.join(body)}</body></html>\n"
    )


def _load(result: Mapping[str, Any]) -> str:
    rate = result["request_rate"]
    sent = "all at once" if rate == "inf" else f"{rate:g} a second"
    if result.get("ramp_up_strategy"):
        sent = f"{result['ramp_up_start_rps']:g} to {result['ramp_up_end_rps']:g} a second"
    most = f", at most {result['max_concurrency']} at once" if result["max_concurrency"] else ""
    return f"{result['num_prompts']} requests, {sent}{most}"


def _tiles(result: Mapping[str, Any]) -> str:
    bad = result["failed"] + result["unfinished"]
    shown = [
        ("output tokens/s", _number(result["output_throughput"]), f"{result['total_output_tokens']} tokens"),
        ("requests/s", _number(result["request_throughput"]), f"in {result['duration']:.4g} s"),
        ("answered", str(result["completed"]), f"{bad} not" if bad else "all"),
    ]
    shown += [
        (f"{METRICS[metric][0]} median", f"{median:.4g} ms", f"p99 {_number(result.get(f'p99_{metric}_ms'))} ms")
        for metric in ("ttft", "itl", "tpot", "e2el")
        if (median := result.get(f"median_{metric}_ms")) is not None
    ]
    if result["request_goodput"] is not None:
        limits = ", ".join(f"{name} {limit_ms:g} ms" for name, limit_ms in result["goodput_limits_ms"].items())
        shown.append(("goodput, requests/s", _number(result["request_goodput"]), f"within {limits}"))
    tiles = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd><dd>{escape(more)}</dd></div>"
        for name, value, more in shown
    )
    return f'<dl class="tiles">{tiles}</dl>'


def _notes(notes: Sequence[str]) -> str:
    if not notes:
        return ""
    items = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return f'<section class="notes"><h2>To know</h2><ul>{items}</ul></section>'


def _over_time(run: Run) -> str:
    tokens, done = token_events(run.outcomes), ends(run.outcomes, End.DONE)
    flow = (
        ("Output tokens a second", "tok/s", tokens, "c-out"),
        ("Requests answered a second", "req/s", done, "c-req"),
    )
    figures = [
        _figure(
            name,
            lines(
                name,
                [Line(name=name, points=_steps(events, run.duration_s), colour=colour, filled=True)],
                unit=unit,
                duration_s=run.duration_s,
                size=_WIDE,
            ),
        )
        for name, unit, events, colour in flow
        if events
    ]
    busy = [Line(name="under way", points=under_way(run.outcomes, run.duration_s), colour="c-req", filled=True)]
    legend = ""
    if any(outcome.queue_s > 0.05 for outcome in run.outcomes):
        waiting = waiting_here(run.outcomes, run.duration_s)
        busy.append(Line(name="due and not sent yet", points=waiting, colour="c-queue dashed"))
        legend = _legend({"c-req": "under way", "c-queue": "due and not sent yet (dashed)"})
    plot = lines("Requests at once", busy, unit="", duration_s=run.duration_s, size=_WIDE)
    return (
        f'<section id="time"><h2>Over time</h2>{"".join(figures)}{_figure("Requests at once", plot, legend)}</section>'
    )


def _steps(events: Sequence[tuple[float, float]], duration_s: float) -> list[tuple[float, float]]:
    slices = num_slices(len(events))
    width = duration_s / slices
    return [
        point
        for number, rate in enumerate(rates(events, duration_s, slices))
        for point in ((number * width, rate), ((number + 1) * width, rate))
    ]


def _latencies(found: Mapping[str, Spread]) -> str:
    plots, lines_of = [], []
    for metric, colour in _DRAWN.items():
        if (spread := found.get(metric)) is None:
            continue
        name, heading = METRICS[metric]
        heading = heading.partition(" (")[0]
        values_ms, at = spread.values_ms, spread.percentiles_ms
        marks = {percentile_name(percent): at[percent] for percent in MARKS}
        plot = histogram(f"{heading}, distribution", values_ms, marks, colour=colour, unit="ms", size=_HALF)
        what = "gaps between events" if metric == "itl" else "requests"
        plots.append(_figure(f"{heading} ({name}), {len(values_ms)} {what}", plot))
        figures = [spread.mean_ms, spread.std_ms, *(at[percent] for percent in COLUMNS)]
        lines_of.append([name, *(f"{value:.4g}" for value in figures), str(len(values_ms))])
    if not plots:
        return '<section id="latency"><h2>Latencies</h2><p>No request was answered.</p></section>'
    percents = [percentile_name(percent) for percent in COLUMNS[1:-1]]
    heads = ["", "mean", "std", "least", *percents, "most", "values"]
    return (
        f'<section id="latency"><h2>Latencies</h2><div class="pair">{"".join(plots)}</div>'
        f"{_table('Latencies in ms', heads, lines_of)}</section>"
    )


def _requests(run: Run) -> str:
    done = [outcome for outcome in run.outcomes if outcome.is_done]
    if not run.outcomes:
        return ""
    dots = [(outcome.began_s, 1000 * outcome.ttft_s) for outcome in _some(done, 2000)]
    over_time = scatter("TTFT by time of sending", dots, colour="c-wait", duration_s=run.duration_s, size=_WIDE)
    shown = _some(run.outcomes, _ROWS)
    plot = timeline(
        "Timeline of requests", [_stretch(each) for each in shown], duration_s=run.duration_s, width=_WIDE[0]
    )
    legend = _legend(
        {
            "c-wait thin": "waiting for the first token (thin)",
            "c-out": "tokens coming (thick)",
            "c-queue thin": "waiting on this side, or not finished",
            "c-refused": "refused (cross)",
            "c-failed": "failed (cross)",
        }
    )
    of = (
        f"{len(shown)} of {len(run.outcomes)} requests, evenly chosen"
        if len(shown) < len(run.outcomes)
        else "every request"
    )
    return (
        f'<section id="requests"><h2>Requests</h2>{_figure("TTFT by the time of sending", over_time) if dots else ""}'
        f"{_figure(f'Timeline: {of}, in the order of arrival', plot, legend)}</section>"
    )


def _some(outcomes: Sequence[Outcome], most: int) -> list[Outcome]:
    """All of them, or as many as `most`, evenly chosen."""
    if len(outcomes) <= most:
        return list(outcomes)
    return [outcomes[number * len(outcomes) // most] for number in range(most)]


def _stretch(outcome: Outcome) -> Stretch:
    told = [
        f"request {outcome.index}: {outcome.end.value}",
        f"sent at {outcome.began_s:.4g} s",
        f"{outcome.num_prompt} tokens in, {outcome.num_output} out",
        *([f"first after {1000 * outcome.ttft_s:.4g} ms"] if outcome.times_s else []),
        f"{1000 * outcome.latency_s:.4g} ms in all",
        *([f"{outcome.kind}: {outcome.error}"] if outcome.kind else []),
    ]
    return Stretch(
        due_s=outcome.due_s,
        began_s=outcome.began_s,
        first_s=outcome.times_s[0] if outcome.times_s else None,
        ended_s=outcome.ended_s,
        colour=_COLOURS[outcome.end],
        told=", ".join(told),
    )


def _errors(result: Mapping[str, Any], run: Run) -> str:
    kinds = result["errors_by_kind"]
    if not kinds:
        return '<section id="errors"><h2>Errors</h2><p>No request failed, none was refused.</p></section>'
    bad = [*ends(run.outcomes, End.FAILED), *ends(run.outcomes, End.REFUSED)]
    slices = num_slices(10 * len(bad))
    drawn = {_COLOURS[end]: rates(ends(run.outcomes, end), run.duration_s, slices) for end in (End.FAILED, End.REFUSED)}
    name = "Failed and refused requests a second"
    plot = columns(name, drawn, unit="req/s", duration_s=run.duration_s, size=_WIDE)
    legend = _legend({"c-failed": "failed (below)", "c-refused": "refused, status 429 (on top)"})
    rows = [[kind, str(told["count"]), told["example"]] for kind, told in kinds.items()]
    table = _table("Errors by kind", ["kind", "requests", "the first one's words"], rows)
    return f'<section id="errors"><h2>Errors</h2>{_figure(name, plot, legend)}{table}</section>'


def _settings(result: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    shown = {
        "settings": settings,
        "result": {key: value for key, value in result.items() if not isinstance(value, list)},
    }
    return (
        '<section id="settings"><h2>Settings and result</h2><details><summary>As JSON</summary>'
        f'<pre tabindex="0">{escape(json.dumps(shown, indent=2, default=str))}</pre></details></section>'
    )


def _figure(caption: str, plot: str, legend: str = "") -> str:
    return (
        f'<figure><figcaption>{escape(caption)}</figcaption>{legend}<div class="plot" tabindex="0" role="region" '
        f'aria-label="{escape(caption)}">{plot}</div></figure>'
    )


def _legend(colours: Mapping[str, str]) -> str:
    items = "".join(f'<li><span class="key {colour}"></span>{escape(name)}</li>' for colour, name in colours.items())
    return f'<ul class="legend">{items}</ul>'


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def _table(caption: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in heads)
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in row[1:])}</tr>'
        for row in rows
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}"><table>'
        f"<caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )
