"""A short load by EvalScope's `perf`: all requests are answered, and every figure is there; run by `run.py`."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import TestCase

REQUESTS = 20
OUTPUT_TOKENS = 16
MIN_PROMPT, MAX_PROMPT = 16, 64
TIMEOUT_S = 150
equal = TestCase().assertEqual


def main() -> None:
    """Run it, then read what it wrote."""
    load()
    (folder,) = Path.cwd().glob("out/*/check/parallel_4_number_20")
    check_summary(json.loads((folder / "benchmark_summary.json").read_text()))
    check_percentiles(json.loads((folder / "benchmark_percentile.json").read_text()))
    assert (folder.parent / "perf_report.html").stat().st_size > 10_000


def load() -> None:
    """Random prompts of the bundled model's tokenizer, as streams, four at a time."""
    command = [str(Path(sys.executable).parent / "evalscope"), "perf"]
    command += ["--url", f"{os.environ['OPENAI_BASE_URL']}/completions", "--api", "openai"]
    command += ["--api-key", os.environ["OPENAI_API_KEY"], "--model", os.environ["CHECK_MODEL"]]
    command += ["--parallel", "4", "--number", str(REQUESTS), "--dataset", "random"]
    command += ["--tokenizer-path", os.environ["CHECK_TOKENIZER"], "--prefix-length", "0"]
    command += ["--min-prompt-length", str(MIN_PROMPT), "--max-prompt-length", str(MAX_PROMPT)]
    command += ["--max-tokens", str(OUTPUT_TOKENS), "--extra-args", json.dumps({"ignore_eos": True})]
    command += ["--outputs-dir", "out", "--name", "check"]
    subprocess.run(command, check=True, timeout=TIMEOUT_S)


def check_summary(summary: dict[str, Any]) -> None:
    assert summary["Total Requests"] == summary["Success Requests"] == summary["Stream Requests"] == REQUESTS
    equal(summary["Failed Requests"], 0)
    equal(summary["Avg Output Tokens"], OUTPUT_TOKENS)
    assert MIN_PROMPT <= summary["Avg Input Tokens"] <= MAX_PROMPT
    for name in ("Req Throughput (req/s)", "Output Throughput (tok/s)", "Avg Latency (s)", "Avg TTFT (ms)"):
        assert math.isfinite(summary[name]), name
        assert summary[name] > 0, name
    assert summary["Avg TTFT (ms)"] <= 1000 * summary["Avg Latency (s)"]


def check_percentiles(rows: list[dict[str, Any]]) -> None:
    by_name = {row["Percentiles"]: row for row in rows}
    for percentile in ("50%", "90%", "99%"):
        row = by_name[percentile]
        equal(row["Output tokens"], OUTPUT_TOKENS)
        for name in ("Latency (s)", "TTFT (ms)", "ITL (ms)", "TPOT (ms)"):
            assert math.isfinite(row[name]), (percentile, name)
            assert row[name] >= 0, (percentile, name)
    assert by_name["50%"]["TTFT (ms)"] > 0


if __name__ == "__main__":
    main()
