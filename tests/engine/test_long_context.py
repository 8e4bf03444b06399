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
from jaxpaged.engine import LLMEngine
from jaxpaged.tiny import TINY_MODEL

WINDOW = 4096
LENGTH = 20_000
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


def engine_of(folder: Path, *, longest: int) -> LLMEngine:
    return LLMEngine(
        EngineConfig(
            model=str(folder),
            tokenizer=str(TINY_MODEL),
            dtype="float32",
            max_model_len=longest,
            max_num_seqs=8,
            max_num_batched_tokens=512,
            num_gpu_blocks_override=longest // 64 + 2,
            attention_backend="xla",
            compile_cache="off",
            warmup=False,
        )
    )


def greedy_logits(engine: LLMEngine, prompt: list[int], count: int) -> np.ndarray:
    """f32[count, V]: what the engine draws its first tokens from, the prompt computed in chunks."""
    seen = record(engine, {"p": prompt}, count=count, rows=1, tokens=512, gap=0)
    return np.stack([np.frombuffer(seen["p", len(prompt) + i], np.float32) for i in range(count)])


@pytest.mark.timeout(600)  # 20 s each on two idle cores
@pytest.mark.parametrize(
    "name", ["mistral", "mixtral", pytest.param("mixtral_window", marks=pytest.mark.slow)]
)  # each part of the last is in one of the others
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
