"""The k largest of a long row, without sorting it."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax

from pallas_kernels.target import on_cpu

_GROUP = 16  # elements that stand together for one while their row is narrowed down


def top_k(x: Array, k: int) -> tuple[Array, Array]:
    """The k largest of each row of x f32[S, V], largest first, and their indices i32: two [S, k]. 1 <= k <= V.

    Equal values come in the order of their indices, like those of `lax.top_k`, whose result this is. XLA's GPU
    compiler makes a sort of the whole row of that; here only rows of about 16 k are sorted.
    """
    # on a CPU lax.top_k has a kernel of its own, faster than this
    if on_cpu() or x.shape[1] <= 2 * _GROUP * k:
        values, indices = lax.top_k(x, k)
        return values, indices
    num_rows, width = x.shape
    num_groups = -(-width // _GROUP)
    padded = jnp.pad(x, ((0, 0), (0, num_groups * _GROUP - width)), constant_values=-jnp.inf)
    grouped = padded.reshape(num_rows, num_groups, _GROUP)
    # the k largest lie in the k groups with the largest maxima; of groups whose maxima are equal in the first ones
    _, groups = top_k(jnp.max(grouped, axis=2), k)
    groups = jnp.sort(groups, axis=1)  # ascending, so that equal values keep the order of their indices
    near = jnp.take_along_axis(grouped, groups[:, :, None], axis=1).reshape(num_rows, k * _GROUP)
    values, places = lax.top_k(near, k)
    group = jnp.take_along_axis(groups, places // _GROUP, axis=1)
    return values, group * _GROUP + places % _GROUP
