"""docker/kubernetes against the APIs' schemas, and against what images and server say of themselves."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from image_files import DOCKER, steps
from jaxpaged_server.settings import ServerConfig
from jsonschema import Draft202012Validator

from jaxpaged.config import EngineConfig

LAST_WORDS_S = 9.0
"""Of the server after its two limits: clients are told that they were aborted (2 + 2 s), the engine is ended (5 s)."""


def strict(schema: Any) -> Any:
    """A schema that knows no other properties than those it names."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: strict(part) for key, part in schema.items()}
    if closed.get("type") == "object" and "properties" in closed:
        closed["additionalProperties"] = False
    return closed


SCHEMAS = strict(json.loads((Path(__file__).parent / "schemas" / "kubernetes.json").read_text()))
MANIFESTS: list[dict[str, Any]] = [
    manifest
    for path in sorted((DOCKER / "kubernetes").glob("*.yaml"))
    for manifest in yaml.safe_load_all(path.read_text())
]
NAMES = [f"{manifest['kind']}-{manifest['metadata']['name']}" for manifest in MANIFESTS]


def faults(manifest: dict[str, Any]) -> list[str]:
    """What its kind's schema says against it."""
    schema = {**SCHEMAS, "$ref": f"#/$defs/{manifest['kind']}"}
    return [f"{error.json_path}: {error.message}" for error in Draft202012Validator(schema).iter_errors(manifest)]


def the(kind: str) -> dict[str, Any]:
    (found,) = [manifest for manifest in MANIFESTS if manifest["kind"] == kind]
    return found


def pod() -> dict[str, Any]:
    return the("Deployment")["spec"]["template"]["spec"]


def container() -> dict[str, Any]:
    (found,) = pod()["containers"]
    return found


def options() -> dict[str, str]:
    """Flags of the server: --drain-grace=5 is {"drain_grace": "5"}."""
    pairs = [argument.removeprefix("--").partition("=") for argument in container()["args"]]
    return {name.replace("-", "_"): value for name, _, value in pairs}


