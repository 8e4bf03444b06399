"""Softmax in pieces whose merge does not depend on how the pieces were grouped.

A piece holds sums of 2**(score - top) with an integer top, scores being in units of log2. Moving a sum to a higher top
multiplies it by a power of two, which is exact; so adding pieces one after the other gives the same bits whenever
the top happens to rise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax.numpy as jnp
from jax import Array, lax

LOWEST = -(2**22)  # the top of a piece that saw no key; scores below it count as nothing
_HIGHEST = 2**22
_EXPONENT_BIAS = 127
_MANTISSA_BITS = 23


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """How products of queries and keys become scores: times scale, then capped; see `ragged_attention`."""

    scale: float
    softcap: float | None

    def prepare(self, queries: Array) -> Array:
        """Queries whose products with the keys `finish` wants, float32."""
        factor = self.scale * math.log2(math.e) if self.softcap is None else self.scale / self.softcap
        return queries * jnp.float32(factor)

    def finish(self, products: Array, seen: Array) -> Array:
        """Scores in units of log2; -inf where not `seen`, whatever the product is."""
        if self.softcap is not None:
            products = jnp.tanh(products) * jnp.float32(self.softcap * math.log2(math.e))
        return jnp.where(seen, products, -jnp.inf)


def integer_top(highest: Array) -> Array:
    """i32: the least integer not below the highest score of a piece; `LOWEST` where it saw none."""
    return jnp.ceil(jnp.clip(highest, LOWEST, _HIGHEST)).astype(jnp.int32)


def weights_below(scores: Array, top: Array) -> Array:
    """2**(score - top), for scores [..., keys] and tops [...]."""
    return jnp.exp2(scores - top.astype(jnp.float32)[..., None])


def power_of_two(exponent: Array) -> Array:
    """2**exponent for i32 exponents <= 0, exactly; 0 below the normal float32 range."""
    biased = jnp.maximum(exponent + _EXPONENT_BIAS, 0)
    return lax.bitcast_convert_type(lax.shift_left(biased, jnp.full_like(biased, _MANTISSA_BITS)), jnp.float32)


def divide(acc: Array, total: Array, top: Array, sinks: Array | None) -> Array:
    """Weighted values acc [..., D] over their weights' total [...]; zeros where no key was seen.

    sinks: logits of the shape of total or broadcast to it, counted into the denominator.
    """
    if sinks is not None:
        sink = jnp.broadcast_to(sinks * jnp.float32(math.log2(math.e)), total.shape)
        higher = jnp.maximum(top, integer_top(sink))
        step = power_of_two(top - higher)
        acc = acc * step[..., None]
        total = total * step + jnp.exp2(sink - higher.astype(jnp.float32))
    return acc / jnp.where(total == 0.0, 1.0, total)[..., None]


def batched_dot(left: Array, right: Array) -> Array:
    """[n, a, b] times [n, b, c], float32. One batch dimension: two cost XLA's CPU compiler a tenth more."""
    dims = (((2,), (1,)), ((0,), (0,)))
    return lax.dot_general(left, right, dims, precision=lax.Precision.HIGHEST, preferred_element_type=jnp.float32)
