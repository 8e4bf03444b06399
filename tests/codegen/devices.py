"""GPUs that nobody here owns, as XLA's compilers know them: AMD MI300X (gfx942) and NVIDIA H200 (sm_90).

Figures are the vendors' data sheets': what a compiler may use (registers, shared memory), and what its cost models ask.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """platform: as JAX calls it. kind: the device's own name. plugin: its file in the folder of the packages.

    memory, shared: bytes of the device, and of one program's shared memory (LDS).
    elf: e_machine and the low byte of e_flags of its code objects.
    """

    platform: str
    kind: str
    plugin: str
    memory: int
    shared: int
    elf: tuple[int, int]
    description: str

    def options(self) -> str:
        """XLA's description of a compile target, as a text protocol buffer."""
        return f'{self.description}\nplatform_name: "{self.platform.upper()}"\n'


_MI300X = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 64 threads_per_core_limit: 2048
  shared_memory_per_block: 65536 shared_memory_per_block_optin: 65536 shared_memory_per_core: 65536
  core_count: 304 fpus_per_core: 128 clock_rate_ghz: 2.1
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65536 block_dim_limit_z: 65536
  registers_per_core_limit: 131072 registers_per_block_limit: 131072
  memory_bandwidth: 5300000000000 l2_cache_size: 4194304 device_memory_size: 206158430208
  runtime_version: "7.2.0" dnn_version: "3.5.0"
  rocm_compute_capability { gcn_arch_name: "gfx942:sramecc+:xnack-" }
}
dnn_version_info { major: 3 minor: 5 }
device_description_str: "AMD Instinct MI300X"
"""

_H200 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448 shared_memory_per_core: 233472
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  memory_bandwidth: 4800000000000 l2_cache_size: 52428800 device_memory_size: 141000000000
  runtime_version: "13.0.0" driver_version: "13.0.0" compile_time_toolkit_version: "13.0.0" dnn_version: "9.10.0"
  cuda_compute_capability { major: 9 feature_extension: ACCELERATED_FEATURES }
}
dnn_version_info { major: 9 minor: 10 }
device_description_str: "NVIDIA H200"
"""

DEVICES: Mapping[str, Device] = MappingProxyType(
    {
        "gfx942": Device(
            platform="rocm",
            kind="gfx942",
            plugin="jax_plugins/xla_rocm7/xla_rocm_plugin.so",
            memory=192 * 2**30,
            shared=65536,
            elf=(224, 0x4C),
            description=_MI300X,
        ),
        "sm_90": Device(
            platform="cuda",
            kind="NVIDIA H200",
            plugin="jax_plugins/xla_cuda13/xla_cuda_plugin.so",
            memory=141 * 10**9,
            shared=232448,
            elf=(190, 90),
            description=_H200,
        ),
    }
)


def compile_only(device: Device, packages: Path) -> Any:
    """The one device of a machine without any: programs can be compiled for it, not run.

    Only for a process of its own, before JAX has looked for devices: this replaces JAX's search for plugins.
    """
    from jax._src import xla_bridge
    from jax.experimental import topologies
    from jaxlib import xla_client

    options = dict(xla_client.generate_pjrt_gpu_plugin_options())
    options["platform_name"] = device.platform.upper()
    xla_bridge._discover_and_register_pjrt_plugins = lambda: None
    xla_bridge.register_plugin(
        device.platform, priority=500, library_path=str(packages / device.plugin), options=options
    )
    topology = topologies.get_topology_desc(platform=device.platform, target_config=device.options(), topology="1x1x1")
    (only,) = topology.devices
    return only
