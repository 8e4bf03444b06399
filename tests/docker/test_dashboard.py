"""The Grafana dashboard: everything it asks for is in /metrics, by the right kind, and its panels lie apart."""

from __future__ import annotations

import json
import re

from beats import beat, engine_info
from image_files import DOCKER
from jaxpaged_server.metrics.registry import ServerMetrics
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

BOARD = json.loads((DOCKER / "grafana" / "dashboards" / "jaxpaged.json").read_text())
NAME = re.compile(r"\b(?:vllm|jaxpaged):\w+")
SHOWN_AS_THEY_ARE = {"jaxpaged:compiles_total", "jaxpaged:engine_restarts_total"}


def families() -> list[Metric]:
    """What a server with API keys, one engine and one reply exports, with what must be asked for."""
    metrics = ServerMetrics("tiny", keys=("team-a",), residency=True, estimates=True)
    metrics.on_beat(beat(accepted_at=(2, 1)), engine_info())
    metrics.on_reply("/v1/completions", 200)
    return list(text_string_to_metric_families(metrics.render(None)[0].decode()))


def exported() -> dict[str, tuple[str, set[str]]]:
    """Name of every sample of /metrics: its family's kind and its labels."""
    return {
        sample.name: (family.type, set(sample.labels))
        for family in families()
        for sample in family.samples
        if not sample.name.startswith("process_")
    }


def queries() -> list[str]:
    return [target["expr"] for panel in BOARD["panels"] for target in panel.get("targets", [])]


def test_every_name_of_every_query_is_exported() -> None:
    asked = {name for query in queries() for name in NAME.findall(query)}
    assert len(asked) > 25
    assert asked - set(exported()) == set()
    variable = BOARD["templating"]["list"][1]["definition"]
    assert NAME.findall(variable) == ["vllm:num_requests_running"]


def test_every_label_of_every_query_is_exported() -> None:
    names = exported()
    for query in queries():
        for name, selector in re.findall(r"((?:vllm|jaxpaged):\w+)\{([^}]*)\}", query):
            assert set(re.findall(r"(\w+)[!=~]+", selector)) <= names[name][1], query
        for group in re.findall(r"by \(([^)]*)\)", query):
            known = set.union(*(names[name][1] for name in NAME.findall(query)))
            assert set(group.replace(" ", "").split(",")) <= known, query
    for panel in BOARD["panels"]:
        for target in panel.get("targets", []):
            labels = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            assert labels <= set.union(*(names[name][1] for name in NAME.findall(target["expr"])))


def test_counters_are_rates_and_gauges_are_not() -> None:
    names = exported()
    for query in queries():
        for name in NAME.findall(query):
            rated = f"rate({name}{{" in query
            assert rated == (names[name][0] != "gauge" and name not in SHOWN_AS_THEY_ARE), query
        assert query.count("(") == query.count(")")
        assert query.count("{") == query.count("}")


def test_metrics_txt_lists_what_is_exported() -> None:
    lines = (DOCKER / "grafana" / "metrics.txt").read_text().splitlines()
    listed = [line for line in lines if not line.startswith("#")]
    assert listed == [
        f"{family.type} {family.name}{'_total' * (family.type == 'counter')}"
        for family in families()
        if not family.name.startswith("process_")
    ]


def test_the_dashboard_is_whole() -> None:
    variables = [variable["name"] for variable in BOARD["templating"]["list"]]
    assert variables == ["DS_PROMETHEUS", "model_name"]
    panels = BOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    drawn = [panel for panel in panels if panel["type"] != "row"]
    assert {
        *("Tokens", "Time to first token", "Inter-token latency", "Whole request", "Running and waiting", "Queue"),
        *("Pool by class", "KV waste", "Padding", "Seconds of a step", "Compilations since ready", "Preemptions"),
        *("Time per output token", "Engine restarts", "Refused", "Replies", "Prefix cache hits"),
        *("Blocks used again, and evicted", "Operations", "Memory traffic"),
    } <= {panel["title"] for panel in drawn}
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
    assert all(panel["datasource"]["uid"] == "${DS_PROMETHEUS}" and panel["description"] for panel in drawn)
    for panel in drawn:
        letters = [target["refId"] for target in panel["targets"]]
        assert letters == ["A", "B", "C"][: len(letters)], panel["title"]
