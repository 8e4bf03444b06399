"""Figures against numbers worked out by hand, the table and the page made of them."""

from __future__ import annotations

import random
import re
from array import array
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import pytest
from jaxpaged_server.commands.bench_serve_result import notes_on
from jaxpaged_server.load.figures import Selection, figures, per_request
from jaxpaged_server.load.lag import Lag
from jaxpaged_server.load.outcome import End, Outcome
from jaxpaged_server.load.plots import Axis, nice_step
from jaxpaged_server.load.report import page
from jaxpaged_server.load.run import Run
from jaxpaged_server.load.series import num_slices, rates, under_way
from jaxpaged_server.load.spread import COLUMNS, METRICS, spreads
from jaxpaged_server.load.table import table

from jaxpaged.errors import ConfigError

ALL = Selection.parse("ttft,tpot,itl,e2el,client_queue_time,e2el_including_client_queue", "50,90,99.9", ())
ON_TIME = Lag(p50_ms=0.1, p99_ms=1.0, max_ms=2.0, cpu_share=0.1)


def answered(index: int, began_s: float, times_s: list[float], *, due_s: float | None = None, **more: Any) -> Outcome:
    outcome = Outcome(index=index, due_s=began_s if due_s is None else due_s, began_s=began_s, num_prompt=10, **more)
    for time_s in times_s:
        outcome.add(1, time_s)
    outcome.ended_s, outcome.end = times_s[-1], End.DONE
    return outcome


def failed(index: int, kind: str, error: str, *, end: End = End.FAILED, retry_after_s: float | None = None) -> Outcome:
    outcome = Outcome(index=index, due_s=1.0, began_s=1.0, retry_after_s=retry_after_s)
    outcome.fail(kind, error, 1.5, end=end)
    return outcome


def a_run() -> Run:
    """Two answers, of 4 tokens and of 1; a refusal, two failures, and one that the end of the run cut off."""
    cut = Outcome(index=5, due_s=1.9, began_s=1.9)
    cut.ended_s = 2.0
    outcomes = (
        answered(0, 0.0, [0.1, 0.2, 0.4, 0.7], num_cached=4),
        answered(1, 0.5, [0.8], due_s=0.25),
        failed(2, "HTTP 429", "come back", end=End.REFUSED, retry_after_s=2.0),
        failed(3, "HTTP 500", "first"),
        failed(4, "HTTP 500", "second"),
        cut,
    )
    return Run(outcomes=outcomes, duration_s=2.0, interrupted=True)


def a_result(selection: Selection = ALL, run: Run | None = None) -> dict[str, Any]:
    circumstances: dict[str, Any] = {
        **{"date": "20260102-030405", "endpoint_type": "openai", "label": "a label", "model_id": "<model>"},
        **{"num_prompts": 6, "server": "http://there", "request_rate": "inf", "max_concurrency": None},
    }
    run = run or a_run()
    return {**circumstances, **figures(run, selection, spreads(run.outcomes, selection.percentiles))}


def test_counts_and_rates() -> None:
    result = a_result()
    told = {
        **{"duration": 2.0, "completed": 2, "failed": 3, "refused": 1, "unfinished": 1, "interrupted": True},
        **{"total_input_tokens": 20, "total_output_tokens": 5, "total_cached_tokens": 4},
        **{"request_throughput": 1.0, "output_throughput": 2.5, "total_token_throughput": 12.5},
        **{"max_output_tokens_per_s": 5.0, "max_concurrent_requests": 2, "tokens_per_event": 1.0},
        **{"request_goodput": None, "refused_with_retry_after": 1, "mean_retry_after_s": 2.0},
    }
    assert {name: result[name] for name in told} == told
    assert result["errors_by_kind"] == {
        "HTTP 500": {"count": 2, "example": "first"},
        "HTTP 429": {"count": 1, "example": "come back"},
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mean_ttft_ms", 200.0),  # 100 and 300
        ("std_ttft_ms", 100.0),
        ("p90_ttft_ms", 280.0),
        ("p99.9_ttft_ms", 299.8),
        ("mean_tpot_ms", 200.0),  # (0.7 - 0.1) / 3; an answer of one token has none
        ("median_itl_ms", 200.0),  # 100, 200, 300
        ("p90_itl_ms", 280.0),
        ("mean_e2el_ms", 500.0),  # 700 and 300
        ("mean_client_queue_time_ms", 125.0),  # 0 and 250
        ("median_e2el_including_client_queue_ms", 625.0),
    ],
)
def test_latencies(name: str, value: float) -> None:
    assert a_result()[name] == pytest.approx(value)


