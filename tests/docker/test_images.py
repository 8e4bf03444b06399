"""What every image must be, read from its Dockerfile with a parser. Hadolint looks at the rest (.ci/run)."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from image_files import DOCKER, IMAGES, ROOT, Step, context, steps

WRITTEN_BY = "/cache"


def last_stage(image: str) -> list[Step]:
    found = steps(image)
    return [step for step in found if step.stage == found[-1].stage]


def only(found: list[Step], name: str) -> Step:
    (step,) = [step for step in found if step.name == name]
    return step


def environment(image: str) -> dict[str, str]:
    return dict(word.split("=", 1) for word in only(last_stage(image), "ENV").words)


@pytest.mark.parametrize("image", IMAGES)
def test_the_base_is_pinned_to_a_full_version(image: str) -> None:
    stages = [step.words for step in steps(image) if step.name == "FROM"]
    names = {words[2] for words in stages if len(words) == 3}
    bases = {words[0] for words in stages} - names
    assert len(bases) == 1
    assert re.search(r":\d+\.\d+\.\d+", bases.pop())


@pytest.mark.parametrize("image", IMAGES)
def test_it_is_built_in_stages_and_the_last_has_no_tools(image: str) -> None:
    found = steps(image)
    assert found[-1].stage >= 1
    built = [step for step in last_stage(image) if step.name == "COPY" and step.flags.get("from") == "build"]
    assert [step.words for step in built] == [["/opt/jaxpaged", "/opt/jaxpaged"]]
    assert not [step for step in last_stage(image) if step.name == "RUN" and "pip" in step.value]


@pytest.mark.parametrize("image", IMAGES)
def test_it_runs_as_one_user_with_a_number(image: str) -> None:
    assert only(last_stage(image), "USER").value == "10001"
    assert "useradd --uid 10001 " in only(last_stage(image), "RUN").value


@pytest.mark.parametrize("image", IMAGES)
def test_all_that_is_written_goes_to_one_volume(image: str) -> None:
    assert only(last_stage(image), "VOLUME").value == WRITTEN_BY
    assert only(last_stage(image), "WORKDIR").value == WRITTEN_BY
    assert {environment(image)[name] for name in ("HOME", "XDG_CACHE_HOME")} == {WRITTEN_BY}
    assert f"--owner=10001 --group=0 --mode=2775 {WRITTEN_BY}" in only(last_stage(image), "RUN").value


@pytest.mark.parametrize("image", IMAGES)
def test_it_has_one_port_a_health_check_and_an_entry_that_gets_signals(image: str) -> None:
    found = last_stage(image)
    assert only(found, "EXPOSE").value == "8000"
    assert only(found, "ENTRYPOINT").exec_form == ["/opt/jaxpaged/share/entrypoint.sh"]
    command = only(found, "HEALTHCHECK").value.partition("CMD ")[2]
    assert command == '["python", "/opt/jaxpaged/share/healthcheck.py"]'


@pytest.mark.parametrize("image", IMAGES)
def test_nothing_comes_from_the_network_but_by_a_lock_or_apt(image: str) -> None:
    found = steps(image)
    assert not [step for step in found if step.name == "ADD"]
    runs = [step.value for step in found if step.name == "RUN"]
    for command in [command for run in runs for command in run.split("&&")]:
        assert not re.search(r"\b(curl|wget|git)\b", command)
        if "pip install" in command:
            assert "--no-cache-dir" in command
            assert "--require-hashes" in command or "dist/*.whl" in command
        if "pip wheel" in command:
            assert "--no-build-isolation" in command
    for run in runs:
        if "apt-get" in run:
            assert "--no-install-recommends" in run
            assert run.rstrip().endswith("rm -rf /var/lib/apt/lists/*")


@pytest.mark.parametrize("image", IMAGES)
def test_every_file_it_copies_is_in_the_build_context(image: str) -> None:
    sent = context()
    copied = [
        word for step in steps(image) if step.name == "COPY" and "from" not in step.flags for word in step.words[:-1]
    ]
    assert len(copied) == 10
    for source in copied:
        assert source in sent or any(path.startswith(f"{source}/") for path in sent), source


def test_the_build_context_holds_the_sources_and_no_more() -> None:
    sent = context()
    assert {path.split("/")[0] for path in sent} == {
        *("pyproject.toml", "README.md", "LICENSE"),
        *("jaxpaged", "pallas_kernels", "server", "docker"),
    }
    assert {path for path in sent if path.startswith("docker/")} == {
        *("docker/entrypoint.sh", "docker/healthcheck.py"),
        *(f"docker/{name}.lock" for name in ("build", "cpu", "cuda12", "cuda13", "rocm")),
    }
    # stub libraries that let tests compile for a GPU that is not here live below tests/
    assert not [path for path in sent if path.endswith((".so", ".c", ".pyc"))]
    assert "jaxpaged/tiny/model.safetensors" in sent


def locked(name: str) -> dict[str, str]:
    """Versions of a lock file for Python 3.12 on Linux, with the marker's two cases told apart by hand."""
    pinned = re.findall(r"^([a-z0-9-]+)==(\S+)(?: ; (.+?))? \\$", (DOCKER / f"{name}.lock").read_text(), re.MULTILINE)
    return {package: version for package, version, marker in pinned if "< '3.12'" not in marker}


@pytest.mark.parametrize("name", ["cpu", "cuda12", "cuda13", "rocm"])
def test_every_locked_package_has_a_hash(name: str) -> None:
    text = (DOCKER / f"{name}.lock").read_text()
    entries = re.split(r"\n(?=[a-z])", text.strip())
    assert len(entries) > 30
    assert all("--hash=sha256:" in entry and "==" in entry.splitlines()[0] for entry in entries)


@pytest.mark.parametrize("name", ["cpu", "cuda12", "cuda13", "rocm"])
def test_jax_and_its_plugin_are_locked_to_one_release(name: str) -> None:
    versions = locked(name)
    plugins = {package: version for package, version in versions.items() if re.match(r"jax-(cuda|rocm)", package)}
    family = {"cpu": None, "rocm": "jax-rocm7"}.get(name, f"jax-{name}")
    assert set(plugins) == ({f"{family}-plugin", f"{family}-pjrt"} if family else set())
    assert {versions["jax"], versions["jaxlib"], *plugins.values()} == {versions["jax"]}


def test_rocm_has_the_last_jax_with_a_plugin_and_no_command_buffers() -> None:
    assert locked("rocm")["jax"] == "0.12.0"
    assert environment("rocm")["XLA_FLAGS"] == "--xla_gpu_enable_command_buffer="
    assert environment("rocm")["LLVM_PATH"] == "/opt/rocm/llvm"
    assert "XLA_FLAGS" not in environment("cpu")
    assert "XLA_FLAGS" not in environment("cuda")


@pytest.mark.parametrize("image", IMAGES)
def test_hadolint_has_nothing_to_say(image: str) -> None:
    if (hadolint := shutil.which("hadolint")) is None:
        pytest.skip("hadolint is not installed: pip install -e '.[dev]'")
    done = subprocess.run([hadolint, DOCKER / f"{image}.Dockerfile"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("script", [DOCKER / "entrypoint.sh", DOCKER / "lock"])
def test_shellcheck_has_nothing_to_say(script: Path) -> None:
    if (shellcheck := shutil.which("shellcheck")) is None:
        pytest.skip("shellcheck is not installed: pip install -e '.[dev]'")
    done = subprocess.run([shellcheck, script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")
    assert script.stat().st_mode & 0o111 == 0o111, f"{script.relative_to(ROOT)} is not executable"
