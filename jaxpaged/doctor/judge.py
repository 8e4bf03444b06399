"""What is wrong with a machine, judged from its facts alone: the same facts always give the same findings. [no jax]"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from jaxpaged.doctor.facts import DeviceNode, Facts

LEAST_FREE_BYTES = 512 * 2**20
LEAST_SHM_BYTES = 2**30
_NO_COMMAND_BUFFERS = "--xla_gpu_enable_command_buffer="


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong: an error makes the machine unhealthy, a warning does not. fix: what to do about it."""

    level: Literal["error", "warning"]
    what: str
    fix: str


def judge(facts: Facts) -> tuple[Finding, ...]:
    """All findings, errors first."""
    rules: tuple[Callable[[Facts], Iterator[Finding]], ...] = (
        _versions,
        _plugins,
        _device_files,
        _devices,
        _native,
        _environment,
        _folders,
        _tuning,
        _self_test,
    )
    found = [finding for rule in rules for finding in rule(facts)]
    return tuple(sorted(found, key=lambda finding: finding.level != "error"))


def healthy(findings: tuple[Finding, ...]) -> bool:
    """Whether none of them is an error."""
    return all(finding.level != "error" for finding in findings)


def versions_fit(facts: Facts) -> bool:
    """Whether jax, jaxlib, flax and the GPU plugin belong together."""
    return not [*_versions(facts), *_plugins(facts)]


def plugin_kind(facts: Facts) -> str:
    """The kind of GPU that JAX has a plugin for: "cuda", "rocm", or "" for none. ROCm wins where there are both."""
    kinds = {name.split("-")[1].rstrip("0123456789") for name in facts.plugins}
    return next((kind for kind in ("rocm", "cuda") if kind in kinds), "")


def _error(what: str, fix: str) -> Finding:
    return Finding(level="error", what=what, fix=fix)


def _warning(what: str, fix: str) -> Finding:
    return Finding(level="warning", what=what, fix=fix)


def _release(version: str) -> tuple[int, ...]:
    """The numbers a version begins with: "0.11.0.post1" and "0.11.0+rocm7.14.0" are (0, 11, 0)."""
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(map(int, match.group().split("."))) if match else ()


def _versions(facts: Facts) -> Iterator[Finding]:
    missing = [name for name, version in facts.packages.items() if not version]
    if missing:
        yield _error(f"not installed: {', '.join(missing)}", "pip install jaxpaged brings what it needs")
    jax, jaxlib, flax = (facts.packages.get(name, "") for name in ("jax", "jaxlib", "flax"))
    if not jax or not jaxlib:
        return
    if _release(jax) != _release(jaxlib):
        yield _error(f"jax {jax} with jaxlib {jaxlib}", f'pip install "jax=={jax}" "jaxlib=={jax}"')
    if not (0, 10, 2) <= _release(jax) < (0, 13):
        yield _error(f"jax {jax} is not supported", 'pip install "jax>=0.10.2,<0.13", as jaxpaged asks for')
    elif flax:
        old = _release(jax) < (0, 11)
        wrong = _release(flax) > (0, 12, 8) if old else _release(flax) < (0, 12, 10)
        if wrong:
            wanted = "flax==0.12.8" if old else "flax>=0.12.10"
            yield _error(f"flax {flax} does not import with jax {jax}", f'pip install "{wanted}"')


def _plugins(facts: Facts) -> Iterator[Finding]:
    jax = facts.packages.get("jax", "")
    families = sorted({name.rsplit("-", 1)[0] for name in facts.plugins})  # jax-rocm7, jax-cuda12
    if len(families) > 1:
        yield _error(
            f"more than one GPU plugin is installed: {', '.join(families)}",
            f"pip uninstall those of {', '.join(families[1:])}, or of whichever GPU is not here",
        )
    for family in families:
        parts = {part: facts.plugins.get(f"{family}-{part}", "") for part in ("plugin", "pjrt")}
        for part, version in parts.items():
            if not version:
                yield _error(
                    f"{family}-{part} is not installed, its other half is", f'pip install "{family}-{part}=={jax}"'
                )
            elif jax and _release(version) != _release(jax):
                yield _error(f"{family}-{part} {version} with jax {jax}", _version_fix(family, version, jax))


