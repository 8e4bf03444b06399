"""Devices that need not be here, by their vendors' data sheets: memory beside the rates of `roofline.py`. [no jax]"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from jaxpaged.roofline import Rates, sheet_of


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSheet:
    """A GPU. kind: JAX's name for it. memory_gb: as the sheet says, in 1e9 bytes: the least that it can mean (drivers
    report up to 7 % more). platform, compute_capability: as of `memory.Device`."""

    kind: str
    platform: str
    memory_gb: int
    compute_capability: tuple[int, int] | None = None

    @property
    def memory_bytes(self) -> int:
        return self.memory_gb * 10**9

    @property
    def rates(self) -> Rates:
        found = sheet_of(self.kind)
        assert found is not None, f"{self.kind} has memory, but no rates"
        return found


def _cuda(kind: str, memory_gb: int, capability: tuple[int, int]) -> DeviceSheet:
    return DeviceSheet(kind=f"NVIDIA {kind}", platform="cuda", memory_gb=memory_gb, compute_capability=capability)


def _rocm(kind: str, memory_gb: int) -> DeviceSheet:
    return DeviceSheet(kind=f"AMD Instinct {kind}", platform="rocm", memory_gb=memory_gb)


DEVICE_SHEETS: Mapping[str, DeviceSheet] = MappingProxyType(
    {
        "mi300x": _rocm("MI300X", 192),
        "mi325x": _rocm("MI325X", 256),
        "mi355x": _rocm("MI355X", 288),
        "h200": _cuda("H200", 141, (9, 0)),
        "h100": _cuda("H100", 80, (9, 0)),
        "h100-nvl": _cuda("H100 NVL", 94, (9, 0)),
        "h100-pcie": _cuda("H100 PCIe", 80, (9, 0)),
        "a100": _cuda("A100", 80, (8, 0)),
        "a100-40gb": _cuda("A100-SXM4-40GB", 40, (8, 0)),
    }
)
