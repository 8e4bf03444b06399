"""What an engine's options came to, and why: the rows of a table for people."""

from __future__ import annotations

from jaxpaged.buckets import BucketTable
from jaxpaged.config import ResolvedConfig
from jaxpaged.memory import gib
from jaxpaged.models.config import ModelConfig
from jaxpaged.models.kv import bytes_per_block
from pallas_kernels.backend import Backend


def kv_bytes_per_token(config: ResolvedConfig, model: ModelConfig) -> int:
    """Bytes that a token takes in the KV pool, in all layers together, scales included."""
    backend, size = Backend(config.attention_backend), config.block_size
    return bytes_per_block(model, backend, block_size=size, dtype=config.kv_cache_dtype) // size


def inventory(
    config: ResolvedConfig, model: ModelConfig, buckets: BucketTable, *, weight_bytes: int, dtype_reason: str
) -> list[tuple[str, str]]:
    """Names and values: weights, KV pool, limits of a step, backend."""
    reasons = config.reasons
    per_token = kv_bytes_per_token(config, model)
    per_block = per_token * config.block_size
    usable = (config.num_blocks - 1) * config.block_size
    return [
        ("dtype", f"{config.dtype}: {dtype_reason}"),
        ("weights", f"{gib(weight_bytes)}: {reasons['quantization']}"),
        ("KV cache", f"{config.kv_cache_dtype}, {per_token:,} bytes a token: {reasons['kv_cache_dtype']}"),
        ("KV pool", f"{gib(per_block * config.num_blocks)}: {reasons['num_blocks']}"),
        ("blocks", f"{config.num_blocks:,} of {config.block_size} tokens, {gib(per_block)} each"),
        ("longest context", f"{config.max_model_len:,} tokens: {reasons['max_model_len']}"),
        (
            "concurrency",
            f"{config.max_num_seqs} rows a step; {usable / config.max_model_len:.1f} longest contexts fit",
        ),
        (
            "step",
            f"up to {config.max_num_batched_tokens:,} tokens, {len(buckets)} buckets; "
            f"decode steps are padded by about {buckets.expected_padding:.0%}",
        ),
        ("attention", f"{config.attention_backend}: {reasons['attention_backend']}"),
        ("prefix cache", "on" if config.enable_prefix_caching else "off"),
    ]
