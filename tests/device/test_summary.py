"""What the rows of a GPU's run are made of; needs no GPU."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from jaxpaged.bench.cases import chosen_cases


@pytest.fixture
def judged(script: Callable[[str], ModuleType]) -> Any:
    return script("summary").judged


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


def test_the_last_row_of_the_server_counts(judged: Any) -> None:
    """It has the median of all rounds so far."""
    rows = [{"id": "E6", "value": value, "platform": "gpu", "quick": False} for value in (0.8, 0.9)]
    found = by_id(judged({"server": rows}, {}))["E6"]
    assert [found[name] for name in ("value", "floor", "goal", "kept", "reached")] == [0.9, 0.85, 0.95, True, False]
    assert by_id(judged({"server": rows[:1]}, {}))["E6"]["kept"] is False
    missing = by_id(judged({}, {"server": "packages are missing: msgspec, tyro"}))["E6"]
    assert missing["why"] == "server: packages are missing: msgspec, tyro"


def every_row(parts: ModuleType) -> dict[str, list[dict[str, Any]]]:
    """Rows as the parts would make them on a GPU: of the cases and ids that are in their code."""
    found = {"kernels": [kernel(case.op, case.name, 100, 0.7) for case in chosen_cases(quick=False, only=None)]}
    row = {"tpot_p50_ms": 8.0, "compiles_while_measured": 0, "kv_waste": 0.01}
    for name, part in parts.PARTS.items():
        source = inspect.getsource(part)
        for module in re.findall(r"from (\w+) import", source):
            file = Path(__file__).with_name(f"{module}.py")
            source += file.read_text(encoding="utf-8") if file.exists() else ""
        ids = sorted(set(re.findall(r'"(E\d+)"', source)))
        found.setdefault(name, [{"id": each, "value": 0.7, "row": row, "platform": "gpu"} for each in ids])
    return found


def test_every_goal_has_a_part_that_makes_its_row(judged: Any, script: Callable[[str], ModuleType]) -> None:
    rows = every_row(script("parts"))
    assert [row["id"] for row in rows["server"]] == ["E6"]
    assert {row["id"]: row.get("why") for row in judged(rows, {})} == dict.fromkeys(script("goals").GOALS)


def test_a_goal_is_unmeasured_for_the_part_that_failed(judged: Any, script: Callable[[str], ModuleType]) -> None:
    rows, told = every_row(script("parts")), set()
    for part in script("run").PARTS:
        left = {name: made for name, made in rows.items() if name != part}
        for row in judged(left, {part: "stopped"}):
            if row["value"] is None:
                assert row["why"] == f"{part}: stopped"
                told.add(row["id"])
    assert told == set(script("goals").GOALS)


def test_busy_time_is_the_union_of_the_streams(script: Callable[[str], ModuleType]) -> None:
    assert script("idle").busy_ns([(0, 10), (5, 12), (20, 30), (21, 22)]) == 22
