"""Rotary position embedding of heads, given the table of angles (Su et al. 2021, arXiv 2104.09864)."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

RopeTable = tuple[Array, Array]
"""cos and sin of every token's angles: two f32[T, dims / 2]."""


def rotate(x: Array, table: RopeTable) -> Array:
    """Rotate the leading dimensions of every head, paired as halves: i with i + dims / 2. x: [T, heads, D] -> f32."""
    cos, sin = (part[:, None, :] for part in table)  # [T, 1, dims / 2]
    half, x = cos.shape[-1], x.astype(jnp.float32)
    low, high, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return jnp.concatenate([low * cos - high * sin, high * cos + low * sin, rest], axis=-1)


def check_rope(table: RopeTable, *, num_tokens: int, head_dim: int) -> None:
    """Raise ValueError unless the table is for so many tokens, and for no more than a head."""
    (tokens, pairs), sin = table[0].shape, table[1].shape
    if tokens != num_tokens or sin != (tokens, pairs) or 2 * pairs > head_dim:
        raise ValueError(f"rope is {table[0].shape} and {sin}: both must be [{num_tokens}, at most {head_dim // 2}]")
