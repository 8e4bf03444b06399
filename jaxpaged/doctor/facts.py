"""What a machine is like, as far as files and packages tell it. Judges nothing, starts no device. [no jax]"""

from __future__ import annotations

import grp
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import distributions
from pathlib import Path

from jaxpaged import __version__
from jaxpaged.config import default_compile_cache
from jaxpaged.doctor.probe import Probe, run_probe

SHOWN_PACKAGES = ("jax", "jaxlib", "flax", "numpy", "safetensors", "tokenizers")
_CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_tile", "amx_bf16", "amx_int8", "asimd", "bf16")
_ENVIRONMENT = (
    *(
        "JAX_PLATFORMS",
        "JAX_COMPILATION_CACHE_DIR",
        "XLA_FLAGS",
        "XDG_CACHE_HOME",
        "LD_LIBRARY_PATH",
        "LLVM_PATH",
        "CXX",
    ),
    *("XLA_PYTHON_CLIENT_PREALLOCATE", "XLA_PYTHON_CLIENT_MEM_FRACTION"),
    *("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "JAXPAGED_TUNING"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceNode:
    """A device file. `usable`: this process may read and write it; `group` its group's name, "" where it has none."""

    path: str
    usable: bool
    mode: str
    gid: int
    group: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """A folder that is written to. error: why no file could be written there, "" where one could. Sizes in bytes."""

    purpose: str
    path: str
    error: str
    free_bytes: int
    used_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Drivers:
    """Versions that the kernel tells, "" where there is no such driver. amd_gpus: architectures, as in "gfx942"."""

    amdgpu: str = ""
    nvidia: str = ""
    amd_gpus: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Cpu:
    """The CPU's name, how many this process may use, and the vector features that matter."""

    name: str
    count: int
    features: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """All that is judged. packages: version, "" where not installed; plugins: JAX's GPU plugins and their versions."""

    jaxpaged: str
    python: str
    system: str
    packages: Mapping[str, str]
    plugins: Mapping[str, str]
    cpu: Cpu
    drivers: Drivers
    kfd: DeviceNode | None
    render_nodes: tuple[DeviceNode, ...]
    groups: tuple[int, ...]
    shm_bytes: int
    folders: tuple[Folder, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    probe: Probe


def gather(*, root: Path = Path("/"), quick: bool = False, timeout_s: float = 600.0) -> Facts:
    """Look at this machine, below `root`, and run the probe of the devices in a child process."""
    packages, plugins = installed()
    programs = Path(os.environ.get("JAX_COMPILATION_CACHE_DIR") or default_compile_cache())
    return Facts(
        jaxpaged=__version__,
        python=platform.python_version(),
        system=platform.platform(),
        packages=packages,
        plugins=plugins,
        cpu=read_cpu(root),
        drivers=read_drivers(root),
        kfd=device_node(root / "dev/kfd"),
        render_nodes=tuple(
            node for path in sorted(root.glob("dev/dri/renderD*")) if (node := device_node(path)) is not None
        ),
        groups=tuple(sorted({os.getegid(), *os.getgroups()})),
        shm_bytes=_total_bytes(root / "dev/shm"),
        folders=(
            look_at("compiled programs", programs),
            look_at("native code", default_compile_cache().parent / "native"),
            look_at("temporary files", Path(tempfile.gettempdir())),
        ),
        environment={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
        probe=run_probe(quick=quick, timeout_s=timeout_s),
    )


def installed() -> tuple[dict[str, str], dict[str, str]]:
    """Versions of the packages that matter, and of JAX's GPU plugins (jax-cuda12-plugin, jax-rocm7-pjrt, ...)."""
    versions: dict[str, str] = {}
    for distribution in distributions():
        name = re.sub(r"[-_.]+", "-", distribution.metadata["Name"] or "").lower()
        versions.setdefault(name, distribution.version)
    plugins = {name: version for name, version in versions.items() if re.match(r"jax-(cuda|rocm)\d+-", name)}
    return {name: versions.get(name, "") for name in SHOWN_PACKAGES}, dict(sorted(plugins.items()))


def read_cpu(root: Path) -> Cpu:
    """From /proc/cpuinfo."""
    text = _text(root / "proc/cpuinfo").split("\n\n", 1)[0]
    lines = dict(re.findall(r"^([^:\n]*?)\s*:[ \t]*(.*)$", text, flags=re.MULTILINE))
    flags = (lines.get("flags") or lines.get("Features") or "").split()
    return Cpu(
        name=lines.get("model name", platform.processor() or platform.machine()),
        count=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        features=tuple(flag for flag in _CPU_FLAGS if flag in flags),
    )


def read_drivers(root: Path) -> Drivers:
    """The kernel's GPU drivers: amdgpu with its topology of compute nodes, and NVIDIA's."""
    nvidia = re.search(r"Kernel Module.*?\s(\d+\.\d+(?:\.\d+)?)\s", _text(root / "proc/driver/nvidia/version"))
    amdgpu = root / "sys/module/amdgpu"
    version = _text(amdgpu / "version").strip()
    targets = [
        _gfx_name(int(match.group(1)))
        for path in sorted(root.glob("sys/class/kfd/kfd/topology/nodes/*/properties"))
        if (match := re.search(r"^gfx_target_version (\d+)$", _text(path), flags=re.MULTILINE))
    ]
    return Drivers(
        amdgpu=version or ("the kernel's own" if amdgpu.exists() else ""),
        nvidia=nvidia.group(1) if nvidia else "",
        amd_gpus=tuple(name for name in targets if name),
    )


def device_node(path: Path) -> DeviceNode | None:
    """The device file, None where there is none."""
    try:
        info = path.stat()
    except OSError:
        return None
    try:
        group = grp.getgrgid(info.st_gid).gr_name
    except KeyError:  # usual in a container: the number is the host's
        group = ""
    return DeviceNode(
        path=str(path),
        usable=os.access(path, os.R_OK | os.W_OK),
        mode=oct(info.st_mode & 0o777)[2:],
        gid=info.st_gid,
        group=group,
    )


def look_at(purpose: str, path: Path) -> Folder:
    """Try to write a small file there, or in the nearest parent that exists; leaves nothing behind."""
    place = path
    while not place.exists() and place != place.parent:
        place = place.parent
    error = ""
    try:
        with tempfile.NamedTemporaryFile(dir=place, prefix=".jaxpaged-doctor-") as file:
            file.write(b"\0" * 4096)
            file.flush()
    except OSError as problem:
        error = problem.strerror or str(problem)
    try:
        free_bytes = shutil.disk_usage(place).free
    except OSError:
        free_bytes = 0
    return Folder(
        purpose=purpose,
        path=str(path),
        error=error,
        free_bytes=free_bytes,
        used_bytes=_size(path) if purpose != "temporary files" else 0,
    )


def _size(folder: Path) -> int:
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(place, name)).st_size
            except OSError:  # gone meanwhile
                continue
    return total


def _gfx_name(version: int) -> str:
    """90402 -> gfx942: major, minor and stepping, two digits each, the last two in hexadecimal. "" for a CPU node."""
    major, minor, stepping = version // 10000, version // 100 % 100, version % 100
    return f"gfx{major}{minor:x}{stepping:x}" if version else ""


def _total_bytes(path: Path) -> int:
    try:
        return shutil.disk_usage(path).total
    except OSError:
        return 0


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
