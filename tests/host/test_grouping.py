"""KV groups: how layers of several windows share one pool of blocks."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxpaged.models.config import AttentionKind, KVGroup, LayerConfig, ModelConfig, NormConfig, RopeConfig
from jaxpaged.models.grouping import LayerKind, layers_per_block

ROPE = RopeConfig(kind="default", theta=1e4, dims=8)
MODEL = ModelConfig(
    architecture="Hybrid",
    dtype="float32",
    vocab=8,
    embed=8,
    heads=2,
    kv_heads=1,
    head_dim=8,
    ffn=8,
    layers=(LayerConfig(window=None, rope=ROPE),),
    max_positions=4096,
    norm=NormConfig(eps=1e-5),
    activation="silu",
    scale=1.0,
)


def model_of(*windows: int | None, max_positions: int = 4096) -> ModelConfig:
    layers = tuple(LayerConfig(window=window, rope=ROPE) for window in windows)
    return replace(MODEL, layers=layers, max_positions=max_positions)


@pytest.mark.parametrize(
    ("name", "with_window", "window", "full", "longest", "depth", "groups"),
    [
        ("gemma-2-9b", 21, 4096, 21, 8192, 21, 2),
        ("gemma-2-2b", 13, 4096, 13, 8192, 13, 2),
        ("gemma-3-1b", 22, 512, 4, 32768, 4, 7),
        ("gemma-3-4b", 29, 1024, 5, 131072, 5, 7),
        ("gemma-3-12b", 40, 1024, 8, 131072, 8, 6),
        ("gemma-3-27b", 52, 1024, 10, 131072, 10, 7),
        ("gpt-oss-20b", 12, 128, 12, 131072, 12, 2),
        ("gpt-oss-120b", 18, 128, 18, 131072, 18, 2),
        ("olmo-3-7b", 24, 4096, 8, 65536, 8, 4),
        ("olmo-3-32b", 48, 4096, 16, 65536, 16, 4),
        ("command-r7b", 24, 4096, 8, 132096, 8, 4),
        ("mistral-7b", 32, 4096, 0, 32768, 32, 1),
        ("llama-3.1-8b", 0, 0, 32, 131072, 32, 1),
    ],
)
def test_models_that_there_are(
    name: str, with_window: int, window: int, full: int, longest: int, depth: int, groups: int
) -> None:
    model = model_of(*[window] * with_window, *[None] * full, max_positions=longest)
    assert (model.kv_arrays(), len(model.kv_groups())) == (depth, groups), name
    held = sum(longest if group.window is None else group.window for group in model.kv_groups()) * depth
    needed = with_window * window + full * longest
    assert needed <= held <= 1.02 * needed  # what the last group of a window leaves empty


KINDS = st.lists(st.builds(LayerKind, layers=st.integers(1, 12), tokens=st.integers(1, 50)), min_size=1, max_size=4)


@settings(max_examples=300, deadline=None)
@given(kinds=KINDS, most_groups=st.integers(1, 6))
def test_the_choice_is_the_best_there_is(kinds: list[LayerKind], most_groups: int) -> None:
    """Every depth, its groups dealt out layer by layer, and the token places of all arrays counted one group at a
    time."""
    found: dict[int, tuple[int, int]] = {}
    for depth in range(1, 1 + max(kind.layers for kind in kinds)):
        groups: list[tuple[int, int]] = []  # tokens, layers
        for kind in kinds:
            left = kind.layers
            while left:
                groups.append((kind.tokens, min(left, depth)))
                left -= groups[-1][1]
        if len(groups) <= max(most_groups, len(kinds)):
            found[depth] = sum(tokens * depth for tokens, _ in groups), len(groups)
    assert found[layers_per_block(kinds, most_groups=most_groups)] == min(found.values())


def test_layers_of_one_window_share_a_table_and_those_of_several_share_arrays() -> None:
    model = model_of(16, None, 16, 16, None, 16)
    assert model.kv_groups() == (
        KVGroup(layers=(0, 2), window=16),
        KVGroup(layers=(1, 4), window=None),
        KVGroup(layers=(3, 5), window=16),
    )
    assert model.kv_windows() == (16, None, 16)
    assert model.kv_arrays() == 2
    assert model.kv_places() == (0, 0, 1, 0, 1, 1)
    kinds = AttentionKind(group=0, window=16), AttentionKind(group=1, window=None), AttentionKind(group=2, window=16)
    assert model.layer_kinds() == (*kinds[:2], kinds[0], kinds[2], kinds[1], kinds[2])
    assert model.attention_kinds() == kinds


def test_layers_that_are_all_alike_have_an_array_each() -> None:
    for windows in ([None] * 5, [16] * 5):
        model = model_of(*windows)
        assert model.kv_groups() == (KVGroup(layers=(0, 1, 2, 3, 4), window=windows[0]),)
        assert model.kv_places() == (0, 1, 2, 3, 4)


def test_a_window_that_no_context_outgrows_is_none() -> None:
    model = model_of(64, None, 32, 32, max_positions=64)
    assert model.kv_windows() == (None, 32)
    assert model.attention_kinds() == (
        AttentionKind(group=0, window=64),
        AttentionKind(group=0, window=None),
        AttentionKind(group=1, window=32),
    )