def places(value: Any, at: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Where in a manifest there are mappings."""
    if isinstance(value, dict):
        yield at
        for key, part in value.items():
            yield from places(part, (*at, key))
    elif isinstance(value, list):
        for i, part in enumerate(value):
            yield from places(part, (*at, i))


def test_there_is_one_of_each() -> None:
    kinds = sorted(manifest["kind"] for manifest in MANIFESTS)
    assert kinds == ["Deployment", "HTTPRoute", "InferencePool", *["PersistentVolumeClaim"] * 2, "Service"]


@pytest.mark.parametrize("manifest", MANIFESTS, ids=NAMES)
def test_the_schemas_know_every_field(manifest: dict[str, Any]) -> None:
    assert faults(manifest) == []


def test_the_schemas_themselves_are_sound() -> None:
    Draft202012Validator.check_schema(SCHEMAS)


@pytest.mark.parametrize("manifest", MANIFESTS, ids=NAMES)
def test_a_stray_field_is_found_wherever_it_is(manifest: dict[str, Any]) -> None:
    free = {"labels", "annotations", "matchLabels", "requests", "limits"}  # of names that the user gives
    if manifest["kind"] == "Service":
        free.add("selector")
    for at in places(manifest):
        broken = copy.deepcopy(manifest)
        part: Any = broken
        for step in at:
            part = part[step]
        part["stray-"] = {}
        assert faults(broken), f"nobody minds a stray field at {at}"
        if not at or at[-1] not in free:
            part.pop("stray-")
            part["stray"] = "x"
            assert faults(broken), f"nobody minds a stray field at {at}"


@pytest.mark.parametrize(
    ("kind", "at", "value"),
    [
        ("Deployment", ("apiVersion",), "apps/v1beta1"),
        ("Deployment", ("spec", "template", "spec", "terminationGracePeriodSeconds"), "60"),
        ("Deployment", ("spec", "template", "spec", "containers", 0, "resources", "limits", "memory"), "64 GB"),
        ("Deployment", ("spec", "template", "spec", "containers", 0, "ports", 0, "containerPort"), 80000),
        ("Deployment", ("spec", "template", "spec", "containers", 0, "livenessProbe"), {"path": "/"}),
        ("Service", ("spec", "ports"), []),
        ("InferencePool", ("apiVersion",), "inference.networking.x-k8s.io/v1alpha2"),
        ("InferencePool", ("spec", "targetPorts"), 8000),
        ("InferencePool", ("spec", "endpointPickerRef", "failureMode"), "Open"),
        ("HTTPRoute", ("spec", "rules", 0, "timeouts", "request"), "10 minutes"),
        ("HTTPRoute", ("spec", "rules", 0, "matches", 0, "path", "type"), "Prefix"),
    ],
)
def test_a_wrong_value_is_found(kind: str, at: tuple[str | int, ...], value: object) -> None:
    broken = copy.deepcopy(the(kind))
    part: Any = broken
    for step in at[:-1]:
        part = part[step]
    part[at[-1]] = value
    assert faults(broken)


def test_selectors_find_the_pods_and_ports_are_the_servers() -> None:
    labels = the("Deployment")["spec"]["template"]["metadata"]["labels"]
    assert the("Deployment")["spec"]["selector"]["matchLabels"] == labels
    assert the("Service")["spec"]["selector"] == labels
    assert the("InferencePool")["spec"]["selector"]["matchLabels"] == labels
    (port,) = container()["ports"]
    (exposed,) = [step.value for step in steps("rocm") if step.name == "EXPOSE"]
    assert port["containerPort"] == int(exposed) == ServerConfig().port
    assert the("Service")["spec"]["ports"][0]["targetPort"] == port["name"]
    assert the("InferencePool")["spec"]["targetPorts"] == [{"number": port["containerPort"]}]
    annotations = the("Deployment")["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == exposed


def test_probes_ask_what_is_open_to_all() -> None:
    from jaxpaged_server.middleware import OPEN_PATHS

    live, ready = container()["livenessProbe"], container()["readinessProbe"]
    assert (live["httpGet"]["path"], ready["httpGet"]["path"]) == ("/health/live", "/health/ready")
    assert {live["httpGet"]["path"], ready["httpGet"]["path"]} <= OPEN_PATHS
    assert {live["httpGet"]["port"], ready["httpGet"]["port"]} == {container()["ports"][0]["name"]}


def test_a_download_before_the_socket_opens_is_not_taken_for_a_hang() -> None:
    start = container()["startupProbe"]
    assert start["httpGet"] == container()["livenessProbe"]["httpGet"]
    assert start["periodSeconds"] * start["failureThreshold"] == the("Deployment")["spec"]["progressDeadlineSeconds"]


def test_the_drain_ends_before_the_pod_is_killed() -> None:
    grace_s, shutdown_s = float(options()["drain_grace"]), float(options()["shutdown_timeout"])
    assert (grace_s, shutdown_s) == (ServerConfig().drain_grace, ServerConfig().shutdown_timeout)
    assert grace_s + shutdown_s + LAST_WORDS_S < pod()["terminationGracePeriodSeconds"]
    assert "lifecycle" not in container(), "a preStop hook would eat up the pod's time before the server knows"
    ready = container()["readinessProbe"]
    assert ready["periodSeconds"] * ready["failureThreshold"] <= grace_s, "gateways must see it while it still serves"


def test_flags_are_the_servers() -> None:
    known = {field.name for kind in (ServerConfig, EngineConfig) for field in fields(kind)}
    assert set(options()) <= known


def test_the_pod_is_confined() -> None:
    (user,) = [step.value for step in steps("rocm") if step.name == "USER"]
    security = pod()["securityContext"]
    assert security["runAsNonRoot"] is True
    assert security["runAsUser"] == security["fsGroup"] == int(user)
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container()["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod()["automountServiceAccountToken"] is False
    assert "hostNetwork" not in pod()


def test_a_service_of_our_name_sets_none_of_our_variables() -> None:
    # Kubernetes would set JAXPAGED_PORT=tcp://... for it, and the server reads JAXPAGED_PORT
    assert the("Service")["metadata"]["name"] == "jaxpaged"
    assert pod()["enableServiceLinks"] is False


def test_what_is_written_has_a_volume_and_claims_exist() -> None:
    mounts = {mount["name"]: mount for mount in container()["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod()["volumes"]}
    assert set(mounts) == set(volumes)
    (kept,) = [step.value for step in steps("rocm") if step.name == "VOLUME"]
    assert mounts["cache"]["mountPath"] == kept
    assert mounts["tmp"]["mountPath"] == "/tmp"
    assert mounts["models"]["readOnly"] is True
    assert options()["model"].startswith(mounts["models"]["mountPath"])
    claimed = [volume["persistentVolumeClaim"] for volume in volumes.values() if "persistentVolumeClaim" in volume]
    declared = {manifest["metadata"]["name"] for manifest in MANIFESTS if manifest["kind"] == "PersistentVolumeClaim"}
    assert {claim["claimName"] for claim in claimed} == declared


def test_each_replica_has_one_gpu_of_amd() -> None:
    assert container()["resources"]["limits"]["amd.com/gpu"] == 1
    assert pod()["tolerations"][0]["key"] == "amd.com/gpu"
    assert len(pod()["securityContext"]["supplementalGroups"]) == 2  # video and render


def test_the_gateway_hands_the_api_to_the_pool() -> None:
    (rule,) = the("HTTPRoute")["spec"]["rules"]
    assert [match["path"] for match in rule["matches"]] == [{"type": "PathPrefix", "value": "/v1"}]
    pool = the("InferencePool")
    group, _ = pool["apiVersion"].split("/")
    assert rule["backendRefs"] == [{"group": group, "kind": "InferencePool", "name": pool["metadata"]["name"]}]
    assert float(rule["timeouts"]["request"].removesuffix("s")) > ServerConfig().request_timeout_s
    assert pool["spec"]["endpointPickerRef"]["name"] == f"{pool['metadata']['name']}-epp"
