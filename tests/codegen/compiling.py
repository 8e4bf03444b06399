"""The child process that compiles: `python -m codegen.compiling DEVICE PACKAGES NAME...` writes a JSON line a program.

XLA kills the process where it meets what it does not expect; the parent (`children.py`) knows by the lines which
program that was.
"""

from __future__ import annotations

import json
import math
import re
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from absent_device import absent_device
from codegen.catalogue import program_of
from codegen.devices import DEVICES, Device, compile_only
from codegen.objects import code_objects
from codegen.program import Program
from jax.sharding import SingleDeviceSharding

from pallas_kernels.target import Target, assume_target

_KERNEL = re.compile(r'custom_call_target="__gpu\$xla\.gpu\.triton".* name = "(\w+)", num_stages')
_FREE = {"parameter", "custom-call", "get-tuple-element", "bitcast", "tuple", "opt-barrier"}


def compile_program(program: Program, device: Device, only: Any) -> jax.stages.Compiled:
    """Machine code for the device. Raises what XLA raises where it refuses."""
    place = SingleDeviceSharding(only)
    arguments = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), tuple(program.arguments)
    )
    jitted = jax.jit(program.function, donate_argnums=program.donate)
    with assume_target(Target(platform=device.platform, kind=device.kind)), absent_device(device.kind):
        return jitted.trace(*arguments).lower(lowering_platforms=(device.platform,)).compile()


def report(program: Program, compiled: jax.stages.Compiled) -> dict[str, Any]:
    """What the tests look at, as JSON."""
    text = compiled.as_text() or ""
    memory: Any = compiled.memory_analysis()
    objects = code_objects(compiled.runtime_executable().serialize())  # pyright: ignore[reportOptionalMemberAccess]
    kernels = Counter(_KERNEL.findall(text))
    ours = [k for found in objects for k in found.kernels if re.sub(r"_\d+$", "", k.name) in kernels]
    return {
        "archs": sorted({found.arch for found in objects}),
        "kernels": dict(kernels),
        "wanted": list(program.kernels),
        "code": sorted({(k.name, k.registers, k.spilled, k.scratch) for k in ours}),
        "pool": program.nbytes(program.pool_arrays()),
        "copies": [] if program.updates_pool else copies_of_the_pool(text, program),
        "widened": widened_weights(text, program),
        "sorts": sorted_widths(text),
        "unsorted": program.unsorted,
        "most_temp": program.most_temp,
        "argument": memory.argument_size_in_bytes,
        "output": memory.output_size_in_bytes,
        "alias": memory.alias_size_in_bytes,
        "temp": memory.temp_size_in_bytes,
    }


def copies_of_the_pool(text: str, program: Program) -> list[str]:
    """Instructions of an optimised module, views and kernels aside, whose result has the shape of a pool array."""
    shapes = {f"{_HLO[array.dtype.name]}[{','.join(map(str, array.shape))}]" for array in program.pool_arrays()}
    found = re.findall(r"= \(?(\w+\[[\d,]*\])[^=]*? ([\w-]+)\(", text)
    return sorted({f"{opcode} {shape}" for shape, opcode in found if shape in shapes and opcode not in _FREE})


def widened_weights(text: str, program: Program) -> list[str]:
    """Arrays that an optimised module's entry makes, in memory, of the shape of an int8 weight but wider."""
    pools = {array.shape for array in program.pool_arrays()}
    int8 = [a for a in jax.tree.leaves(program.arguments) if a.dtype == jnp.int8 and a.shape not in pools]
    flat = {(math.prod(a.shape[:-1]), a.shape[-1]) for a in int8}
    shapes = {*flat, *(pair[::-1] for pair in flat), *(a.shape for a in int8)}
    found = re.findall(r"= \(?((?:bf16|f16|f32)\[([\d,]+)\])[^=]*? ([\w-]+)\(", text[text.index("\nENTRY ") :])
    made = [(name, tuple(map(int, dims.split(",")))) for name, dims, opcode in found if opcode not in _FREE]
    return sorted({name for name, shape in made if shape in shapes})


def sorted_widths(text: str) -> list[int]:
    """The longest dimension of each sort in an optimised module, by XLA itself or by a library."""
    found = re.findall(r"= \(?\w+\[([\d,]*)\].* (?:sort\(|custom-call\(.*target=\"[^\"]*(?:Sort|TopK))", text)
    return sorted({max(int(size) for size in shape.split(",")) for shape in found if shape})


_HLO = {"bfloat16": "bf16", "float16": "f16", "float32": "f32", "int8": "s8", "float8_e4m3fn": "f8e4m3fn"}


def main(device_name: str, packages: str, *names: str) -> None:
    device = DEVICES[device_name]
    only = compile_only(device, Path(packages))
    for name in names:
        print(json.dumps({"start": name}), flush=True)
        began = time.monotonic()
        try:
            with assume_target(Target(platform=device.platform, kind=device.kind)):
                program = program_of(name)
            result = report(program, compile_program(program, device, only))
        except Exception as error:
            result = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps({"name": name, "seconds": round(time.monotonic() - began, 2), **result}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
