"""All that a machine with a GPU can tell, in one command and ten minutes: `python tests/device/run.py --output DIR`.

Each part is a process of its own with a time limit, so that one failure loses one part. Parts print what they do; rows
of JSON come to DIR/PART.jsonl, what they mean to DIR/summary.jsonl and, as a table, to stdout. Needs jax with a GPU
plugin, flax, numpy, safetensors, tokenizers and tqdm, no command-line packages and no network; torch and transformers
for one part. --quick runs the same parts at small shapes on any machine; on a CPU no row is judged.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from goals import GOALS
from summary import judged

ROOT = Path(__file__).parents[2]
PARTS = {
    "kernels": 150,
    "engine": 190,
    "tests": 100,
    "start": 45,
    "transformers": 75,
    "scan": 25,
}
"""Seconds that each part may take, in the order of what is wanted most."""
TOTAL_S = 590
QUICK_TESTS = "summary or linear or compiled"


def main() -> int:
    """Run the parts, write the summary; returns 0 unless a floor was not kept."""
    arguments = _arguments()
    folder = Path(arguments.output)
    folder.mkdir(parents=True, exist_ok=True)
    deadline_s = time.monotonic() + TOTAL_S
    failures = {}
    for name in arguments.parts or PARTS:
        left_s = min(PARTS[name], deadline_s - time.monotonic())
        said = "no time left" if left_s < 5 else _run(name, folder, quick=arguments.quick, limit_s=left_s)
        if said:
            failures[name] = said
        print(f"=== {name}: {said or 'done'}", flush=True)
    rows = {path.stem: _read(path) for path in sorted(folder.glob("*.jsonl")) if path.stem in PARTS}
    summary = judged(rows, failures)
    (folder / "summary.jsonl").write_text("".join(json.dumps(row) + "\n" for row in summary))
    _show(summary, rows)
    return int(any(row["kept"] is False for row in summary))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    out = os.environ.get("OUT")
    parser.add_argument("--output", default=out, required=out is None, help="folder of the rows (default: $OUT)")
    parser.add_argument("--quick", action="store_true", help="small shapes, for any machine")
    parser.add_argument("--parts", nargs="+", choices=PARTS, help="only these")
    return parser.parse_args()


def _run(name: str, folder: Path, *, quick: bool, limit_s: float) -> str:
    """Run a part; returns what went wrong, "" for nothing."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "server"), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "JAX_PLATFORMS": os.environ.get("JAX_PLATFORMS", ""),  # set, or the tests would choose the CPU
        "PYTHONUNBUFFERED": "1",
        "XDG_CACHE_HOME": str(Path(tempfile.gettempdir()) / "jaxpaged-device-cache"),
    }
    part = folder / f"{name}.jsonl"
    part.unlink(missing_ok=True)
    if name == "tests":
        command = [sys.executable, "-m", "pytest", "-m", "gpu", "-n0", "-q", "-W", "default", "-p", "no:cacheprovider"]
        command += ["tests/device", f"--junitxml={folder / 'tests.xml'}"]
        command += ["-k", QUICK_TESTS] if quick else []
    else:
        command = [sys.executable, str(Path(__file__).with_name("parts.py")), name, str(part)]
        command += ["--quick"] if quick else []
    print(f"=== {name}: at most {limit_s:.0f} s", flush=True)
    began_s = time.monotonic()
    try:
        done = subprocess.run(command, cwd=ROOT, env=environment, timeout=limit_s, check=False)
    except subprocess.TimeoutExpired:
        return f"stopped after {limit_s:.0f} s"
    spent_s = round(time.monotonic() - began_s, 1)
    if name == "tests":
        part.write_text(json.dumps({"part": name, "status": done.returncode, "spent_s": spent_s}) + "\n")
    return f"ended with status {done.returncode} after {spent_s} s" if done.returncode else ""


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
