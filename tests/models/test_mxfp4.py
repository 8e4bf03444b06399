"""MXFP4: bit for bit what transformers unpacks, and a checkpoint in it is the checkpoint unpacked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxpaged.errors import WeightsError
from jaxpaged.models.mxfp4 import MXFP4
from jaxpaged.weights.load import load_model

CONFIG: dict[str, Any] = {
    "architectures": ["GptOssForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "num_local_experts": 3,
    "num_experts_per_tok": 2,
    "vocab_size": 16,
    "max_position_embeddings": 64,
    "sliding_window": 8,
    "torch_dtype": "bfloat16",
    "quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]},
}
LAYER = "model.layers.0"
EXPERTS = f"{LAYER}.mlp.experts"
SHAPES = {
    "model.embed_tokens.weight": (16, 64),
    "model.norm.weight": (64,),
    "lm_head.weight": (16, 64),
    f"{LAYER}.input_layernorm.weight": (64,),
    f"{LAYER}.post_attention_layernorm.weight": (64,),
    f"{LAYER}.self_attn.sinks": (2,),
    **{
        f"{LAYER}.self_attn.{name}_proj.{kind}": shape if kind == "weight" else shape[:1]
        for name, shape in {"q": (64, 64), "k": (32, 64), "v": (32, 64), "o": (64, 64)}.items()
        for kind in ("weight", "bias")
    },
    f"{LAYER}.mlp.router.weight": (3, 64),
    f"{LAYER}.mlp.router.bias": (3,),
    f"{EXPERTS}.gate_up_proj_bias": (3, 64),
    f"{EXPERTS}.down_proj_bias": (3, 64),
}
PACKED = {f"{EXPERTS}.gate_up_proj": (3, 64, 64), f"{EXPERTS}.down_proj": (3, 64, 32)}  # [X, outs, ins]


def pack(codes: np.ndarray, scales: np.ndarray) -> dict[str, np.ndarray]:
    """codes u8[*outs, A] of 4 bits and scales u8[*outs, A / 32], as the format lays them out."""
    pairs = codes.reshape(*scales.shape, 16, 2)
    return {"_blocks": pairs[..., 0] | (pairs[..., 1] << 4), "_scales": scales}


def test_values_and_their_order() -> None:
    codes = np.zeros((1, 32), np.uint8)
    codes[0, :6] = [1, 7, 15, 8, 10, 5]
    values = MXFP4().values(pack(codes, np.array([[128]], np.uint8)))
    assert values.dtype == np.float32
    assert values[0, :7].tolist() == [1.0, 12.0, -12.0, 0.0, -2.0, 6.0, 0.0]
    assert np.signbit(values[0, 3])


def test_every_value_under_every_scale_is_that_of_transformers() -> None:
    import torch
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    codes = np.broadcast_to(np.arange(32, dtype=np.uint8) % 16, (1, 16, 16, 32)).reshape(1, 16, 512)
    scales = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    packed = pack(codes, scales)
    ours = np.swapaxes(MXFP4().values(packed), 1, 2)  # which transformers turns round at once
    blocks, held = (torch.from_numpy(packed[end]) for end in ("_blocks", "_scales"))
    wide = convert_moe_packed_tensors(blocks, held, dtype=torch.float32).numpy()
    assert np.array_equal(ours.view(np.uint32), wide.view(np.uint32))
    narrow = convert_moe_packed_tensors(blocks, held).view(torch.int16).numpy()
    assert np.array_equal(ours.astype(jnp.bfloat16).view(np.int16), narrow)


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """A folder in MXFP4, as gpt-oss is published."""
    rng = np.random.default_rng(0)
    tensors = {name: rng.normal(size=shape).astype(jnp.bfloat16) for name, shape in SHAPES.items()}
    for name, (experts, outs, ins) in PACKED.items():
        codes = rng.integers(0, 16, (experts, outs, ins), dtype=np.uint8)
        scales = rng.integers(110, 135, (experts, outs, ins // 32), dtype=np.uint8)
        tensors |= {name + end: tensor for end, tensor in pack(codes, scales).items()}
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return tmp_path


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_packed_checkpoint_is_the_one_that_transformers_unpacks(packed: Path, tmp_path: Path, dtype: str) -> None:
    import torch
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    tensors = load_file(packed / "model.safetensors")
    for name in PACKED:
        parts = (torch.from_numpy(tensors.pop(name + end)) for end in ("_blocks", "_scales"))
        plain = convert_moe_packed_tensors(*parts)  # bf16[X, ins, outs]
        tensors[name] = plain.float().numpy().astype(jnp.bfloat16)
    (tmp_path / "plain").mkdir()
    save_file(tensors, tmp_path / "plain" / "model.safetensors")
    (tmp_path / "plain" / "config.json").write_text(json.dumps(CONFIG))
    found, wanted = (load_model(folder, dtype=dtype) for folder in (packed, tmp_path / "plain"))
    for ours, theirs, spec in zip(found.leaves, wanted.leaves, found.graphdef.specs, strict=True):
        assert np.array_equal(np.asarray(ours), np.asarray(theirs)), spec.path


def test_what_is_wrong_with_packed_tensors_is_named(packed: Path) -> None:
    tensors = load_file(packed / "model.safetensors")
    del tensors[f"{EXPERTS}.down_proj_scales"]
    tensors[f"{EXPERTS}.gate_up_proj_blocks"] = tensors[f"{EXPERTS}.gate_up_proj_blocks"][:, :, :1].copy()
    tensors[f"{EXPERTS}.gate_up_proj_scales"] = tensors[f"{EXPERTS}.gate_up_proj_scales"].astype(np.float32)
    save_file(tensors, packed / "model.safetensors")
    with pytest.raises(WeightsError) as refusal:
        load_model(packed, dtype="float32")
    assert f"missing: '{EXPERTS}.down_proj_scales' [3, 64, 1]" in str(refusal.value)
    assert f"'{EXPERTS}.gate_up_proj_blocks' is [3, 64, 1, 16], the config makes it [3, 64, 2, 16]" in str(
        refusal.value
    )
    assert f"'{EXPERTS}.gate_up_proj_scales' is F32, not one of U8" in str(refusal.value)


def test_experts_that_are_not_there_are_missing_as_plain_ones(packed: Path) -> None:
    tensors = load_file(packed / "model.safetensors")
    left = {name: tensor for name, tensor in tensors.items() if "down_proj_" not in name or name.endswith("bias")}
    save_file(left, packed / "model.safetensors")
    with pytest.raises(WeightsError, match=r"missing: 'model.layers.0.mlp.experts.down_proj' \[3, 32, 64\]"):
        load_model(packed, dtype="float32")
