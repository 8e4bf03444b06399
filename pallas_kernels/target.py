"""The device that programs are traced for: JAX's default one, or another that nobody here owns."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import jax

PLATFORMS = ("cpu", "cuda", "rocm")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """platform: "cpu", "cuda" or "rocm". kind: the device's own name ("NVIDIA H200", "gfx942"), may be empty."""

    platform: str
    kind: str = ""

    def __post_init__(self) -> None:
        if self.platform not in PLATFORMS:
            raise ValueError(f"platform is {self.platform!r}: it must be one of {', '.join(PLATFORMS)}")


_assumed: ContextVar[Target | None] = ContextVar("assumed_target", default=None)


def current_target() -> Target:
    """The target of `assume_target`, else JAX's default device. Raises ValueError for a device of another platform."""
    assumed = _assumed.get()
    if assumed is not None:
        return assumed
    device = jax.devices()[0]
    platform = jax.default_backend()
    if platform == "gpu":  # what jax calls either
        platform = "rocm" if "rocm" in device.client.platform_version.lower() else "cuda"
    return Target(platform=platform, kind="" if platform == "cpu" else device.device_kind)


def on_cpu() -> bool:
    """Whether programs are traced for a CPU."""
    return current_target().platform == "cpu"


@contextmanager
def assume_target(target: Target) -> Iterator[None]:
    """Trace for `target` in this block, whatever JAX runs on: for programs compiled here and run elsewhere.

    A function that was jitted and traced for another target keeps that trace: give the block functions of its own.
    """
    token = _assumed.set(target)
    try:
        yield
    finally:
        _assumed.reset(token)
