"""What comparisons of this engine with something else have in common: its sizes, the requests, one greedy answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxpaged.bench.trace import Lengths, TraceRequest, random_trace
from jaxpaged.engine import LLMEngine
from jaxpaged.request import SamplingParams

_ROWS, _CONTEXT, _BLOCK = 32, 2048, 16


def engine_options(*, quick: bool) -> dict[str, Any]:
    """Options of `EngineConfig`. The number of blocks is given (every row at the longest context): where it followed
    from the memory that is free, every engine would be other programs, and none would be in the cache of another."""
    if quick:
        sizes = {"max_model_len": 256, "max_num_seqs": 8, "max_num_batched_tokens": 128}
    else:
        sizes = {"max_model_len": _CONTEXT, "max_num_seqs": _ROWS, "max_num_batched_tokens": 2048}
        sizes["num_gpu_blocks_override"] = _ROWS * _CONTEXT // _BLOCK + 1
    return {**sizes, "enable_prefix_caching": False, "warmup": not quick}


def requests(count: int, *, vocab: int, quick: bool) -> list[TraceRequest]:
    """Random prompts, all there from the start, with lengths as conversations have them."""
    inputs = Lengths(mean=10, sigma=0.9, most=40) if quick else Lengths(mean=200, sigma=0.9, most=1024)
    outputs = Lengths(mean=8, sigma=0.7, most=20) if quick else Lengths(mean=150, sigma=0.7, most=512)
    return random_trace(num_requests=count, inputs=inputs, outputs=outputs, rate=0, vocab=vocab, seed=0)


def answer_ids(engine: LLMEngine, request: TraceRequest) -> tuple[int, ...]:
    """The tokens of the engine's answer, of the request's full length."""
    engine.submit(request.prompt_ids, SamplingParams(temperature=0, max_tokens=request.max_tokens, ignore_eos=True))
    ids: tuple[int, ...] = ()
    while engine.has_unfinished:
        for output in engine.step():
            ids = output.outputs[0].token_ids
    return ids


def same_beginning(ours: Sequence[int], wanted: Sequence[int]) -> str:
    """How many tokens are the same before the first that differs: that they are of the same weights."""
    pairs = zip(ours, wanted, strict=False)
    same = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(ours), len(wanted)))
    return f"{same} of {len(wanted)}"
