"""An engine with no server, in a process of its own: serves a trace whenever it is told to, and says how fast.

`python tests/offline_engine.py MODEL TRACE MAX_NUM_SEQS DTYPE`: says "ready", then reads a line and answers it with
output tokens a second, again and again.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from jaxpaged.bench.throughput import serve
from jaxpaged.bench.trace import read_trace
from jaxpaged.config import EngineConfig
from jaxpaged.engine import LLMEngine

ROOT = Path(__file__).parents[1]


@contextmanager
def offline_engine(model: Path, trace: Path, *, max_num_seqs: int, dtype: str) -> Iterator[Callable[[], float]]:
    """A function that serves the trace and returns output tokens a second."""
    command = [sys.executable, __file__, str(model), str(trace), str(max_num_seqs), dtype]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        reading, writing = child.stdout, child.stdin

        def measured() -> float:
            print(file=writing, flush=True)
            return float(reading.readline())

        try:
            assert reading.readline() == "ready\n"
            yield measured
        finally:
            child.kill()


def main() -> None:
    model, trace, max_num_seqs, dtype = sys.argv[1:]
    config = EngineConfig(
        model=model, max_num_seqs=int(max_num_seqs), dtype=cast("Any", dtype), enable_prefix_caching=False
    )
    engine, requests = LLMEngine(config), read_trace(Path(trace))
    print("ready", flush=True)
    for _ in sys.stdin:
        quiet = {"disable": True}
        row = serve(engine, requests, progress=quiet, max_concurrency=None, clock=time.perf_counter, sleep=time.sleep)
        print(row["out_tok_s"], flush=True)


if __name__ == "__main__":
    main()
