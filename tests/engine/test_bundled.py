"""The bundled model through the whole engine, against transformers on the same folder."""

from __future__ import annotations

import json
import lzma
import random
import re
from typing import Any

import pytest
from greedy_oracle import ties_of

from jaxpaged.config import EngineConfig
from jaxpaged.engine import LLMEngine
from jaxpaged.llm import LLM
from jaxpaged.request import SamplingParams
from jaxpaged.tiny import TINY_MODEL
from jaxpaged.tiny.corpus import read_corpus

PROMPTS = 200
OUTPUT = 64


@pytest.fixture(scope="module")
def oracle() -> Any:
    transformers = pytest.importorskip("transformers")
    import torch

    return transformers.AutoModelForCausalLM.from_pretrained(TINY_MODEL, dtype=torch.float32).eval()


def held_out_prompts(engine: LLMEngine, count: int, seed: int, longest: int) -> list[list[int]]:
    """Pieces of held-out files; every fourth begins like another one, so that the prefix cache is in play."""
    rng = random.Random(seed)
    text = engine.tokenizer.encode("".join(read_corpus().held_out)[:300_000])
    prompts: list[list[int]] = []
    for i in range(count):
        length = rng.randint(2, longest)
        start = rng.randrange(len(text) - length)
        prompt = text[start : start + length]
        if i % 4 == 3:
            prompt = (prompts[rng.randrange(len(prompts))] + prompt)[:longest]
        prompts.append(prompt)
    return prompts


def test_greedy_tokens_equal_transformers(oracle: Any) -> None:
    llm = LLM(
        dtype="float32",
        max_model_len=512,
        max_num_seqs=16,
        max_num_batched_tokens=256,
        num_gpu_blocks_override=129,  # fewer than all prompts fill, so that cached ones are evicted
        compile_cache="off",
    )
    prompts = held_out_prompts(llm.engine, PROMPTS, seed=1, longest=250)
    params = SamplingParams(temperature=0.0, max_tokens=OUTPUT, ignore_eos=True)
    outputs = llm.generate(prompts, params, use_tqdm=False)
    tokens = [output.outputs[0].token_ids for output in outputs]
    assert {len(ids) for ids in tokens} == {OUTPUT}
    ties = ties_of(oracle, prompts, tokens)
    metrics = llm.engine.metrics
    assert metrics.cached_tokens > 0
    assert metrics.compiles_after_ready == 0
    print(f"{PROMPTS} prompts x {OUTPUT} tokens equal; {metrics.cached_tokens} prompt tokens cached; ties: {ties}")
    assert len(ties) <= 5


@pytest.mark.long
def test_pallas_kernels_give_the_same_tokens() -> None:
    """The kernels that GPUs run, interpreted: 50 prompts, the same tokens as the CPU path."""
    params = SamplingParams(temperature=0.0, max_tokens=5, ignore_eos=True)
    options = {"dtype": "float32", "max_model_len": 96, "max_num_seqs": 8, "max_num_batched_tokens": 128}
    results = []
    for backend in ("xla", "triton"):
        llm = LLM(attention_backend=backend, block_size=16, compile_cache="off", **options)
        prompts = held_out_prompts(llm.engine, 50, seed=2, longest=60)
        results.append([output.outputs[0].token_ids for output in llm.generate(prompts, params, use_tqdm=False)])
    assert results[0] == results[1]


def test_the_model_has_learned_more_than_a_compressor() -> None:
    """The card's figures: held-out bits per byte below xz -9 of the same bytes."""
    card = (TINY_MODEL / "MODEL_CARD.md").read_text()
    report = json.loads((TINY_MODEL / "report.json").read_text())
    assert report["held_out_bits_per_byte"] < report["xz_9_bits_per_byte"]
    for key in ("held_out_bits_per_byte", "xz_9_bits_per_byte"):
        assert re.search(rf"\b{report[key]}\b", card), f"the card does not say {key}"


def test_learned_bits_per_byte_now(oracle: Any) -> None:
    """Score 60 kB of held-out text here and now, against xz of the same 60 kB with its own small dictionary."""
    import torch
    from tokenizers import Tokenizer

    raw = read_corpus().held_out_bytes[:60_000]
    ids = Tokenizer.from_file(str(TINY_MODEL / "tokenizer.json")).encode(raw.decode(errors="ignore")).ids
    nats = 0.0
    with torch.inference_mode():
        for start in range(0, len(ids) - 1, 512):
            window = torch.tensor([ids[start : start + 513]])
            logits = oracle(input_ids=window[:, :-1]).logits[0]
            nats += float(torch.nn.functional.cross_entropy(logits, window[0, 1:], reduction="sum"))
    bits_per_byte = nats / 0.6931471805599453 / len(raw)
    assert bits_per_byte < len(lzma.compress(raw, preset=9)) * 8 / len(raw)


def test_seeded_outputs_repeat() -> None:
    llm = LLM(
        max_model_len=512,
        max_num_seqs=8,
        max_num_batched_tokens=128,
        num_gpu_blocks_override=80,
        compile_cache="off",
        warmup=False,
    )
    params = SamplingParams(temperature=1.0, seed=1234, max_tokens=24, ignore_eos=True)
    first = llm.generate(["import os\n", "class A:"], params, use_tqdm=False)
    again = llm.generate(["class A:", "import os\n", "x = 1"], params, use_tqdm=False)
    assert first[0].outputs[0].token_ids == again[1].outputs[0].token_ids
    assert first[1].outputs[0].token_ids == again[0].outputs[0].token_ids
    assert first[0].outputs[0].text == llm.engine.tokenizer.decode(list(first[0].outputs[0].token_ids))
    assert LLMEngine(EngineConfig(warmup=False, compile_cache="off")).config.model == TINY_MODEL
