"""The entrypoint and the health check, run for real."""

from __future__ import annotations

import http.server
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from image_files import DOCKER, ROOT
from native_backend import share_native

ENTRYPOINT = DOCKER / "entrypoint.sh"


def environment(folder: Path) -> dict[str, str]:
    return {
        **os.environ,
        "PATH": f"{folder}:{os.environ['PATH']}",
        "PYTHONPATH": f"{ROOT}:{ROOT / 'server'}",
        "JAX_PLATFORMS": "cpu",
        "XDG_CACHE_HOME": str(folder / "cache"),
    }


def install(folder: Path, script: str) -> Path:
    """A `jaxpaged` in `folder` that is this script; returns the folder."""
    path = folder / "jaxpaged"
    path.write_text(script)
    path.chmod(0o755)
    return folder


@pytest.fixture
def echo(tmp_path: Path) -> Path:
    return install(tmp_path, "#!/bin/sh\nprintf '<%s>' \"$@\"\n")


@pytest.fixture
def real(tmp_path: Path) -> Path:
    share_native(tmp_path / "cache")
    return install(tmp_path, f"#!/bin/sh\nexec '{sys.executable}' -m jaxpaged_server.cli \"$@\"\n")


def enter(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(ENTRYPOINT), *words], env=environment(folder), capture_output=True, text=True, timeout=200
    )


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "<serve><--host><0.0.0.0>"),
        (["--model", "/models/a b"], "<serve><--host><0.0.0.0><--model></models/a b>"),
        (["serve", "--port", "8000"], "<serve><--host><0.0.0.0><--port><8000>"),
        (["--host", "127.0.0.1"], "<serve><--host><127.0.0.1>"),
        (["--model", "x", "--host=::"], "<serve><--model><x><--host=::>"),
        (["serve", "--help"], "<serve><--help>"),
        (["--help"], "<--help>"),
        (["--version"], "<--version>"),
        (["generate", "def f(n):", ""], "<generate><def f(n):><>"),
        (["bench", "throughput", "--host"], "<bench><throughput><--host>"),
        (["doctor", "--json"], "<doctor><--json>"),
    ],
)
def test_which_command_is_run(words: list[str], told: str, echo: Path) -> None:
    done = enter(echo, *words)
    assert (done.returncode, done.stdout, done.stderr) == (0, told, "")


def test_help_and_version(real: Path) -> None:
    assert "usage: jaxpaged COMMAND" in enter(real, "--help").stdout
    assert enter(real, "--version").stdout.startswith("jaxpaged ")


def test_generate_generates(real: Path) -> None:
    done = enter(real, "generate", "--max-tokens", "2", "--temperature", "0", "--quiet", "import os")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("import os")
    assert len(done.stdout) > len("import os\n")


def test_doctor_looks(real: Path) -> None:
    done = enter(real, "doctor", "--quick")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("healthy\n")


def test_a_wrong_word_is_the_command_lines_own_error(real: Path) -> None:
    done = enter(real, "genrate", "x")
    assert done.returncode == 2
    assert done.stderr == "error: command is 'genrate x': there is no such command. Did you mean 'generate'?\n"


def test_the_command_gets_the_signal_and_its_status_comes_back(tmp_path: Path) -> None:
    install(tmp_path, "#!/bin/sh\ntrap 'exit 7' TERM\necho ready\nwhile :; do sleep 0.05; done\n")
    with subprocess.Popen([str(ENTRYPOINT)], env=environment(tmp_path), stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        child.send_signal(signal.SIGTERM)
        assert child.wait(timeout=10) == 7


class Server(http.server.BaseHTTPRequestHandler):
    """Answers /health/live with 200 and anything else with 404."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health/live" else 404)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Keeps the test's stderr clean."""


@pytest.fixture
def port() -> Iterator[int]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def health(port: int) -> int:
    command = [sys.executable, str(DOCKER / "healthcheck.py")]
    surroundings = {"JAXPAGED_HEALTH_PORT": str(port), "http_proxy": "http://127.0.0.1:9", "PATH": os.environ["PATH"]}
    return subprocess.run(command, env=surroundings, timeout=30, check=False).returncode


def test_a_server_that_answers_is_healthy(port: int) -> None:
    assert health(port) == 0


def test_no_server_is_not_healthy() -> None:
    began_s = time.monotonic()
    assert health(1) == 1
    assert time.monotonic() - began_s < 10
