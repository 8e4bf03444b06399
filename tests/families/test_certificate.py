"""`jaxpaged verify` on small random models: one that passes, ones that differ from the oracle's in one tensor; and the
residual streams of every architecture, which the search for a divergence compares."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from families.case import SIZES, Case
from families.evidence import TOLERANCE
from families.folder import make_folder
from families.table import by_architecture
from families.test_longrope import CASE as BY_LENGTH
from families.zoo import CASES
from native_backend import backends_here
from safetensors.numpy import load_file, save_file

from jaxpaged.commands.verify import main
from jaxpaged.verify import verification
from jaxpaged.verify.layers import ATTENTION, CutDecoder, residual_error
from jaxpaged.verify.oracle import Oracle
from jaxpaged.weights.load import load_model

pytestmark = pytest.mark.families

WHOLE = pytest.mark.xdist_group("certificate")
LAYERS = 4
CASE = Case(
    name="certified",
    architecture="MistralForCausalLM",
    config=SIZES | {"hidden_size": 64, "num_hidden_layers": LAYERS, "sliding_window": 40},
)
FLAGS = ["--tokens", "100", "--greedy", "6", "--quiet"]


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(cases[0], id=name, marks=pytest.mark.xdist_group(cases[0].name))
        for name, cases in by_architecture(CASES.values()).items()
    ],
)
def test_residual_streams_are_those_of_transformers(case: Case, tmp_path: Path) -> None:
    make_folder(tmp_path, case)
    oracle, model = Oracle(tmp_path), load_model(tmp_path, dtype="float32")
    ids = [(11 * i + 5 * i * i) % case.vocab for i in range(150)]
    cut = CutDecoder(model, backends_here()[-1], ids, block_size=16)
    layers = oracle.num_layers
    assert layers == len(model.config.layers)
    plain, end = oracle.residuals(ids), cut.residual(layers)
    assert len(plain) == layers + 2
    errors = [
        residual_error(end.embedded, plain[0]),
        residual_error(cut.residual(1).stream, plain[1]),
        residual_error(end.stream, plain[layers]),
        residual_error(end.normed, plain[-1]),
    ]
    assert max(errors) < TOLERANCE, errors
    rest = oracle.residuals(ids, without_attention=layers - 1)[layers]
    assert residual_error(rest, plain[layers]) > 100 * TOLERANCE, "attention is not left out"
    assert residual_error(cut.residual(layers, without=ATTENTION).stream, rest) < TOLERANCE


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("certified")
    make_folder(path, CASE)
    return path


@pytest.fixture(scope="module")
def certify(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[int, dict[str, Any]]]:
    cache = tmp_path_factory.mktemp("cache")

    def run(*flags: str, model: Path = folder) -> tuple[int, dict[str, Any]]:
        file = cache / "certificate.json"
        status = main([str(model), *FLAGS, "--compile-cache", str(cache), "--json", str(file), *flags])
        return status, json.loads(file.read_text(encoding="utf-8"))

    return run


def edited(folder: Path, target: Path, tensor: str) -> Path:
    """A copy of a model folder with one tensor turned round."""
    shutil.copytree(folder, target, dirs_exist_ok=True)
    tensors = load_file(target / "model.safetensors")
    tensors[tensor] = tensors[tensor][::-1].copy()
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return target


@WHOLE
def test_a_faithful_model_passes(certify: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    status, told = certify()
    assert status == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("  PASS")
    assert told["passed"] is True
    assert told["divergence"] is None
    assert told["text"]["source"].startswith("random token ids")
    assert told["text"] | {"source": ""} == {"source": "", "tokens": 100, "context": 100}
    exact = told["float32"]
    assert exact["positions"] == 99
    assert exact["max_relative_logit_error"] < 1e-5
    assert exact["top1_agreement"] == 1.0
    assert exact["mean_kl_nats"] < 1e-9
    assert abs(exact["perplexity_difference"]) < 1e-3 * exact["oracle_perplexity"]
    assert exact["greedy"] == {"tokens": 24, "equal": 24, "ties": 0, "wrong": 0, "differences": []}
    assert exact["steps"] == {"chunks": 1, "single tokens": 32}
    assert told["serving"] == exact, "the checkpoint is float32, and so is what serves"
    assert set(told["versions"]) >= {"jaxpaged", "jax", "torch", "transformers"}
    assert len(told["config_sha256"]) == 64


@WHOLE
def test_the_serving_types_are_told_and_not_judged(certify: Callable[..., Any]) -> None:
    status, told = certify("--dtype", "bfloat16", "--kv-cache-dtype", "int8")
    serving = told["serving"]
    assert (serving["dtype"], serving["kv_cache_dtype"]) == ("bfloat16", "int8")
    assert 1e-4 < serving["max_relative_logit_error"] < 0.2
    assert serving["mean_kl_nats"] > 0
    assert told["float32"]["dtype"] == told["float32"]["kv_cache_dtype"] == "float32"
    assert status == 0


@WHOLE
@pytest.mark.parametrize(
    ("tensor", "part", "branch"),
    [
        ("model.layers.2.self_attn.v_proj.weight", "layer 2", "attention"),
        ("model.layers.0.input_layernorm.weight", "layer 0", "attention"),
        ("model.layers.1.mlp.up_proj.weight", "layer 1", "feed-forward"),
        ("model.layers.3.mlp.down_proj.weight", "layer 3", "feed-forward"),
        ("model.norm.weight", "final norm", None),
        ("model.embed_tokens.weight", "embedding", None),
        ("lm_head.weight", "output head", None),
    ],
)
def test_the_first_divergence_is_named(
    folder: Path,
    certify: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tensor: str,
    part: str,
    branch: str | None,
) -> None:
    other = edited(folder, tmp_path, tensor)
    monkeypatch.setattr(verification, "Oracle", lambda _, **options: Oracle(other, **options))
    status, told = certify()
    assert status == 1
    assert told["passed"] is False
    assert told["float32"]["max_relative_logit_error"] > 1e-2
    assert (told["divergence"]["part"], told["divergence"]["branch"]) == (part, branch)


@WHOLE
def test_steps_are_named_where_the_layers_agree(
    folder: Path, certify: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault of chunks and single tokens alone: nothing is wrong with any layer."""
    replayed = verification.Replay.logits

    def off(self: Any, ids: Any, **options: Any) -> Any:
        return replayed(self, ids, **options)[::-1].copy()

    monkeypatch.setattr(verification.Replay, "logits", off)
    status, told = certify()
    assert (status, told["divergence"]["part"]) == (1, "steps")


@WHOLE
@pytest.mark.parametrize("tokens", [90, 200])
def test_a_rope_chosen_by_length_is_the_same_on_both_sides(
    certify: Callable[..., Any], tmp_path: Path, tokens: int
) -> None:
    """Answers of 30 tokens, beside a text that is shorter or longer than the 128 of the rope's training."""
    make_folder(tmp_path, BY_LENGTH)
    status, told = certify("--tokens", str(tokens), model=tmp_path)
    assert (status, told["float32"]["greedy"]["wrong"]) == (0, 0)
