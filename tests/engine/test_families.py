"""Every family through the whole engine, batched, chunked, with prefix hits: 64 greedy tokens as transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from greedy_oracle import ties_of
from hf_zoo import CASES, make_folder

from jaxpaged.llm import LLM
from jaxpaged.request import SamplingParams
from jaxpaged.tiny import TINY_MODEL

OUTPUT = 64


@pytest.mark.parametrize("name", CASES)
def test_greedy_tokens_equal_transformers(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    oracle = make_folder(tmp_path, case)
    rng = np.random.default_rng(4)
    vocab = case.config["vocab_size"]
    shared = rng.integers(0, vocab, 40).tolist()
    # longer than a step, longer than the windows, a common beginning, and a prompt of one token
    prompts = [rng.integers(0, vocab, length).tolist() for length in (200, 33, 1)]
    prompts += [shared + rng.integers(0, vocab, length).tolist() for length in (90, 25)]
    llm = LLM(
        model=str(tmp_path),
        tokenizer=str(TINY_MODEL),  # token ids go in and out; only the text is meaningless
        dtype="float32",
        max_model_len=320,
        max_num_seqs=4,
        max_num_batched_tokens=128,
        block_size=16,
        compile_cache="off",
        warmup=False,
    )
    params = SamplingParams(temperature=0.0, max_tokens=OUTPUT, ignore_eos=True)
    outputs = llm.generate(prompts, params, use_tqdm=False)
    tokens = [output.outputs[0].token_ids for output in outputs]
    assert {len(ids) for ids in tokens} == {OUTPUT}
    ties = ties_of(oracle, prompts, tokens)
    assert llm.engine.metrics.cached_tokens >= 32, "the common beginning must come from the prefix cache"
    assert len(ties) <= 1, ties


def test_experts_through_the_pallas_kernels_give_the_same_tokens(tmp_path: Path) -> None:
    """Writer, attention and experts, interpreted: a chunked prompt beside decodes, the same tokens as the CPU path."""
    make_folder(tmp_path, CASES["mixtral"])
    rng = np.random.default_rng(5)
    prompts = [rng.integers(0, 211, length).tolist() for length in (90, 21, 1)]
    params = SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True)
    results = []
    for backend in ("xla", "triton"):
        llm = LLM(
            model=str(tmp_path),
            tokenizer=str(TINY_MODEL),
            dtype="float32",
            max_model_len=128,
            max_num_seqs=4,
            max_num_batched_tokens=80,
            attention_backend=backend,
            block_size=16,
            compile_cache="off",
            warmup=False,
        )
        results.append([output.outputs[0].token_ids for output in llm.generate(prompts, params, use_tqdm=False)])
    assert [len(tokens) for tokens in results[0]] == [12, 12, 12]
    assert results[0] == results[1]
