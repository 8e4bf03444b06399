"""The activations of feed-forward networks, by their names in Hugging Face configs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

import jax
import jax.numpy as jnp
from jax import Array

_gelu_tanh = partial(jax.nn.gelu, approximate=True)

ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = MappingProxyType(
    {
        "silu": jax.nn.silu,
        "swish": jax.nn.silu,
        "gelu": partial(jax.nn.gelu, approximate=False),
        "gelu_pytorch_tanh": _gelu_tanh,
        "gelu_new": _gelu_tanh,
        "gelu_fast": _gelu_tanh,
        "relu": jax.nn.relu,
    }
)

_ALPHA, _LIMIT = 1.702, 7.0


def _clamped_swiglu(gate: Array, up: Array) -> Array:
    """gpt-oss's gate (transformers' GptOssExperts): both halves are clamped, and up has one added."""
    gate, up = jnp.minimum(gate, _LIMIT), jnp.clip(up, -_LIMIT, _LIMIT)
    return (up + 1) * (gate * jax.nn.sigmoid(_ALPHA * gate))


GATES: Mapping[str, Callable[[Array, Array], Array]] = MappingProxyType({"clamped_swiglu": _clamped_swiglu})
"""Gates that are no product of an activation and the other half."""


def gated(activation: str, gate: Array, up: Array) -> Array:
    """What a gated network takes on from its halves: activation(gate) * up, or one of `GATES`."""
    return GATES[activation](gate, up) if activation in GATES else ACTIVATIONS[activation](gate) * up
