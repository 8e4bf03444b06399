"""The doctor's self-test in this process: kernels that are right pass it, and one that is wrong does not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jaxpaged.doctor import selftest
from jaxpaged.doctor.probe import Check, TuningFact, read_lines
from pallas_kernels.backend import Backend
from pallas_kernels.ragged_attention import ragged_attention


def checks(capsys: pytest.CaptureFixture[str], backend: Backend, dtypes: list[str]) -> dict[str, Check]:
    selftest.try_ops(backend, "cpu", dtypes)
    lines = capsys.readouterr().out.splitlines()
    assert all(json.loads(line)["part"] in ("doing", "check") for line in lines)
    found = read_lines(lines, status=0, log="").checks
    return {f"{check.op} {check.dtype}": check for check in found}


def test_right_kernels_pass(capsys: pytest.CaptureFixture[str]) -> None:
    found = checks(capsys, Backend.XLA, ["float32", "bfloat16"])
    assert len(found) == 8
    assert [name for name, check in found.items() if not check.passed] == []
    assert all(check.milliseconds > 0 for check in found.values())
    assert found["write_kv float32"].error == 0.0
    assert 0.0 < found["write_kv bfloat16"].error < 4e-3  # the rounding of bfloat16, and no more


def test_the_gpu_kernels_pass_interpreted(capsys: pytest.CaptureFixture[str]) -> None:
    found = checks(capsys, Backend.TRITON, ["float32"])
    assert {name: check.passed for name, check in found.items()} == {
        "write_kv float32": True,
        "ragged_attention float32": True,
        "grouped_matmul float32": True,
        "linear float32": True,
    }


def test_a_wrong_kernel_does_not(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def off_by_a_thousandth(q: Any, pool: Any, work: Any, *, scale: float) -> Any:
        factor = 1.0 if work.backend == Backend.REFERENCE else 1.001
        return ragged_attention(q, pool, work, scale=scale) * factor

    monkeypatch.setattr(selftest, "ragged_attention", off_by_a_thousandth)
    found = checks(capsys, Backend.XLA, ["float32"])
    assert [name for name, check in found.items() if not check.passed] == ["ragged_attention float32"]
    assert found["ragged_attention float32"].error == pytest.approx(1e-3, rel=0.05)


def test_a_tuning_table_that_no_engine_takes_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "tuning.json"
    monkeypatch.setenv("JAXPAGED_TUNING", str(path))
    for tile, usable in ((8, True), (48, False)):
        path.write_text(json.dumps({"write_kv": [{"use": {"token_tile": tile, "num_warps": 2}}]}))
        assert selftest.tell_tuning() == usable
    good, bad = (read_lines([line], status=0, log="").tuning for line in capsys.readouterr().out.splitlines())
    assert good == TuningFact(path=str(path), entries=1)
    assert bad is not None
    assert bad.error.startswith(f"token_tile of entry 1 of write_kv in the tuning table {path} is 48: it must be")
    assert bad.fix.startswith("Mend or remove the file")
