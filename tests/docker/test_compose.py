"""compose.yml against the Compose specification and our own rules; Prometheus, Grafana and its dashboard."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml
from compose_spec import PyCompose
from image_files import DOCKER, IMAGES

SERVERS = tuple(f"jaxpaged-{image}" for image in IMAGES)
DASHBOARD = DOCKER / "grafana" / "dashboards" / "jaxpaged.json"


def composed(**environment: str) -> dict[str, Any]:
    """compose.yml as Compose sees it: variables put in, anchors merged, extensions dropped."""

    def value(match: re.Match[str]) -> str:
        name, colon, default = match.groups()
        said = environment.get(name)
        return default if said is None or (colon and not said) else said

    text = re.sub(r"\$\{(\w+)(:?)-([^}]*)\}", value, (DOCKER / "compose.yml").read_text())
    assert "$" not in text.replace("$(", ""), "a variable without a default"
    return {key: part for key, part in yaml.safe_load(text).items() if not key.startswith("x-")}


def services() -> dict[str, dict[str, Any]]:
    return composed()["services"]


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"JAXPAGED_MODELS": "/srv/models", "JAXPAGED_ARGS": "--model /models/x", "RENDER_GID": "993", "CUDA": "13"},
    ],
)
def test_the_specification_knows_every_key(environment: dict[str, str]) -> None:
    compose = PyCompose.from_yaml(yaml.safe_dump(composed(**environment)))
    assert sorted(compose.services or {}) == sorted([*SERVERS, "grafana", "prometheus"])


def test_an_unknown_key_would_be_found() -> None:
    broken = composed()
    broken["services"]["grafana"]["red_only"] = True
    with pytest.raises(ValueError, match="red_only"):
        PyCompose.from_yaml(yaml.safe_dump(broken))


def test_the_servers_differ_by_their_devices_alone() -> None:
    own = {"profiles", "image", "build", "shm_size", "devices", "group_add", "deploy"}
    shared = [{key: part for key, part in services()[name].items() if key not in own} for name in SERVERS]
    assert shared[0] == shared[1] == shared[2]
    for name, image in zip(SERVERS, IMAGES, strict=True):
        service = services()[name]
        assert service["profiles"] == [image]
        assert service["build"]["dockerfile"] == f"docker/{image}.Dockerfile"
        assert (DOCKER / service["build"]["context"] / service["build"]["dockerfile"]).exists()
    rocm = services()["jaxpaged-rocm"]
    assert rocm["devices"] == ["/dev/kfd:/dev/kfd", "/dev/dri:/dev/dri"]
    assert rocm["group_add"] == ["video", "render"]
    assert composed(RENDER_GID="993")["services"]["jaxpaged-rocm"]["group_add"] == ["video", "993"]


def test_the_server_serves_what_is_asked() -> None:
    assert services()["jaxpaged-cpu"]["command"] == "serve"
    asked = composed(JAXPAGED_ARGS="--model /models/x")["services"]["jaxpaged-cpu"]
    assert asked["command"] == "serve --model /models/x"
    assert asked["volumes"] == ["cache:/cache", "models:/models:ro"]


@pytest.mark.parametrize("name", [*SERVERS, "prometheus", "grafana"])
def test_every_service_is_confined(name: str) -> None:
    service = services()[name]
    assert service["read_only"] is True
    assert service["tmpfs"] == ["/tmp"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["healthcheck"]["test"][0] == "CMD"
    assert "privileged" not in service
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    assert re.search(r":(v?\d+\.\d+\.\d+|cpu|cuda|rocm)$", service["image"])


def test_mounted_files_exist_and_named_volumes_are_declared() -> None:
    whole = composed()
    for name, service in whole["services"].items():
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            exists = (DOCKER / source).exists() if source.startswith(".") else source in whole["volumes"]
            assert exists, (name, volume)


def test_prometheus_scrapes_the_server_and_grafana_asks_prometheus() -> None:
    scrape = yaml.safe_load((DOCKER / "prometheus.yml").read_text())["scrape_configs"]
    assert [(job["metrics_path"], job["static_configs"][0]["targets"]) for job in scrape] == [
        ("/metrics", ["jaxpaged:8000"])
    ]
    assert services()["jaxpaged-cpu"]["networks"] == {"default": {"aliases": ["jaxpaged"]}}
    provisioning = DOCKER / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    assert (source["type"], source["url"]) == ("prometheus", "http://prometheus:9090")
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "jaxpaged.yml").read_text())["providers"]
    mounts = dict(volume.split(":")[:2] for volume in services()["grafana"]["volumes"])
    assert mounts["./grafana/dashboards"] == provider["options"]["path"]


def declared() -> dict[str, str]:
    """Name of every metric of metrics.txt, and its kind."""
    lines = (DOCKER / "grafana" / "metrics.txt").read_text().splitlines()
    return {name: kind for kind, name in (line.split() for line in lines if not line.startswith("#"))}


def exported() -> set[str]:
    """Names as they appear in /metrics: a histogram is three."""
    names = declared()
    plain = {name for name, kind in names.items() if kind != "histogram"}
    return plain | {
        f"{name}_{end}" for name, kind in names.items() if kind == "histogram" for end in ("bucket", "sum", "count")
    }


def queries() -> list[str]:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel.get("targets", [])]


def test_the_dashboard_asks_for_declared_metrics_and_for_all_of_them() -> None:
    asked = {name for query in queries() for name in re.findall(r"\b(?:vllm|jaxpaged):\w+", query)}
    assert asked - exported() == set()
    unused = [name for name in declared() if not any(one == name or one.startswith(f"{name}_") for one in asked)]
    assert unused == []


def test_counters_are_rates_and_histograms_are_quantiles_or_sums() -> None:
    kinds = declared()
    for query in queries():
        for name in re.findall(r"\b(?:vllm|jaxpaged):\w+", query):
            kind = kinds.get(name, "histogram")
            shown = f"rate({name}{{" in query
            assert shown == (kind != "gauge") or name == "jaxpaged:compiles_total", query
        assert query.count("(") == query.count(")")
        assert query.count("{") == query.count("}")


def test_the_dashboard_is_whole() -> None:
    board = json.loads(DASHBOARD.read_text())
    variables = [variable["name"] for variable in board["templating"]["list"]]
    assert variables == ["DS_PROMETHEUS", "model_name"]
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    drawn = [panel for panel in panels if panel["type"] != "row"]
    assert {
        "KV waste",
        "Padding",
        "Preemptions",
        "Time to first token",
        "Time per output token",
        "Running and waiting",
    } <= {panel["title"] for panel in drawn}
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
    assert all(panel["datasource"]["uid"] == "${DS_PROMETHEUS}" and panel["description"] for panel in drawn)
