"""Which layers have a sliding window, as configs of either style state it."""

from __future__ import annotations

from jaxpaged.models.hf_config import HFConfig

Windows = tuple[int | None, ...]
_MOST_LAYERS = 1024  # a typing error must not build a million layers


def num_layers(config: HFConfig) -> int:
    return config.integer("num_hidden_layers", maximum=_MOST_LAYERS)


def window(config: HFConfig, *, default: int | None) -> int | None:
    """`sliding_window`, where null says none and a missing key says the family's default."""
    return config.optional_integer("sliding_window") if "sliding_window" in config else default


def same_windows(config: HFConfig, size: int | None) -> Windows:
    """One window for all layers, which is all that transformers does in these families."""
    windows = (size,) * num_layers(config)
    if layer_types(config, size) not in (None, windows):
        raise config.unsupported(
            "layer_types", config.get("layer_types"), f"all layers must be alike here: window={size}"
        )
    return windows


def late_windows(config: HFConfig) -> Windows:
    """Windows by `layer_types`; in older configs the layers from `max_window_layers` on have one."""
    used = config.flag("use_sliding_window", default=False)
    size = window(config, default=4096)
    first = config.integer("max_window_layers", default=28, minimum=0)
    size = size if used else None
    by_rule = tuple(size if layer >= first else None for layer in range(num_layers(config)))
    return layer_types(config, size) or by_rule


def windows_by_turns(config: HFConfig, size: int | None, *, every: int | None) -> Windows:
    """Windows by `layer_types`; in configs without it, all layers but every so many have one. None: no layer has."""
    stated = layer_types(config, size)
    if stated is not None:
        return stated
    return tuple(size if every is not None and (layer + 1) % every else None for layer in range(num_layers(config)))


def layer_types(config: HFConfig, size: int | None) -> Windows | None:
    """The window of every layer as `layer_types` states it; None where it does not."""
    types, layers = config.get("layer_types"), num_layers(config)
    if types is None:
        return None
    if not isinstance(types, list) or len(types) != layers:
        raise config.refusal("layer_types", types, f"it must list num_hidden_layers={layers} types")
    for kind in types:
        if kind not in ("full_attention", "sliding_attention"):
            raise config.unsupported("layer_types", kind, "implemented are full_attention, sliding_attention")
    if size is None and "sliding_attention" in types:
        raise config.refusal("layer_types", "sliding_attention", "sliding_window gives no window for it")
    return tuple(size if kind == "sliding_attention" else None for kind in types)
