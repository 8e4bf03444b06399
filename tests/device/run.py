"""All that a machine with a GPU can tell, in one command and ten minutes: `python tests/device/run.py --output DIR`.

Each part is a process of its own with a time limit, so that one failure loses one part. Parts print what they do; rows
of JSON come to DIR/PART.jsonl, those of the tests to DIR/tests.xml, what they mean to DIR/summary.jsonl and, as a
table, to stdout: eight files at most. --quick runs the same parts at small shapes on any machine; on a CPU no row is
judged.

Needs no network, and these packages beside jax with a GPU plugin:

    every part    flax (0.12.10 or newer beside jax 0.11), jinja2, llguidance, numpy, safetensors,
                  tokenizers, tqdm
    tests         pytest
    server        aiohttp, msgspec, prometheus_client, tyro, yaml; uvloop if it is there
    transformers  torch, transformers

Where there is no package index, wheels of the missing ones are brought along, as `pip download --no-deps
--only-binary=:all: --python-version 3.12 --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64` gets them.
PYTHONPATH may name the folder that they are installed in.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from goals import GOALS
from summary import judged

ROOT = Path(__file__).parents[2]
PARTS = {
    "kernels": 120,  # cases with goals first: what is cut off is the rest
    "engine": 185,  # E4 and E9 come last
    "tests": 80,
    "start": 45,  # its programs are in the cache
    "server": 80,  # a row after each round
    "transformers": 60,  # a row after each run; its engine's programs may be in the cache since the part before
    "scan": 20,  # no goal asks for it
}
"""Seconds that each part has for itself, in the order of what is wanted most. What it leaves the next ones may take."""
TOTAL_S = 590
LAST_S = 5
"""Before its limit a part is interrupted, and may write what it has."""
NEEDED = ("jax", "flax", "jinja2", "llguidance", "numpy", "safetensors", "tokenizers", "tqdm")
NEEDED_BY = {
    "tests": ("pytest",),
    "server": ("aiohttp", "msgspec", "prometheus_client", "tyro", "yaml"),
    "transformers": ("torch", "transformers"),
}
QUICK_TESTS = "linear or top_k or write_kv"


def main() -> int:
    """Run the parts, write the summary; returns 0 unless a floor was not kept."""
    arguments = _arguments()
    if missing := _missing(NEEDED):
        sys.exit(f"packages are missing: {missing}")
    folder = Path(arguments.output)
    folder.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("asked to stop"))  # a part is in a process group of its own
    deadline_s = time.monotonic() + TOTAL_S
    failures = {}
    names = list(arguments.parts or PARTS)
    for number, name in enumerate(names):
        left_s = allowed_s(deadline_s - time.monotonic(), names[number + 1 :])
        if missing := _missing(NEEDED_BY.get(name, ())):
            said = f"packages are missing: {missing}"
        elif left_s < 2 * LAST_S:
            said = "no time left"
        else:
            said = _run(name, folder, quick=arguments.quick, limit_s=left_s)
        if said:
            failures[name] = said
        print(f"=== {name}: {said or 'done'}", flush=True)
    rows = {path.stem: _read(path) for path in sorted(folder.glob("*.jsonl")) if path.stem in PARTS}
    summary = judged(rows, failures)
    (folder / "summary.jsonl").write_text("".join(json.dumps(row) + "\n" for row in summary))
    _show(summary, rows)
    return int(any(row["kept"] is False for row in summary))


def allowed_s(left_s: float, later: Sequence[str]) -> float:
    """Seconds for a part where so many are left of all: the parts after it keep theirs."""
    return left_s - sum(PARTS[name] for name in later)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    out = os.environ.get("OUT")
    parser.add_argument("--output", default=out, required=out is None, help="folder of the rows (default: $OUT)")
    parser.add_argument("--quick", action="store_true", help="small shapes, for any machine")
    parser.add_argument("--parts", nargs="+", choices=PARTS, help="only these")
    return parser.parse_args()


def _missing(packages: Sequence[str]) -> str:
    return ", ".join(name for name in packages if find_spec(name) is None)


def _run(name: str, folder: Path, *, quick: bool, limit_s: float) -> str:
    """Run a part; returns what went wrong, "" for nothing."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "server"), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "JAX_PLATFORMS": os.environ.get("JAX_PLATFORMS", ""),  # set, or the tests would choose the CPU
        "PYTHONUNBUFFERED": "1",
        "XDG_CACHE_HOME": str(Path(tempfile.gettempdir()) / "jaxpaged-device-cache"),
    }
    part = (folder / ("tests.xml" if name == "tests" else f"{name}.jsonl")).absolute()
    part.unlink(missing_ok=True)
    if name == "tests":
        command = [sys.executable, "-m", "pytest", "-m", "gpu", "-v", "-W", "default", "-p", "no:cacheprovider"]
        command += ["-o", "addopts=--import-mode=importlib"]  # the project's own need pytest-xdist
        command += ["tests/device", f"--junitxml={part}"]
        command += ["-k", QUICK_TESTS] if quick else []
    else:
        command = [sys.executable, str(Path(__file__).with_name("parts.py")), name, str(part)]
        command += ["--quick"] if quick else []
    print(f"=== {name}: at most {limit_s:.0f} s", flush=True)
    began_s = time.monotonic()
    status = _limited(command, environment, limit_s)
    spent_s = round(time.monotonic() - began_s, 1)
    if spent_s >= limit_s - LAST_S:
        return f"stopped after {spent_s} s"
    return f"ended with status {status} after {spent_s} s" if status else ""


def _limited(command: Sequence[str], environment: dict[str, str], limit_s: float) -> int:
    """The status of a command that is interrupted shortly before its limit, and killed at it.

    Whatever happens, all that it has started ends with it: a server that went on would keep its share of the GPU.
    """
    with subprocess.Popen(command, cwd=ROOT, env=environment, process_group=0) as running:
        try:
            return running.wait(limit_s - LAST_S)
        except subprocess.TimeoutExpired:
            running.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                return running.wait(LAST_S)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(running.pid, signal.SIGKILL)
        return running.wait()


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def _show(summary: list[dict[str, Any]], rows: dict[str, list[dict[str, Any]]]) -> None:
    device = next((row["device"] for part in rows.values() for row in part if "device" in row), "nothing ran")
    print(f"\n{device}")
    for row in summary:
        goal = GOALS[row["id"]]
        value = "unmeasured" if row["value"] is None else f"{row['value']:.4g}"
        state = {True: "reached", False: "kept" if row["kept"] is not False else "BELOW THE FLOOR", None: ""}
        told = row.get("why") or state[row["reached"]]
        print(f"{row['id']:>4}  {value:>10}  floor {goal.floor!s:>5}  goal {goal.goal!s:>5}  {goal.what}  {told}")


if __name__ == "__main__":
    sys.exit(main())
