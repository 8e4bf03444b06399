"""The kernel benchmark: what a case must move and compute, how long work takes, how a tuning is searched and kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from jaxpaged_server.cli import main

from jaxpaged.bench import tune
from jaxpaged.bench.cases import FULL, OPS, QUICK, AttentionCase, GroupedCase, LinearCase, WriteCase, chosen_cases
from jaxpaged.bench.programs import program_of
from jaxpaged.bench.rates import DeviceRates
from jaxpaged.bench.roofline import Rates
from jaxpaged.bench.timing import after, round_seconds
from jaxpaged.bench.tune import descend, save_table
from jaxpaged.errors import ConfigError
from pallas_kernels.backend import Backend
from pallas_kernels.tuning import Entry, Table, load_table

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


def test_a_tuning_is_written_before_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def seconds_of(case: object, backend: object, rates: object, tuning: Table) -> tuple[float, None]:
        values = dict(tuning.entries[0].use)
        if values["num_warps"] == 8:
            raise RuntimeError("out of shared memory")
        return values["kv_tile"] * 1e-6, None

    monkeypatch.setattr(tune, "seconds_of", seconds_of)
    path = tmp_path / "deep" / "tuning.json"
    old = Entry(section="ragged_attention", when=(("case", ("mixed",)),), use=(("q_tile", 16),))
    save_table(path, Table(entries=(old,)))
    cases = chosen_cases(quick=True, only="decode-b8-ctx256")
    rows = list(tune.tune(cases, Backend.TRITON, RATES, path=path, progress={"disable": True}))
    assert [row["use"]["kv_tile"] for row in rows] == [32, 32, 32]
    assert rows[0]["when"]["dtype"] == "float32"
    *new, last = load_table(path).entries
    assert last == old
    assert [dict(entry.when)["dtype"] for entry in new] == [("float32",), ("int8",), ("float8_e4m3fn",)]
    assert [p.name for p in path.parent.iterdir()] == ["tuning.json"]


def test_a_file_that_is_no_table_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "tuning.json"
    path.write_text("[1]")
    with pytest.raises(ConfigError, match="it is there and no tuning table"):
        list(tune.tune(QUICK, Backend.TRITON, RATES, path=path, progress={"disable": True}))
    assert path.read_text() == "[1]"
    with pytest.raises(ConfigError, match=r"--output is '/dev/null/x\.json'"):
        save_table(Path("/dev/null/x.json"), Table())


def test_the_command_prints_a_row_per_case(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "kernels", "--quick", "--quiet", "--only", "linear"]) == 0
    out, err = capsys.readouterr()
    row = json.loads(out)
    assert (row["op"], row["case"], row["backend"], row["flops"]) == ("linear", "rows8", "xla", 8388608)
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
