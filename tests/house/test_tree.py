"""Rules about the code itself: sizes, what may lie where, what an import brings."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import sysconfig
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAX_MODULE_LINES = 400
MAX_FUNCTION_LINES = 70
MAX_MODEL_BYTES = 12 * 10**6
MAX_HELP_CPU_S = 0.3
TOP_LEVEL = {
    *("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "uv.lock"),
    *("jaxpaged", "pallas_kernels", "server", "tests", "docker", "docs"),
}


def sources() -> list[Path]:
    folders = (".ci", "jaxpaged", "pallas_kernels", "server", "tests", "docker", "docs")
    found = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    assert len(found) > 20, "the rules below looked at almost nothing"
    return found


def test_no_module_is_above_400_lines() -> None:
    long = {
        str(path.relative_to(ROOT)): count
        for path in sources()
        if (count := path.read_text(encoding="utf-8").count("\n")) > MAX_MODULE_LINES
    }
    assert not long


def function_lengths(source: str) -> dict[str, int]:
    return {
        f"{node.name}:{node.lineno}": (node.end_lineno or node.lineno) - node.lineno + 1
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def test_function_lengths_counts_from_def_to_the_last_line() -> None:
    assert function_lengths("@decorator\ndef f(\n    a,\n):\n    def g(): pass\n    return a\n") == {
        "f:2": 5,
        "g:5": 1,
    }


def test_no_function_is_above_70_lines() -> None:
    long = {
        f"{path.relative_to(ROOT)}:{name}": count
        for path in sources()
        for name, count in function_lengths(path.read_text(encoding="utf-8")).items()
        if count > MAX_FUNCTION_LINES
    }
    assert not long


def test_no_function_rebinds_a_global() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sources()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Global)
    ]
    assert not found


def test_the_top_level_holds_what_was_agreed() -> None:
    ignored = [line.rstrip("/") for line in (ROOT / ".gitignore").read_text().split()]
    strangers = [
        name
        for name in os.listdir(ROOT)
        if name not in TOP_LEVEL and not name.startswith(".") and not any(fnmatch(name, pattern) for pattern in ignored)
    ]
    assert not strangers


def test_every_package_says_it_is_typed() -> None:
    for package in ("jaxpaged", "pallas_kernels", "server/jaxpaged_server"):
        assert (ROOT / package / "py.typed").exists(), package


def test_the_bundled_model_is_small() -> None:
    assert (
        sum(path.stat().st_size for path in (ROOT / "jaxpaged" / "tiny").iterdir() if path.is_file()) < MAX_MODEL_BYTES
    )


def python(code: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "server")])}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=True
    )


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import jaxpaged", ("jax", "numpy", "torch", "transformers")),
        ("from jaxpaged import SamplingParams, EngineConfig", ("jax", "torch", "transformers")),
        ("from jaxpaged import LLM", ("torch", "transformers", "aiohttp")),
        ("import jaxpaged_server.lifecycle", ("jax", "flax", "torch", "transformers", "zmq", "opentelemetry.sdk")),
        ("import jaxpaged.templating.worker", ("jax", "aiohttp", "tokenizers", "torch", "transformers")),
    ],
)
def test_an_import_does_not_bring(statement: str, absent: tuple[str, ...]) -> None:
    code = f"import sys\n{statement}\nprint(sorted(set({absent!r}) & set(sys.modules)))"
    assert python(code).stdout.strip() == "[]"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["generate"],
        ["chat"],
        ["plan"],
        ["verify"],
        ["bench"],
        ["bench", "throughput"],
        ["bench", "kernels"],
        ["bench", "compare"],
        ["doctor"],
        ["serve"],
        ["bench", "serve"],
    ],
)
def test_help_imports_no_jax(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom jaxpaged_server.cli import main\n"
        f"status = main({[*arguments, '--help']!r})\n"
        "print(status, sorted({'jax', 'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    )
    assert python(code).stdout.splitlines()[-1] == "0 []"


@pytest.mark.skipif(os.name != "posix", reason="os.wait4")
def test_help_is_quick() -> None:
    # processor time, so that a busy machine does not fail it; .ci/run looks at the clock
    code = "import sys; from jaxpaged_server.cli import main; sys.exit(main(['--help']))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "server")])}
    spent: list[float] = []
    for _ in range(3):
        child = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        assert child.returncode == 0
        spent.append(usage.ru_utime + usage.ru_stime)
    assert sorted(spent)[1] < MAX_HELP_CPU_S


def test_the_console_script_is_installed_beside_this_python() -> None:
    script = Path(sysconfig.get_path("scripts")) / "jaxpaged"
    if not script.exists():
        pytest.skip("not installed: the tests run from the tree")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("jaxpaged ")
