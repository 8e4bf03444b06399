"""How a checkpoint's tensors fill a model's parameters: what a rule says, and what every decoder of today shares.

Rules are data: a family lists those of its own names (`families`), `weights.mapping` follows them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from jaxpaged.models.config import ModelConfig

Weights = NDArray[Any]
Parts = tuple[Weights, ...]


class Coding(Protocol):
    """A form in which one tensor is several of a file, to be decoded when it is read."""

    def shapes(self, shape: tuple[int, ...]) -> Mapping[str, tuple[int, ...]]:
        """What the names of these tensors, all of uint8, end in, and their shapes, for values of this shape."""
        ...

    def values(self, tensors: Mapping[str, Weights]) -> Weights:
        """The values [*outs, A] of the tensors, by the ends of their names; or of a slice of all of them."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """source: a tensor's name; path: the parameter it goes to; place: the part of it, a name in `PLACES`.

    Both are templates: {i} is a layer, {x} an expert or head (the first dimension of the parameter), {kind} weight or
    bias. transposed: the file has the last two dimensions the other way round. values: what the file's numbers become,
    after that, of the same shape. coding: how a checkpoint may hold the tensor instead, never transposed. Rules for
    parameters that a model does not have do nothing.
    """

    source: str
    path: str
    place: str = "whole"
    transposed: bool = False
    values: Callable[[Weights], Weights] | None = None
    coding: Coding | None = None


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
        "experts' gate and up in turns": lambda parameter: (np.swapaxes(parameter, 1, 2),),  # of [X, 2, F, ...]
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


def uninterleaved(rules: Rules, model: ModelConfig) -> Rules:
    """The rules for a checkpoint whose rope pairs neighbours."""
    ropes = model.ropes()
    if not ropes:
        return rules
    values = Uninterleaved(head_dim=model.head_dim, dims=ropes[0].dims)
    return tuple(replace(rule, values=values) if rule.place in ("q", "k") else rule for rule in rules)


def llama_rules(
    *,
    attention_norm: str | None = "input_layernorm",
    ffn_norm: str | None = "post_attention_layernorm",
    final_norm: str = "norm",
    o_proj: str = "o_proj",
    qk_norm: str | None = "{name}_norm",
    mlp: bool = True,
) -> Rules:
    """The names of Llama's checkpoint, which most families have; the parameters: what some call otherwise.

    None, or mlp False: the family has no such thing, or rules of its own. qk_norm: with {name}, q or k.
    """
    layer = "model.layers.{i}"
    return (
        Rule(source="model.embed_tokens.weight", path="embed_tokens.weight"),
        Rule(source=f"model.{final_norm}.{{kind}}", path="norm.{kind}"),
        Rule(source="lm_head.weight", path="lm_head.weight"),
        *norm_rules(layer, attention_norm=attention_norm, ffn_norm=ffn_norm),
        *(
            Rule(
                source=f"{layer}.self_attn.{name}_proj.{{kind}}",
                path="layers.{i}.self_attn.qkv_proj.{kind}",
                place=name,
            )
            for name in ("q", "k", "v")
        ),
        Rule(source=f"{layer}.self_attn.{o_proj}.{{kind}}", path="layers.{i}.self_attn.o_proj.{kind}"),
        *(
            Rule(
                source=f"{layer}.self_attn.{qk_norm.format(name=name)}.{{kind}}",
                path=f"layers.{{i}}.self_attn.{name}_norm.{{kind}}",
            )
            for name in ("q", "k")
            if qk_norm is not None
        ),
        *(gated_rules(f"{layer}.mlp", "layers.{i}.mlp") if mlp else ()),
    )


def norm_rules(layer: str, **names: str | None) -> Rules:
    """A layer's norms: what a checkpoint calls each attribute of `layers.DecoderLayer`, None for those it has not."""
    return tuple(
        Rule(source=f"{layer}.{name}.{{kind}}", path=f"layers.{{i}}.{attribute}.{{kind}}")
        for attribute, name in names.items()
        if name is not None
    )


def plain_rules(source: str, *, up: str, down: str) -> Rules:
    """A network without a gate. up, down: what its products are called."""
    path = "layers.{i}.mlp"
    return (
        Rule(source=f"{source}.{up}.{{kind}}", path=f"{path}.up_proj.{{kind}}"),
        Rule(source=f"{source}.{down}.{{kind}}", path=f"{path}.down_proj.{{kind}}"),
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
