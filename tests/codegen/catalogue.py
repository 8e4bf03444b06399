"""Every program that the gates compile, by name; a child process is told the names alone."""

from __future__ import annotations

from codegen.controls import CONTROLS, control_program
from codegen.kernels import KERNELS, kernel_program
from codegen.program import Program
from codegen.steps import (
    COPIERS,
    SAMPLERS,
    SCORERS,
    STEPS,
    copier_program,
    sampler_program,
    scorer_program,
    step_program,
)


def program_of(name: str) -> Program:
    """The program of this name, for the target assumed. Raises KeyError for an unknown one."""
    if name in KERNELS:
        return kernel_program(KERNELS[name])
    if name in STEPS:
        return step_program(STEPS[name])
    if name in SAMPLERS:
        return sampler_program(SAMPLERS[name])
    if name in SCORERS:
        return scorer_program(SCORERS[name])
    if name in COPIERS:
        return copier_program(COPIERS[name])
    return control_program(name)


def groups() -> dict[str, tuple[str, ...]]:
    """The programs that share a child process: its start costs as much as some kernels take to compile."""
    found: dict[str, tuple[str, ...]] = {}
    for name, case in KERNELS.items():
        group = f"kernels of {case.dtype}"
        found[group] = (*found.get(group, ()), name)
    for name, step in STEPS.items():
        found[step.shape] = (*found.get(step.shape, ()), name)
    return {**found, "samplers": (*SAMPLERS, *SCORERS, *COPIERS), "controls": CONTROLS}
