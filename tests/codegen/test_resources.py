"""Every shipped kernel uses a GPU as it should, by upstream Triton: no spills, matrix units and wide loads in use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from codegen.checks import resource_complaints
from codegen.kernels import KERNELS
from codegen.table import FILE, rows_of, stable, written
from codegen.upstream import CHIPS

pytestmark = [pytest.mark.codegen, pytest.mark.timeout(1000)]
Measured = Callable[[str, str], dict[str, Any]]


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("name", KERNELS)
def test_kernel(measured: Measured, chip: str, name: str) -> None:
    assert resource_complaints(measured(chip, name), chip, KERNELS[name].dtype) == []


@pytest.mark.parametrize("chip", CHIPS)
def test_the_table_is_up_to_date(measured: Measured, chip: str) -> None:
    rows = rows_of({name: measured(chip, name) for name in KERNELS})
    assert stable(written(FILE.read_text(encoding="utf-8"), chip)) == stable(rows)


@pytest.mark.parametrize(
    ("name", "chip", "complaint"),
    [
        ("spill", "gfx942", "spills"),
        ("spill", "gfx950", "spills"),
        ("spill", "sm_90", "spills"),
        ("too-much-lds", "gfx942", "shared memory"),
        ("too-much-lds", "gfx950", "shared memory"),
        ("too-much-lds", "sm_90", "shared memory"),
        ("no-matrix-unit", "gfx942", "no matrix instruction"),
        ("no-matrix-unit", "gfx950", "no matrix instruction"),
        ("decode-float32-d64", "sm_90", "no matrix instruction"),
        ("no-wide-loads", "gfx942", "no 16-byte load"),
        ("no-wide-loads", "sm_90", "no 16-byte load"),
    ],
)
def test_control_is_caught(measured: Measured, name: str, chip: str, complaint: str) -> None:
    assert complaint in " ".join(resource_complaints(measured(chip, name), chip, "bfloat16"))
