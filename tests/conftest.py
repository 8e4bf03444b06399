"""Strict JAX, one thread for the oracle, the longest files first, one folder of compiled programs for a run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from inherited import PROGRAMS

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["JAX_NUMPY_DTYPE_PROMOTION"] = "strict"
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
# torch's, which the oracle alone uses: its waiting threads spin, and two workers have no cores to spare for that
os.environ.setdefault("OMP_NUM_THREADS", "1")

LONGEST_FIRST = (
    *("engine/test_same.py", "engine/test_kv_dtype.py", "engine/test_compile.py", "engine/test_bundled.py"),
    *("cli/test_real.py", "kernels/test_write_kv_passes.py", "kernels/test_ragged_attention.py"),
    *("models/test_decoder.py", "engine/test_memory.py", "engine/test_quantization.py", "engine/test_forks.py"),
    *("engine/test_bits.py", "engine/test_families.py", "host/test_scheduler_machine.py", "server/test_bench_serve.py"),
    *("kernels/test_attention_parity.py", "kernels/test_ragged_attention_triton.py", "kernels/test_mlp.py"),
    *("kernels/test_grouped_matmul.py", "kernels/test_attention_rope.py", "cli/test_doctor.py"),
    *("engine/test_sampler.py", "engine/test_prompt_logprobs.py", "engine/test_slow_forms.py"),
    *("docker/test_entrypoint.py", "engine/test_bundle.py", "engine/test_accuracy.py", "engine/test_async_engine.py"),
)
"""So that both workers are busy to the end. What compiles the same programs is kept apart in time: test_same and
test_forks; test_compile, test_bundled and test_bits."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ranks = {Path(__file__).parent / name: rank for rank, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))


@pytest.hookimpl(trylast=True)  # pytest's own folder is known by then, and nothing has imported JAX
def pytest_configure(config: pytest.Config) -> None:
    """What engines of the same shapes need is compiled once: a worker has the folder of the process that started it."""
    if PROGRAMS not in os.environ:
        made = config._tmp_path_factory.mktemp("programs")  # pyright: ignore[reportAttributeAccessIssue]
        os.environ[PROGRAMS] = str(made)
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
