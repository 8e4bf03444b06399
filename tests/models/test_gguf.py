"""GGUF files: the model of the folder that they were made of, and all that is wrong with one said at once."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
import tomllib
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from gguf_files import Weights, draw, write_both
from safetensors.numpy import load_file, save_file

from jaxpaged.bench.capacity import read_shape
from jaxpaged.commands import convert
from jaxpaged.config import EngineConfig
from jaxpaged.errors import ModelError, UnsupportedModelError, WeightsError
from jaxpaged.fingerprint import weights_identity
from jaxpaged.models.config import ModelConfig
from jaxpaged.models.rope import frequencies
from jaxpaged.tiny import TINY_MODEL
from jaxpaged.tokenize import Tokenizer
from jaxpaged.weights.load import LoadedModel, load_model, read_model_config
from jaxpaged.weights.source import localised

KINDS = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_K", "Q5_K", "Q6_K")


def same(one: LoadedModel, other: LoadedModel) -> bool:
    """Of the same parameters and bits."""
    assert one.graphdef.specs == other.graphdef.specs
    return all(
        np.array_equal(np.asarray(a).view(np.uint8), np.asarray(b).view(np.uint8))
        for a, b in zip(jax.tree.leaves(one.leaves), jax.tree.leaves(other.leaves), strict=True)
    )


def plain(config: ModelConfig) -> str:
    """All that is computed: without the type of the checkpoint."""
    return repr(config).replace(f"dtype='{config.dtype}'", "")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_the_model_is_that_of_the_folder(tmp_path: Path, architecture: str, kind: str) -> None:
    path, folder = write_both(tmp_path, architecture, kind)
    assert plain(read_model_config(path)) == plain(read_model_config(folder))
    assert read_shape(str(path)) == read_model_config(path)
    assert same(load_model(path, dtype="float32"), load_model(folder, dtype="float32"))


def test_a_table_that_is_the_head_is_of_another_type_than_the_rest(tmp_path: Path) -> None:
    raw, meant = draw("Q6_K", (64, 256), np.random.default_rng(6))
    path, folder = write_both(
        tmp_path,
        "llama",
        "Q4_0",
        tied=True,
        change=lambda _, tensors: tensors.update({"token_embd.weight": (raw, "Q6_K")}),
    )
    values = load_file(folder / "model.safetensors") | {"model.embed_tokens.weight": meant}
    save_file(values, folder / "model.safetensors")
    assert same(load_model(path, dtype="float32"), load_model(folder, dtype="float32"))


@pytest.mark.parametrize(("dtype", "packed", "quantization"), [("bfloat16", True, None), ("float32", True, "int8")])
def test_every_form_is_that_of_the_folder(tmp_path: Path, dtype: str, packed: bool, quantization: str | None) -> None:
    path, folder = write_both(tmp_path, "llama", "Q8_0")
    form: dict[str, Any] = {"dtype": dtype, "packed": packed, "quantization": quantization}
    assert same(load_model(path, **form), load_model(folder, **form))


def test_a_file_without_an_output_has_its_table_there(tmp_path: Path) -> None:
    path, folder = write_both(tmp_path, "qwen2", "F16", tied=True)
    assert read_model_config(path).tied
    assert same(load_model(path, dtype="float32"), load_model(folder, dtype="float32"))


def test_what_the_metadata_leaves_out_is_as_in_llama_cpp(tmp_path: Path) -> None:
    def forget(metadata: dict[str, Any], tensors: object) -> None:
        for key in ("attention.head_count_kv", "attention.key_length", "attention.value_length", "rope.freq_base"):
            del metadata[key]
        del metadata["rope.dimension_count"]

    path, _ = write_both(tmp_path, "llama", change=forget)
    model = read_model_config(path)
    assert (model.kv_heads, model.head_dim, model.layers[0].rope.theta) == (4, 64, 10_000.0)  # type: ignore[union-attr]


SCALINGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "linear": (
        {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0},
        {"rope_type": "linear", "factor": 4.0},
    ),
    "as older files say it": ({"rope.scale_linear": 2.0}, {"rope_type": "linear", "factor": 2.0}),
    "yarn": (
        {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": 4.0,
            "rope.scaling.original_context_length": 32,
            "rope.scaling.yarn_beta_fast": 16.0,
        },
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "beta_fast": 16.0},
    ),
}


@pytest.mark.parametrize("name", SCALINGS)
def test_rope_scaling_is_that_of_the_folder(tmp_path: Path, name: str) -> None:
    told, meant = SCALINGS[name]
    path, folder = write_both(tmp_path, "qwen3", change=lambda metadata, tensors: metadata.update(told))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"rope_scaling": meant}))
    assert plain(read_model_config(path)) == plain(read_model_config(folder))


LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def test_divisors_of_frequencies_are_llama_3s_scaling(tmp_path: Path) -> None:
    path, folder = write_both(tmp_path, "llama")
    config = json.loads((folder / "config.json").read_text())
    plain_rope = read_model_config(folder).layers[0].rope
    (folder / "config.json").write_text(json.dumps(config | {"rope_scaling": LLAMA3}))
    scaled_rope = read_model_config(folder).layers[0].rope
    assert plain_rope is not None
    assert scaled_rope is not None
    divisors = frequencies(plain_rope) / frequencies(scaled_rope)
    (tmp_path / "2").mkdir()
    path, _ = write_both(
        tmp_path / "2", "llama", change=lambda _, tensors: tensors.update({"rope_freqs.weight": (divisors, "F32")})
    )
    assert plain(read_model_config(path)) == plain(read_model_config(folder))
    (tmp_path / "3").mkdir()
    other = np.linspace(1, 3, 32, dtype=np.float32)
    path, _ = write_both(
        tmp_path / "3", "llama", change=lambda _, tensors: tensors.update({"rope_freqs.weight": (other, "F32")})
    )
    with pytest.raises(UnsupportedModelError, match="it is not Llama 3's scaling"):
        read_model_config(path)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"architecture": "mamba"}, r"general\.architecture of model\.gguf is 'mamba': .*llama, qwen2, qwen3"),
        ({"expert_count": 8}, r"expert_count of model\.gguf is 8: only 0 is implemented"),
        ({"rope.dimension_count": 32}, "only 64 is implemented"),
        ({"attention.sliding_window": 64}, "windows are not read from GGUF files"),
        ({"rope.scaling.type": "longrope", "rope.scaling.factor": 2.0}, "implemented are none, linear, yarn"),
        ({"feed_forward_length": [256, 128]}, "it must be one whole number"),
        ({"attention.head_count": 0}, r"attention\.head_count of model\.gguf is 0: it must be one whole number from 1"),
        ({"attention.key_length": 0}, r"attention\.key_length of model\.gguf is 0"),
        ({"block_count": 0}, r"block_count of model\.gguf is 0"),
        ({"block_count": None}, r"llama\.block_count of model\.gguf is None: it is missing"),
    ],
)
def test_what_cannot_be_computed_is_refused_by_name(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    def change(metadata: dict[str, Any], tensors: object) -> None:
        metadata.update(changes)
        for key in [key for key, value in metadata.items() if value is None]:
            del metadata[key]

    path, _ = write_both(tmp_path, "llama", change=change)
    with pytest.raises(ModelError, match=told):
        read_model_config(path)


TABLE = "it has no matrix 'token_embd.weight'"
FACTORS = r"rope_freqs\.weight of model\.gguf is .*: it is not Llama 3's scaling"


@pytest.mark.parametrize(
    ("name", "values", "base", "told"),
    [
        ("token_embd.weight", np.zeros((), np.float32), 1e4, TABLE),
        ("token_embd.weight", np.zeros(256, np.float32), 1e4, TABLE),
        ("rope_freqs.weight", np.zeros(0, np.float32), 1e4, FACTORS),
        ("rope_freqs.weight", np.zeros(32, np.float32), 1e4, FACTORS),
        ("rope_freqs.weight", np.full(32, np.nan, np.float32), 1e4, FACTORS),
        ("rope_freqs.weight", np.full(32, 8, np.float32), 0.0, FACTORS),
        ("rope_freqs.weight", np.full(32, 8, np.float32), -1.0, FACTORS),
    ],
)
def test_tensors_that_say_nothing_of_the_model_are_refused(
    tmp_path: Path, name: str, values: Weights, base: float, told: str
) -> None:
    def change(metadata: dict[str, Any], tensors: dict[str, tuple[Weights, str]]) -> None:
        metadata["rope.freq_base"] = base
        tensors[name] = (values, "F32")

    path, _ = write_both(tmp_path, "llama", change=change)
    with pytest.raises(ModelError, match=told):
        read_model_config(path)


def test_everything_wrong_with_the_tensors_is_told_at_once(tmp_path: Path) -> None:
    def spoil(metadata: object, tensors: dict[str, tuple[Weights, str]]) -> None:
        tensors["blk.0.ffn_gate_shexp.weight"] = (np.zeros((4, 4), np.float32), "F32")
        tensors["blk.9.ffn_up.weight"] = (np.zeros((4, 4), np.float32), "F32")
        del tensors["blk.1.ffn_norm.weight"]
        tensors["output_norm.weight"] = (np.zeros(128, np.float32), "F32")
        tensors["blk.0.ffn_up.weight"] = (np.zeros((256, 256 // 256 * 110), np.uint8), "Q3_K")

    path, _ = write_both(tmp_path, "llama", change=spoil)
    with pytest.raises(WeightsError) as refused:
        load_model(path, dtype="float32")
    told = str(refused.value)
    assert "weights of model.gguf is '5 problems'" in told
    for line in (
        "unknown: 'blk.0.ffn_gate_shexp.weight'",
        "unknown: 'model.layers.9.mlp.up_proj.weight'",
        "missing: 'model.layers.1.post_attention_layernorm.weight' [256]",
        "wrong shape: 'model.norm.weight' is [128], the metadata makes it [256]",
        "unsupported type: 'blk.0.ffn_up.weight' is Q3_K, not one of F32, F16, BF16, Q8_0, Q4_0, Q4_K, Q5_K, Q6_K",
    ):
        assert line in told


def test_of_many_problems_the_first_are_spelled_out(tmp_path: Path) -> None:
    strangers = {f"stranger {i} {'x' * 1000}": (np.zeros(1, np.float32), "F32") for i in range(70)}
    path, _ = write_both(tmp_path, "llama", change=lambda _, tensors: tensors.update(strangers))
    with pytest.raises(WeightsError) as refused:
        load_model(path, dtype="float32")
    lines = refused.value.limit.strip().splitlines()
    assert refused.value.value == "70 problems"
    assert len(lines) == 51
    assert max(map(len, lines)) < 250
    assert lines[-1].strip() == "and 20 more"


def test_layers_that_no_tensors_fill_are_refused_before_they_are_made(tmp_path: Path) -> None:
    path, _ = write_both(tmp_path, "llama", change=lambda metadata, _: metadata.update(block_count=1000))
    with pytest.raises(WeightsError, match="21 tensors cannot be the 1000 layers that the metadata has"):
        load_model(path, dtype="float32")


@pytest.mark.parametrize("kept", [8, 60, 400, 0.5, 0.99])
def test_a_file_that_was_cut_is_refused(tmp_path: Path, kept: float) -> None:
    path, _ = write_both(tmp_path, "llama")
    data = path.read_bytes()
    path.write_bytes(data[: kept if isinstance(kept, int) else int(len(data) * kept)])
    with pytest.raises(ModelError, match="it is cut short or damaged"):
        load_model(path, dtype="float32")


def entry(name: str, kind: int, value: bytes) -> bytes:
    """A key of the metadata as a file has it."""
    return len(name).to_bytes(8, "little") + name.encode() + kind.to_bytes(4, "little") + value


def listed(kind: int, length: int) -> bytes:
    """A list as a file has it, without its elements."""
    return kind.to_bytes(4, "little") + length.to_bytes(8, "little")


@pytest.mark.parametrize(
    ("tensors", "keys", "rest", "told"),
    [
        (0, 1, entry("a", 9, listed(0, 2**40)), "its header announces more than 4194304 entries"),
        (0, 2, entry("a", 9, listed(0, 2**21) + bytes(2**21)) + entry("b", 9, listed(7, 2**21)), "announces more"),
        (0, 1, entry("a", 9, listed(0, 2**20)), "it ends within its header"),
        (0, 1, entry("a", 9, listed(8, 2**20)), "it ends within its header"),
        (0, 1, entry("a", 9, listed(9, 1) * 5000), "a list of lists"),
        (0, 1, entry("a", 13, bytes(8)), "a value of type 13"),
        (0, 2**63, b"", "announces more"),
        (2**63, 0, b"", "announces more"),
        (1, 0, entry("a", 5, bytes(60)), "a tensor of 5 dimensions"),
        (1, 0, (2**64 - 1).to_bytes(8, "little"), "it ends within its header"),
    ],
)
def test_what_a_header_announces_must_be_there(tmp_path: Path, tensors: int, keys: int, rest: bytes, told: str) -> None:
    path = tmp_path / "x.gguf"
    numbers = ((3, 4), (tensors, 8), (keys, 8))
    path.write_bytes(b"GGUF" + b"".join(value.to_bytes(size, "little") for value, size in numbers) + rest)
    with pytest.raises(ModelError, match=f"it is cut short or damaged: .*{told}"):
        read_model_config(path)


def test_what_is_no_gguf_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"<html>")
    with pytest.raises(ModelError, match="it is no GGUF file"):
        localised(EngineConfig(model=str(tmp_path / "x.gguf")))


def test_a_file_that_may_not_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:  # root may read a file of any mode
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    (path := tmp_path / "x.gguf").write_bytes(b"GGUF")
    path.chmod(0)
    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(ModelError, match=r"x\.gguf': it cannot be read: Permission denied\. Make it readable"):
        localised(EngineConfig(model=str(path)))


def test_the_extra_that_is_missing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = write_both(tmp_path, "llama")
    monkeypatch.setitem(sys.modules, "gguf", None)
    pyproject = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    (extra,) = pyproject["project"]["optional-dependencies"]["gguf"]
    with pytest.raises(ModelError, match=f'a GGUF file needs the package gguf. pip install "{extra}"'):
        read_model_config(path)


def test_a_converted_file_is_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = write_both(tmp_path, "llama", "Q4_0")
    out = tmp_path / "out"
    assert convert.main([str(path), str(out), "--tokenizer", str(TINY_MODEL), "--quiet"]) == 0
    assert plain(read_model_config(out)) == plain(read_model_config(path))
    assert same(load_model(out, dtype="bfloat16"), load_model(path, dtype="bfloat16"))
    assert Tokenizer.load(out).encode("def") == Tokenizer.load(TINY_MODEL).encode("def")


@pytest.mark.parametrize(("told", "expected"), [({"eos": 2, "eot": 1}, [1, 2]), ({"eos": 64}, None), ({}, None)])
def test_a_converted_file_has_none_of_the_defaults_of_another_models_tokenizer(
    tmp_path: Path, told: dict[str, int], expected: list[int] | None
) -> None:
    ends = {f"tokenizer.ggml.{name}_token_id": i for name, i in told.items()}
    path, _ = write_both(tmp_path, "llama", change=lambda metadata, _: metadata.update(ends))
    other, out = tmp_path / "other", tmp_path / "out"
    shutil.copytree(TINY_MODEL, other, ignore=shutil.ignore_patterns("*.safetensors"))
    (other / "generation_config.json").write_text(json.dumps({"temperature": 0.6, "top_p": 0.9, "eos_token_id": 5}))
    assert convert.main([str(path), str(out), "--tokenizer", str(other), "--quiet"]) == 0
    found = out / "generation_config.json"
    assert found.exists() == (expected is not None)
    if expected is not None:
        assert json.loads(found.read_text()) == {"eos_token_id": expected}


def test_its_identity_follows_its_contents(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
    one, _ = write_both(tmp_path / "a", "llama")
    other, _ = write_both(tmp_path / "b", "llama", change=lambda metadata, _: metadata.update({"rope.freq_base": 1e6}))
    assert weights_identity(one) == weights_identity(one) != weights_identity(other)
