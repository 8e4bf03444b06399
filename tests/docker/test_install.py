"""What the images install: every lock for Python 3.12 on Linux, and the CPU image's own steps in a clean folder.

Needs a package index. The steps run with this Python; the locks hold versions for it beside those of the images' 3.12.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from image_files import DOCKER, ROOT, context, steps

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
SERVER_EXTRAS = ("uvloop", "json-logs", "otel", "fleet", "gguf", "sentencepiece")


@pytest.mark.parametrize("name", ["cpu", "cuda12", "cuda13", "rocm"])
@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_every_wheel_exists_for_the_images_python(name: str, machine: str, tmp_path: Path) -> None:
    if (uv := shutil.which("uv")) is None:
        pytest.skip("uv is not installed: pip install -e '.[dev]'")
    if (name, machine) == ("rocm", "aarch64"):
        pytest.skip("ROCm serves x86-64 alone")
    command = [uv, "pip", "install", "--dry-run", "--no-deps", "--require-hashes", "--only-binary", ":all:"]
    command += ["--python-version", "3.12", "--python-platform", f"{machine}-manylinux_2_28"]
    command += ["--target", str(tmp_path), "-r", str(DOCKER / f"{name}.lock")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    found = dict(re.findall(r"^ \+ (\S+)==(\S+)$", done.stderr, re.MULTILINE))
    assert len(found) > 30
    extras = {"python-json-logger", "opentelemetry-sdk", "pyzmq", "gguf", "sentencepiece"}
    assert {"aiohttp", "uvloop", *extras} <= set(found)
    assert found["jax"] == {"rocm": "0.12.0"}.get(name, found["jaxlib"])
    assert ("jax-rocm7-pjrt" in found) == (name == "rocm")
    assert ("jax-cuda12-pjrt" in found) == (name == "cuda12")


def test_the_locks_are_those_of_pyproject(tmp_path: Path) -> None:
    """Every lock still fits the requirements: resolving them again with the lock as a preference changes nothing."""
    if (uv := shutil.which("uv")) is None:
        pytest.skip("uv is not installed: pip install -e '.[dev]'")
    for name in ("cpu", "cuda12", "cuda13", "rocm"):
        chosen = [*SERVER_EXTRAS, *([] if name == "cpu" else [name])]
        extras = [word for extra in chosen for word in ("--extra", extra)]
        again = tmp_path / f"{name}.lock"
        shutil.copy(DOCKER / f"{name}.lock", again)
        command = [uv, "pip", "compile", "--quiet", "--universal", "--python-version", "3.11", "--generate-hashes"]
        command += ["--no-annotate", "--no-header", "--output-file", str(again), str(ROOT / "pyproject.toml"), *extras]
        subprocess.run(command, check=True, capture_output=True, timeout=600)
        assert again.read_text() == (DOCKER / f"{name}.lock").read_text(), f"{name}.lock is old: run docker/lock"


def build(place: Path) -> Path:
    """Run the CPU image's build stage below `place`, and copy what its last stage copies; returns its /opt/jaxpaged."""
    sent = context()
    work = place / "src"
    work.mkdir()
    here = {"/opt/": f"{place}/", "python3 -m venv": f"{sys.executable} -m venv"}

    def copy(sources: list[str], target: Path) -> None:
        for source in sources:
            for path in [path for path in sent if path == source or path.startswith(f"{source}/")]:
                inside = Path(path).relative_to(source) if path != source else Path(source).name
                (target / inside).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / path, target / inside)

    for step in steps("cpu"):
        if step.name == "COPY" and "from" not in step.flags:
            target = step.words[-1].replace("/opt/", f"{place}/")
            copy(step.words[:-1], work / target)
        if step.name == "RUN" and step.stage == 0:
            line = step.value
            for theirs, ours in here.items():
                line = line.replace(theirs, ours)
            environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
            done = subprocess.run(["sh", "-euc", line], cwd=work, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    return place / "jaxpaged"


def test_the_cpu_images_steps_make_a_working_jaxpaged(tmp_path: Path) -> None:
    root = build(tmp_path)
    cache = tmp_path / "cache"
    environment = {"PATH": f"{root}/bin:/usr/bin:/bin", "HOME": str(cache), "XDG_CACHE_HOME": str(cache)}

    def enter(*words: str) -> subprocess.CompletedProcess[str]:
        command = [str(root / "share" / "entrypoint.sh"), *words]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)

    cache.mkdir()
    names = subprocess.run(
        [root / "bin" / "python", "-m", "pip", "list", "--format=freeze"], capture_output=True, text=True, check=True
    ).stdout
    assert "jaxpaged==" in names
    assert not re.search(r"^(torch|transformers|pytest|hatchling|jax-cuda|jax-rocm)", names, re.MULTILINE)
    doctor = enter("doctor")
    assert doctor.returncode == 0, doctor.stdout + doctor.stderr
    generated = enter("generate", "--temperature", "0", "--max-tokens", "8", "def fibonacci(n):")
    assert generated.returncode == 0, generated.stderr
    assert generated.stdout.startswith("def fibonacci(n):")
