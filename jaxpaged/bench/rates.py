"""What this machine does: its copy bandwidth and its matrix products, measured, beside the vendor's sheet."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxpaged.bench.timing import round_seconds
from jaxpaged.roofline import Rates, sheet_of
from pallas_kernels.target import current_target, on_cpu


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRates:
    """The measured rates of the device, and its sheet where one is known."""

    measured: Rates
    sheet: Rates | None

    @property
    def roofline(self) -> Rates:
        """What a roofline is drawn with: the sheet, where there is none what was measured."""
        return self.sheet or self.measured


def device_rates(*, dtype: str) -> DeviceRates:
    """Measure JAX's first device. dtype: of the factors of the matrix product ("float32", "bfloat16").

    The best of several runs: this is what the device can do. Takes about a second on a GPU and a few on a CPU.
    """
    name = current_target().kind or "this CPU"
    measured = Rates(name=f"{name}, {dtype}", gb_s=copy_gb_s(), tflop_s=matmul_tflop_s(dtype=dtype), source="measured")
    return DeviceRates(measured=measured, sheet=sheet_of(current_target().kind))


def copy_gb_s() -> float:
    """GB a second, bytes read and bytes written, of adding 1 to an array much larger than any cache."""
    size = 2**26 if on_cpu() else 2**28  # float32
    state = jnp.zeros(size, jnp.float32)
    seconds = min(round_seconds(_increment, state, None, rounds=4, repeats=5))
    return 2 * 4 * size / seconds / 1e9


def matmul_tflop_s(*, dtype: str) -> float:
    """TFLOP a second of a large square product of random factors, sums in float32."""
    size = 1024 if on_cpu() else 8192
    precision = lax.Precision.HIGHEST if dtype == "float32" else lax.Precision.DEFAULT

    def multiply(x: Array, w: Array) -> Array:
        return lax.dot(x, w, precision=precision, preferred_element_type=jnp.float32).astype(x.dtype)

    keys = jax.random.split(jax.random.key(0))
    x = jax.random.normal(keys[0], (size, size), jnp.float32).astype(dtype)
    w = (jax.random.normal(keys[1], (size, size), jnp.float32) * size**-0.5).astype(dtype)  # products stay of one size
    seconds = min(round_seconds(multiply, x, w, rounds=4, repeats=9))
    return 2 * size**3 / seconds / 1e12


def _increment(x: Array, operands: None) -> Array:
    del operands
    return x + 1
