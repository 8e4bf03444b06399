"""The least time that a device needs for a model's work: bytes over bandwidth, operations over rate. [no jax]

A step of B rows reads every weight once (of the experts, those that some token goes to) and each row's keys and values,
and multiplies each token with each weight it meets:

    seconds = max(weight bytes / bandwidth, 2 * weights * tokens / rate) + KV bytes / bandwidth

Weights are counted without the input embedding and with the output head. An expert that B tokens choose k of X from is
untouched with probability (1 - k / X) ** B, if all are equally likely. GB are 1e9 bytes, TFLOP 1e12 operations, a
multiply-add is two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from jaxpaged.models.config import ModelConfig

_SCALED = MappingProxyType({"int8": 1, "float8_e4m3fn": 1})
_ITEMSIZES: Mapping[str, int] = MappingProxyType({"float32": 4, "bfloat16": 2, "float16": 2, **_SCALED})
_SCALE_BYTES = 4  # of a token's head, in K and in V


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What a device can do. gb_s: GB a second to and from its memory; tflop_s: dense bfloat16 products.

    source: "sheet" for the vendor's figures, "measured" for our own.
    """

    name: str
    gb_s: float
    tflop_s: float
    source: str

    def __post_init__(self) -> None:
        if not (self.gb_s > 0 and self.tflop_s > 0):
            raise ValueError(f"rates of {self.name} are {self.gb_s} GB/s and {self.tflop_s} TFLOP/s: they must be > 0")

    def seconds(self, *, num_bytes: float, flops: float) -> float:
        """The least time for one program that moves so much and computes so much, both at once."""
        return max(num_bytes / (self.gb_s * 1e9), flops / (self.tflop_s * 1e12))


def _sheet(name: str, gb_s: float, tflop_s: float) -> Rates:
    return Rates(name=name, gb_s=gb_s, tflop_s=tflop_s, source="sheet")


SHEETS = (
    _sheet("H200", 4800, 989),
    _sheet("H100 PCIe", 2000, 756),
    _sheet("H100 NVL", 3900, 835),
    _sheet("H100", 3350, 989),
    _sheet("A100-SXM4-40GB", 1555, 312),
    _sheet("A100", 2039, 312),
    _sheet("MI300X", 5300, 1307),
    _sheet("MI325X", 6000, 1307),
    _sheet("MI355X", 8000, 2517),
    _sheet("gfx942", 5300, 1307),  # what some drivers call an MI300X
)
"""The vendors' data sheets, dense and without sparsity. The first whose name is part of the device's kind holds."""


def sheet_of(kind: str) -> Rates | None:
    """The data sheet of a device by JAX's name for it ("NVIDIA H200"); None for one not in the list."""
    return next((sheet for sheet in SHEETS if sheet.name.lower() in kind.lower()), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepWork:
    """What a step must do at least. Bytes of the weights it touches and of the KV it reads; operations of its dots."""

    weight_bytes: float
    kv_bytes: float
    weight_flops: float
    attention_flops: float

    def seconds(self, rates: Rates) -> float:
        """Weights and their dots overlap, the KV is read beside them (formula above)."""
        weights = rates.seconds(num_bytes=self.weight_bytes, flops=self.weight_flops)
        return weights + rates.seconds(num_bytes=self.kv_bytes, flops=self.attention_flops)


def touched_experts(experts: int, top_k: int, tokens: float) -> float:
    """How many of the experts at least one of so many tokens is expected to go to."""
    return experts * (1 - (1 - top_k / experts) ** tokens)


def weights_of(config: ModelConfig) -> tuple[float, float]:
    """Weights that every token meets, and weights of one expert in all layers together (0 without experts)."""
    qkv = (config.heads + 2 * config.kv_heads) * config.head_dim * config.embed
    attention = qkv + config.heads * config.head_dim * config.embed
    shared, expert = float(config.vocab * config.embed), 0.0
    for layer in config.layers:
        shared += attention
        if layer.moe is None:
            shared += 3 * config.ffn * config.embed
        else:
            shared += layer.moe.experts * config.embed
            expert += 3 * layer.moe.ffn * config.embed
    return shared, expert


def kv_bytes_of_token(config: ModelConfig, dtype: str) -> int:
    """Bytes of one token's keys and values in one layer, scales included. dtype: of the pool."""
    head = config.head_dim * _ITEMSIZES[dtype] + (_SCALE_BYTES if dtype in _SCALED else 0)
    return 2 * config.kv_heads * head


def step_work(
    config: ModelConfig, *, rows: int, context: float, dtype: str, kv_dtype: str, tokens_per_row: int = 1
) -> StepWork:
    """A step of `rows` rows with `tokens_per_row` tokens each; a token sees `context` tokens (less behind a window).

    The head is counted for every token, as published figures do.
    """
    tokens = rows * tokens_per_row
    shared, expert = weights_of(config)
    moe = next((layer.moe for layer in config.layers if layer.moe), None)
    touched = touched_experts(moe.experts, moe.top_k, tokens) if moe else 0.0
    seen = sum(context if layer.window is None else min(context, layer.window) for layer in config.layers)
    return StepWork(
        weight_bytes=(shared + expert * touched) * _ITEMSIZES[dtype],
        kv_bytes=rows * seen * kv_bytes_of_token(config, kv_dtype),
        weight_flops=2 * tokens * (shared + expert * (moe.top_k if moe else 0)),
        attention_flops=4 * tokens * seen * config.heads * config.head_dim,
    )


def decode_seconds(config: ModelConfig, rates: Rates, *, rows: int, context: float, dtype: str, kv_dtype: str) -> float:
    """The least time of a step in which each of `rows` rows with `context` tokens gets one more."""
    return step_work(config, rows=rows, context=context, dtype=dtype, kv_dtype=kv_dtype).seconds(rates)


def prefill_seconds(config: ModelConfig, rates: Rates, *, tokens: int, length: int, dtype: str) -> float:
    """The least time to compute `tokens` tokens of prompts of `length`: compute-bound from some hundred tokens on."""
    work = step_work(config, rows=1, tokens_per_row=tokens, context=(length + 1) / 2, dtype=dtype, kv_dtype="bfloat16")
    flops = work.weight_flops + work.attention_flops
    return rates.seconds(num_bytes=work.weight_bytes, flops=flops)


def offline_seconds(
    config: ModelConfig, rates: Rates, *, requests: int, input_len: float, output_len: float, kv_dtype: str
) -> float:
    """The least time for many requests at once, batches so large that reading weights costs nothing.

    Additive: every token's dots and attention at the device's rate, plus the KV that the decode steps read.
    """
    decode_context = input_len + output_len / 2
    per_token = step_work(config, rows=1, context=0, dtype="bfloat16", kv_dtype=kv_dtype).weight_flops
    prompt = step_work(config, rows=1, context=input_len / 2, dtype="bfloat16", kv_dtype=kv_dtype)
    decode = step_work(config, rows=1, context=decode_context, dtype="bfloat16", kv_dtype=kv_dtype)
    flops = per_token * (input_len + output_len)
    flops += prompt.attention_flops * input_len + decode.attention_flops * output_len
    return requests * (flops / (rates.tflop_s * 1e12) + decode.kv_bytes * output_len / (rates.gb_s * 1e9))
