"""How a model's matrices are held: in which type, permuted for a CPU's native products or not, quantised or not."""

from __future__ import annotations

from dataclasses import dataclass

PARAM_DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightForm:
    """dtype: of `PARAM_DTYPES`, what matrices are held as and activations are multiplied in, unless they are quantised.

    packed: matrices that have a packed form here are held in it (`pallas_kernels.packed`, `packed_f32`,
    `packed_int8`).
    quantization: one of `combinations.QUANTIZATIONS`, None for none; of products' matrices alone: no norm, bias or
    router, and no table that is only read by row.
    """

    dtype: str
    packed: bool = False
    quantization: str | None = None
