"""Matrices in MXFP4: values of 4 bits that share a power of two by 32, as gpt-oss's checkpoints hold its experts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from jaxpaged.models.tensors import Weights

_BLOCK = 32  # values that share a scale
_LAST = 255
_MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class MXFP4:
    """Two tensors of a file as one [*outs, A]: `_blocks` u8[*outs, A / 32, 16], two values a byte, the first in the low
    bits, and `_scales` u8[*outs, A / 32].

    A value is e2m1 times 2 ** (scale - 127): OCP Microscaling Formats (MX) 1.0, sections 5.3.3 and 5.4.1. All products
    are exact in float32 and in bfloat16, or infinite where they are too large. Scale 255, no number to the format, is
    another power of two here, as it is to transformers.
    """

    def shapes(self, shape: tuple[int, ...]) -> Mapping[str, tuple[int, ...]]:
        """What the two tensors' names end in, and their shapes, for values of this shape."""
        *outs, ins = shape
        blocks = -(-ins // _BLOCK)
        return {"_blocks": (*outs, blocks, _BLOCK // 2), "_scales": (*outs, blocks)}

    def values(self, tensors: Mapping[str, Weights]) -> Weights:
        """f32[*outs, A] of the two tensors."""
        blocks, scales = tensors["_blocks"], tensors["_scales"]
        magnitudes = np.asarray(_MAGNITUDES, np.float32)
        codes = np.concatenate([magnitudes, -magnitudes])
        pairs = np.stack([np.tile(codes, 16), np.repeat(codes, 16)], axis=-1)  # [256, 2], by byte
        found = pairs[blocks].reshape(*scales.shape, _BLOCK)
        with np.errstate(over="ignore"):
            found *= _powers()[scales][..., None]
            found[scales == _LAST] *= 2
        return found.reshape(*scales.shape[:-1], -1)


def _powers() -> Weights:
    """f32[256]: by scale, 2 ** (scale - 127); of the last, half. A scale is float32's exponent, but 0 is no zero."""
    bits = np.arange(256, dtype=np.uint32) << 23
    bits[0] = 1 << 22  # 2 ** -127 is subnormal
    bits[_LAST] = bits[_LAST - 1]  # half of what it stands for: 2 ** 128 is infinite, half of it is not
    return bits.view(np.float32)
