"""How this package launches a Pallas-Triton kernel: whole-array refs, explicit warps and stages, interpreted on CPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from pallas_kernels.target import on_cpu


def launch(
    kernel: Callable[..., None],
    inputs: Sequence[Array],
    outputs: Sequence[jax.ShapeDtypeStruct],
    *,
    name: str,
    grid: tuple[int, ...],
    num_warps: int,
    num_stages: int,
    aliases: Mapping[int, int] | None = None,
) -> tuple[Array, ...]:
    """Runs `kernel(*input_refs, *output_refs)` once per point of the grid; every ref is the whole array.

    aliases: input index -> output index, for outputs written in place. num_warps counts warps of the device (64 lanes
    on gfx9, 32 on NVIDIA).
    """
    call = pl.pallas_call(
        kernel,
        grid=grid,
        out_shape=tuple(outputs),
        in_specs=[pl.BlockSpec(memory_space=pl.ANY) for _ in inputs],
        out_specs=tuple(pl.BlockSpec(memory_space=pl.ANY) for _ in outputs),
        input_output_aliases=dict(aliases or {}),
        compiler_params=plgpu.CompilerParams(num_warps=num_warps, num_stages=num_stages),
        interpret=on_cpu(),
        name=name,
    )
    results: Any = call(*inputs)
    return tuple(results)


def next_power_of_two(n: int, *, least: int = 1) -> int:
    """The smallest power of two >= n and >= least: the only tile sizes Triton takes."""
    return max(least, 1 << max(n - 1, 0).bit_length())
