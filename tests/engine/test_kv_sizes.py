"""What the pool of a hybrid model comes to: half its layers have a window, half see everything."""

from __future__ import annotations

from typing import Any

import pytest

from jaxpaged.config import EngineConfig, ResolvedConfig
from jaxpaged.device import Device
from jaxpaged.errors import ConfigError
from jaxpaged.inventory import contexts_that_fit, describe_groups, kv_bytes_per_block, kv_bytes_per_token
from jaxpaged.memory import resolve
from jaxpaged.models.families import read_config
from jaxpaged.models.kv import pool_specs
from pallas_kernels.backend import Backend

GIB = 2**30
SHAPE: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "vocab_size": 1000,
    "hidden_size": 1024,
    "intermediate_size": 1024,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "max_position_embeddings": 32768,
    "use_sliding_window": True,
    "sliding_window": 1024,
    "max_window_layers": 4,
}
MODEL = read_config(SHAPE)
LAYER = 2 * 8 * 128 * 2  # bytes of a token in one layer, bfloat16


def resolved(platform: str, **options: Any) -> ResolvedConfig:
    on = Device(
        platform=platform,
        name="some",
        free_bytes=1000 * GIB,
        total_bytes=1000 * GIB,
        limit_bytes=1000 * GIB,
        bfloat16_unit="",
    )
    return resolve(EngineConfig(**options), MODEL, on, dtype="bfloat16", weight_bytes=GIB)


def test_a_block_is_of_half_the_layers_and_a_token_of_all() -> None:
    assert describe_groups(MODEL) == "2 groups: 4 layers without a window, 4 layers with a window of 1,024; 4 arrays"
    config = resolved("cuda")
    assert len(pool_specs(MODEL, Backend.TRITON, num_blocks=2, block_size=16, dtype="bfloat16")) == 4
    assert kv_bytes_per_block(config, MODEL) == 16 * 4 * LAYER
    assert kv_bytes_per_token(config, MODEL) == 8 * LAYER


def test_a_cpu_takes_what_every_row_can_hold() -> None:
    config = resolved("cpu", attention_backend="xla", block_size=16, max_num_seqs=3, max_num_batched_tokens=512)
    # 2048 blocks where all is seen, and of the window those of 1023 + 512 tokens in a row
    assert config.num_blocks == 3 * (2048 + 97) + 1
    assert config.max_model_len == 32768
    assert contexts_that_fit(config, MODEL, 32768) == 3 * (2048 + 97) / (2048 + 65)


def test_the_longest_context_is_what_both_groups_hold_of_it() -> None:
    options = {"max_num_batched_tokens": 512, "max_num_seqs": 8, "block_size": 16}
    config = resolved("cuda", num_gpu_blocks_override=1001, **options)
    assert config.max_model_len == (1000 - 97) * 16  # half the pool for each would hold 500 blocks of it
    assert "what the KV cache holds; the model's is 32,768" in config.reasons["max_model_len"]


def test_each_group_needs_a_block() -> None:
    with pytest.raises(ConfigError, match=r"one block takes 262,144 bytes, and at least 3 are needed \(the null"):
        resolved("cuda", block_size=16, kv_cache_memory_bytes=2 * 16 * 4 * LAYER)
    assert resolved("cuda", block_size=16, kv_cache_memory_bytes=3 * 16 * 4 * LAYER).max_model_len == 16