@pytest.mark.parametrize(
    ("limits", "per_s"),
    [
        (("ttft:301",), 1.0),
        (("ttft:299",), 0.5),
        (("tpot:199",), 0.5),  # the answer of one token keeps it
        (("e2el:701", "ttft:101"), 0.5),
        (("e2el:299", "tpot:1000"), 0.0),
    ],
)
def test_goodput_counts_requests_within_all_limits(limits: tuple[str, ...], per_s: float) -> None:
    result = a_result(Selection.parse("ttft", "99", limits))
    assert result["request_goodput"] == per_s


def test_nothing_answered_gives_no_latencies_and_no_zeros() -> None:
    result = a_result(run=Run(outcomes=(failed(0, "timeout", "late"),), duration_s=1.0, interrupted=False))
    assert (result["completed"], result["output_throughput"], result["max_output_tokens_per_s"]) == (0, 0.0, 0.0)
    assert [result[f"{which}_ttft_ms"] for which in ("mean", "median", "std", "p90")] == [None] * 4
    assert "Mean TTFT (ms):                          -" in table(result, ALL)


def test_events_of_several_tokens_are_weighed_by_what_the_server_counts() -> None:
    outcome = answered(0, 0.0, [0.5, 1.5])
    outcome.num_output = 8  # said at the end
    assert outcome.weights == [4.0, 4.0]
    run = Run(outcomes=(outcome,), duration_s=2.0, interrupted=False)
    result = a_result(run=run)
    assert (result["tokens_per_event"], result["max_output_tokens_per_s"]) == (4.0, 4.0)
    assert result["mean_tpot_ms"] == pytest.approx(1000 / 7)
    (note,) = notes_on({**a_result(run=run)}, run, ON_TIME)
    assert note.startswith("An event held 4.00 tokens on average")


def test_per_request_fields_are_vllms() -> None:
    run = a_run()
    told = per_request(run.outcomes)
    assert told["input_lens"] == [10, 10, 0, 0, 0, 0]
    assert told["output_lens"] == [4, 1, 0, 0, 0, 0]
    assert told["itls"][0] == pytest.approx([0.1, 0.2, 0.3])
    assert told["errors"][:4] == ["", "", "HTTP 429: come back", "HTTP 500: first"]
    assert told["queue_times"][1] == 0.25


