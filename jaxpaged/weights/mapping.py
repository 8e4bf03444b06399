"""Which tensor of a Hugging Face checkpoint fills which part of which parameter, by a family's rules.

The expected names follow from the parameters that a model declares, so a checkpoint is compared with what the model
needs, never the other way round.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from jaxpaged.models.decoder import ParamSpec
from jaxpaged.models.tensors import PLACES, Coding, Parts, Rule, Rules, Weights

IGNORABLE = (re.compile(r"(model\.)?(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq"),)
"""Buffers that old checkpoints hold and that follow from the config."""
IGNORABLE_WHEN_TIED = (re.compile(r"(lm_head|embed_out)\.weight"),)
"""The output head, stored a second time though the config says that it is the embedding table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where one tensor of a checkpoint goes. shape: the tensor's own, as Hugging Face has it.

    expert: index of the parameter's first dimension, None where the tensor holds all of it. transposed, values,
    coding: see `Rule`.
    """

    parameter: int  # index into the specs
    place: str
    expert: int | None
    shape: tuple[int, ...]
    transposed: bool = False
    values: Callable[[Weights], Weights] | None = None
    coding: Coding | None = None

    def parts(self, parameter: Weights) -> Parts:
        """The parts of the parameter that the tensor fills; views."""
        return PLACES[self.place](parameter if self.expert is None else parameter[self.expert])

    def fill(self, parameter: Weights, tensor: Weights) -> None:
        """Write the tensor of a checkpoint to where it goes."""
        values = np.swapaxes(tensor, -1, -2) if self.transposed else tensor
        values = values if self.values is None else self.values(values)
        parts = self.parts(parameter)
        if len(parts) == 1:
            parts[0][...] = values.reshape(parts[0].shape).astype(parameter.dtype, copy=False)
            return
        start, row = 0, math.prod(values.shape[1:])
        for part in parts:
            end = start + part.size // row
            part[...] = values[start:end].reshape(part.shape).astype(parameter.dtype, copy=False)
            start = end

    def coded_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The tensors that may be there instead, by the ends of their names; none where there is no such form."""
        if self.coding is None:
            return {}
        *first, ins, outs = self.shape
        return self.coding.shapes((*first, outs, ins) if self.transposed else self.shape)

    def fill_coded(self, parameter: Weights, tensors: Mapping[str, Weights]) -> None:
        """As `fill`, of tensors in their coded form; expert after expert, since decoded they take several times as
        much."""
        (part,) = self.parts(parameter)
        assert self.coding is not None
        assert self.values is None
        for expert, held in enumerate(part):
            values = self.coding.values({end: tensor[expert] for end, tensor in tensors.items()})
            held[...] = values.reshape(held.shape).astype(parameter.dtype, copy=False)

    def view(self, parameter: Weights) -> Weights:
        """The part of the parameter that holds the very values of the tensor."""
        (part,) = self.parts(parameter)
        assert not self.transposed
        assert self.values is None
        return part


def expected_tensors(specs: Sequence[ParamSpec], rules: Rules) -> dict[str, Target]:
    """Every tensor that a checkpoint of these parameters must hold, by name.

    Together the tensors fill every element of every parameter exactly once, but for scales, which are computed.
    """
    matchers = [(rule, _matcher(rule.path)) for rule in rules]
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
                targets[name] = target = _target(parameter, spec, rule, expert)
                filled += math.prod(target.shape)
        assert filled == math.prod(spec.shape), f"the rules fill {filled} elements of {spec}"
    return targets


def is_ignorable(name: str, *, tied: bool, more: Sequence[str] = ()) -> bool:
    """Whether a tensor that nobody expects may be there all the same. more: patterns of a family's own."""
    patterns = (*IGNORABLE, *(IGNORABLE_WHEN_TIED if tied else ()), *map(re.compile, more))
    return any(pattern.fullmatch(name) for pattern in patterns)


def _matcher(path: str) -> re.Pattern[str]:
    pattern = re.escape(path).replace(r"\{i\}", r"(?P<i>\d+)").replace(r"\{kind\}", "(?P<kind>weight|bias)")
    return re.compile(pattern)


def _target(parameter: int, spec: ParamSpec, rule: Rule, expert: int | None) -> Target:
    """Fused dimensions are one in a checkpoint, but that of all experts."""
    target = Target(
        parameter=parameter,
        place=rule.place,
        expert=expert,
        shape=(),
        transposed=rule.transposed,
        values=rule.values,
        coding=rule.coding,
    )
    parts = target.parts(np.broadcast_to(np.int8(0), spec.shape))  # no memory behind it
    first = spec.shape[:1] if expert is None and spec.axes[0] == "experts" else ()
    rest = spec.shape[len(first) + (expert is not None) :]
    ins = () if len(rest) < 2 or spec.path.endswith("bias") else rest[-1:]
    size = sum(part.size for part in parts) // math.prod((*first, *ins))
    shape = (*first, *((size,) if rest else ()), *ins)
    return replace(target, shape=(*shape[:-2], shape[-1], shape[-2]) if rule.transposed else shape)
