"""Rotary embeddings as configs of either style state them."""

from __future__ import annotations

from typing import TypeVar

from jaxpaged.models.config import RopeConfig
from jaxpaged.models.hf_config import HFConfig
from jaxpaged.models.rope import FREQUENCIES, yarn_scale

Value = TypeVar("Value")


def read_rope(
    config: HFConfig, *, head_dim: int, max_positions: int, default_theta: float, default_part: float | None = None
) -> RopeConfig:
    """`rope_parameters` (transformers 5), or `rope_theta` and `rope_scaling` (earlier).

    default_part: the share of a head that is rotated where the config does not say; None: all of it is, always.
    """
    old, new = config.section("rope_scaling"), config.section("rope_parameters")
    if old and new and config.get("rope_scaling") != config.get("rope_parameters"):
        raise config.refusal("rope_scaling", config.get("rope_scaling"), "rope_parameters says otherwise", "Keep one")
    section = new or old or HFConfig({}, section="rope_parameters")
    dims = _rotated(config, section, head_dim, default_part)
    theta = _agreed(section, "rope_theta", config.optional_number("rope_theta"), section.optional_number("rope_theta"))
    theta = default_theta if theta is None else theta
    kinds = [section.choice(key, FREQUENCIES) for key in ("type", "rope_type") if section.get(key) is not None]
    kind = _agreed(section, "rope_type", kinds[0], kinds[-1]) if kinds else "default"
    if kind == "default":
        rope = RopeConfig(kind=kind, theta=theta, dims=dims)
    elif kind == "linear":
        rope = RopeConfig(kind=kind, theta=theta, dims=dims, factor=section.number("factor"))
    else:
        key = "original_max_position_embeddings"
        outer, inner = config.optional_integer(key), section.optional_integer(key)
        original = outer or inner or max_positions  # transformers' order
        rope = (_llama3_rope if kind == "llama3" else _yarn_rope)(section, theta, dims, original, max_positions)
    section.refuse_unread()
    return rope


def _rotated(config: HFConfig, section: HFConfig, head_dim: int, default_part: float | None) -> int:
    """Leading dimensions of a head that are rotated."""
    key = "partial_rotary_factor"
    if default_part is None:
        config.require_neutral([key], 1.0)
        section.require_neutral([key], 1.0)
        return head_dim
    part = _agreed(section, key, config.optional_number(key), section.optional_number(key)) or default_part
    dims = int(head_dim * part)
    if part > 1 or dims < 2 or dims % 2:
        raise section.refusal(
            key, part, f"it must make an even number of dimensions of a head of {head_dim}, up to all"
        )
    return dims


def _llama3_rope(section: HFConfig, theta: float, dims: int, original: int, max_positions: int) -> RopeConfig:
    del max_positions
    low, high = section.number("low_freq_factor"), section.number("high_freq_factor")
    if high <= low:
        raise section.refusal("high_freq_factor", high, f"it must be above low_freq_factor={low:g}")
    return RopeConfig(
        kind="llama3",
        theta=theta,
        dims=dims,
        original_positions=original,
        factor=section.number("factor"),
        low_freq_factor=low,
        high_freq_factor=high,
    )


def _yarn_rope(section: HFConfig, theta: float, dims: int, original: int, max_positions: int) -> RopeConfig:
    factor = section.number("factor", default=max_positions / original)
    scale = yarn_scale(
        factor,
        section.optional_number("attention_factor"),
        section.optional_number("mscale"),
        section.optional_number("mscale_all_dim"),
    )
    return RopeConfig(
        kind="yarn",
        theta=theta,
        dims=dims,
        original_positions=original,
        factor=factor,
        beta_fast=section.number("beta_fast", default=32.0),
        beta_slow=section.number("beta_slow", default=1.0),
        truncate=section.flag("truncate", default=True),
        scale=scale,
    )


def _agreed(section: HFConfig, key: str, first: Value | None, second: Value | None) -> Value | None:
    """The one of two spellings that is there; they may not contradict each other."""
    if first is not None and second is not None and first != second:
        raise section.refusal(key, second, f"the config also says {first!r}", "Keep one")
    return second if first is None else first
