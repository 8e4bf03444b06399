"""Check that the command line starts fast: `startup.py JAXPAGED`, the path of the console script."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

MAX_SECONDS = 0.3
RUNS = 5


def seconds(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def main(script: str) -> None:
    seconds([script, "--help"])  # the first one writes the bytecode
    median = statistics.median(seconds([script, "--help"]) for _ in range(RUNS))
    print(f"jaxpaged --help: {median:.3f} s (median of {RUNS}), at most {MAX_SECONDS} s")
    if median >= MAX_SECONDS:
        raise SystemExit(1)


if __name__ == "__main__":
    main(sys.argv[1])
