"""Which implementation of an op runs: chosen once from the platform, never guessed inside an op."""

from __future__ import annotations

from enum import StrEnum


class Backend(StrEnum):
    """Sibling implementations of every op; all agree with REFERENCE within the op's stated tolerance."""

    REFERENCE = "reference"  # plain jnp: defines correct, not fast
    XLA = "xla"  # pure JAX laid out for XLA's CPU compiler
    TRITON = "triton"  # Pallas-Triton for CUDA and ROCm; interpreted on CPU


def choose_backend(platform: str, asked: str = "auto") -> tuple[Backend, str]:
    """The backend for a platform ("cpu", "gpu", "cuda", "rocm") and the reason, for people.

    Raises ValueError naming the backends when `asked` is not one of them.
    """
    if asked != "auto":
        if asked not in list(Backend):
            raise ValueError(f"backend is {asked!r}: it must be auto or one of {', '.join(Backend)}")
        why = "asked for"
        if asked == Backend.TRITON and platform == "cpu":
            why = "asked for; on CPU the kernels are interpreted, for tests only"
        if asked == Backend.XLA and platform != "cpu":
            why = f"asked for; laid out for CPUs, so slower than triton on {platform}"
        if asked == Backend.REFERENCE:
            why = "asked for; it defines what is correct and is slow, for tests only"
        return Backend(asked), why
    if platform == "cpu":
        return Backend.XLA, "fastest pure-JAX path on CPU"
    return Backend.TRITON, f"Pallas kernels serve {platform}"
