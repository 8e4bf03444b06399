"""Rotary position embedding: frequencies on the host, angles on the device; `pallas_kernels.rotate` applies them.

Everything is float32, rounded where transformers rounds it: at position 100,000 one unit in the last place of a
frequency is 0.006 radians, so "more exact" would mean "different".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from jaxpaged.models.config import RopeConfig
from pallas_kernels.rotate import RopeTable

Frequencies = NDArray[np.float32]


def frequencies(rope: RopeConfig) -> Frequencies:
    """Radians per position of every rotated pair: f32[dims / 2]."""
    found = FREQUENCIES[rope.kind](rope)
    assert found.dtype == np.float32
    assert found.shape == (rope.dims // 2,)
    return found


def rope_table(rope: RopeConfig, positions: Array) -> RopeTable:
    """cos and sin at positions i32[T]: two f32[T, dims / 2], times the rope's scale."""
    angles = positions.astype(jnp.float32)[:, None] * jnp.asarray(frequencies(rope))[None, :]
    return jnp.cos(angles) * rope.scale, jnp.sin(angles) * rope.scale


def yarn_scale(
    factor: float, attention_factor: float | None, mscale: float | None, mscale_all_dim: float | None
) -> float:
    """The factor on cos and sin of YaRN (Peng et al. 2023, arXiv 2309.00071, section 3.4; mscale as in DeepSeek-V2)."""
    if attention_factor is not None:
        return attention_factor

    def grown(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1.0 else 1.0

    if mscale and mscale_all_dim:
        return grown(mscale) / grown(mscale_all_dim)
    return grown(1.0)


def _periods(rope: RopeConfig) -> Frequencies:
    """theta ** (2i / dims): RoFormer (Su et al. 2021, arXiv 2104.09864, section 3.2.2)."""
    exponents = np.arange(0, rope.dims, 2, dtype=np.float32) / np.float32(rope.dims)
    # the power in float64, rounded once: the nearest numpy comes to torch's float32 power
    return (np.float64(rope.theta) ** exponents.astype(np.float64)).astype(np.float32)


def _plain(rope: RopeConfig) -> Frequencies:
    return np.float32(1.0) / _periods(rope)


def _linear(rope: RopeConfig) -> Frequencies:
    """Position interpolation (Chen et al. 2023, arXiv 2306.15595, equation 4)."""
    return _plain(rope) / np.float32(rope.factor)


def _llama3(rope: RopeConfig) -> Frequencies:
    """Llama 3.1 (`apply_scaling` in Meta's reference code): slow pairs are scaled, middle ones blended."""
    plain = _plain(rope)
    wavelengths = np.float32(1.0) / plain * np.float32(2 * math.pi)  # torch divides a number by a tensor in this way
    longest = rope.original_positions / rope.low_freq_factor
    shortest = rope.original_positions / rope.high_freq_factor
    scaled = np.where(wavelengths > np.float32(longest), plain / np.float32(rope.factor), plain)
    blend = np.float32(1.0) / wavelengths * np.float32(rope.original_positions) - np.float32(rope.low_freq_factor)
    blend /= np.float32(rope.high_freq_factor - rope.low_freq_factor)
    blended = (np.float32(1.0) - blend) * scaled / np.float32(rope.factor) + blend * scaled
    middle = ~(wavelengths < np.float32(shortest)) & ~(wavelengths > np.float32(longest))
    return np.where(middle, blended, scaled).astype(np.float32)


def _yarn(rope: RopeConfig) -> Frequencies:
    """YaRN (Peng et al. 2023, arXiv 2309.00071, section 3.2): fast pairs stay, slow ones are scaled, a ramp between."""
    periods = _periods(rope)
    plain, scaled = np.float32(1.0) / periods, np.float32(1.0) / (np.float32(rope.factor) * periods)

    def pair_turning(turns: float) -> float:
        """The (fractional) pair that makes so many turns within the original context."""
        ratio = rope.original_positions / (turns * 2 * math.pi)
        return rope.dims * math.log(ratio) / (2 * math.log(rope.theta))

    first, last = pair_turning(rope.beta_fast), pair_turning(rope.beta_slow)
    if rope.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, rope.dims - 1)
    if first == last:
        last += 0.001  # no division by zero; the source does the same
    ramp: Frequencies = (np.arange(rope.dims // 2, dtype=np.float32) - np.float32(first)) / np.float32(last - first)
    kept: Frequencies = np.float32(1.0) - np.clip(ramp, np.float32(0.0), np.float32(1.0))
    return (scaled * (np.float32(1.0) - kept) + plain * kept).astype(np.float32)


def _longrope(rope: RopeConfig) -> Frequencies:
    """LongRoPE (Ding et al. 2024, arXiv 2402.13753, equation 1): every pair has a divisor of its own."""
    return np.float32(1.0) / (np.asarray(rope.factors, np.float32) * _periods(rope))


FREQUENCIES: Mapping[str, Callable[[RopeConfig], Frequencies]] = MappingProxyType(
    {"default": _plain, "linear": _linear, "llama3": _llama3, "yarn": _yarn, "longrope": _longrope}
)
