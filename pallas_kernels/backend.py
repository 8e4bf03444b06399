"""Which implementation of an op runs: chosen once from the platform, never guessed inside an op."""

from __future__ import annotations

from enum import StrEnum


class Backend(StrEnum):
    """Sibling implementations of every op; all agree with REFERENCE within the op's stated tolerance."""

    REFERENCE = "reference"  # plain jnp: defines correct, not fast
    XLA = "xla"  # pure JAX laid out for XLA's CPU compiler
    TRITON = "triton"  # Pallas-Triton for CUDA and ROCm; interpreted on CPU
    NATIVE = "native"  # C++ for CPUs, compiled by the machine's own g++

    @property
    def transposes_keys(self) -> bool:
        """Whether K is [N, K, D, P] in its pools, V [N, K, P, D]."""
        return self in (Backend.XLA, Backend.NATIVE)


def choose_backend(
    platform: str,
    asked: str = "auto",
    *,
    head_dim: int | None = None,
    block_size: int | None = None,
    kv_dtype: str | None = None,
) -> tuple[Backend, str]:
    """The backend for a platform ("cpu", "gpu", "cuda", "rocm") and the reason, for people.

    head_dim, block_size, kv_dtype: of the pool, where they are known; the native backend does not serve every one. On
    a CPU this may compile it, which takes seconds. Raises ValueError naming the backends when `asked` is not one of
    them, and with the reason where the native one is asked for and cannot be had.
    """
    if asked not in ("auto", *Backend):
        raise ValueError(f"backend is {asked!r}: it must be auto or one of {', '.join(Backend)}")
    if asked == Backend.NATIVE or (asked == "auto" and platform == "cpu"):
        obstacle = native_obstacle(platform, head_dim=head_dim, block_size=block_size, kv_dtype=kv_dtype)
        if not obstacle:
            from pallas_kernels.native.library import library

            how = "asked for" if asked == Backend.NATIVE else "fastest on this CPU"
            return Backend.NATIVE, f"{how}; C++ compiled here, multiplies with {library().unit}"
        if asked == Backend.NATIVE:
            raise ValueError(f"backend is {asked!r}: {obstacle}")
        return Backend.XLA, f"fastest pure-JAX path on CPU; native cannot be had: {obstacle}"
    if asked != "auto":
        why = "asked for"
        if asked == Backend.TRITON and platform == "cpu":
            why = "asked for; on CPU the kernels are interpreted, for tests only"
        if asked == Backend.XLA and platform != "cpu":
            why = f"asked for; laid out for CPUs, so slower than triton on {platform}"
        if asked == Backend.REFERENCE:
            why = "asked for; it defines what is correct and is slow, for tests only"
        return Backend(asked), why
    return Backend.TRITON, f"Pallas kernels serve {platform}"


def native_obstacle(
    platform: str, *, head_dim: int | None = None, block_size: int | None = None, kv_dtype: str | None = None
) -> str:
    """Why the native backend cannot be had, "" where it can; see `choose_backend`."""
    if platform != "cpu":
        return f"it serves CPUs, this is {platform}"
    from pallas_kernels.native.library import obstacle

    return obstacle(head_dim=head_dim, block_size=block_size, dtype=kv_dtype)
