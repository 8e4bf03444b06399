"""The least time that a device needs for a model's work: bytes over bandwidth, operations over rate. [no jax]

A step of B rows reads every weight once (of the experts, those that some token goes to) and each row's keys and values,
and multiplies each token with each weight it meets, those of the head only for the rows that sample:

    seconds = max((weight bytes + KV bytes) / bandwidth, (operations of weights + of attention) / rate)

So memory and arithmetic are taken to overlap wholly: no order of kernels is assumed, and no step can be faster.
The rate is that of float products; those of int8 by int8 on a CPU may be faster.
Weights are counted without the input embedding and with the output head. An expert that B tokens choose k of X from is
untouched with probability (1 - k / X) ** B, if all are equally likely. GB are 1e9 bytes, TFLOP 1e12 operations, a
multiply-add is two.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from jaxpaged.models.config import ModelConfig
from jaxpaged.plan import StepPlan

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
"""The vendors' data sheets, dense and without sparsity. The first whose name is among the words of the device's kind
holds: GH200 is none of them, since it comes with two kinds of memory, and its sheet was not at hand."""


def sheet_of(kind: str) -> Rates | None:
    """The data sheet of a device by JAX's name for it ("NVIDIA H200"); None for one not in the list."""
    return next((s for s in SHEETS if re.search(rf"\b{re.escape(s.name)}\b", kind, flags=re.IGNORECASE)), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepWork:
    """What a step must do at least. Bytes of the weights it touches and of the KV it reads; operations of its dots.

    written_bytes: of the KV of its tokens. `seconds` leaves them out: a row writes one token for all that it reads.
    """

    weight_bytes: float
    kv_bytes: float
    weight_flops: float
    attention_flops: float
    written_bytes: float

    @property
    def read_bytes(self) -> float:
        return self.weight_bytes + self.kv_bytes

    @property
    def flops(self) -> float:
        return self.weight_flops + self.attention_flops

    def seconds(self, rates: Rates) -> float:
        """All bytes read over the bandwidth or all operations over the rate, whichever takes longer."""
        return rates.seconds(num_bytes=self.read_bytes, flops=self.flops)


def touched_experts(experts: int, top_k: int, tokens: float) -> float:
    """How many of the experts at least one of so many tokens is expected to go to."""
    return experts * (1 - (1 - top_k / experts) ** tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """How many a model has. layers: those that every token meets; head: the output's; expert: of one, in all layers."""

    layers: float
    head: float
    expert: float


def weights_of(config: ModelConfig) -> Weights:
    """The weights that products meet; norms and the input embedding are nothing beside them."""
    qkv = (config.heads + 2 * config.kv_heads) * config.head_dim * config.embed
    attention = qkv + config.heads * config.head_dim * config.embed
    layers = expert = 0.0
    for layer in config.layers:
        layers += attention
        if layer.moe is None:
            layers += (3 if config.gated else 2) * config.ffn * config.embed
        else:
            layers += (layer.moe.experts + 3 * layer.moe.shared_ffn) * config.embed
            expert += 3 * layer.moe.ffn * config.embed
    return Weights(layers=layers, head=float(config.vocab * config.embed), expert=expert)


def kv_bytes_of_token(config: ModelConfig, dtype: str) -> int:
    """Bytes of one token's keys and values in one layer, scales included. dtype: of the pool."""
    head = config.head_dim * _ITEMSIZES[dtype] + (_SCALE_BYTES if dtype in _SCALED else 0)
    return 2 * config.kv_heads * head


def mean_seen(config: ModelConfig, *, first: float, last: float) -> float:
    """Keys that a token sees in all layers together: the mean over contexts from `first` to `last`, to half a key."""

    def seen(window: float) -> float:
        if last <= first:
            return min(first, window)
        growing = max(0.0, min(last, window) - first)  # contexts before the window is full
        full = last - first - growing
        return (growing * (first + growing / 2) + full * min(window, last)) / (last - first)

    return sum(seen(math.inf if layer.window is None else layer.window) for layer in config.layers)


def step_work(
    config: ModelConfig,
    *,
    rows: int,
    context: float,
    dtype: str,
    kv_dtype: str,
    tokens_per_row: int = 1,
    sampled: float | None = None,
) -> StepWork:
    """A step of `rows` rows, each with `tokens_per_row` tokens at the end of `context`, the keys of a row read once.

    sampled: rows that need logits; None: all.
    """
    tokens = rows * tokens_per_row
    weights = weights_of(config)
    moe = next((layer.moe for layer in config.layers if layer.moe), None)
    touched = touched_experts(moe.experts, moe.top_k, tokens) if moe else 0.0
    read = mean_seen(config, first=context, last=context)
    seen = mean_seen(config, first=context - tokens_per_row + 1, last=context)
    met = tokens * (weights.layers + weights.expert * (moe.top_k if moe else 0))
    return StepWork(
        weight_bytes=(weights.layers + weights.head + weights.expert * touched) * _ITEMSIZES[dtype],
        kv_bytes=rows * read * kv_bytes_of_token(config, kv_dtype),
        weight_flops=2 * (met + (rows if sampled is None else sampled) * weights.head),
        attention_flops=4 * tokens * seen * config.heads * config.head_dim,
        written_bytes=tokens * len(config.layers) * kv_bytes_of_token(config, kv_dtype),
    )


def decode_seconds(config: ModelConfig, rates: Rates, *, rows: int, context: float, dtype: str, kv_dtype: str) -> float:
    """The least time of a step in which each of `rows` rows with `context` tokens gets one more."""
    return step_work(config, rows=rows, context=context, dtype=dtype, kv_dtype=kv_dtype).seconds(rates)


def prefill_seconds(config: ModelConfig, rates: Rates, *, tokens: int, length: int, dtype: str) -> float:
    """The least time to compute `tokens` tokens of prompts of `length`, each of which samples once.

    Weights are read once, as if all were one step; compute-bound from some hundred tokens on.
    """
    prompts = tokens / length
    work = step_work(config, rows=1, tokens_per_row=length, context=length, dtype=dtype, kv_dtype="bfloat16", sampled=1)
    return rates.seconds(num_bytes=work.weight_bytes, flops=prompts * work.flops)


def offline_seconds(
    config: ModelConfig, rates: Rates, *, requests: int, input_len: float, output_len: float, kv_dtype: str
) -> float:
    """The least time for many requests at once, batches so large that reading weights costs nothing.

    Prompts of some requests are computed beside the decode steps of others, so all operations overlap with the reading
    of KV. The first output token comes with the prompt, and the last is not computed on.
    """
    weights = weights_of(config)
    moe = next((layer.moe for layer in config.layers if layer.moe), None)
    steps = max(output_len - 1, 0)
    prompt = input_len * mean_seen(config, first=1, last=input_len)
    decode = steps * mean_seen(config, first=input_len + 1, last=input_len + max(steps, 1))
    flops = 2 * (input_len + steps) * (weights.layers + weights.expert * (moe.top_k if moe else 0))
    flops += 2 * output_len * weights.head
    flops += 4 * (prompt + decode) * config.heads * config.head_dim
    return requests * rates.seconds(num_bytes=decode * kv_bytes_of_token(config, kv_dtype), flops=flops)


def plan_work(
    config: ModelConfig,
    rows: Sequence[tuple[int, int]],
    *,
    padded_tokens: int,
    padded_rows: int,
    dtype: str,
    kv_dtype: str,
) -> StepWork:
    """A step as the scheduler planned it. rows: of each, tokens before it and tokens computed.

    Padding is multiplied with the weights as tokens are, and with the head as rows are, but it goes to no expert and
    has no keys. A row's keys are read once in each layer, those that any of its tokens sees.
    """
    weights = weights_of(config)
    moe = next((layer.moe for layer in config.layers if layer.moe), None)
    tokens = sum(length for _, length in rows)
    read, pairs = keys_and_pairs(config, rows)
    expert_flops = tokens * weights.expert * moe.top_k if moe else 0.0
    touched = touched_experts(moe.experts, moe.top_k, tokens) if moe else 0.0
    return StepWork(
        weight_bytes=(weights.layers + weights.head + weights.expert * touched) * _ITEMSIZES[dtype],
        kv_bytes=read * kv_bytes_of_token(config, kv_dtype),
        weight_flops=2 * (padded_tokens * weights.layers + expert_flops + padded_rows * weights.head),
        attention_flops=4 * pairs * config.heads * config.head_dim,
        written_bytes=tokens * len(config.layers) * kv_bytes_of_token(config, kv_dtype),
    )


def work_of(plan: StepPlan, config: ModelConfig, *, dtype: str, kv_dtype: str, padded: bool) -> StepWork:
    """A step of the scheduler's. padded: as the device computes it, in its bucket; else only what requests asked for,
    the head for those rows alone that sample."""
    return plan_work(
        config,
        [(row.start, row.length) for row in plan.rows if row.length],  # a follower reads no keys
        padded_tokens=plan.bucket.tokens if padded else plan.num_tokens,
        padded_rows=plan.bucket.rows if padded else sum(row.samples for row in plan.rows),
        dtype=dtype,
        kv_dtype=kv_dtype,
    )


def keys_and_pairs(config: ModelConfig, rows: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Keys that a step reads, and pairs of a query and a key that it multiplies, of one head in all layers together.

    rows: as of `plan_work`.
    """
    read = pairs = 0
    for window, layers in Counter(layer.window for layer in config.layers).items():
        for start, length in rows:
            end = start + length
            read += layers * (end if window is None else min(end, window + length - 1))
            pairs += layers * _pairs(start, end, end if window is None else window)
    return read, pairs


def _pairs(start: int, end: int, window: int) -> int:
    """Keys that the tokens from place `start` to below `end` see, together."""
    growing = max(0, min(end, window) - start)  # tokens that see all before them
    return growing * (2 * start + growing + 1) // 2 + (end - start - growing) * window
