"""What an engine tells of itself, in small numbers: for tests of what is made of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from jaxpaged_server.engine_process.wire import STEP_TOKEN_BOUNDS, Beat, EngineInfo

from jaxpaged.ledger import KVLedger
from jaxpaged.metrics import EngineMetrics
from jaxpaged.residency import ResidencyCounts
from jaxpaged.sampling_defaults import SamplingDefaults

LEDGER = KVLedger(live=30, behind=4, shared=16, tail=14, cached=32, free=48, null=16, tokens=60, contiguous=240)
"""Of a pool of 10 blocks of 16 tokens: 4 held, 2 cached, 3 free, and the null block."""


def engine_info(**changes: Any) -> EngineInfo:
    """changes: fields that a test wants to be otherwise."""
    info = EngineInfo(
        model="/models/tiny",
        architecture="LlamaForCausalLM",
        max_model_len=100,
        vocab=8,
        block_size=16,
        num_blocks=10,
        num_groups=1,
        max_num_seqs=4,
        max_num_batched_tokens=64,
        dtype="float32",
        kv_cache_dtype="bfloat16",
        quantization=None,
        enable_prefix_caching=True,
        attention_backend="xla",
        device="cpu",
        fingerprint="0123456789abcdef",
        startup_s=1.5,
        sampling_defaults=SamplingDefaults(),
        table=[],
    )
    return msgspec.structs.replace(info, **changes)


def step_counts(*tokens: int) -> tuple[int, ...]:
    """Steps of so many tokens, as a beat tells them."""
    counts = [0] * (len(STEP_TOKEN_BOUNDS) + 1)
    for number in tokens:
        counts[sum(number > bound for bound in STEP_TOKEN_BOUNDS)] += 1
    return tuple(counts)


def beat(
    metrics: EngineMetrics | None = None,
    *,
    ledger: KVLedger = LEDGER,
    running: int = 2,
    waiting: int = 3,
    steps: Sequence[int] = (),
    residency: ResidencyCounts | None = None,
    accepted_at: tuple[int, ...] = (),
) -> Beat:
    return Beat(
        metrics=metrics or EngineMetrics(),
        ledger=ledger,
        running=running,
        waiting=waiting,
        step_age_s=0.0,
        oldest_wait_s=0.0,
        longest_step_s=0.0,
        steps=[],
        step_token_counts=step_counts(*steps),
        residency=residency,
        accepted_at=accepted_at,
    )
