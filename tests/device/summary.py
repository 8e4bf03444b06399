"""From the rows of the parts to one judged row per goal; what no row tells is unmeasured, with the reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from goals import GOALS

Row = Mapping[str, Any]
Rows = Mapping[str, Sequence[Row]]
_PARTS = {"K8": ("kernels", "engine"), "E6": ("server",), "E8": ("transformers",), "E10": ("start",)}
"""The parts that a goal needs; of the others those of kernels, or of the engine."""


def judged(rows: Rows, failures: Mapping[str, str]) -> list[dict[str, Any]]:
    """A row per goal. Rows of a CPU and of small shapes are not judged: goals are of real ones on GPUs."""
    values = {**_of_kernels(rows.get("kernels", [])), **_of_engine(rows.get("engine", []))}
    values |= {row["id"]: row["value"] for name in ("start", "server", "transformers") for row in rows.get(name, [])}
    every = [row for part in rows.values() for row in part]
    unfit = "ran on a CPU" if any(row.get("platform") == "cpu" for row in every) else ""
    unfit = unfit or ("ran at small shapes" if any(row.get("quick") for row in every) else "")
    write_s, step_s = values.pop("write_s", None), values.pop("step_s", None)
    if write_s and step_s:
        values["K8"] = 32 * write_s / step_s
    result = []
    for name, goal in GOALS.items():
        value = None if unfit else values.get(name)
        row = {"id": name, **goal.judge(value)}
        if value is None:
            row["why"] = unfit or _why(name, failures)
        result.append(row)
    return result


def _why(name: str, failures: Mapping[str, str]) -> str:
    parts = _PARTS.get(name, ("kernels",) if name.startswith("K") else ("engine",))
    part = next((part for part in parts if part in failures), parts[0])
    return f"{part}: {failures.get(part, 'no such row')}"


def _of_kernels(rows: Sequence[Row]) -> dict[str, float]:
    timed = {(row["op"], row["case"]): row for row in rows if "time_us" in row}

    def share(op: str, *cases: str) -> float | None:
        """Of several cases run one after the other: least time over time."""
        found = [timed[op, case] for case in cases if (op, case) in timed]
        if len(found) < len(cases) or any("share_sheet" not in row for row in found):
            return None
        return sum(row["share_sheet"] * row["time_us"] for row in found) / sum(row["time_us"] for row in found)

    def ratio(case: str, over: str) -> float | None:
        pair = [timed.get(("ragged_attention", name)) for name in (case, over)]
        return pair[0]["time_us"] / pair[1]["time_us"] if pair[0] and pair[1] else None

    parts = ("qkv", "o", "gate_up", "down", "head")
    linears = [share("linear", *(f"llama-8b-{part}-rows{rows}" for part in parts)) for rows in (1, 16, 64)]
    smaller = [ratio(f"decode-b16-ctx32768-{d}", "decode-b16-ctx32768-bfloat16") for d in ("int8", "float8_e4m3fn")]
    write = timed.get(("write_kv", "tokens64"))
    values = {
        "K1": share("ragged_attention", "decode-b64-ctx4096"),
        "K2": share("ragged_attention", "decode-b1-ctx32768"),
        "K3": None if None in smaller else max(value for value in smaller if value is not None),
        "K4": share("ragged_attention", "prefill-8192"),
        "K5": ratio("decode-b16-ctx32768-window4096", "decode-b16-ctx4096-window4096"),
        "K6": None if None in linears else min(value for value in linears if value is not None),
        "K7": share("grouped_matmul", "mixtral-gate_up-tokens8", "mixtral-down-tokens8"),
        "write_s": write["time_us"] / 1e6 if write else None,
    }
    return {name: value for name, value in values.items() if value is not None}


def _of_engine(rows: Sequence[Row]) -> dict[str, float]:
    by_id = {row["id"]: row for row in rows}
    values = {name: row["value"] for name, row in by_id.items() if row.get("value") is not None}
    if "E2" in by_id:
        values["step_s"] = by_id["E2"]["row"]["tpot_p50_ms"] / 1e3
    if "E4" in by_id:
        values["E9"] = by_id["E4"]["row"]["kv_waste"]
    compiles = [row["row"]["compiles_while_measured"] for name, row in by_id.items() if name in ("E1", "E2", "E3")]
    if compiles:
        values["E11"] = sum(compiles)
    return values
