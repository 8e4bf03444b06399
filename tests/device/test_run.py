"""How the parts of a GPU's run share its time, what they need, and how they end; needs no GPU."""

from __future__ import annotations

import ast
import os
import re
import signal
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
OURS = {"jaxpaged", "jaxpaged_server", "pallas_kernels"}
IMPORTED_AS = {
    "python-json-logger": "pythonjsonlogger",
    "opentelemetry-sdk": "opentelemetry",
    "opentelemetry-exporter-otlp-proto-http": "opentelemetry",
    "pyzmq": "zmq",
}


@pytest.fixture
def run(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("run")


def test_all_parts_fit_into_the_time_of_a_run(run: ModuleType, script: Callable[[str], ModuleType]) -> None:
    assert sum(run.PARTS.values()) <= run.TOTAL_S <= 590
    assert set(run.PARTS) == {*script("parts").PARTS, "tests"}


def test_a_part_may_take_what_those_before_it_left(run: ModuleType) -> None:
    assert run.allowed_s(590, ["server", "transformers", "scan"]) == 590 - 80 - 60 - 20
    assert run.allowed_s(100, ["transformers", "scan"]) == 20
    assert run.allowed_s(70, []) == 70


def third_party(folder: Path) -> Iterator[str]:
    """Packages that are imported anywhere in these files."""
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            yield from {name.partition(".")[0] for name in names} - sys.stdlib_module_names - OURS


def test_the_server_needs_what_it_imports(run: ModuleType) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    wanted = [re.split(r"[>=<]", each)[0] for name in ("uvloop", "json-logs", "otel", "fleet") for each in extras[name]]
    optional = {IMPORTED_AS.get(name, name) for name in wanted}
    imported = set(third_party(ROOT / "server" / "jaxpaged_server"))
    assert imported - optional - set(run.NEEDED) == set(run.NEEDED_BY["server"])


def is_alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


def with_child(file: Path, trap: str = "") -> list[str]:
    """A command with a child that heeds no interrupt and whose number comes into the file."""
    return ["bash", "-c", f"{trap}(trap '' INT; exec sleep 60) & echo $! >{file}; wait; wait"]


def expect_end(file: Path) -> None:
    until_s = time.monotonic() + 5
    while is_alive(int(file.read_text())):
        assert time.monotonic() < until_s
        time.sleep(0.01)


@pytest.mark.parametrize(("reaction", "status"), [("default", -signal.SIGINT), ("ignore", -signal.SIGKILL)])
def test_what_a_part_started_ends_with_it(
    run: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, reaction: str, status: int
) -> None:
    """Interrupted, and killed where it does not heed that."""
    monkeypatch.setattr(run, "LAST_S", 0.1)
    trap = "" if reaction == "default" else "trap '' INT; "
    assert run._limited(with_child(tmp_path / "child", trap), dict(os.environ), 0.8) == status
    expect_end(tmp_path / "child")


def test_what_a_part_started_ends_with_the_run(run: ModuleType, tmp_path: Path) -> None:
    """Which is ended by `timeout`, say: the part is in a process group of its own."""

    def stop(*_: object) -> None:
        raise SystemExit

    before = signal.signal(signal.SIGALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        with pytest.raises(SystemExit):
            run._limited(with_child(tmp_path / "child"), dict(os.environ), 60)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    expect_end(tmp_path / "child")
