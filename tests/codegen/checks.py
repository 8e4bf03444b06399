"""What must hold of a compiled program: the gates themselves. A message says what does not."""

from __future__ import annotations

import math
from typing import Any

from codegen.devices import DEVICES
from codegen.upstream import CHIPS

WITH_PRODUCTS = ("decode", "decode_split", "mixed", "grouped_matmul", "dots")  # kernels that multiply matrices
MOST_TEMP = 0.15  # of weights and pool together


def complaints(report: dict[str, Any], device: str) -> list[str]:
    """All that is wrong with a program compiled for `device`."""
    if "error" in report:
        return [report["error"]]
    found = []
    if report["archs"] != [device]:
        found.append(f"machine code is for {report['archs']}, not for {device}")
    for where, names in (("the program", report["kernels"]), ("machine code", [name for name, *_ in report["code"]])):
        missing = [wanted for wanted in report["wanted"] if not any(name.startswith(wanted) for name in names)]
        found += [f"kernel {name} is missing from {where}" for name in missing]
    found += [
        f"{name} spills: {spilled}, scratch {scratch} B"
        for name, _, spilled, scratch in report["code"]
        if spilled or scratch
    ]
    found += [f"the pool is copied: {copy}" for copy in report["copies"]]
    found += [f"int8 weights are widened in memory: {array}" for array in report["widened"]]
    found += [f"a sort of {width} elements" for width in report["sorts"] if width >= (report["unsorted"] or math.inf)]
    if report["most_temp"] is not None and report["temp"] > report["most_temp"]:
        found.append(f"{report['temp']} bytes of temporaries, at most {report['most_temp']}")
    if report["pool"] and report["alias"] < report["pool"]:
        found.append(f"{report['alias']} bytes are written in place, the pool has {report['pool']}")
    return found


def memory_complaints(report: dict[str, Any], device: str) -> list[str]:
    """What is wrong with the memory that a whole step takes."""
    most, temp = MOST_TEMP * report["argument"], report["temp"]
    total = report["argument"] + temp + report["output"] - report["alias"]
    found = [f"{temp} bytes of temporaries, at most {most:.0f}"] if temp > most else []
    return found + ([f"{total} bytes do not fit {device}"] if total > DEVICES[device].memory else [])


def resource_complaints(report: dict[str, Any], chip: str, dtype: str) -> list[str]:
    """What is wrong with kernels that upstream Triton compiled; dtype: of the operands of their products."""
    if "error" in report:
        return [report["error"]]
    found = [] if report["kernels"] else ["no Pallas kernel"]
    for kernel in report["kernels"]:
        name, shared = kernel["kernel"], kernel["shared"]
        products = name in WITH_PRODUCTS
        if kernel["spilled"] or kernel["scratch"]:
            found.append(f"{name} spills: {kernel['spilled']}, scratch {kernel['scratch']} B")
        if shared > CHIPS[chip].shared:
            found.append(f"{name} wants {shared} bytes of shared memory, {chip} has {CHIPS[chip].shared}")
        # sm_90 has no matrix instruction for IEEE products of float32
        if products and not kernel["matrix"] and not (chip == "sm_90" and dtype == "float32"):
            found.append(f"{name} has no matrix instruction")
        if products and not kernel["wide_loads"]:
            found.append(f"{name} has no 16-byte load")
    return found
