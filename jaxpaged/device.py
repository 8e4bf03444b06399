"""The device that steps run on: what it is, and what memory it has."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

# the share of a GPU's memory that JAX's allocator takes: the variables that say it, and what it is where they do not
_SHARE_VARIABLES = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")
_JAX_SHARE = 0.75


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """The device steps run on: platform "cpu", "cuda" or "rocm".

    free_bytes may go to the engine. total_bytes: of the machine, of a GPU the card's own. limit_bytes: what JAX's
    allocator may take of a GPU, however much the card has.
    """

    platform: str
    name: str
    free_bytes: int
    total_bytes: int
    limit_bytes: int
    bfloat16_unit: str  # the CPU instructions that multiply bfloat16, "" where it has none
    compute_capability: tuple[int, int] | None = None  # of a CUDA device


def claim_share(share: float) -> None:
    """Have JAX's allocator take this share of a GPU instead of three quarters, unless the user set one.

    Changes this process's environment; no effect on a JAX backend that runs already, nor on a CPU.
    """
    if not _jax_runs() and not any(os.environ.get(name) for name in _SHARE_VARIABLES):
        os.environ[_SHARE_VARIABLES[0]] = str(share)


def this_device() -> Device:
    """Look at JAX's first device. Starts the JAX backend."""
    device = jax.devices()[0]
    if device.platform == "cpu":
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        cpu = _cpuinfo()
        return Device(
            platform="cpu",
            name=cpu.get("model name", "CPU").strip(),
            free_bytes=_available_bytes(total),
            total_bytes=total,
            limit_bytes=total,
            bfloat16_unit=_bfloat16_unit(cpu.get("flags", "").split()),
        )
    version = getattr(device.client, "platform_version", "").lower()
    stats = device.memory_stats() or {}
    limit = int(stats.get("bytes_limit", 0))
    platform = "rocm" if "rocm" in version else "cuda"
    return Device(
        platform=platform,
        name=device.device_kind,
        free_bytes=limit - int(stats.get("bytes_in_use", 0)),
        total_bytes=int(limit / allocator_share(os.environ)),
        limit_bytes=limit,
        bfloat16_unit="",
        compute_capability=_compute_capability(device) if platform == "cuda" else None,
    )


def allocator_share(environment: Mapping[str, str]) -> float:
    """The share of a GPU's memory that JAX's allocator may take, in (0, 1]."""
    said = next((environment[name] for name in _SHARE_VARIABLES if environment.get(name)), "")
    try:
        share = float(said or _JAX_SHARE)
    except ValueError:
        return _JAX_SHARE
    return share if 0 < share <= 1 else _JAX_SHARE


def machine_digest() -> str:
    """A name for this kind of CPU: programs for one have crashed on another."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = "".join(sorted({line for line in lines if line.startswith(("flags", "model name", "Features"))}))
    except OSError:
        cpu = platform.processor()
    return hashlib.sha256(f"{platform.machine()} {cpu}".encode()).hexdigest()[:12]


def gib(num_bytes: float) -> str:
    """Bytes for people, in GiB or MiB."""
    return f"{num_bytes / 2**30:.2f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.1f} MiB"


def _jax_runs() -> bool:
    """Whether a backend of JAX has taken its memory already. There is no public way to ask; False if it cannot say."""
    asked = getattr(sys.modules.get("jax._src.xla_bridge"), "backends_are_initialized", None)
    return bool(asked and asked())


def _compute_capability(device: Any) -> tuple[int, int] | None:
    major, dot, minor = str(getattr(device, "compute_capability", "")).partition(".")
    return (int(major), int(minor)) if dot and major.isdigit() and minor.isdigit() else None


def _bfloat16_unit(flags: Sequence[str]) -> str:
    units = (("amx_bf16", "AMX"), ("avx512_bf16", "AVX512-BF16"))
    return next((name for flag, name in units if flag in flags), "")


def _available_bytes(total: int) -> int:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return total // 2


def _cpuinfo() -> dict[str, str]:
    try:
        first = Path("/proc/cpuinfo").read_text().split("\n\n", 1)[0]
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in first.splitlines() if ":" in line)
    return {key.strip(): value for key, value in pairs}
