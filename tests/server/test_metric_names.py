"""Names, types, labels and bounds of /metrics: vLLM's where it has them."""

from __future__ import annotations

from beats import beat, engine_info
from jaxpaged_server.metrics.registry import ServerMetrics
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families as parse_text
from vllm_metrics import OPTIONAL, OWN, VLLM

from jaxpaged.metrics import EngineMetrics


def families(*, more: bool = True) -> dict[str, Metric]:
    """Of a server that has all of them; more: those that must be asked for."""
    metrics = ServerMetrics("tiny", keys=("team-a", "team-b"), residency=more, estimates=more)
    accepted = (4, 2, 0) if more else ()
    metrics.on_beat(beat(EngineMetrics(steps=1, step_tokens=7), steps=[7], accepted_at=accepted), engine_info())
    metrics.on_reply("/v1/completions", 200)
    return {family.name: family for family in parse_text(metrics.render(None)[0].decode())}


def test_names_types_and_labels_are_vllms() -> None:
    found = families()
    for name, (kind, labels, bounds) in (VLLM | OPTIONAL).items():
        family = found[name]
        assert family.type == kind, name
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(labels), name
            if "model_name" in labels:
                assert sample.labels["model_name"] == "tiny"
            if "engine" in labels:
                assert sample.labels["engine"] == "0"
        shown = [sample.labels["le"] for sample in family.samples if sample.name == f"{name}_bucket"]
        assert " ".join(shown) == (f"{bounds} +Inf" if bounds else ""), name


def test_own_names_are_few_and_known() -> None:
    found = families()
    for name, (kind, labels) in OWN.items():
        assert found[name].type == kind, name
        for sample in found[name].samples:
            assert set(sample.labels) == set(labels), name
    assert {name for name in found if name.startswith("jaxpaged:")} == set(OWN)
    rest = {name for name in found if not name.startswith(("jaxpaged:", "process_"))}
    assert rest == {*VLLM, *OPTIONAL, "vllm:cache_config_info", "vllm:lora_requests_info"}


def test_what_must_be_asked_for_is_not_there_without() -> None:
    assert set(families()) - set(families(more=False)) == set(OPTIONAL)
