"""The compiled library in this process: whether it can be had, what this CPU makes of it, its targets in JAX."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache

import jax.ffi

from pallas_kernels.native.build import BuildError, build

POOL_DTYPES = ("float32", "bfloat16", "int8", "float8_e4m3fn")
"""What the keys and values of a pool may be."""
KEYS_OF_A_PANEL, VALUES_OF_A_PANEL = 16, 8
"""Block sizes must be multiples of the first, head dims of the second."""

_TARGETS = (
    *(f"jaxpaged_{op}_{dtype}" for op in ("attention", "write") for dtype in POOL_DTYPES),
    *(
        f"jaxpaged_{op}_{kernel}"
        for op in ("linear", "mlp")
        for kernel in ("float32", *(f"{dtype}_{how}" for dtype in ("bfloat16", "int8") for how in ("amx", "vector")))
    ),
)
_REFUSED = -1  # what `jaxpaged_amx` says where the kernel refuses it
_BFLOAT16 = {2: "AMX", 1: "AVX512-BF16", 0: ""}
_INT8 = {2: "AMX", 1: "AVX512-VNNI", 0: ""}


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """obstacle: why there is no library, "" where there is one. unit: the most it multiplies bfloat16 with, "AMX",
    "AVX512-BF16" or "AVX", for people.

    bfloat16, int8: what multiplies packed weights of that type: "AMX", "AVX512-BF16" or "AVX512-VNNI", "" where
    nothing of ours does.
    """

    obstacle: str
    unit: str
    bfloat16: str = ""
    int8: str = ""

    def product(self, dtype: str) -> str:
        """What multiplies packed weights of "float32", "bfloat16" or "int8", for people; "": nothing of ours."""
        if dtype == "float32":
            return "" if self.obstacle else "AVX"
        return self.bfloat16 if dtype == "bfloat16" else self.int8

    def kernel(self, dtype: str) -> str:
        """The last part of the names of the targets that multiply packed weights of `dtype`."""
        if dtype == "float32":
            return dtype
        return f"{dtype}_amx" if self.product(dtype) == "AMX" else f"{dtype}_vector"


@cache  # JAX's table of targets is the process's own, and takes a name once
def library() -> Library:
    """Build or find the library, load it and register its targets; never raises."""
    try:
        loaded = ctypes.CDLL(str(build()))
    except BuildError as error:
        return Library(obstacle=str(error), unit="")
    except OSError as error:
        return Library(obstacle=f"the library does not load: {error}", unit="")
    for name in _TARGETS:
        jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(getattr(loaded, name)), platform="cpu")
    bfloat16, int8 = _BFLOAT16[int(loaded.jaxpaged_bfloat16())], _INT8[int(loaded.jaxpaged_int8())]
    refused = " (the kernel refuses AMX)" if int(loaded.jaxpaged_amx()) == _REFUSED else ""
    return Library(obstacle="", unit=f"{bfloat16 or 'AVX'}{refused}", bfloat16=bfloat16, int8=int8)


def packs_weights() -> bool:
    """Whether `linear` takes packed bfloat16 weights here (`pallas_kernels.packed`)."""
    return bool(library().bfloat16)


def packs_f32_weights() -> bool:
    """Whether `linear` takes packed float32 weights here (`pallas_kernels.packed_f32`)."""
    return not library().obstacle


def packs_int8_weights() -> bool:
    """Whether `linear` takes packed int8 weights here (`pallas_kernels.packed_int8`)."""
    return bool(library().int8)


def obstacle(*, head_dim: int | None = None, block_size: int | None = None, dtype: str | None = None) -> str:
    """Why the native backend cannot serve such a pool on this machine, "" where it can. None: not looked at."""
    if head_dim is not None and head_dim % VALUES_OF_A_PANEL:
        return f"heads of {head_dim}: they must be multiples of {VALUES_OF_A_PANEL}"
    if block_size is not None and block_size % KEYS_OF_A_PANEL:
        return f"blocks of {block_size} tokens: they must be multiples of {KEYS_OF_A_PANEL}"
    if dtype is not None and dtype not in POOL_DTYPES:
        return f"a pool of {dtype}: it may hold {', '.join(POOL_DTYPES)}"
    return library().obstacle
