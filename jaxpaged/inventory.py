"""What an engine's options came to, and why: the rows of a table for people."""

from __future__ import annotations

import math
from collections import Counter

from jaxpaged.buckets import BucketTable
from jaxpaged.config import ResolvedConfig
from jaxpaged.demand import KVDemand
from jaxpaged.device import gib
from jaxpaged.models.config import ModelConfig
from jaxpaged.models.kv import bytes_per_block
from pallas_kernels.backend import Backend


def kv_bytes_per_block(config: ResolvedConfig, model: ModelConfig) -> int:
    """Bytes of a block of the KV pool, scales included."""
    backend, size = Backend(config.attention_backend), config.block_size
    return bytes_per_block(model, backend, block_size=size, dtype=config.kv_cache_dtype)


def kv_bytes_per_token(config: ResolvedConfig, model: ModelConfig) -> int:
    """Bytes that a token takes in the KV pool while all groups hold it: in all layers, scales included."""
    return len(model.kv_groups()) * kv_bytes_per_block(config, model) // config.block_size


def contexts_that_fit(config: ResolvedConfig, model: ModelConfig, tokens: float) -> float:
    """How many contexts of so many tokens the pool holds at once, while each gets one token a step."""
    demand = KVDemand(windows=model.kv_windows(), block_size=config.block_size, chunk=1)
    return (config.num_blocks - 1) / demand.blocks(math.ceil(tokens))


def describe_groups(model: ModelConfig) -> str:
    """The KV groups, as in "2 groups: 24 layers with a window of 128, 24 layers without a window; 24 arrays"."""
    groups, layers = model.kv_groups(), Counter[int | None]()
    for group in groups:
        layers[group.window] += len(group.layers)
    kinds = ", ".join(
        f"{count} layers without a window" if window is None else f"{count} layers with a window of {window:,}"
        for window, count in layers.items()
    )
    return f"{len(groups)} {'group' if len(groups) == 1 else 'groups'}: {kinds}; {model.kv_arrays()} arrays"


def inventory(
    config: ResolvedConfig, model: ModelConfig, buckets: BucketTable, *, weight_bytes: int, dtype_reason: str
) -> list[tuple[str, str]]:
    """Names and values: weights, KV pool, limits of a step, backend."""
    reasons = config.reasons
    per_token, per_block = kv_bytes_per_token(config, model), kv_bytes_per_block(config, model)
    fitting = contexts_that_fit(config, model, config.max_model_len)
    return [
        ("dtype", f"{config.dtype}: {dtype_reason}"),
        ("weights", f"{gib(weight_bytes)}: {reasons['quantization']}"),
        ("KV cache", f"{config.kv_cache_dtype}, {per_token:,} bytes a token: {reasons['kv_cache_dtype']}"),
        ("KV pool", f"{gib(per_block * config.num_blocks)}: {reasons['num_blocks']}"),
        ("KV groups", describe_groups(model)),
        ("blocks", f"{config.num_blocks:,} of {config.block_size} tokens, {gib(per_block)} each"),
        ("longest context", f"{config.max_model_len:,} tokens: {reasons['max_model_len']}"),
        (
            "concurrency",
            f"{config.max_num_seqs} rows a step; {fitting:.1f} longest contexts fit",
        ),
        (
            "step",
            f"up to {config.max_num_batched_tokens:,} tokens, {len(buckets)} buckets; "
            f"decode steps are padded by about {buckets.expected_padding:.0%}",
        ),
        ("attention", f"{config.attention_backend}: {reasons['attention_backend']}"),
        ("prefix cache", "on" if config.enable_prefix_caching else "off"),
    ]