def _version_fix(family: str, version: str, jax: str) -> str:
    if family.startswith("jax-rocm") and _release(jax) > (0, 12, 0):
        plain = ".".join(map(str, _release(version)))
        return f'There is no ROCm plugin for jax {jax}: pip install "jax=={plain}" "jaxlib=={plain}"'
    return f'pip install "{family}-plugin=={jax}" "{family}-pjrt=={jax}"'


def _device_files(facts: Facts) -> Iterator[Finding]:
    if plugin_kind(facts) != "rocm":
        return
    if facts.kfd is None:
        yield _error(
            "/dev/kfd is not there",
            "In a container: docker run --device /dev/kfd --device /dev/dri ...; on the host: load the amdgpu driver",
        )
    if facts.kfd is not None and not facts.render_nodes:
        yield _error("/dev/dri has no renderD*", "In a container: docker run --device /dev/dri ...")
    nodes = [node for node in (facts.kfd, *facts.render_nodes) if node is not None and not node.usable]
    for node in nodes:
        yield _error(*_locked(node, facts.groups))


def _locked(node: DeviceNode, groups: tuple[int, ...]) -> tuple[str, str]:
    group = f"group {node.group} ({node.gid})" if node.group else f"group {node.gid}, which has no name here"
    if node.gid in groups:
        what = f"{node.path} (mode {node.mode}) cannot be read and written, although this process is in its {group}"
        return what, f"chmod 660 {node.path} on the host, or look at the container's device rules"
    return (
        f"{node.path} (mode {node.mode}) belongs to {group}: this process is not in it",
        f"In a container: docker run --group-add {node.gid} ...; "
        f"on the host: sudo usermod --append --groups {node.group or node.gid} $USER, then log in again",
    )


def _devices(facts: Facts) -> Iterator[Finding]:
    probe, kind = facts.probe, plugin_kind(facts)
    forced = facts.environment.get("JAX_PLATFORMS", "")
    if not probe.platform:
        how = {"crashed": "crashed", "late": "did not answer"}.get(probe.status, "failed")
        yield _error(f"JAX {how} while {probe.doing or 'starting'}: {probe.error}", _start_fix(facts, kind, forced))
    elif kind and probe.platform == "cpu" and not forced.startswith("cpu"):
        yield _error(
            f"the {kind} plugin is installed, but JAX fell back to the CPU without a word", _fallback_fix(facts, kind)
        )
    elif kind and probe.platform == "cpu":
        yield _warning(
            f"JAX_PLATFORMS={forced} keeps JAX on the CPU, though the {kind} plugin is installed", "unset JAX_PLATFORMS"
        )
    elif not kind and (facts.drivers.amd_gpus or facts.drivers.nvidia):
        extra = "rocm" if facts.drivers.amd_gpus else "cuda12"
        yield _warning(
            "there is a GPU driver, but no GPU plugin for JAX: all runs on the CPU", f'pip install "jaxpaged[{extra}]"'
        )


def _native(facts: Facts) -> Iterator[Finding]:
    native = facts.probe.native
    if native is not None and native.obstacle:
        yield _warning(
            f"the native CPU backend cannot be had, pure JAX serves at about half its speed: {native.obstacle}",
            "Install g++ (Debian: apt-get install g++), or name a C++17 compiler in CXX; see the folder of native code",
        )


def _start_fix(facts: Facts, kind: str, forced: str) -> str:
    if "unknown flag" in facts.probe.error.lower():
        return "XLA_FLAGS holds a flag that this jaxlib does not know: unset it"
    if forced and forced != "cpu" and not kind:
        return f'JAX_PLATFORMS={forced} asks for a platform without a plugin: unset it, or pip install "jaxpaged[rocm]"'
    if kind:
        return _fallback_fix(facts, kind)
    return "Run `python -c 'import jax; jax.devices()'` for the whole message; JAX_PLATFORMS=cpu leaves GPUs out"


