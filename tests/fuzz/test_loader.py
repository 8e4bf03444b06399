"""20,000 generated model folders: nothing is raised but the errors of `jaxpaged.errors`, no case takes 5 s of CPU time,
and no kind of file makes a process a GiB larger."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.fuzz, pytest.mark.timeout(600)]
ROOT = Path(__file__).parents[2]
CASES = {"headers": 5000, "indexes": 2000, "configs": 5000, "tokenizers": 6000, "tokenizerconfigs": 2500, "gguf": 800}
CASES |= {"tekken": 300, "tiktoken": 300, "vocabmerges": 300, "pieces": 300}
MOST_BYTES = 2**30


def test_there_are_as_many_cases_as_promised() -> None:
    assert sum(CASES.values()) >= 20_000


@pytest.mark.parametrize("kind", [*CASES, "large"])
def test_strangers_files_are_read_or_refused(kind: str) -> None:
    if kind == "pieces":
        pytest.importorskip("sentencepiece")
    command = [sys.executable, "-m", "fuzz.loader_child", kind, str(CASES.get(kind, 0))]
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "server", ROOT / "tests")))
    # a panic of a library is expected here, and its thread's stack is not worth a line
    env = os.environ | {"PYTHONPATH": paths, "JAX_PLATFORMS": "cpu", "RUST_BACKTRACE": "0"}
    ran = subprocess.run(command, env=env, capture_output=True, text=True, timeout=500, check=False)
    assert ran.returncode == 0, f"{ran.returncode}: {ran.stdout[-2000:]}\n{ran.stderr[-8000:]}"
    told = json.loads(ran.stdout.splitlines()[-1])
    print(kind, told)
    outcomes = told["outcomes"]
    cases = CASES.get(kind, 10)
    assert sum(outcomes.values()) >= cases
    assert outcomes["read"] > 0, "nothing right is among them: the cases say little"
    assert len(outcomes) > 1, "nothing wrong is among them"
    assert told["grown_bytes"] < MOST_BYTES
