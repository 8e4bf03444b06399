"""The normalisations of a decoder, with their parameters."""

from __future__ import annotations

from flax import nnx
from jax import Array

from jaxpaged.models.config import NormConfig
from jaxpaged.models.params import Axes, declare
from pallas_kernels.norm import Norm, layer_norm, rms_norm


class RMSNorm(nnx.Module):
    """x / rms(x) * weight over the last dimension, in float32. axes: the logical axis of every dimension of shape."""

    def __init__(self, shape: tuple[int, ...], axes: Axes, *, eps: float) -> None:
        self.eps = eps
        self.weight = declare(shape, axes, "float32", init="ones")

    def __call__(self, x: Array) -> Array:
        return rms_norm(x, self.norm())

    def norm(self) -> Norm:
        """What a product takes that normalises its rows itself."""
        return Norm(weight=self.weight[...], eps=self.eps)


class LayerNorm(nnx.Module):
    """(x - mean(x)) / std(x) * weight + bias over the last dimension, in float32. axes: as of `RMSNorm`."""

    def __init__(self, shape: tuple[int, ...], axes: Axes, *, eps: float, bias: bool) -> None:
        self.eps = eps
        self.weight = declare(shape, axes, "float32", init="ones")
        self.bias = declare(shape, axes, "float32", init="zeros") if bias else None

    def __call__(self, x: Array) -> Array:
        return layer_norm(x, self.weight[...], None if self.bias is None else self.bias[...], eps=self.eps)


AnyNorm = RMSNorm | LayerNorm


def make_norm(config: NormConfig, shape: tuple[int, ...], axes: Axes) -> AnyNorm:
    """The norm of `config` whose parameters have this shape; its last dimension is normalised over."""
    if config.kind == "rms":
        return RMSNorm(shape, axes, eps=config.eps)
    return LayerNorm(shape, axes, eps=config.eps, bias=config.bias)


def before_product(x: Array, norm: AnyNorm | None) -> tuple[Array, Norm | None]:
    """What a product takes for norm(x): x and a norm that it does itself, or x normalised already."""
    if norm is None or isinstance(norm, RMSNorm):
        return x, None if norm is None else norm.norm()
    return norm(x), None
