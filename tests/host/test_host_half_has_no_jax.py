"""The host half is plain Python and numpy: importing it loads nothing of a device."""

from __future__ import annotations

import subprocess
import sys

import pytest

MODULES = (
    *("blocks", "blockmap", "prefix", "buckets", "kvcache", "limits", "scheduler", "batch", "request", "errors"),
    *("drafting", "speculation.speculator"),
    *(
        "assembly",
        "progress",
        "events",
        "scored_tokens",
        "residency",
        "roofline",
        "demand",
        "ledger",
        "models.grouping",
    ),
)


@pytest.mark.parametrize("module", MODULES)
def test_import_brings_no_jax(module: str) -> None:
    program = (
        f"import sys, jaxpaged.{module}; "
        "bad = {'jax', 'jaxlib', 'flax', 'torch', 'transformers', 'pallas_kernels'} & set(sys.modules); "
        "sys.exit(f'brings {sorted(bad)}' if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
