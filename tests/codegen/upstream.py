"""What a Pallas kernel asks of a GPU, by upstream Triton's compiler.

Upstream's Triton is not the one inside XLA: this is a report on registers, shared memory and instructions; what
production runs is compiled by `compiling.py`. A child process, `python -m codegen.upstream CHIP PACKAGES NAME...`, that
writes a JSON line a program.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
from absent_device import absent_device
from codegen.catalogue import program_of
from codegen.objects import parse
from codegen.program import Program

from pallas_kernels.target import Target, assume_target

CALL = "__gpu$xla.gpu.triton"


@dataclass(frozen=True, slots=True, kw_only=True)
class Chip:
    """platform: of JAX. backend, arch, lanes: Triton's words for it. shared: bytes that a program may take."""

    platform: str
    kind: str
    backend: str
    arch: str | int
    lanes: int
    shared: int


CHIPS: Mapping[str, Chip] = MappingProxyType(
    {
        "gfx942": Chip(platform="rocm", kind="gfx942", backend="hip", arch="gfx942", lanes=64, shared=65536),
        "gfx950": Chip(platform="rocm", kind="gfx950", backend="hip", arch="gfx950", lanes=64, shared=163840),
        "sm_90": Chip(platform="cuda", kind="NVIDIA H200", backend="cuda", arch=90, lanes=32, shared=232448),
    }
)
_MATRIX = re.compile(r"\b(v_mfma_\w+|wgmma\.mma_async\S*|mma\.sync\S*)")
_WIDE_LOAD = re.compile(  # of 16 bytes a lane
    r"\b((?:global|buffer)_load(?:_lds)?_dwordx4|buffer_load_dwordx4 .* lds"
    r"|ld\.global\S*\.(?:v4\.b32|v2\.b64)|cp\.async\.c[ag]\.shared\.global \[[^\]]*\], \[[^\]]*\], 0x10)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One kernel of a lowered program: its name, Triton IR, warps and stages."""

    name: str
    ir: str
    num_warps: int
    num_stages: int


def calls_of(program: Program, chip: Chip) -> list[Call]:
    """The Pallas kernels of a program lowered for a chip; no compiler but JAX takes part."""
    from jax._src.interpreters import mlir
    from jax._src.lib import triton as triton_dialect
    from jaxlib.mlir import ir

    with assume_target(Target(platform=chip.platform, kind=chip.kind)), absent_device(chip.kind):
        lowered = jax.jit(program.function).trace(*program.arguments).lower(lowering_platforms=(chip.platform,))
    found: list[Any] = []

    def visit(operation: Any) -> Any:
        if operation.name == "stablehlo.custom_call" and CALL in str(operation.attributes["call_target_name"]):
            found.append(operation.attributes["mhlo.backend_config"])
        return ir.WalkResult.ADVANCE

    module: Any = lowered.compiler_ir("stablehlo")
    module.operation.walk(visit)
    calls = []
    names = [ir.StringAttr(config["name"]).value for config in found]
    for name, config in zip(names, found, strict=True):
        if "mixed" in names and name.startswith("decode"):
            continue  # a mixed step's rows of one token: the kernel of the decode case once more
        context = mlir.make_ir_context()
        with context:
            triton_dialect.dialect.register_dialect(context)  # pyright: ignore[reportPrivateImportUsage]
            text: Any = ir.Module.parse(ir.StringAttr(config["ir"]).value_bytes).operation.get_asm(
                enable_debug_info=False
            )
        warps, stages = (ir.IntegerAttr(config[key]).value for key in ("num_warps", "num_stages"))
        calls.append(Call(name=name, ir=text, num_warps=warps, num_stages=stages))
    return calls


def resources(call: Call, chip: Chip, packages: Path) -> dict[str, Any]:
    """Compile a kernel and read what it takes."""
    import triton  # pyright: ignore[reportMissingImports]
    from triton.backends.compiler import GPUTarget  # pyright: ignore[reportMissingImports]

    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / f"{call.name}.ttir"
        source.write_text(call.ir)
        options = {"num_warps": call.num_warps, "num_stages": call.num_stages}
        made: Any = triton.compile(str(source), target=GPUTarget(chip.backend, chip.arch, chip.lanes), options=options)
    assembly = made.asm["amdgcn"] if chip.backend == "hip" else made.asm["ptx"]
    binary = made.asm["hsaco"] if chip.backend == "hip" else made.asm["cubin"]
    (kernel,) = [kernel for kernel in parse(binary).kernels if call.name in kernel.name]
    accumulators = re.search(r"\.agpr_count:\s+(\d+)", assembly)
    return {
        "kernel": call.name,
        "warps": call.num_warps,
        "stages": call.num_stages,
        "registers": kernel.registers,
        "accumulators": int(accumulators[1]) if accumulators else 0,
        "spilled": kernel.spilled,
        "scratch": kernel.scratch,
        "shared": made.metadata.shared,
        "matrix": sorted(set(_MATRIX.findall(assembly))),
        "wide_loads": len(_WIDE_LOAD.findall(assembly)),
    }


def main(chip_name: str, packages: str, *names: str) -> None:
    jax.devices()  # before the folder is on the path: JAX would take the plugins in it for its own
    sys.path.insert(0, packages)
    chip = CHIPS[chip_name]
    for name in names:
        print(json.dumps({"start": name}), flush=True)
        try:
            with assume_target(Target(platform=chip.platform, kind=chip.kind)):
                calls = calls_of(program_of(name), chip)
            rows = [resources(call, chip, Path(packages)) for call in calls]
            result: dict[str, Any] = {"kernels": rows}
        except Exception as error:
            result = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps({"name": name, **result}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
