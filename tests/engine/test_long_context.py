"""Contexts far beyond a window of 4,096 tokens: small random models of 20,000 tokens, against transformers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from families.case import Case
from families.folder import make_folder
from step_recorder import record

from jaxpaged.config import EngineConfig
from jaxpaged.demand import spanned
from jaxpaged.engine import LLMEngine
from jaxpaged.plan import StepPlan
from jaxpaged.request import SamplingParams
from jaxpaged.tiny import TINY_MODEL

WINDOW = 4096
LENGTH = 20_000
STEP, BLOCK = 512, 64
OUTPUT = 16
RELATIVE = 1e-4

_SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 211,
    "max_position_embeddings": 32_768,
    "pad_token_id": None,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_EXPERTS: dict[str, Any] = {"num_local_experts": 8, "num_experts_per_tok": 2}
CASES = {
    "mistral": Case(name="mistral", architecture="MistralForCausalLM", config=_SIZES | {"sliding_window": WINDOW}),
    "mixtral": Case(
        name="mixtral", architecture="MixtralForCausalLM", config=_SIZES | _EXPERTS | {"sliding_window": None}
    ),
    "mixtral_window": Case(
        name="mixtral_window", architecture="MixtralForCausalLM", config=_SIZES | _EXPERTS | {"sliding_window": WINDOW}
    ),
}


def engine_of(folder: Path, *, longest: int, blocks: int | None = None) -> LLMEngine:
    return LLMEngine(
        EngineConfig(
            model=str(folder),
            tokenizer=str(TINY_MODEL),
            dtype="float32",
            max_model_len=longest,
            max_num_seqs=8,
            max_num_batched_tokens=STEP,
            num_gpu_blocks_override=blocks or longest // BLOCK + 2,
            block_size=BLOCK,
            attention_backend="xla",
            compile_cache="off",
            warmup=False,
        )
    )


def greedy_logits(engine: LLMEngine, prompt: list[int], count: int) -> np.ndarray:
    """f32[count, V]: what the engine draws its first tokens from, the prompt computed in chunks."""
    seen = record(engine, {"p": prompt}, count=count, rows=1, tokens=512, gap=0)
    return np.stack([np.frombuffer(seen["p", len(prompt) + i], np.float32) for i in range(count)])


@pytest.mark.long
@pytest.mark.timeout(600)  # 20 s each on two idle cores
@pytest.mark.parametrize(
    "name",
    [
        "mistral",
        "mixtral",
        pytest.param("mixtral_window", marks=pytest.mark.slow),
    ],
)  # each part of the last is in one of the others, and the first one's tokens are in the next test
def test_20_000_tokens_as_transformers(name: str, tmp_path: Path) -> None:
    import torch

    oracle = make_folder(tmp_path, CASES[name])
    oracle.set_attn_implementation("sdpa")  # eager would hold f32[heads, 20k, 20k]
    prompt = np.random.default_rng(6).integers(0, 211, LENGTH).tolist()
    ours = greedy_logits(engine_of(tmp_path, longest=LENGTH + 64), prompt, OUTPUT)
    tokens = np.argmax(ours, axis=1).tolist()
    with torch.inference_mode():
        ids = torch.tensor([[*prompt, *tokens[:-1]]])
        theirs = oracle(input_ids=ids, logits_to_keep=OUTPUT).logits[0].numpy()
    error = float(np.max(np.abs(ours - theirs)) / np.max(np.abs(theirs)))
    print(f"{name}: relative error {error:.2e}")
    assert error < RELATIVE
    assert np.argmax(theirs, axis=1).tolist() == tokens


@pytest.mark.long
@pytest.mark.timeout(600)  # 20 s each on two idle cores
@pytest.mark.parametrize(("name", "length"), [("mistral", LENGTH), ("mixtral_window", 12_000)])
def test_the_window_bounds_the_blocks_that_a_context_holds(name: str, length: int, tmp_path: Path) -> None:
    """The whole engine, in a pool that the context would outgrow without its window: the greedy tokens of
    transformers, never more blocks than I-WINDOW allows, and the next request finds what the window holds.
    """
    import torch

    oracle = make_folder(tmp_path, CASES[name])
    oracle.set_attn_implementation("sdpa")
    prompt = np.random.default_rng(6).integers(0, 211, length).tolist()
    while_prompting, answering = spanned(WINDOW - 1 + STEP, BLOCK), spanned(WINDOW, BLOCK)
    assert (while_prompting, answering) == (73, 65)  # ceil((4096 - 1 + c) / 64) + 1 and ceil(4096 / 64) + 1
    engine = engine_of(tmp_path, longest=length + 64, blocks=1 + while_prompting)
    engine.submit(prompt, SamplingParams(temperature=0.0, max_tokens=OUTPUT, ignore_eos=True))
    (request,) = engine.scheduler.roster.requests.values()
    held: list[int] = []
    launch, pool, tokens = engine.scheduler.launch, engine.scheduler._cache.pool, ()

    def watched(plan: StepPlan) -> None:
        held.append(pool.num_referenced)  # with the blocks of the step that is about to run: the most
        launch(plan)

    engine.scheduler.launch = watched  # pyright: ignore[reportAttributeAccessIssue]
    while engine.has_unfinished:
        for output in engine.step():
            tokens = output.outputs[0].token_ids
        engine.scheduler.check()
        if request.block_ids and request.num_committed > length:
            assert pool.num_referenced <= answering
    peak = max(held)
    assert peak <= while_prompting
    unbounded = -(-(length + OUTPUT - 1) // BLOCK)
    print(f"{name}: {length:,} tokens held {peak} blocks of {BLOCK} at most; {unbounded} without the window's bound")
    assert engine.metrics.preemptions == 0
    with torch.inference_mode():
        ids = torch.tensor([[*prompt, *tokens[:-1]]])
        theirs = oracle(input_ids=ids, logits_to_keep=OUTPUT).logits[0].numpy()
    assert np.argmax(theirs, axis=1).tolist() == list(tokens)
    # the same prompt again: what the window holds of it is cached, and nothing else is needed
    again = engine.submit(prompt, SamplingParams(temperature=0.0, max_tokens=OUTPUT, ignore_eos=True))
    cached, other = 0, ()
    while engine.has_unfinished:
        for output in engine.step():
            assert output.request_id == again
            other, cached = output.outputs[0].token_ids, output.num_cached_tokens
    assert (other, cached) == (tokens, (length - 1) // BLOCK * BLOCK)


@pytest.mark.parametrize("layers", [1, 2])
def test_the_window_is_4096_tokens(layers: int, tmp_path: Path) -> None:
    """Of the last place, one layer sees 4,095 tokens back, two see twice as far."""
    case = replace(CASES["mistral"], config={**CASES["mistral"].config, "num_hidden_layers": layers})
    make_folder(tmp_path, case)
    prompt = np.random.default_rng(7).integers(0, 211, 9000).tolist()
    engine = engine_of(tmp_path, longest=9088)
    before = greedy_logits(engine, prompt, 1)
    last = len(prompt) - 1
    farthest = last - layers * (WINDOW - 1)
    for changed, same in ((farthest - 1, True), (last - (WINDOW - 1), False)):
        other = list(prompt)
        other[changed] = (other[changed] + 1) % 211
        after = greedy_logits(engine, other, 1)
        assert np.array_equal(before, after) == same, f"token {changed}"
