"""`jaxpaged doctor`: what it finds in facts that are given, and real runs here and in broken surroundings."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from inherited import inherited
from native_backend import share_native

from jaxpaged.commands.doctor import as_json, as_text, main
from jaxpaged.doctor.facts import Cpu, DeviceNode, Drivers, Facts, Folder
from jaxpaged.doctor.judge import healthy, judge
from jaxpaged.doctor.probe import Check, DeviceFact, Generation, OpFact, Probe, TuningFact, read_lines
from jaxpaged.errors import ConfigError

ROOT = Path(__file__).parents[2]
GIB = 2**30
KFD = DeviceNode(path="/dev/kfd", usable=True, mode="660", gid=993, group="render")
RENDER = DeviceNode(path="/dev/dri/renderD128", usable=True, mode="660", gid=993, group="render")
CPU_PROBE = Probe(
    status="done",
    platform="cpu",
    dtype="float32",
    devices=(DeviceFact(platform="cpu", kind="CPU", memory_bytes=8 * GIB),),
)
ROCM_PROBE = Probe(
    status="done",
    platform="rocm",
    dtype="bfloat16",
    devices=(DeviceFact(platform="rocm", kind="gfx942", memory_bytes=140 * GIB),),
)


def a_cpu_machine(**changes: Any) -> Facts:
    facts = Facts(
        jaxpaged="0.1.0",
        python="3.12.12",
        system="Linux",
        packages={"jax": "0.12.0", "jaxlib": "0.12.0", "flax": "0.12.12", "numpy": "2.5.5"},
        plugins={},
        cpu=Cpu(name="CPU", count=2, features=("avx2",)),
        drivers=Drivers(),
        kfd=None,
        render_nodes=(),
        groups=(1000,),
        shm_bytes=64 * 2**20,
        folders=(
            Folder(purpose="compiled programs", path="/cache", error="", free_bytes=GIB, used_bytes=0),
            Folder(purpose="temporary files", path="/tmp", error="", free_bytes=GIB, used_bytes=0),
        ),
        environment={},
        probe=CPU_PROBE,
    )
    return dataclasses.replace(facts, **changes)


def an_mi300x(**changes: Any) -> Facts:
    facts = a_cpu_machine(
        plugins={"jax-rocm7-pjrt": "0.12.0", "jax-rocm7-plugin": "0.12.0"},
        drivers=Drivers(amdgpu="6.16.13", amd_gpus=("gfx942",)),
        kfd=KFD,
        render_nodes=(RENDER,),
        groups=(993, 10001),
        environment={"XLA_FLAGS": "--xla_gpu_enable_command_buffer="},
        probe=ROCM_PROBE,
    )
    return dataclasses.replace(facts, **changes)


def an_h200(**changes: Any) -> Facts:
    facts = a_cpu_machine(
        plugins={"jax-cuda12-pjrt": "0.12.0", "jax-cuda12-plugin": "0.12.0"},
        drivers=Drivers(nvidia="580.65.06"),
        probe=dataclasses.replace(ROCM_PROBE, platform="cuda"),
    )
    return dataclasses.replace(facts, **changes)


def packages(**versions: str) -> dict[str, str]:
    return {**a_cpu_machine().packages, **versions}


def cache_folder(**changes: Any) -> tuple[Folder, ...]:
    return (dataclasses.replace(a_cpu_machine().folders[0], **changes),)


@pytest.mark.parametrize("facts", [a_cpu_machine(), an_mi300x(), an_h200()])
def test_a_good_machine_has_no_findings(facts: Facts) -> None:
    assert judge(facts) == ()


LOCKED = dataclasses.replace(KFD, usable=False)
ASLEEP = dataclasses.replace(CPU_PROBE, platform="", devices=(), doing="starting the devices")
FALLBACK = "but JAX fell back to the CPU without a word"
WRONG = Check(op="write_kv", backend="triton", dtype="float32", error=0.5, tolerance=1e-5, milliseconds=1.0)


@pytest.mark.parametrize(
    ("facts", "what", "fix"),
    [
        (a_cpu_machine(packages=packages(flax="")), "not installed: flax", "pip install jaxpaged"),
        (
            a_cpu_machine(packages=packages(jaxlib="0.12.0.1")),
            "jax 0.12.0 with jaxlib 0.12.0.1",
            'pip install "jax==0.12.0" "jaxlib==0.12.0"',
        ),
        (a_cpu_machine(packages=packages(jax="0.13.0", jaxlib="0.13.0")), "jax 0.13.0 is not supported", "<0.13"),
        (
            a_cpu_machine(packages=packages(flax="0.12.9")),
            "flax 0.12.9 does not import with jax 0.12.0",
            '"flax>=0.12.10"',
        ),
        (
            a_cpu_machine(packages=packages(jax="0.10.2", jaxlib="0.10.2", flax="0.12.9")),
            "flax 0.12.9 does not import with jax 0.10.2",
            '"flax==0.12.8"',
        ),
        (
            an_mi300x(packages=packages(jax="0.12.0.1", jaxlib="0.12.0.1")),
            "jax-rocm7-plugin 0.12.0 with jax 0.12.0.1",
            'There is no ROCm plugin for jax 0.12.0.1: pip install "jax==0.12.0" "jaxlib==0.12.0"',
        ),
        (
            an_mi300x(plugins={"jax-rocm7-pjrt": "0.11.2", "jax-rocm7-plugin": "0.12.0"}),
            "jax-rocm7-pjrt 0.11.2 with jax 0.12.0",
            '"jax-rocm7-pjrt==0.12.0"',
        ),
        (
            an_mi300x(plugins={"jax-rocm7-plugin": "0.12.0"}),
            "jax-rocm7-pjrt is not installed, its other half is",
            'pip install "jax-rocm7-pjrt==0.12.0"',
        ),
        (
            an_mi300x(plugins={**an_mi300x().plugins, **an_h200().plugins}),
            "more than one GPU plugin is installed: jax-cuda12, jax-rocm7",
            "pip uninstall",
        ),
        (an_mi300x(kfd=None), "/dev/kfd is not there", "--device /dev/kfd --device /dev/dri"),
        (an_mi300x(render_nodes=()), "/dev/dri has no renderD*", "--device /dev/dri"),
        (
            an_mi300x(kfd=LOCKED, groups=(10001,)),
            "/dev/kfd (mode 660) belongs to group render (993): this process is not in it",
            "docker run --group-add 993 ...; on the host: sudo usermod --append --groups render $USER",
        ),
        (
            an_mi300x(kfd=dataclasses.replace(LOCKED, group=""), groups=(10001,)),
            "/dev/kfd (mode 660) belongs to group 993, which has no name here: this process is not in it",
            "--group-add 993",
        ),
        (an_mi300x(kfd=LOCKED), "cannot be read and written, although this process is in its group", "chmod 660"),
        (an_mi300x(probe=CPU_PROBE), FALLBACK, "LD_LIBRARY_PATH"),
        (an_mi300x(probe=CPU_PROBE, environment={"HIP_VISIBLE_DEVICES": ""}), FALLBACK, "HIP_VISIBLE_DEVICES hides"),
        (an_mi300x(probe=CPU_PROBE, environment={"JAX_PLATFORMS": "rocm,cpu"}), FALLBACK, "LD_LIBRARY_PATH"),
        (an_mi300x(probe=CPU_PROBE, drivers=Drivers(amdgpu="6.16.13")), FALLBACK, "lists no GPU that computes"),
        (an_h200(probe=CPU_PROBE), FALLBACK, "The NVIDIA driver is 580.65.06: CUDA 13 wheels need 580"),
        (an_h200(probe=CPU_PROBE, drivers=Drivers()), FALLBACK, "docker run --gpus all"),
        (
            a_cpu_machine(probe=dataclasses.replace(ASLEEP, status="crashed", error="ended by SIGSEGV: x")),
            "JAX crashed while starting the devices: ended by SIGSEGV: x",
            "jax.devices()",
        ),
        (
            a_cpu_machine(probe=dataclasses.replace(ASLEEP, status="late", error="no end after 5 s")),
            "JAX did not answer while starting the devices: no end after 5 s",
            "JAX_PLATFORMS=cpu",
        ),
        (
            a_cpu_machine(
                probe=dataclasses.replace(ASLEEP, status="failed", error="no"), environment={"JAX_PLATFORMS": "rocm"}
            ),
            "JAX failed while starting the devices: no",
            "JAX_PLATFORMS=rocm asks for a platform without a plugin",
        ),
        (
            a_cpu_machine(folders=cache_folder(error="Read-only file system")),
            "/cache (compiled programs) cannot be",
            "XDG",
        ),
        (
            a_cpu_machine(
                probe=dataclasses.replace(
                    CPU_PROBE, tuning=TuningFact(path="/t.json", error="token_tile of ... is 48", fix="Mend the file")
                )
            ),
            "no engine starts: token_tile of ... is 48",
            "Mend the file",
        ),
        (a_cpu_machine(folders=cache_folder(free_bytes=2**20)), "is full: 1 MiB are free, at least 512", "volume"),
        (
            a_cpu_machine(
                probe=dataclasses.replace(CPU_PROBE, status="crashed", doing="write_kv", error="ended by SIGABRT")
            ),
            "the self-test crashed at write_kv: ended by SIGABRT",
            "--attention-backend xla",
        ),
        (
            an_mi300x(probe=dataclasses.replace(ROCM_PROBE, checks=(WRONG,))),
            "write_kv by triton in float32 differs from the reference by 0.5 of its largest value: at most 1e-05",
            "not to be trusted",
        ),
        (
            an_mi300x(probe=dataclasses.replace(ROCM_PROBE, checks=(dataclasses.replace(WRONG, error=float("nan")),))),
            "differs from the reference by nan",
            "not to be trusted",
        ),
        (
            an_mi300x(
                probe=dataclasses.replace(
                    ROCM_PROBE, generation=Generation(backend="triton", tokens=(1, 2), reference=(1, 3), seconds=1.0)
                )
            ),
            "the bundled model says [1, 2] by triton, [1, 3] by the reference",
            "not to be trusted",
        ),
    ],
)
def test_an_error_is_named_with_its_fix(facts: Facts, what: str, fix: str) -> None:
    findings = judge(facts)
    assert not healthy(findings)
    assert any(what in finding.what and fix in finding.fix for finding in findings if finding.level == "error")
    assert findings[0].level == "error"


@pytest.mark.parametrize(
    ("facts", "what"),
    [
        (an_mi300x(environment={}), "command buffers (HIP graphs) are on"),
        (an_mi300x(environment={"XLA_FLAGS": "--xla_gpu_enable_command_buffer=FUSION"}), "command buffers"),
        (
            an_mi300x(probe=dataclasses.replace(ROCM_PROBE, devices=ROCM_PROBE.devices * 8)),
            "/dev/shm holds 64 MiB: too little",
        ),
        (
            an_mi300x(probe=CPU_PROBE, environment={**an_mi300x().environment, "JAX_PLATFORMS": "cpu"}),
            "JAX_PLATFORMS=cpu keeps JAX on the CPU",
        ),
        (a_cpu_machine(drivers=Drivers(nvidia="580.65.06")), "there is a GPU driver, but no GPU plugin for JAX"),
    ],
)
def test_a_warning_leaves_the_machine_healthy(facts: Facts, what: str) -> None:
    (finding,) = judge(facts)
    assert finding.level == "warning"
    assert what in finding.what
    assert healthy((finding,))


def test_the_text_and_the_json_tell_the_same() -> None:
    op = OpFact(op="linear", backend="xla", why="always")
    bad = dataclasses.replace(WRONG, error=float("nan"))
    facts = an_mi300x(probe=dataclasses.replace(ROCM_PROBE, ops=(op,), checks=(bad,)))
    text = as_text(facts, judge(facts))
    assert "linear  xla: always" in text
    assert "WRONG  triton: off by nan of the largest value (at most 1e-05), 1.00 ms" in text
    assert "fit together      yes" in text
    torn = an_mi300x(packages=packages(jax="0.12.0.1", jaxlib="0.12.0.1"))
    assert "fit together      NO" in as_text(torn, judge(torn))
    assert "/dev/kfd mode 660 group render (993), usable" in text
    assert text.endswith("fix: " + judge(facts)[0].fix + "\n\nnot healthy\n")
    told = json.loads(as_json(facts, judge(facts)))
    assert told["healthy"] is False
    assert told["facts"]["probe"]["checks"][0]["error"] is None
    assert told["facts"]["kfd"]["gid"] == 993


def lines(*parts: dict[str, Any]) -> list[str]:
    return ["a library's own words", *(json.dumps(part) for part in parts)]


DEVICES = {
    "part": "devices",
    "platform": "cpu",
    "dtype": "float32",
    "dtype_reason": "so",
    "devices": [{"platform": "cpu", "kind": "CPU", "memory_bytes": 5}],
}


@pytest.mark.parametrize(
    ("parts", "status", "log", "expected"),
    [
        ([DEVICES], 0, "", ("done", "", "", "cpu")),
        ([{"part": "doing", "what": "a"}], -11, "one\ntwo\n", ("crashed", "ended by SIGSEGV: one / two", "a", "")),
        ([], 1, "", ("crashed", "ended with status 1: no message", "starting Python", "")),
        (
            [DEVICES, {"part": "doing", "what": "b"}],
            -6,
            "F check\n*** Check failure stack trace: ***\n@ 0x1\n",
            ("crashed", "ended by SIGABRT: F check", "b", "cpu"),
        ),
        ([DEVICES], None, "no end after 5 s", ("late", "no end after 5 s", "starting Python", "cpu")),
        ([{"part": "failed", "error": "ValueError: x"}], 1, "", ("failed", "ValueError: x", "starting Python", "")),
    ],
)
def test_what_the_child_said_is_kept(
    parts: Sequence[dict[str, Any]], status: int | None, log: str, expected: tuple[str, ...]
) -> None:
    probe = read_lines(lines(*parts), status=status, log=log)
    assert (probe.status, probe.error, probe.doing, probe.platform) == expected


def test_a_time_that_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"--timeout is 0\.0: it must be above 0 seconds"):
        main(["--timeout", "0"])


def doctor(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "jaxpaged_server.cli", "doctor", *arguments],
        env={**inherited(), "PYTHONPATH": f"{ROOT}:{ROOT / 'server'}", **environment},
        capture_output=True,
        text=True,
        timeout=280,
    )


def test_this_machine_is_healthy(tmp_path: Path) -> None:
    done = doctor("--json", JAX_PLATFORMS="cpu", XDG_CACHE_HOME=str(share_native(tmp_path)))
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    probe = told["facts"]["probe"]
    assert told["healthy"] is True
    assert (probe["status"], probe["platform"]) == ("done", "cpu")
    served = "xla" if probe["native"]["obstacle"] else "native"
    assert {op["op"]: op["backend"] for op in probe["ops"]} == {
        "ragged_attention": served,
        "write_kv": served,
        "grouped_matmul": "xla",
        "linear": "xla",
    }
    exact = {check["op"] for check in probe["checks"] if check["dtype"] == "float32"}
    assert exact == {"ragged_attention", "write_kv", "grouped_matmul", "linear"}
    assert len(probe["generation"]["tokens"]) == 8


def test_a_cache_that_cannot_be_written_is_found() -> None:
    done = doctor("--quick", JAX_PLATFORMS="cpu", XDG_CACHE_HOME="/proc/nowhere")
    assert done.returncode == 1
    assert "error: /proc/nowhere/jaxpaged/programs (compiled programs) cannot be written" in done.stdout
    assert done.stdout.endswith("\nnot healthy\n")


def test_a_platform_without_a_plugin_is_found(tmp_path: Path) -> None:
    done = doctor("--quick", JAX_PLATFORMS="cuda", XDG_CACHE_HOME=str(tmp_path))
    assert done.returncode == 1
    assert "error: JAX failed while starting the devices" in done.stdout
    assert "fix: JAX_PLATFORMS=cuda asks for a platform without a plugin" in done.stdout


def test_a_crash_of_the_backend_is_reported(tmp_path: Path) -> None:
    done = doctor("--quick", JAX_PLATFORMS="cpu", XLA_FLAGS="--no_such_flag=1", XDG_CACHE_HOME=str(tmp_path))
    assert done.returncode == 1
    assert "error: JAX crashed while starting the devices: ended with" in done.stdout
    assert "fix: XLA_FLAGS holds a flag that this jaxlib does not know: unset it" in done.stdout


def test_a_child_that_hangs_is_ended(tmp_path: Path) -> None:
    done = doctor("--timeout", "0.05", JAX_PLATFORMS="cpu", XDG_CACHE_HOME=str(tmp_path))
    assert done.returncode == 1
    assert "error: JAX did not answer while starting Python: no end after 0 s" in done.stdout
