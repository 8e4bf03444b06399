"""What the rows of a GPU's run are made of; needs no GPU."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    from summary import judged

    yield judged
    for name in ("summary", "goals"):
        sys.modules.pop(name)


def kernel(op: str, case: str, time_us: float, share: float) -> dict[str, Any]:
    return {"op": op, "case": case, "time_us": time_us, "share_sheet": share, "platform": "gpu"}


def by_id(summary: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in summary}


def test_floors_and_goals(judged: Any) -> None:
    rows = [
        kernel("ragged_attention", "decode-b64-ctx4096", 100, 0.7),
        kernel("ragged_attention", "decode-b1-ctx32768", 100, 0.4),
        kernel("ragged_attention", "decode-b16-ctx4096-window4096", 50, 0.7),
        kernel("ragged_attention", "decode-b16-ctx32768-window4096", 52, 0.7),
        kernel("grouped_matmul", "mixtral-gate_up-tokens8", 30, 0.8),
        kernel("grouped_matmul", "mixtral-down-tokens8", 10, 0.4),
        kernel("write_kv", "tokens64", 3, 0.4),
    ]
    engine = [
        {"id": "E2", "value": 0.66, "row": {"tpot_p50_ms": 8.0, "compiles_while_measured": 0}},
        {"id": "E4", "value": 0.5, "row": {"kv_waste": 0.03}},
    ]
    found = by_id(judged({"kernels": rows, "engine": engine}, {"start": "stopped after 60 s"}))
    assert len(found) == 19
    assert [found["K1"][name] for name in ("value", "kept", "reached")] == [0.7, True, False]
    assert [found["K2"][name] for name in ("kept", "reached")] == [False, False]
    assert [found["K5"][name] for name in ("value", "kept", "reached")] == [1.04, True, True]
    assert found["K7"]["value"] == pytest.approx(0.7)  # 28 of 40 microseconds
    assert found["K8"]["value"] == pytest.approx(32 * 3e-6 / 8e-3)
    assert [found["E2"]["reached"], found["E9"]["value"], found["E11"]["value"]] == [True, 0.03, 0]
    assert found["K3"] | {"what": ""} == found["K3"] | {"what": "", "value": None, "kept": None, "reached": None}
    assert found["K3"]["why"] == "kernels: no such row"
    assert found["E10"]["why"] == "start: stopped after 60 s"


@pytest.mark.parametrize(("mark", "why"), [({"platform": "cpu"}, "ran on a CPU"), ({"quick": True}, "ran at small")])
def test_other_shapes_and_machines_are_not_judged(judged: Any, mark: dict[str, Any], why: str) -> None:
    row = kernel("ragged_attention", "decode-b64-ctx4096", 100, 0.7) | mark
    found = by_id(judged({"kernels": [row]}, {}))["K1"]
    assert found["value"] is None
    assert found["why"].startswith(why)


def test_busy_time_is_the_union_of_the_streams(judged: Any) -> None:
    from idle import busy_ns

    assert busy_ns([(0, 10), (5, 12), (20, 30), (21, 22)]) == 22
    sys.modules.pop("idle")
