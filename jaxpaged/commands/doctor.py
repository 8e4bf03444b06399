"""`jaxpaged doctor`: is this machine fit to serve, and if not, what is to be done."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jaxpaged.commands.flags import Switch, parse
from jaxpaged.commands.terminal import table, write
from jaxpaged.doctor.facts import DeviceNode, Facts, Folder, gather
from jaxpaged.doctor.judge import Finding, healthy, judge, versions_fit
from jaxpaged.errors import ConfigError

UNHEALTHY = 1
"""Exit status where something keeps this machine from serving."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DoctorOptions:
    """Look at versions, devices, drivers, folders and kernels, and say what is wrong and how to mend it.

    Exit status: 0 healthy, 1 not.
    """

    json: Switch = False
    """Print one JSON object instead of the table."""
    quick: Switch = False
    """Leave out the self-test: no kernel runs."""
    timeout: float = 600.0
    """Seconds that devices and the self-test may take."""

    def check(self) -> None:
        """Raise ConfigError for a time that cannot be."""
        if not 0 < self.timeout < math.inf:
            raise ConfigError(name="--timeout", value=self.timeout, limit="it must be above 0 seconds")


def main(argv: Sequence[str]) -> int:
    """Run the command; returns the exit status."""
    options = parse(DoctorOptions, argv, prog="jaxpaged doctor")
    options.check()
    facts = gather(quick=options.quick, timeout_s=options.timeout)
    findings = judge(facts)
    write(as_json(facts, findings) if options.json else as_text(facts, findings))
    return 0 if healthy(findings) else UNHEALTHY


def as_json(facts: Facts, findings: Sequence[Finding]) -> str:
    """All facts and findings as one line of JSON; a number that is none (NaN, infinity) becomes null."""
    told = {
        "healthy": healthy(tuple(findings)),
        "findings": [dataclasses.asdict(finding) for finding in findings],
        "facts": dataclasses.asdict(facts),
    }
    return json.dumps(_finite(told), allow_nan=False) + "\n"


def as_text(facts: Facts, findings: Sequence[Finding]) -> str:
    """The table, then every finding with its fix."""
    sections = {"Versions": _versions(facts), "Machine": _machine(facts), "Devices": _devices(facts)}
    if facts.probe.ops:
        sections["Backends"] = [(op.op, f"{op.backend}: {op.why}") for op in facts.probe.ops]
    if facts.probe.checks:
        sections["Self-test"] = _self_test(facts)
    parts = [f"{title}\n{table(rows)}\n" for title, rows in sections.items()]
    for finding in findings:
        parts.append(f"{finding.level}: {finding.what}\n  fix: {finding.fix}\n")
    parts.append("healthy\n" if healthy(tuple(findings)) else "not healthy\n")
    return "\n".join(parts)


def _versions(facts: Facts) -> list[tuple[str, str]]:
    packages = {"jaxpaged": facts.jaxpaged, "Python": facts.python, **facts.packages, **facts.plugins}
    return [
        *((name, version or "not installed") for name, version in packages.items()),
        *([] if facts.plugins else [("GPU plugin", "none")]),
        ("fit together", "yes" if versions_fit(facts) else "NO"),
    ]


def _machine(facts: Facts) -> list[tuple[str, str]]:
    cpu, drivers = facts.cpu, facts.drivers
    amd = ", ".join(drivers.amd_gpus) or "no GPU listed"
    render = " / ".join(_node(node) for node in facts.render_nodes)
    return [
        ("system", facts.system),
        ("CPU", f"{cpu.name}, {cpu.count} usable; {' '.join(cpu.features) or 'no vector feature known'}"),
        ("amdgpu driver", f"{drivers.amdgpu} ({amd})" if drivers.amdgpu else "none"),
        ("NVIDIA driver", drivers.nvidia or "none"),
        ("/dev/kfd", "none" if facts.kfd is None else _node(facts.kfd)),
        ("/dev/dri", render or "no renderD*"),
        ("/dev/shm", _size(facts.shm_bytes)),
        *((folder.purpose, _folder(folder)) for folder in facts.folders),
        *facts.environment.items(),
    ]


def _devices(facts: Facts) -> list[tuple[str, str]]:
    probe = facts.probe
    rows = [
        (f"{device.platform} {i}", f"{device.kind}, {_size(device.memory_bytes)}")
        for i, device in enumerate(probe.devices)
    ]
    if not rows:
        return [("none", probe.error)]
    rows.append(("--dtype auto", f"{probe.dtype}: {probe.dtype_reason}"))
    if (tuning := probe.tuning) is not None:
        state = "NOT usable" if tuning.error else f"{tuning.entries} entries"
        rows.append(("tuning table", f"{tuning.path}, {state}" if tuning.error or tuning.entries else "none"))
    return rows


def _self_test(facts: Facts) -> list[tuple[str, str]]:
    rows = [
        (
            f"{check.op} {check.dtype}",
            f"{'ok' if check.passed else 'WRONG'}  {check.backend}: off by {check.error:.1e} of the largest value "
            f"(at most {check.tolerance:.0e}), {check.milliseconds:.2f} ms",
        )
        for check in facts.probe.checks
    ]
    generation = facts.probe.generation
    if generation is not None:
        same = generation.tokens == generation.reference
        said = f"{len(generation.tokens)} greedy tokens {'as' if same else 'NOT as'} by the reference"
        rows.append(
            ("bundled model", f"{'ok' if same else 'WRONG'}  {said}, {generation.seconds:.1f} s with compiling")
        )
    return rows


def _node(node: DeviceNode) -> str:
    owner = f"{node.group or 'no name'} ({node.gid})"
    return f"{node.path} mode {node.mode} group {owner}, {'usable' if node.usable else 'NOT usable'}"


def _folder(folder: Folder) -> str:
    state = folder.error or "writable"
    held = f", holds {_size(folder.used_bytes)}" if folder.used_bytes else ""
    return f"{folder.path}, {state}, {_size(folder.free_bytes)} free{held}"


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.2f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.1f} MiB"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