def test_the_table_is_in_vllms_lines() -> None:
    lines = table(a_result(), ALL).splitlines()
    assert lines[:3] == [
        "============ Serving Benchmark Result ============",
        "Successful requests:                     2",
        "Failed requests:                         3",
    ]
    for line in (
        "Request throughput (req/s):              1.00",
        "Peak concurrent requests:                2.00",
        "-----Time per Output Token (excl. 1st token)------",
        "P99.9 TTFT (ms):                         299.80",
        "HTTP 500:                                2",
    ):
        assert line in lines
    assert lines[-1] == "=" * 50


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("ttft,x", "99", ()), "--percentile-metrics is 'x'"),
        (("ttft", "101", ()), "--metric-percentiles is 101"),
        (("ttft", "a", ()), "--metric-percentiles is 'a': it is no number"),
        (("ttft", "99", ("ttft",)), "METRIC:MILLISECONDS"),
        (("ttft", "99", ("itl:5",)), "--goodput is 'itl': it must be one of ttft, tpot, e2el"),
        (("ttft", "99", ("ttft:-1",)), "milliseconds, 0 or more"),
    ],
)
def test_selections_that_cannot_be(words: tuple[str, str, tuple[str, ...]], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        Selection.parse(*words)


def test_notes_tell_what_a_reader_must_know() -> None:
    late = Lag(p50_ms=1.0, p99_ms=25.0, max_ms=30.0, cpu_share=0.95)
    notes = notes_on(a_result(), a_run(), late)
    assert [note.split(":")[0].split(",")[0] for note in notes] == [
        "Interrupted",
        "The load generator was late itself",
        "The load generator used 95% of a processor core",
        "1 requests were refused with status 429; 1 said when to come again",
    ]
    assert not ON_TIME.warnings


def test_rates_are_per_slice() -> None:
    assert rates([(0.1, 1.0), (0.4, 2.0), (0.9, 3.0), (1.0, 4.0)], 1.0, 2) == [6.0, 14.0]
    assert [num_slices(count) for count in (0, 5, 99, 10**6)] == [1, 1, 9, 100]


def test_requests_under_way_at_a_moment() -> None:
    points = dict(under_way(a_run().outcomes, 2.0))
    assert [points[moment] for moment in (0.0, 0.25, 0.6, 0.75, 1.25, 1.75)] == [1, 1, 2, 1, 3, 0]


def test_axes() -> None:
    assert Axis(low=0, high=10, pixels=(100, 0)).at(2.5) == 75
    assert Axis(low=1, high=100, pixels=(0, 100), log=True).at(10) == 50
    assert Axis(low=0, high=10, pixels=(0, 1)).ticks() == [0, 2, 4, 6, 8, 10]
    assert Axis(low=1, high=30, pixels=(0, 1), log=True).ticks() == [1, 2, 5, 10, 20]
    assert [nice_step(value) for value in (0.0, 0.03, 1.0, 1.1, 7)] == [1.0, 0.05, 1.0, 2.0, 10.0]


class Tags(HTMLParser):
    """Every start tag with its attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_the_page_stands_alone_and_escapes_what_it_shows() -> None:
    run = a_run()
    result = a_result(Selection.parse("ttft,tpot,itl,e2el", "50,99", ("ttft:300",)))
    text = page(result, run, spreads(run.outcomes, ()), notes=["a < b"], settings={"header": ["Authorization"]})
    tags = Tags()
    tags.feed(text)
    names = {tag for tag, _ in tags.found}
    assert not names & {"script", "link", "img", "iframe"}
    linked = [attributes.get("href") for tag, attributes in tags.found if tag == "a"]
    assert all(link is not None and link.startswith("#") for link in linked)
    ids = {attributes["id"] for _, attributes in tags.found if "id" in attributes}
    assert {link[1:] for link in linked if link} <= ids
    assert "url(" not in text
    assert "&lt;model&gt;" in text
    assert "<model>" not in text
    assert "a &lt; b" in text
    assert "within ttft 300 ms" in text


def plain_page(run: Run) -> str:
    return page(a_result(run=run), run, spreads(run.outcomes, ALL.percentiles), notes=[], settings={})


def test_a_spread_is_of_all_values_and_has_what_is_asked_for() -> None:
    draw = random.Random(5)
    outcomes = [answered(i, 0.0, sorted(draw.random() for _ in range(draw.randint(1, 9)))) for i in range(40)]
    found = spreads([*outcomes, failed(99, "HTTP 500", "no")], (12.5,))
    assert set(found) == set(METRICS)
    values = sorted(1000 * gap for outcome in outcomes for gap in outcome.gaps_s)
    spread = found["itl"]
    assert sorted(spread.values_ms) == pytest.approx(values)
    assert set(spread.percentiles_ms) == {*COLUMNS, 12.5}
    for percent, value in spread.percentiles_ms.items():
        place = percent / 100 * (len(values) - 1)  # between two neighbours, linearly
        low, share = values[int(place)], place % 1
        assert value == pytest.approx(low + share * (values[min(int(place) + 1, len(values) - 1)] - low))
    assert spread.mean_ms == pytest.approx(sum(values) / len(values))
    assert set(spreads([answered(0, 0.0, [0.1])], ())) == set(METRICS) - {"tpot", "itl"}


def test_the_page_tells_the_figures_of_the_result() -> None:
    run = a_run()
    asked = Selection.parse("ttft", "0,90,99,99.9,100", ())
    result = a_result(asked, run)
    columns = ("mean", "std", "p0", "median", "p90", "p99", "p99.9", "p100")
    cells = "".join(f"<td>{result[f'{which}_ttft_ms']:.4g}</td>" for which in columns)
    assert f'<th scope="row">TTFT</th>{cells}<td>2</td>' in plain_page(run)


def test_every_plot_is_sound_and_has_a_name() -> None:
    text = plain_page(a_run())
    plots = re.findall(r"<svg.*?</svg>", text)
    assert len(plots) == 10  # 3 over time, 4 distributions, TTFT by time, the timeline, the errors
    for plot in plots:
        root = ElementTree.fromstring(plot)
        assert root.get("aria-label")
        _, _, width, height = map(float, (root.get("viewBox") or "").split())
        for rect in root.iter("rect"):
            x, y, w, h = (float(rect.get(name) or "nan") for name in ("x", "y", "width", "height"))
            assert -1 <= x <= x + w <= width + 1
            assert -1 <= y <= y + h <= height + 1


def test_a_page_of_nothing_says_so() -> None:
    empty = Run(outcomes=(), duration_s=0.5, interrupted=True)
    text = plain_page(empty)
    assert "No request was answered." in text
    assert "No request failed, none was refused." in text


def test_long_runs_are_drawn_with_a_share_of_their_requests() -> None:
    outcomes = tuple(answered(number, number / 100, [number / 100 + 0.1, number / 100 + 0.2]) for number in range(3000))
    run = Run(outcomes=outcomes, duration_s=31.0, interrupted=False)
    text = plain_page(run)
    assert "240 of 3000 requests" in text
    assert len(text) < 600_000


def test_records_of_a_request_stay_small() -> None:
    assert isinstance(answered(0, 0.0, [0.1]).times_s, array)
