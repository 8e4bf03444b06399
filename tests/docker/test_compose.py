"""compose.yml against the Compose specification and our own rules; Prometheus and Grafana beside the server."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from compose_spec import PyCompose
from image_files import DOCKER, IMAGES

SERVERS = tuple(f"jaxpaged-{image}" for image in IMAGES)


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
