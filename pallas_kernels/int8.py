"""Weights of 8 bits with a scale for each output, and what a product with them is.

Where the CPU multiplies, both sides are int8 (W8A8): a row of activations gets a scale of its own, sums are exact
int32, so a row's bits do not depend on its neighbours. Elsewhere weights alone are int8 (W8A16), and widened in the
product.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

MOST_INS = 2**17
"""Inputs of a product at most: more products of 127 by 127 could leave int32."""
LEAST_TOP = 1e-30
"""Rows whose largest magnitude is below are as zeros; 127 divided by it is still finite."""
# a dot of fewer rows leaves XLA's fast CPU path
_LEAST_ROWS = 4


@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True, kw_only=True)
class Int8Weight:
    """A weight [..., B, A]: values i8[..., B, A] times scales f32[..., B].

    dtype: what activations are multiplied in where they stay as they are.
    """

    values: Array
    scales: Array
    dtype: str = field(metadata={"static": True})

    @property
    def shape(self) -> tuple[int, ...]:
        """[..., B, A]."""
        return self.values.shape

    def rows(self, indices: Array) -> Array:
        """f32[T, A]: the rows of the weight [B, A] at i32[T]."""
        values = self.values.at[indices].get(mode="clip").astype(jnp.float32)
        return values * self.scales.at[indices].get(mode="clip")[:, None]


def quantise(x: Array) -> tuple[Array, Array]:
    """x f32[..., A] as i8[..., A] and a scale f32[...]: symmetric, the largest magnitude of a row becomes 127.

    A row that holds NaN or infinity gets such a scale, so that no product with it is finite by mistake.
    """
    x = x.astype(jnp.float32)
    top = jnp.maximum(jnp.max(jnp.abs(x), axis=-1), LEAST_TOP)
    values = jnp.round(x * (127 / top)[..., None])
    return values.astype(jnp.int8), top * np.float32(1 / 127)


def multiply(x: Array, w: Int8Weight) -> Array:
    """x f32[M, A] times w [B, A] transposed, x quantised row by row: f32[M, B]. Defines correct for W8A8.

    Raises ValueError for more inputs than int32 can sum.
    """
    check_ins(w.shape[-1])
    values, scales = quantise(x)
    return int_dot(values, w.values).astype(jnp.float32) * (scales[:, None] * w.scales[None, :])


def int_dot(x: Array, w: Array) -> Array:
    """x i8[M, A] times w i8[B, A] transposed: i32[M, B], exact."""
    num_rows = x.shape[0]
    x = jnp.pad(x, ((0, max(0, _LEAST_ROWS - num_rows)), (0, 0)))
    return lax.dot_general(x, w, (((1,), (1,)), ((), ())), preferred_element_type=jnp.int32)[:num_rows]


def check_ins(ins: int) -> None:
    """Raise ValueError for more inputs than int32 can sum."""
    if ins > MOST_INS:
        raise ValueError(f"w has {ins} inputs: sums of int8 products are exact up to {MOST_INS}")
