"""StarCoder2: biases everywhere, a plain network, layer norms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from jaxpaged.models.config import ModelConfig
from jaxpaged.models.families.family import Family
from jaxpaged.models.families.reading import read_decoder, read_kv_heads, read_layer_norm
from jaxpaged.models.families.windows import same_windows, window
from jaxpaged.models.hf_config import HFConfig
from jaxpaged.models.tensors import Rules, llama_rules, plain_rules

_UNHEEDED = ("rms_norm_eps", "layer_norm_epsilon", "attention_softmax_in_fp32", "scale_attention_softmax_in_fp32")
"""In published files, and read by nobody: norms have norm_epsilon, and the softmax is float32."""


def _starcoder2(config: HFConfig, name: str) -> ModelConfig:
    config.ignore("residual_dropout", "embedding_dropout", *_UNHEEDED)
    config.require_neutral(["mlp_type"], "default")
    config.require_neutral(["norm_type"], "layer_norm")
    config.require_neutral(["scale_attn_weights"], True)
    bias = config.flag("use_bias", default=True)
    model = read_decoder(
        config,
        name,
        windows=same_windows(config, window(config, default=None)),
        kv_heads=read_kv_heads(config),
        default_tied=True,
        default_activation="gelu_pytorch_tanh",
        norm=read_layer_norm(config, "norm_epsilon"),
    )
    return replace(model, gated=False, qkv_bias=bias, o_bias=bias, mlp_bias=bias)


def _rules(model: ModelConfig) -> Rules:
    del model
    return llama_rules(mlp=False) + plain_rules("model.layers.{i}.mlp", up="c_fc", down="c_proj")


FAMILIES: Mapping[str, Family] = MappingProxyType({"Starcoder2ForCausalLM": Family(read=_starcoder2, rules=_rules)})
