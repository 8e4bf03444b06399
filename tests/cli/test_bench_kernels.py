"""The kernel benchmark: what a case must move and compute, how long work takes, how a tuning is searched and kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from jax.errors import JaxRuntimeError
from jaxpaged_server.cli import main

from jaxpaged.bench import tune
from jaxpaged.bench.cases import (
    FULL,
    OPS,
    QUICK,
    AttentionCase,
    Case,
    GroupedCase,
    LinearCase,
    WriteCase,
    chosen_cases,
)
from jaxpaged.bench.programs import program_of
from jaxpaged.bench.rates import DeviceRates
from jaxpaged.bench.searches import SEARCHES
from jaxpaged.bench.timing import after, round_seconds
from jaxpaged.bench.tune import descend, is_refusal, placed, save_table, tunable
from jaxpaged.errors import ConfigError
from jaxpaged.roofline import Rates
from jaxpaged.tuning import read_tuning
from pallas_kernels.backend import Backend, choose_backend
from pallas_kernels.tuning import Entry, Table

RATES = DeviceRates(measured=Rates(name="x", gb_s=10, tflop_s=0.1, source="measured"), sheet=None)
SMALL: dict[str, Any] = {"heads": 4, "kv_heads": 2, "head_dim": 16}


def test_what_attention_must_read_and_compute() -> None:
    decode = AttentionCase(name="a", rows=3, context=100)
    assert (decode.seen_keys(), decode.scores()) == (300, 300)
    windowed = AttentionCase(name="a", rows=3, context=100, window=10)
    assert (windowed.seen_keys(), windowed.scores()) == (30, 30)
    prefill = AttentionCase(name="a", rows=1, q_len=4, context=6)
    assert (prefill.seen_keys(), prefill.scores()) == (6, 3 + 4 + 5 + 6)
    mixed = AttentionCase(name="a", rows=2, context=5, more_rows=1, more_q_len=3, more_context=3)
    assert (mixed.q_lens, mixed.kv_lens) == ([1, 1, 3], [5, 5, 3])
    assert (mixed.seen_keys(), mixed.scores()) == (13, 10 + 6)


@pytest.mark.parametrize(
    ("case", "num_bytes", "flops"),
    [
        # 2 rows x 64 keys x 2 heads x 16 x (k, v) x 4 bytes, and q twice
        (AttentionCase(name="a", rows=2, context=64, **SMALL), 2 * 64 * 256 + 2 * 512, 4 * 128 * 4 * 16),
        (WriteCase(name="a", tokens=8, kv_heads=2, head_dim=16), 2 * 8 * 256, 0),
        # two rows can meet two of eight experts at most, and here they do
        (GroupedCase(name="a", rows=2, width=16, height=32), 2 * 2048 + 128 + 256, 2 * 2 * 512),
        (LinearCase(name="a", rows=4, width=16, height=32), 2048 + 256 + 512, 2 * 4 * 512),
    ],
)
def test_bytes_and_operations_of_a_call(
    case: AttentionCase | WriteCase | GroupedCase | LinearCase, num_bytes: int, flops: int
) -> None:
    program = program_of(case, Backend.XLA)
    assert (program.num_bytes, program.flops, program.dtype) == (num_bytes, flops, "float32")
    if isinstance(case, AttentionCase):  # the output is the next call's query
        assert not np.array_equal(program.body(program.state, program.operands), program.state)
    assert program.calls == (8 if isinstance(case, WriteCase) else 2)


def test_every_op_is_among_the_cases() -> None:
    for cases in (FULL, QUICK):
        assert {case.op for case in cases} == set(OPS)
        assert len({(case.op, case.name) for case in cases}) == len(cases)


def test_cases_by_name() -> None:
    assert [case.name for case in chosen_cases(quick=True, only="prefill")] == ["prefill-256"]
    with pytest.raises(ConfigError, match=r"--only is 'prefil-1': .*ragged_attention, write_kv"):
        chosen_cases(quick=True, only="prefil-1")


def test_a_round_counts_every_call() -> None:
    seen: list[int] = []

    def body(x: Array, w: Array) -> Array:
        seen.append(1)
        return after(x, x @ w) + 1

    spent = round_seconds(body, jnp.zeros((2, 2)), jnp.eye(2), rounds=3, repeats=2)
    assert len(spent) == 2
    assert min(spent) > 0
    assert len(seen) == 1  # traced once


def test_after_changes_nothing() -> None:
    x = jnp.arange(3.0)
    assert after(x, jnp.full((2, 2), 7.0)).tolist() == [0, 1, 2]


def test_the_search_changes_one_value_at_a_time() -> None:
    def seconds(values: dict[str, int]) -> float | None:
        return None if values["a"] == 4 else abs(values["a"] - 3) + abs(values["b"] - 20) / 10 + 1

    space = {"a": (1, 2, 3, 4), "b": (10, 20)}
    assert descend({"a": 1, "b": 10}, space, seconds) == ({"a": 3, "b": 20}, 1.0, 8)
    with pytest.raises(ValueError, match="cannot be run"):
        descend({"a": 4, "b": 10}, space, seconds)


ATTENTION_USE = {"q_tile": 16, "kv_tile": 32, "num_warps": 4, "num_stages": 1}


def searched(
    monkeypatch: pytest.MonkeyPatch, path: Path, only: str, cost: Callable[[Case, dict[str, int]], float]
) -> list[dict[str, Any]]:
    """The rows of a search in which a call takes `cost` microseconds."""

    def seconds_of(case: Case, backend: object, rates: object, tuning: Table) -> tuple[float, None]:
        (entry,) = tuning.entries
        return cost(case, dict(entry.use)) * 1e-6, None

    monkeypatch.setattr(tune, "seconds_of", seconds_of)
    cases = tune.tunable(chosen_cases(quick=True, only=only))
    return list(tune.tune(cases, Backend.TRITON, RATES, path=path, progress={"disable": True}))


def test_a_tuning_is_written_before_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cost(case: Case, values: dict[str, int]) -> float:
        if values["num_warps"] == 8:
            raise JaxRuntimeError("RESOURCE_EXHAUSTED: Shared memory size limit exceeded")
        return values["kv_tile"]

    path = tmp_path / "deep" / "tuning.json"
    old = Entry(section="ragged_attention", when=(("case", ("mixed",)),), use=tuple(ATTENTION_USE.items()))
    save_table(path, Table(entries=(old,)))
    rows = searched(monkeypatch, path, "decode-b8-ctx256", cost)
    assert [(row["use"]["kv_tile"], row["time_us"]) for row in rows] == [(32, [32.0])] * 3
    assert rows[0]["when"]["dtype"] == "float32"
    assert (rows[0]["refused"], "Shared memory" in rows[0]["refusal"]) == (1, True)
    *new, last = read_tuning(path).entries
    assert last == old
    dtypes = [dict(entry.when)["dtype"] for entry in new]
    assert sorted(dtypes) == [("float32",), ("float8_e4m3fn",), ("int8",)]
    assert [p.name for p in path.parent.iterdir()] == ["tuning.json"]


def test_cases_that_share_an_entry_are_searched_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cost(case: Case, values: dict[str, int]) -> float:
        assert isinstance(case, AttentionCase)
        # 4 warps are twice as quick for one row, 2 half as quick for eight rows and many more microseconds
        return {1: 4 / values["num_warps"], 8: 1000 + values["num_warps"]}[case.rows]

    path = tmp_path / "tuning.json"
    (row,) = searched(monkeypatch, path, "decode-b1-ctx1024", cost)
    assert row["use"]["num_warps"] == 8
    rows = searched(monkeypatch, path, "ragged_attention/decode", cost)
    together = next(row for row in rows if len(row["cases"]) > 1)
    assert together["cases"] == ["decode-b1-ctx1024", "decode-b8-ctx256", "decode-b8-ctx1024-window256"]
    assert together["use"]["num_warps"] == 8
    assert together["time_us"] == [0.5, 1008.0, 1008.0]
    assert together["time_ratio"] == pytest.approx((0.5 + 2 * 1008 / 1004) / 3, rel=1e-3)
    assert len(read_tuning(path).entries) == 3  # the first search's entry is replaced


@pytest.mark.parametrize(
    ("only", "when", "use"),
    [
        (
            "write_kv/tokens64-int8",
            {"head_dim": 64, "dtype": "int8", "min_tokens": 17, "max_tokens": 64},
            {"token_tile": 1, "num_warps": 1},
        ),
        (
            "grouped_matmul/tokens8",  # 16 rows for 8 experts: 2 each
            {"outs": 512, "ins": 256, "dtype": "float32", "min_share": 1, "max_share": 2},
            {"row_tile": 16, "out_tile": 16, "in_tile": 32, "band": 1, "num_warps": 2, "num_stages": 1},
        ),
        (
            "grouped_matmul/tokens256",  # 64 each
            {"outs": 512, "ins": 256, "dtype": "float32", "min_share": 17, "max_share": 64},
            {"row_tile": 16, "out_tile": 16, "in_tile": 32, "band": 1, "num_warps": 2, "num_stages": 1},
        ),
    ],
)
def test_writers_and_experts_are_searched_too(
    only: str, when: dict[str, Any], use: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tuning.json"
    (row,) = searched(monkeypatch, path, only, lambda case, values: sum(values.values()))
    assert row["when"] == {"kind": "", **when}
    assert row["use"] == use
    (entry,) = read_tuning(path).entries
    assert (entry.section, dict(entry.use)) == (row["op"], use)


def test_values_that_break_more_than_themselves_end_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cost(case: Case, values: dict[str, int]) -> float:
        if values["token_tile"] == 1:
            raise ValueError("no such tile")
        if values["token_tile"] == 2:
            raise JaxRuntimeError("INTERNAL: CUDA_ERROR_ILLEGAL_ADDRESS")
        return 1.0

    path = tmp_path / "tuning.json"
    rows = searched(monkeypatch, path, "write_kv", cost)
    assert [row["error"] for row in rows] == ["JaxRuntimeError: INTERNAL: CUDA_ERROR_ILLEGAL_ADDRESS"] * 2
    assert [(row["refused"], row["refusal"]) for row in rows] == [(1, "ValueError: no such tile")] * 2
    assert read_tuning(path) == Table()

    def broken(case: Case, values: dict[str, int]) -> float:
        raise ValueError("the values to begin with are as bad")

    (row,) = searched(monkeypatch, path, "write_kv/tokens64-int8", broken)
    assert (row["error"], row["refused"]) == ("ValueError: the values to begin with are as bad", 0)


def test_what_is_a_refusal() -> None:
    assert is_refusal(JaxRuntimeError("INTERNAL: CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES: too many resources requested"))
    assert is_refusal(NotImplementedError("no such dot"))
    assert not is_refusal(JaxRuntimeError("INTERNAL: CUDA_ERROR_ILLEGAL_ADDRESS"))
    assert not is_refusal(TypeError("ours"))


def test_narrow_ranges_stay_before_wide_ones() -> None:
    def entry(tile: int, **when: Any) -> Entry:
        conditions = tuple((name, (fact,)) for name, fact in when.items())
        return Entry(section="write_kv", when=conditions, use=(("token_tile", tile), ("num_warps", 1)))

    small, large = entry(1, dtype="int8", max_tokens=64), entry(2, dtype="int8", max_tokens=256)
    other = entry(4, dtype="bfloat16", max_tokens=64)
    for order in ((small, large), (large, small)):
        table = Table(entries=(other,))
        for one in order:
            table = placed(table, one)
        assert table.entries == (small, large, other)
    again = entry(8, dtype="int8", max_tokens=64)
    assert placed(Table(entries=(small, large, other)), again).entries == (again, large, other)
    anywhere = entry(16, dtype="int8")
    assert placed(Table(entries=(anywhere,)), large).entries == (large, anywhere)


def test_an_op_without_tuning_is_told() -> None:
    with pytest.raises(ConfigError, match=r"--tune is 'linear': it has no tuning: its products are XLA's own"):
        tunable(chosen_cases(quick=True, only="linear"))
    ops = {case.op for case in tunable(FULL)}
    assert ops == set(OPS) - {"linear"} == set(SEARCHES)


def test_a_file_that_is_no_table_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "tuning.json"
    path.write_text("[1]")
    with pytest.raises(ConfigError, match=r"tuning table is .*it holds a list"):
        list(tune.tune(tunable(QUICK), Backend.TRITON, RATES, path=path, progress={"disable": True}))
    assert path.read_text() == "[1]"
    with pytest.raises(ConfigError, match=r"--output is '/dev/null/x\.json'"):
        save_table(Path("/dev/null/x.json"), Table())


def test_the_command_prints_a_row_per_case(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "kernels", "--quick", "--quiet", "--only", "linear"]) == 0
    out, err = capsys.readouterr()
    row = json.loads(out)
    backend = str(choose_backend("cpu")[0])
    assert (row["op"], row["case"], row["backend"], row["flops"]) == ("linear", "rows8", backend, 8388608)
    assert row["share_measured"] > 0
    assert err == ""


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (
            "--tune",
            "--tune is 'cpu': kernels are interpreted on a CPU, so their times say nothing. Run it on",
        ),
        ("--only nothing", "--only is 'nothing': no case is called so"),
        ("--output /tmp/never.json", "--output is '/tmp/never.json': only --tune writes a file"),
        ("", "--quick is False: the shapes of 8B models are for a GPU"),
    ],
)
def test_what_cannot_be_is_one_line(line: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "kernels", *line.split()]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: {told}")
    assert len(err.splitlines()) == 1
