"""Three cases of the zoo through the whole engine, one of them on XLA's path too: the rest is in tests/families."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from families.engine_run import OUTPUT
from families.evidence import BFLOAT16, TOLERANCE, Evidence
from families.folder import make_folder
from families.zoo import CASES
from native_backend import need

from jaxpaged.llm import LLM
from jaxpaged.request import SamplingParams
from jaxpaged.tiny import TINY_MODEL
from pallas_kernels.backend import Backend

QUICK = ("llama_biased", "qwen3", "mixtral_window")
"""Biases and an old config; norms of queries and keys and a yarn rope; experts and a window."""


@pytest.fixture(scope="module", params=QUICK)
def evidence(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    cache = tmp_path_factory.getbasetemp() / "families-cache"
    return Evidence(CASES[request.param], tmp_path_factory.mktemp(request.param), cache=cache)


@pytest.mark.parametrize(
    ("evidence", "backend"), [*((name, "native") for name in QUICK), (QUICK[-1], "xla")], indirect=["evidence"]
)
def test_greedy_tokens_and_logits_equal_transformers(evidence: Evidence, backend: str) -> None:
    need(backend)
    run, greedy = evidence.run(backend), evidence.greedy(backend)
    assert {len(tokens) for tokens in run.tokens} == {OUTPUT}
    assert greedy.wrong == ()
    assert len(greedy.ties) <= 1, greedy.ties
    assert greedy.error < TOLERANCE
    assert run.cached >= 32, "the common beginning must come from the prefix cache"


def test_the_reference_computes_the_logits_of_transformers(evidence: Evidence) -> None:
    assert evidence.paged_error(Backend.REFERENCE, block_size=16) < TOLERANCE


def test_bfloat16_stays_near(evidence: Evidence) -> None:
    assert evidence.bfloat16_error < BFLOAT16[evidence.case.has_experts]


@pytest.mark.long
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
