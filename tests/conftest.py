"""Strict JAX, one thread for the oracle, the longest files first."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["JAX_NUMPY_DTYPE_PROMOTION"] = "strict"
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
# torch's, which the oracle alone uses: its waiting threads spin, and two workers have no cores to spare for that
os.environ.setdefault("OMP_NUM_THREADS", "1")

LONGEST_FIRST = (
    *("engine/test_same.py", "engine/test_bundled.py", "host/test_scheduler_machine.py", "engine/test_families.py"),
    *("engine/test_compile.py", "cli/test_real.py", "engine/test_kv_dtype.py", "engine/test_long_context.py"),
    *("kernels/test_write_kv_triton.py", "kernels/test_attention_parity.py"),
    *("engine/test_bits.py", "engine/test_accuracy.py", "kernels/test_ragged_attention.py", "models/test_decoder.py"),
    *("engine/test_async_engine.py", "kernels/test_ragged_attention_triton.py", "cli/test_doctor.py"),
)
"""So that both workers are busy to the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ranks = {Path(__file__).parent / name: rank for rank, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))
