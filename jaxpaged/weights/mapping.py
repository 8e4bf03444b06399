"""Which tensor of a Hugging Face checkpoint fills which part of which parameter: data for all families.

The expected names follow from the parameters that a model declares, so a checkpoint is compared with what the model
needs, never the other way round. Rules for parameters that a model does not have do nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxpaged.models.decoder import ParamSpec

Weights = NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """source: a tensor's name; path: the parameter it goes to; place: the part of it, a name in `PLACES`.

    Both are templates: {i} is a layer, {x} an expert (the first dimension of the parameter), {kind} weight or bias.
    """

    source: str
    path: str
    place: str = "whole"


RULES = (
    Rule(source="model.embed_tokens.weight", path="embed_tokens.weight"),
    Rule(source="model.norm.weight", path="norm.weight"),
    Rule(source="lm_head.weight", path="lm_head.weight"),
    Rule(source="model.layers.{i}.input_layernorm.weight", path="layers.{i}.input_layernorm.weight"),
    Rule(source="model.layers.{i}.post_attention_layernorm.weight", path="layers.{i}.post_attention_layernorm.weight"),
    Rule(source="model.layers.{i}.self_attn.q_proj.{kind}", path="layers.{i}.self_attn.qkv_proj.{kind}", place="q"),
    Rule(source="model.layers.{i}.self_attn.k_proj.{kind}", path="layers.{i}.self_attn.qkv_proj.{kind}", place="k"),
    Rule(source="model.layers.{i}.self_attn.v_proj.{kind}", path="layers.{i}.self_attn.qkv_proj.{kind}", place="v"),
    Rule(source="model.layers.{i}.self_attn.o_proj.{kind}", path="layers.{i}.self_attn.o_proj.{kind}"),
    Rule(source="model.layers.{i}.self_attn.q_norm.weight", path="layers.{i}.self_attn.q_norm.weight"),
    Rule(source="model.layers.{i}.self_attn.k_norm.weight", path="layers.{i}.self_attn.k_norm.weight"),
    Rule(source="model.layers.{i}.mlp.gate_proj.{kind}", path="layers.{i}.mlp.gate_up_proj.{kind}", place="gate"),
    Rule(source="model.layers.{i}.mlp.up_proj.{kind}", path="layers.{i}.mlp.gate_up_proj.{kind}", place="up"),
    Rule(source="model.layers.{i}.mlp.down_proj.{kind}", path="layers.{i}.mlp.down_proj.{kind}"),
    Rule(source="model.layers.{i}.block_sparse_moe.gate.weight", path="layers.{i}.moe.router.weight"),
    Rule(
        source="model.layers.{i}.block_sparse_moe.experts.{x}.w1.weight",
        path="layers.{i}.moe.gate_up_proj",
        place="gate",
    ),
    Rule(
        source="model.layers.{i}.block_sparse_moe.experts.{x}.w3.weight", path="layers.{i}.moe.gate_up_proj", place="up"
    ),
    Rule(source="model.layers.{i}.block_sparse_moe.experts.{x}.w2.weight", path="layers.{i}.moe.down_proj"),
)

PLACES: Mapping[str, Callable[[Weights], Weights]] = MappingProxyType(
    {
        "whole": lambda parameter: parameter,
        "q": lambda parameter: parameter[:, :-2],  # of [K, G + 2, D, ...]
        "k": lambda parameter: parameter[:, -2],
        "v": lambda parameter: parameter[:, -1],
        "gate": lambda parameter: parameter[0],  # of [2, F, ...]
        "up": lambda parameter: parameter[1],
    }
)

IGNORABLE = (re.compile(r"(model\.)?(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq"),)
"""Buffers that old checkpoints hold and that follow from the config."""
IGNORABLE_WHEN_TIED = (re.compile(r"lm_head\.weight"),)
"""The output head, stored a second time though the config says that it is the embedding table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where one tensor of a checkpoint goes. shape: the tensor's own, as Hugging Face has it."""

    parameter: int  # index into the specs
    place: str
    expert: int | None
    shape: tuple[int, ...]

    def view(self, parameter: Weights) -> Weights:
        """The part of the parameter that the tensor fills; a view."""
        return PLACES[self.place](parameter if self.expert is None else parameter[self.expert])


def expected_tensors(specs: Sequence[ParamSpec]) -> dict[str, Target]:
    """Every tensor that a checkpoint of these parameters must hold, by name.

    Together the tensors fill every element of every parameter exactly once, but for scales, which are computed.
    """
    matchers = [(rule, _matcher(rule.path)) for rule in RULES]
    targets: dict[str, Target] = {}
    for parameter, spec in enumerate(specs):
        if spec.is_scale:
            continue
        filled = 0
        for rule, matcher in matchers:
            if not (match := matcher.fullmatch(spec.path)):
                continue
            experts = range(spec.shape[0]) if "{x}" in rule.source else (None,)
            for expert in experts:
                name = rule.source.format(x=expert, **match.groupdict())
                targets[name] = target = _target(parameter, spec, rule.place, expert)
                filled += math.prod(target.shape)
        assert filled == math.prod(spec.shape), f"the rules fill {filled} elements of {spec}"
    return targets


def is_ignorable(name: str, *, tied: bool) -> bool:
    """Whether a tensor that nobody expects may be there all the same."""
    return any(pattern.fullmatch(name) for pattern in IGNORABLE + (IGNORABLE_WHEN_TIED if tied else ()))


def _matcher(path: str) -> re.Pattern[str]:
    pattern = re.escape(path).replace(r"\{i\}", r"(?P<i>\d+)").replace(r"\{kind\}", "(?P<kind>weight|bias)")
    return re.compile(pattern)


def _target(parameter: int, spec: ParamSpec, place: str, expert: int | None) -> Target:
    target = Target(parameter=parameter, place=place, expert=expert, shape=())
    shape = target.view(np.broadcast_to(np.int8(0), spec.shape)).shape  # no memory behind it
    if place != "whole":  # the fused dimensions of a part are one in the checkpoint
        outs, ins = (shape, ()) if spec.path.endswith(".bias") else (shape[:-1], shape[-1:])
        shape = (math.prod(outs), *ins)
    return Target(parameter=parameter, place=place, expert=expert, shape=shape)
