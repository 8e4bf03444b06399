"""A KV cache in 8 bits gives the same tokens on every backend."""

from __future__ import annotations

from typing import Any

import pytest

from jaxpaged.llm import LLM
from jaxpaged.request import SamplingParams
from pallas_kernels.native.library import library

PROMPTS = ["import os\n", "def read(path):\n    with open(path) as file:\n        return ", "class Queue:\n" * 8]
GREEDY = SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True)


def tokens(backend: str, kv_cache_dtype: str) -> list[Any]:
    llm = LLM(
        attention_backend=backend,
        kv_cache_dtype=kv_cache_dtype,
        dtype="float32",
        block_size=16,
        max_model_len=96,
        max_num_seqs=4,
        max_num_batched_tokens=128,
        compile_cache="off",
        warmup=False,
    )
    outputs = [output.outputs[0].token_ids for output in llm.generate(PROMPTS, GREEDY, use_tqdm=False)]
    assert llm.engine.config.kv_cache_dtype == llm.engine.runner.pool[0].dtype
    return outputs


LATER = [pytest.param(name, marks=pytest.mark.long) for name in ("bf16", "fp8")]
"""What is stored, and how it is read, is every backend's as with int8; the kernels' tests have all of them."""


@pytest.mark.parametrize("kv_cache_dtype", ["int8", *LATER])
def test_backends_give_the_same_tokens(kv_cache_dtype: str) -> None:
    wanted = tokens("reference", kv_cache_dtype)
    assert tokens("xla", kv_cache_dtype) == wanted
    if not library().obstacle:
        assert tokens("native", kv_cache_dtype) == wanted
    if (
        kv_cache_dtype == "int8"
    ):  # bfloat16 has a test of its own, of 50 prompts; fp8 differs in the kernels' tests alone
        assert tokens("triton", kv_cache_dtype) == wanted
