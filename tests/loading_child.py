"""A process of its own that loads a folder and says what that took: loading_child.py FOLDER DTYPE PACKED QUANTIZATION.

The bundled model is loaded first: what imports, compilers and thread pools take is there before it is measured.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path


def status(key: str) -> int:
    """Bytes of VmRSS or VmHWM."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def main() -> None:
    import jax

    from jaxpaged.tiny import TINY_MODEL
    from jaxpaged.weights.load import load_model

    folder, dtype, packed, quantization = sys.argv[1:]
    options = {"dtype": dtype, "packed": packed == "1", "quantization": quantization or None}
    jax.block_until_ready(load_model(TINY_MODEL, **options).leaves)
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again from VmRSS: proc_pid_clear_refs(5)
    began, used = time.perf_counter(), time.process_time()
    leaves = load_model(folder, **options).leaves
    jax.block_until_ready(leaves)
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - used
    held = sum(leaf.nbytes for leaf in leaves)
    peak = status("VmHWM") - before
    print(json.dumps({"peak": peak, "held": held, "seconds": seconds, "cpu_seconds": cpu_seconds}))


if __name__ == "__main__":
    main()
