"""The parts of a server, as they are put together: what one says reaches the other."""

from __future__ import annotations

from pathlib import Path

import pytest
from admission_door import CONFIG, line_up
from jaxpaged_server.assembly import make_services
from jaxpaged_server.metrics.registry import ServerMetrics
from jaxpaged_server.settings import ServerConfig
from prometheus_client.parser import text_string_to_metric_families as parse_text

from jaxpaged.config import EngineConfig
from jaxpaged.errors import ConfigError, ModelError


def samples(metrics: ServerMetrics) -> dict[tuple[str, str], float]:
    """Values by name and reason."""
    families = parse_text(metrics.render(None)[0].decode())
    return {(s.name, s.labels.get("reason", "")): s.value for family in families for s in family.samples}


def test_the_queue_is_told_by_reason() -> None:
    services = make_services(EngineConfig(), ServerConfig(api_key=("first-key", "second-key")))
    services.admission.ready(CONFIG)
    line_up(services.admission, services.keys.keys[0], 6)
    found = samples(services.metrics)
    assert found["vllm:num_requests_waiting", ""] == 3
    assert found["vllm:num_requests_waiting_by_reason", "capacity"] == 0
    assert found["vllm:num_requests_waiting_by_reason", "deferred"] == 3


def test_what_is_asked_for_is_measured() -> None:
    blocks, work = "vllm:kv_block_lifetime_seconds_count", "vllm:estimated_flops_per_gpu_total"
    for settings, expected in (
        (ServerConfig(), set()),
        (ServerConfig(kv_cache_metrics_sample=0.5), set()),
        (ServerConfig(kv_cache_metrics=True), {blocks}),
        (ServerConfig(enable_mfu_metrics=True), {work}),
    ):
        services = make_services(EngineConfig(), settings)
        assert {name for name, _ in samples(services.metrics)} & {blocks, work} == expected


def test_a_model_that_is_not_there_is_told_as_such(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model is 'org/name': there is no such folder\. Give the folder"):
        make_services(EngineConfig(model="org/name"), ServerConfig())
    with pytest.raises(ConfigError, match=r"'.*absent': it cannot be read: No such file or directory$"):
        make_services(EngineConfig(), ServerConfig(chat_template=str(tmp_path / "absent")))
