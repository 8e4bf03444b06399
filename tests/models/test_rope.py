"""Rotary embeddings against transformers' own, to the bit where it can be."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpaged.models.config import RopeConfig
from jaxpaged.models.families import read_config
from jaxpaged.models.rope import frequencies, rope_table, yarn_scale
from pallas_kernels.rotate import rotate

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
SCALINGS: dict[str, dict[str, Any] | None] = {
    "default": None,
    "linear": {"rope_type": "linear", "factor": 3.0},
    "llama3": LLAMA3,
    "yarn": YARN,
    "yarn_untruncated": YARN | {"truncate": False, "beta_fast": 16.0, "beta_slow": 2.0},
    "yarn_attention_factor": YARN | {"attention_factor": 1.25},
    "yarn_mscale": YARN | {"mscale": 0.7, "mscale_all_dim": 1.3},
    "yarn_no_factor": {"rope_type": "yarn", "factor": None, "original_max_position_embeddings": 16384},
}


def config_with(scaling: dict[str, Any] | None, *, theta: float, head_dim: int) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": 10,
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "head_dim": head_dim,
        "max_position_embeddings": 131072,
        "rope_theta": theta,
        "rope_scaling": scaling,
    }


@pytest.mark.parametrize("head_dim", [64, 80, 128])
@pytest.mark.parametrize("theta", [10_000.0, 500_000.0, 1e6])
@pytest.mark.parametrize("name", SCALINGS)
def test_frequencies_and_tables_are_those_of_transformers(name: str, theta: float, head_dim: int) -> None:
    import torch
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    config = config_with(SCALINGS[name], theta=theta, head_dim=head_dim)
    rope = read_config(config).ropes()[0]
    theirs = LlamaRotaryEmbedding(LlamaConfig(**{**config, "rope_scaling": dict(SCALINGS[name] or {}) or None}))
    ours, wanted = frequencies(rope), theirs.inv_freq.numpy()
    np.testing.assert_array_max_ulp(ours, wanted, maxulp=2)
    same = ours == wanted
    assert same.mean() > 0.9, "nearly all to the bit"
    assert rope.scale == pytest.approx(theirs.attention_scaling, rel=1e-12)

    positions = np.array([0, 1, 63, 4096, 32767, 100_000, 131_071], np.int32)
    cos, sin = theirs(torch.zeros(1, dtype=torch.float32), torch.from_numpy(positions)[None].long())
    half = head_dim // 2
    for mine, other in zip(jax.jit(lambda p: rope_table(rope, p))(positions), (cos, sin), strict=True):
        np.testing.assert_allclose(np.asarray(mine)[:, same], other[0, :, :half].numpy()[:, same], atol=3e-7, rtol=0)


@pytest.mark.parametrize("context", [8192, 8193])
def test_longrope_has_the_factors_of_its_side(context: int) -> None:
    import torch
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    scaling = {
        "rope_type": "longrope",
        "short_factor": [1.0 + 0.1 * i for i in range(32)],
        "long_factor": [1.2 + 1.7 * i for i in range(32)],
        "original_max_position_embeddings": 8192,
    }
    config = config_with(scaling, theta=10_000.0, head_dim=64)
    rope = read_config(config, context=context).ropes()[0]
    theirs = LlamaRotaryEmbedding(LlamaConfig(**{**config, "rope_scaling": dict(scaling)}))
    theirs(torch.zeros(1), torch.arange(context)[None])  # of so many tokens, which choose
    np.testing.assert_array_max_ulp(frequencies(rope), theirs.inv_freq.numpy(), maxulp=2)
    assert rope.scale == pytest.approx(theirs.attention_scaling, rel=1e-12)


def test_rotate_pairs_halves_and_leaves_the_rest() -> None:
    rope = RopeConfig(kind="default", theta=1.0, dims=4)  # both pairs turn by one radian per position
    x = jnp.array([[[1.0, 0.0, 0.0, 2.0, 7.0]]])
    turned = rotate(x, rope_table(rope, jnp.array([1], jnp.int32)))
    cos, sin = np.cos(1.0), np.sin(1.0)
    np.testing.assert_allclose(turned[0, 0], [cos, -2 * sin, sin, 2 * cos, 7.0], rtol=1e-6)


def test_yarn_scale_in_numbers() -> None:
    assert yarn_scale(4.0, None, None, None) == pytest.approx(1.13862943611)
    assert yarn_scale(1.0, None, None, None) == 1.0
    assert yarn_scale(4.0, 1.5, 1.0, 1.0) == 1.5
    assert yarn_scale(40.0, None, 1.0, 1.0) == 1.0  # DeepSeek-V3: both parts cancel
