"""Rotary embeddings as configs of either style state them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TypeVar

from jaxpaged.models.config import RopeConfig
from jaxpaged.models.hf_config import HFConfig, as_float
from jaxpaged.models.rope import FREQUENCIES, yarn_scale

Value = TypeVar("Value")
NO_ALIASES: Mapping[str, str] = MappingProxyType({})
_ORIGINAL = "original_max_position_embeddings"
_PARTIAL = "partial_rotary_factor"
_MOST_POSITIONS = 2**31 - 1


def read_rope(
    config: HFConfig,
    *,
    dims: int,
    max_positions: int,
    default_theta: float,
    partial: float | None = None,
    aliases: Mapping[str, str] = NO_ALIASES,
    default: Mapping[str, object] = NO_ALIASES,
    default_original: int | None = None,
) -> RopeConfig:
    """`rope_parameters` (transformers 5), or `rope_theta` and `rope_scaling` (earlier).

    dims: D. partial: the share of a head that is rotated where the config does not say; None: families that rotate all
    of it, and where the key is refused. aliases: names that some configs have for a kind. default: the parameters of a
    config that gives none. default_original: the context of the training where it does not stand beside the rope; what
    stands in the rope's parameters is then no other.
    """
    old, new = config.section("rope_scaling"), config.section("rope_parameters")
    if old and new and config.get("rope_scaling") != config.get("rope_parameters"):
        raise config.refusal("rope_scaling", config.get("rope_scaling"), "rope_parameters says otherwise", "Keep one")
    section = new or old or HFConfig(default, section="rope_parameters")
    theta = _agreed(section, "rope_theta", config.optional_number("rope_theta"), section.optional_number("rope_theta"))
    if partial is None:
        for place in (config, section):
            place.require_neutral([_PARTIAL], 1.0)
    else:
        outer, inner = (place.optional_number(_PARTIAL) for place in (config, section))
        share = _agreed(section, _PARTIAL, outer, inner)
        dims = _rotated(config, dims, partial if share is None else share)
    original = config.optional_integer(_ORIGINAL) or default_original
    if default_original is not None and (inner := section.get(_ORIGINAL)) not in (None, original):
        raise section.refusal(_ORIGINAL, inner, f"{_ORIGINAL} beside the rope is {original}", "Keep one")
    return read_parameters(
        section,
        dims=dims,
        max_positions=max_positions,
        theta=default_theta if theta is None else theta,
        original=original,
        context=config.context,
        aliases=aliases,
    )


def read_layer_rope(
    config: HFConfig,
    kind: str,
    *,
    theta_key: str | None,
    default_theta: float,
    dims: int,
    max_positions: int,
) -> RopeConfig:
    """Of the layers of one of `layer_types`: `rope_parameters[kind]`; in older configs theta under a key of its own.

    Older configs scale the rope of layers without a window alone (`rope_scaling`). theta_key: None where they have no
    word for it.
    """
    config.require_neutral([_PARTIAL], 1.0)
    by_kind = config.section("rope_parameters")
    theta = None if theta_key is None else config.optional_number(theta_key)
    section = None
    if by_kind is not None:
        # a section by layer type and nothing else
        section, _ = by_kind.section(kind), [by_kind.get(key) for key in ("full_attention", "sliding_attention")]
        by_kind.refuse_unread()
    if kind == "full_attention" and (old := config.section("rope_scaling")) is not None:
        if by_kind is not None:
            raise config.refusal(
                "rope_scaling", config.get("rope_scaling"), "there is rope_parameters, too", "Keep one"
            )
        section = old
    section = section or HFConfig({}, section=f"rope_parameters.{kind}")
    theta = _agreed(section, "rope_theta", theta, section.optional_number("rope_theta"))
    return read_parameters(
        section, dims=dims, max_positions=max_positions, theta=default_theta if theta is None else theta
    )


def read_parameters(
    section: HFConfig,
    *,
    dims: int,
    max_positions: int,
    theta: float,
    original: int | None = None,
    context: int | None = None,
    aliases: Mapping[str, str] = NO_ALIASES,
) -> RopeConfig:
    """One object of parameters, whose rope_theta was read. dims: what is rotated of a head. original: the context of
    the training, where the config says it outside. context: the longest that will be asked for."""
    names = {*FREQUENCIES, *aliases}
    kinds = [section.choice(key, names) for key in ("type", "rope_type") if section.get(key) is not None]
    kind = _agreed(section, "rope_type", kinds[0], kinds[-1]) if kinds else "default"
    assert kind is not None
    kind = aliases.get(kind, kind)
    if kind == "default":
        rope = RopeConfig(kind=kind, theta=theta, dims=dims)
    elif kind == "linear":
        rope = RopeConfig(kind=kind, theta=theta, dims=dims, factor=section.number("factor"))
    else:
        inner = section.optional_integer(_ORIGINAL)
        basis = RopeConfig(
            kind=kind, theta=theta, dims=dims, original_positions=original or inner or max_positions
        )  # transformers' order
        longest = max_positions if context is None else context
        rope = _SCALED[kind](section, basis, max_positions, longest)
    section.refuse_unread()
    return rope


def longest_context(rope: RopeConfig, max_positions: int, context: int | None) -> int:
    """The longest context that this rope is for. max_positions: as the config states it; context: see `HFConfig`."""
    if rope.kind == "yarn":
        return max(max_positions, int(rope.original_positions * rope.factor))  # bounded by `_yarn`
    if rope.kind == "longrope" and context is not None and context <= rope.original_positions:
        return min(max_positions, rope.original_positions)  # of the short factors
    return max_positions


def _rotated(config: HFConfig, head_dim: int, share: float) -> int:
    """How many leading dimensions of a head are rotated."""
    dims = int(head_dim * share)
    if share > 1.0 or dims < 2 or dims % 2:
        raise config.refusal(_PARTIAL, share, f"it must leave an even number of a head's {head_dim} dimensions")
    return dims


def _llama3(section: HFConfig, rope: RopeConfig, max_positions: int, longest: int) -> RopeConfig:
    del max_positions, longest
    low, high = section.number("low_freq_factor"), section.number("high_freq_factor")
    if high <= low:
        raise section.refusal("high_freq_factor", high, f"it must be above low_freq_factor={low:g}")
    return replace(rope, factor=section.number("factor"), low_freq_factor=low, high_freq_factor=high)


def _yarn(section: HFConfig, rope: RopeConfig, max_positions: int, longest: int) -> RopeConfig:
    del longest
    factor = section.number("factor", default=max_positions / rope.original_positions)
    if rope.original_positions * factor > _MOST_POSITIONS:
        limit = f"times {_ORIGINAL}={rope.original_positions} it must be at most {_MOST_POSITIONS}"
        raise section.refusal("factor", factor, limit)
    if rope.theta <= 1:
        raise section.refusal("rope_theta", rope.theta, "it must be above 1")
    scale = yarn_scale(
        factor,
        section.optional_number("attention_factor"),
        section.optional_number("mscale"),
        section.optional_number("mscale_all_dim"),
    )
    return replace(
        rope,
        factor=factor,
        beta_fast=section.number("beta_fast", default=32.0),
        beta_slow=section.number("beta_slow", default=1.0),
        truncate=section.flag("truncate", default=True),
        scale=scale,
    )


def _longrope(section: HFConfig, rope: RopeConfig, max_positions: int, longest: int) -> RopeConfig:
    """LongRoPE (Ding et al. 2024, arXiv 2402.13753): the long factors where a context can be longer than that of the
    training, else the short ones; the factor on cos and sin is one for both (Phi-3's report, arXiv 2404.14219)."""
    original = rope.original_positions
    if original < 2:
        raise section.refusal(_ORIGINAL, original, "it must be at least 2")
    factor = section.number("factor", default=max_positions / original)
    scale = section.optional_number("attention_factor")
    if scale is None:
        scale = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1.0 else 1.0
    short, long = (_factors(section, key, rope.dims // 2) for key in ("short_factor", "long_factor"))
    return replace(rope, factor=factor, scale=scale, factors=long if longest > original else short)


def _factors(section: HFConfig, key: str, pairs: int) -> tuple[float, ...]:
    values = section.get(key)
    numbers = [as_float(value) or 0.0 for value in values] if isinstance(values, list) else []
    if len(numbers) != pairs or min(numbers) <= 0:
        raise section.refusal(key, values, f"it must list {pairs} numbers above 0, one for every pair that is rotated")
    return tuple(numbers)


_SCALED: Mapping[str, Callable[[HFConfig, RopeConfig, int, int], RopeConfig]] = MappingProxyType(
    {"llama3": _llama3, "yarn": _yarn, "longrope": _longrope}
)
"""By kind: section, what is known of the rope, the config's longest context, the longest that is asked for -> rope."""


def _agreed(section: HFConfig, key: str, first: Value | None, second: Value | None) -> Value | None:
    """The one of two spellings that is there; they may not contradict each other."""
    if first is not None and second is not None and first != second:
        raise section.refusal(key, second, f"the config also says {first!r}", "Keep one")
    return second if first is None else first