def _fallback_fix(facts: Facts, kind: str) -> str:
    hidden = [
        name
        for name in ("HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")
        if facts.environment.get(name, "0") in ("", "-1")
    ]
    if hidden:
        return f"{', '.join(hidden)} hides every GPU: unset it"
    if kind == "cuda":
        if not facts.drivers.nvidia:
            return (
                "No NVIDIA driver is seen. In a container: docker run --gpus all ...; on the host: install the driver"
            )
        return f"The NVIDIA driver is {facts.drivers.nvidia}: CUDA 13 wheels need 580 or later, those of CUDA 12 525"
    if facts.kfd is None or not facts.kfd.usable or not all(node.usable for node in facts.render_nodes):
        return "See the finding about the device files"
    if not facts.drivers.amd_gpus:
        return "The amdgpu driver lists no GPU that computes: look at `dmesg | grep amdgpu` on the host"
    return "The ROCm libraries did not load: is ROCm 7 in /opt/rocm, and in LD_LIBRARY_PATH?"


def _environment(facts: Facts) -> Iterator[Finding]:
    if plugin_kind(facts) == "rocm" and not re.search(
        rf"{_NO_COMMAND_BUFFERS}(\s|''|\"\"|$)", facts.environment.get("XLA_FLAGS", "")
    ):
        yield _warning(
            "command buffers (HIP graphs) are on; they have crashed on ROCm",
            f'export XLA_FLAGS="{_NO_COMMAND_BUFFERS}"',
        )
    if len(facts.probe.devices) > 1 and facts.probe.platform in ("cuda", "rocm") and facts.shm_bytes < LEAST_SHM_BYTES:
        yield _warning(
            f"/dev/shm holds {facts.shm_bytes / 2**20:.0f} MiB: too little for GPUs that talk to each other",
            "In a container: docker run --shm-size 8g ..., or --ipc=host",
        )


def _folders(facts: Facts) -> Iterator[Finding]:
    for folder in facts.folders:
        temporary = folder.purpose == "temporary files"
        place = (
            "mount one there (--tmpfs /tmp), or set TMPDIR"
            if temporary
            else "mount a volume there, or set XDG_CACHE_HOME"
        )
        if folder.error:
            yield _error(
                f"{folder.path} ({folder.purpose}) cannot be written: {folder.error}", f"Give it to this user, {place}"
            )
        elif folder.free_bytes < LEAST_FREE_BYTES:
            yield _error(
                f"{folder.path} ({folder.purpose}) is full: {folder.free_bytes / 2**20:.0f} MiB are free, "
                f"at least {LEAST_FREE_BYTES / 2**20:.0f} are needed",
                f"Delete from it what is old, {place}",
            )


def _tuning(facts: Facts) -> Iterator[Finding]:
    tuning = facts.probe.tuning
    if tuning is not None and tuning.error:
        yield _error(f"no engine starts: {tuning.error}", tuning.fix)


def _self_test(facts: Facts) -> Iterator[Finding]:
    probe = facts.probe
    if probe.platform and probe.status != "done":
        how = {"crashed": "crashed", "late": "did not end"}.get(probe.status, "failed")
        yield _error(
            f"the self-test {how} at {probe.doing}: {probe.error}",
            "Try --attention-backend xla; if that works, report the kernel and this device",
        )
    for check in probe.checks:
        if not check.passed:
            yield _error(
                f"{check.op} by {check.backend} in {check.dtype} differs from the reference by {check.error:.2g} "
                f"of its largest value: at most {check.tolerance:.0e}",
                "Results of this machine are not to be trusted: try --attention-backend xla, and report the device",
            )
    generation = probe.generation
    if generation is not None and generation.tokens != generation.reference:
        yield _error(
            f"the bundled model says {list(generation.tokens)} by {generation.backend}, "
            f"{list(generation.reference)} by the reference",
            "Results of this machine are not to be trusted: try --attention-backend xla, and report the device",
        )
