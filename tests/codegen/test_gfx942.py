"""Shipped kernels and whole engine steps become gfx942 machine code, by the compiler that production runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from codegen.checks import complaints, memory_complaints
from codegen.kernels import KERNELS
from codegen.steps import COPIERS, SAMPLERS, SCORERS, STEPS

pytestmark = [pytest.mark.codegen, pytest.mark.timeout(1000)]
DEVICE = "gfx942"
Compiled = Callable[[str, str], dict[str, Any]]


@pytest.mark.parametrize("name", KERNELS)
def test_kernel(compiled: Compiled, name: str) -> None:
    assert complaints(compiled(DEVICE, name), DEVICE) == []


@pytest.mark.parametrize("name", STEPS)
def test_step(compiled: Compiled, name: str) -> None:
    report = compiled(DEVICE, name)
    assert complaints(report, DEVICE) == []
    assert memory_complaints(report, DEVICE) == []
    print(f"{DEVICE} {name}: arguments {report['argument'] / 1e9:.1f} GB, temporaries {report['temp'] / 1e6:.0f} MB")


def test_what_a_step_takes_does_not_depend_on_the_number_of_blocks(compiled: Compiled) -> None:
    few, many = (compiled(DEVICE, f"llama-3.1-8b-mixed{pool}")["temp"] for pool in ("-small-pool", ""))
    assert abs(few - many) <= 4096  # buffers are rounded up


@pytest.mark.parametrize("name", [*SAMPLERS, *SCORERS, *COPIERS])
def test_sampler_scorer_and_copier(compiled: Compiled, name: str) -> None:
    report = compiled(DEVICE, name)
    assert complaints(report, DEVICE) == []
    print(f"{DEVICE} {name}: temporaries {report['temp'] / 1e6:.0f} MB")


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("too-much-lds", "RESOURCE_EXHAUSTED"),
        ("no-donation", "the pool has"),
        ("no-kernel", "kernel decode is missing"),
        ("spill", "spills"),
        ("sorted-vocabulary", "a sort of"),
        ("widened-weight", "int8 weights are widened"),
    ],
)
def test_control_is_caught(compiled: Compiled, name: str, complaint: str) -> None:
    assert complaint in " ".join(complaints(compiled(DEVICE, name), DEVICE))
