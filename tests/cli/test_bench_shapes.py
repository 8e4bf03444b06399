"""Named shapes: what they are as models, and what is no shape."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from jaxpaged.bench.shapes import SHAPES, shape_config
from jaxpaged.errors import ConfigError, ModelError
from jaxpaged.models.decoder import build
from jaxpaged.models.families import read_config

PARAMETERS = {
    "llama-150m": 124_668_672,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.1-8b": 8_030_261_248,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-7b": 7_615_616_512,
    "mistral-7b": 7_241_732_096,
    "mixtral-8x7b": 46_702_792_704,
}
"""Published counts (of the checkpoints' safetensors) but the first."""


@pytest.mark.parametrize(("name", "count"), PARAMETERS.items())
def test_a_shape_has_the_published_number_of_parameters(name: str, count: int) -> None:
    graph = build(read_config(shape_config(name)), dtype="bfloat16")
    assert sum(math.prod(spec.shape) for spec in graph.specs) == count


def test_every_shape_is_a_model() -> None:
    for name in SHAPES:
        assert read_config(shape_config(name)).vocab >= 256, name


def test_mistral_looks_back_4096_tokens_in_32k() -> None:
    model = read_config(shape_config("mistral-7b"))
    assert {layer.window for layer in model.layers} == {4096}
    assert model.max_positions == 32768


def test_an_unknown_shape_is_told_the_names() -> None:
    with pytest.raises(ConfigError, match=r"--random-weights is 'llama-9b': .*llama-3\.1-8b.*mixtral-8x7b"):
        shape_config("llama-9b")


def test_a_config_file_is_a_shape(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(dict(SHAPES["tiny-llama"])))
    assert shape_config(str(path)) == dict(SHAPES["tiny-llama"])
    path.write_text("[]")
    with pytest.raises(ModelError, match=r"config\.json"):
        shape_config(str(path))
