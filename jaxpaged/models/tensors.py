"""How a checkpoint's tensors fill a model's parameters: what a rule says, and what every decoder of today shares.

Rules are data: a family lists those of its own names (`families`), `weights.mapping` follows them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

Weights = NDArray[Any]
Parts = tuple[Weights, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """source: a tensor's name; path: the parameter it goes to; place: the part of it, a name in `PLACES`.

    Both are templates: {i} is a layer, {x} an expert or head (the first dimension of the parameter), {kind} weight or
    bias. transposed: the file has the last two dimensions the other way round. values: what the file's numbers become,
    after that, of the same shape. Rules for parameters that a model does not have do nothing.
    """

    source: str
    path: str
    place: str = "whole"
    transposed: bool = False
    values: Callable[[Weights], Weights] | None = None


Rules = tuple[Rule, ...]

PLACES: Mapping[str, Callable[[Weights], Parts]] = MappingProxyType(
    {
        "whole": lambda parameter: (parameter,),
        "q": lambda parameter: (parameter[:, :-2],),  # of [K, G + 2, D, ...]
        "k": lambda parameter: (parameter[:, -2],),
        "v": lambda parameter: (parameter[:, -1],),
        "q, k, v": lambda parameter: (parameter[:, :-2], parameter[:, -2], parameter[:, -1]),
        "gate": lambda parameter: (parameter[0],),  # of [2, F, ...]
        "up": lambda parameter: (parameter[1],),
    }
)
"""Views of a parameter; the tensor holds them one after the other, the dimensions of each but the last made one."""


def plus_one(values: Weights) -> Weights:
    """Of norms that multiply by 1 + weight."""
    return values.astype(np.float32) + np.float32(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Uninterleaved:
    """Rows of q or k [heads * D, ...] (or their bias) for a rotation that pairs 2i with 2i + 1, in the order of that
    which is done here: i with i + dims / 2. Both are permuted alike, so no score changes. dims: leading ones of D
    `head_dim` that are rotated.
    """

    head_dim: int
    dims: int

    def __call__(self, values: Weights) -> Weights:
        heads = values.reshape(-1, self.head_dim, *values.shape[1:])
        pairs, rest = heads[:, : self.dims], heads[:, self.dims :]
        return np.concatenate([pairs[:, 0::2], pairs[:, 1::2], rest], axis=1).reshape(values.shape)


def llama_rules(*, attention_norm: str = "input_layernorm", ffn_norm: str = "post_attention_layernorm") -> Rules:
    """The names of Llama's checkpoint, which most families have; the norms' places differ."""
    layer = "model.layers.{i}"
    attention = {f"{layer}.self_attn.{name}_proj.{{kind}}": name for name in "qkv"}
    return (
        Rule(source="model.embed_tokens.weight", path="embed_tokens.weight"),
        Rule(source="model.norm.{kind}", path="norm.{kind}"),
        Rule(source="lm_head.weight", path="lm_head.weight"),
        Rule(source=f"{layer}.{attention_norm}.{{kind}}", path="layers.{i}.attention_norm.{kind}"),
        Rule(source=f"{layer}.{ffn_norm}.{{kind}}", path="layers.{i}.ffn_norm.{kind}"),
        *(
            Rule(source=source, path="layers.{i}.self_attn.qkv_proj.{kind}", place=place)
            for source, place in attention.items()
        ),
        Rule(source=f"{layer}.self_attn.o_proj.{{kind}}", path="layers.{i}.self_attn.o_proj.{kind}"),
        Rule(source=f"{layer}.self_attn.q_norm.weight", path="layers.{i}.self_attn.q_norm.weight"),
        Rule(source=f"{layer}.self_attn.k_norm.weight", path="layers.{i}.self_attn.k_norm.weight"),
        *gated_rules(f"{layer}.mlp", "layers.{i}.mlp"),
    )


def gated_rules(source: str, path: str) -> Rules:
    """A gated network whose products are gate_proj, up_proj and down_proj."""
    return (
        Rule(source=f"{source}.gate_proj.{{kind}}", path=f"{path}.gate_up_proj.{{kind}}", place="gate"),
        Rule(source=f"{source}.up_proj.{{kind}}", path=f"{path}.gate_up_proj.{{kind}}", place="up"),
        Rule(source=f"{source}.down_proj.{{kind}}", path=f"{path}.down_proj.{{kind}}"),
    )


def expert_rules(router: str, expert: str, *, gate: str, up: str, down: str) -> Rules:
    """Experts that are stored one by one. router: its module in a layer; expert: with {x}; the rest: its products."""
    layer = "model.layers.{i}"
    return (
        Rule(source=f"{layer}.{router}.{{kind}}", path="layers.{i}.moe.router.{kind}"),
        Rule(source=f"{layer}.{expert}.{gate}.weight", path="layers.{i}.moe.gate_up_proj", place="gate"),
        Rule(source=f"{layer}.{expert}.{up}.weight", path="layers.{i}.moe.gate_up_proj", place="up"),
        Rule(source=f"{layer}.{expert}.{down}.weight", path="layers.{i}.moe.down_proj"),
    )
