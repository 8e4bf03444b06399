"""Generated requests, right ones and wrong ones, against a real server: no reply of 500 and above, none that the schema
does not know, and a server that is as it was afterwards."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from real_server import real_server

pytestmark = [pytest.mark.fuzz, pytest.mark.timeout(900)]
CASES = 5000
SEMANTIC = "positive_data_acceptance"
"""Checks that what the schema allows is accepted; but a schema cannot say how many tokens the model knows, or that
a prompt must fit into the context beside its answer."""


def test_the_api_keeps_its_word_in_5000_cases(tmp_path: Path) -> None:
    flags = ("--max-num-seqs", "16", "--max-model-len", "256", "--max-num-queued-reqs", "1000")
    with real_server(*flags) as server:
        server.wait_ready()
        text = server.request("/v1/completions", {"prompt": "def f", "max_tokens": 8, "temperature": 0})[1]["choices"]
        command = [
            *(sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json"),
            *("--mode", "all", "--max-examples", "480", "--exclude-checks", SEMANTIC, "--seed", "1"),
            *("--no-color", "--workers", "2", "--request-timeout", "60", "--phases", "coverage,fuzzing,stateful"),
        ]
        ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=800, check=False)
        (tmp_path / "schemathesis.txt").write_text(ran.stdout + ran.stderr)
        told = ran.stdout[ran.stdout.find("= FAILURES =") :][-6000:]
        assert ran.returncode == 0, told
        cases = re.search(r"([\d,]+) generated", ran.stdout)
        assert cases is not None, told
        print(f"{cases[1]} cases")
        assert int(cases[1].replace(",", "")) >= CASES
        assert server.metric("jaxpaged:engine_restarts_total") == 0
        again = server.request("/v1/completions", {"prompt": "def f", "max_tokens": 8, "temperature": 0})[1]["choices"]
        assert again == text
        assert not [line for line in server.lines if "Traceback" in line]
        fives = [
            line
            for line in server.request("/metrics")[1].splitlines()
            if line.startswith("jaxpaged:http_requests_total")
            and re.search(r'status="5', line)
            and "/health" not in line
        ]
        assert not fives, json.dumps(fives)
