"""The engine on a real GPU: the same tokens by the kernels and by the reference, whatever runs beside a request."""

from __future__ import annotations

import pytest

from jaxpaged.config import EngineConfig
from jaxpaged.engine import LLMEngine
from jaxpaged.request import RequestOutput, SamplingParams

pytestmark = pytest.mark.gpu

PROMPTS = ["import os\n", "def add(a, b):\n", "class Stack:\n    def", "for line in"]
ANSWER = SamplingParams(temperature=0, max_tokens=24, ignore_eos=True, logprobs=2)
BETWEEN_TIES = 1e-3


def engine(backend: str) -> LLMEngine:
    return LLMEngine(
        EngineConfig(
            dtype="float32",
            attention_backend=backend,  # pyright: ignore[reportArgumentType]
            max_model_len=256,
            max_num_seqs=4,
            max_num_batched_tokens=68,
            enable_prefix_caching=False,
            num_gpu_blocks_override=256,
        )
    )


@pytest.fixture(scope="module")
def triton() -> LLMEngine:
    return engine("triton")


def serve(engine: LLMEngine, prompts: list[str]) -> list[RequestOutput]:
    ids = [engine.submit(prompt, ANSWER) for prompt in prompts]
    last: dict[str, RequestOutput] = {}
    while engine.has_unfinished:
        last |= {output.request_id: output for output in engine.step()}
    return [last[request_id] for request_id in ids]


def test_nothing_is_compiled_after_ready(triton: LLMEngine) -> None:
    serve(triton, PROMPTS * 3)  # first of the tests: later ones compile things of their own
    assert triton.metrics.compiles_after_ready == 0


def test_kernels_and_reference_give_the_same_greedy_tokens(triton: LLMEngine) -> None:
    for ours, wanted in zip(serve(triton, PROMPTS), serve(engine("reference"), PROMPTS), strict=True):
        for position, token in enumerate(wanted.outputs[0].token_ids):
            if ours.outputs[0].token_ids[position] == token:
                continue
            chances = [p.logprob for p in (wanted.outputs[0].logprobs or ())[position].values()]
            assert max(chances) - sorted(chances)[-2] < BETWEEN_TIES, f"another token at {position}, and no tie"
            break  # from here on they are two texts


def test_neighbours_change_no_bit_within_a_bucket(triton: LLMEngine) -> None:
    alone = [serve(triton, [prompt])[0].outputs[0] for prompt in PROMPTS]
    together = [output.outputs[0] for output in serve(triton, PROMPTS)]
    for one, other in zip(alone, together, strict=True):
        assert one.token_ids == other.token_ids
        assert one.logprobs == other.logprobs
