"""A server as users start it: `jaxpaged serve` with the bundled model, in a process of its own."""

from __future__ import annotations

import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from inherited import inherited

ROOT = Path(__file__).parents[1]
START_S = 180.0


class RealServer:
    """One that listens. lines: what it has logged so far."""

    def __init__(self, process: subprocess.Popen[str], url: str, lines: list[str], key: str | None) -> None:
        self.process = process
        self.url = url
        self.lines = lines
        self.key = key

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def request(self, path: str, body: Any = None, *, timeout_s: float = 60.0) -> tuple[int, Any]:
        """Status, and the reply: an object of JSON, or text."""
        headers = {} if self.key is None else {"Authorization": f"Bearer {self.key}"}
        data = None if body is None else json.dumps(body).encode()
        if data is not None:
            headers["Content-Type"] = "application/json"
        asked = urllib.request.Request(self.url + path, data=data, headers=headers)
        try:
            with urllib.request.urlopen(asked, timeout=timeout_s) as reply:
                return reply.status, _content(reply.headers.get("Content-Type", ""), reply.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, _content(error.headers.get("Content-Type", ""), error.read())

    def wait_ready(self, timeout_s: float = START_S) -> float:
        """Seconds until it said that it is ready."""
        began = time.monotonic()
        while time.monotonic() - began < timeout_s:
            assert self.process.poll() is None, "\n".join(self.lines[-40:])
            try:
                if self.request("/health/ready", timeout_s=5)[0] == 200:
                    return time.monotonic() - began
            except OSError:
                pass
            time.sleep(0.05)
        raise AssertionError("it is not ready:\n" + "\n".join(self.lines[-40:]))

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels."""
        _, text = self.request("/metrics")
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        found = [
            float(line.rsplit(" ", 1)[1])
            for line in text.splitlines()
            if re.match(rf"{re.escape(name)}(\{{|\s)", line) and all(each in line for each in wanted)
        ]
        assert found, f"no {name} with {labels}"
        return sum(found)

    def engine_pid(self) -> int:
        """Of the engine's process."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        for child in children:
            if b"engine_process" in Path(f"/proc/{child}/cmdline").read_bytes():
                return int(child)
        raise AssertionError("there is no engine process")

    def stop(self, number: int = signal.SIGTERM, timeout_s: float = 60.0) -> int:
        """Its exit status after a signal."""
        self.process.send_signal(number)
        return self.process.wait(timeout_s)


@contextmanager
def real_server(*flags: str, key: str | None = None, environ: Mapping[str, str] | None = None) -> Iterator[RealServer]:
    """Start one on a free port; it listens, and may not be ready yet. Ended at the end, whatever happens."""
    command = [sys.executable, "-m", "jaxpaged_server.cli", "serve", "--port", "0", "--drain-grace", "0", *flags]
    search = os.pathsep.join([str(ROOT), str(ROOT / "server")])
    # its programs are where a user's are: later runs start warm
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**inherited(), "PYTHONPATH": search, "PYTHONUNBUFFERED": "1", **(environ or {})},
    )
    lines: list[str] = []
    listening: queue.SimpleQueue[str] = queue.SimpleQueue()
    reader = threading.Thread(target=_read, args=(process, lines, listening), daemon=True)
    reader.start()
    try:
        try:
            url = listening.get(timeout=START_S)
        except queue.Empty:
            raise AssertionError("it does not listen:\n" + "\n".join(lines[-40:])) from None
        assert url, "it ended:\n" + "\n".join(lines[-40:])
        yield RealServer(process, url, lines, key)
    finally:
        process.kill()
        process.wait()
        reader.join(10)
        assert process.stdout is not None
        process.stdout.close()


def _read(process: subprocess.Popen[str], lines: list[str], listening: queue.SimpleQueue[str]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line.rstrip("\n"))
        if (found := re.search(r"listening on (https?://\S+)", line)) is not None:
            listening.put(found[1])
    listening.put("")


def _content(kind: str, body: bytes) -> Any:
    return json.loads(body) if kind.startswith("application/json") else body.decode()
