"""The gated feed-forward network (Shazeer, GLU Variants Improve Transformer): two products and what lies between."""

from __future__ import annotations

import jax
from jax import Array

from pallas_kernels.activations import gated
from pallas_kernels.linear import Weight, check_shapes, linear
from pallas_kernels.native.products import Packed, can_gate, multiply_gated
from pallas_kernels.norm import Norm


def mlp(
    x: Array,
    gate_up: Weight,
    down: Weight,
    *,
    activation: str,
    gate_up_bias: Array | None = None,
    down_bias: Array | None = None,
    norm: Norm | None = None,
    residual: Array | None = None,
) -> Array:
    """down(activation(gate(n)) * up(n)) + residual for n = norm(x): f32[M, E] of x [M, E].

    gate_up [2 * F, E]: gate above up; down [E, F]; biases f32[2 * F] and f32[E]. norm: None leaves x as it is.
    residual: f32[M, E]. activation: of `ACTIVATIONS` or `GATES`. Packed weights keep the F numbers of a row in one
    native call.
    Raises ValueError for shapes that do not fit together.
    """
    outs, ffn = down.shape
    check_shapes(x, gate_up, gate_up_bias, norm=norm)
    check_shapes(jax.ShapeDtypeStruct((x.shape[0], ffn), x.dtype), down, down_bias, residual=residual)
    if gate_up.shape[0] != 2 * ffn:
        raise ValueError(f"gate_up is {gate_up.shape} and down is [{outs}, {ffn}]: gate_up must be [{2 * ffn}, ...]")
    if isinstance(gate_up, Packed) and isinstance(down, Packed) and can_gate(gate_up, down, activation):
        return multiply_gated(
            x,
            gate_up,
            down,
            activation=activation,
            gate_up_bias=gate_up_bias,
            down_bias=down_bias,
            norm=norm,
            residual=residual,
        )
    between = linear(x, gate_up, gate_up_bias, norm=norm)
    hidden = gated(activation, between[:, :ffn], between[:, ffn:])
    return linear(hidden, down, down_bias, residual=residual)
