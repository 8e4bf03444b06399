"""`--quantization int8`: from a Hugging Face folder to tokens, how far the logits move, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from families.folder import make_folder, oracle_logits
from families.zoo import CASES
from native_backend import need

from jaxpaged.bench.accuracy import Scorer, compare
from jaxpaged.bundle import read_bundle, write_bundle
from jaxpaged.config import EngineConfig
from jaxpaged.engine import LLMEngine
from jaxpaged.errors import ConfigError, ModelError
from jaxpaged.models.decoder import build
from jaxpaged.request import SamplingParams
from jaxpaged.tiny.corpus import read_corpus
from jaxpaged.weights.load import LoadedModel, load_model, read_model_config
from pallas_kernels.backend import Backend
from pallas_kernels.native.library import packs_int8_weights

BACKENDS = (Backend.XLA, Backend.NATIVE)
SMALL: dict[str, Any] = {"warmup": False, "compile_cache": "off", "max_num_seqs": 8, "max_num_batched_tokens": 128}
FLOAT_ERROR = 0.1  # root mean square of a place's logits, relative: the median over places, against float32
SAME_ROUNDING_ERROR = 1e-5  # the same against transformers rounded alike, of the tenth of places that are nearest:
# a value half-way between two whole numbers may round to the other one, and later places attend to it


@pytest.fixture(scope="module", params=["llama_biased", "llama_llama3", "mixtral"])
def zoo(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A folder (sizes that are no multiples of a tile, biases; a tied table; experts) and transformers' own model."""
    folder = tmp_path_factory.mktemp(request.param)
    return folder, make_folder(folder, CASES[request.param])


def load(folder: Path, backend: Backend, **form: Any) -> LoadedModel:
    need(backend)
    packed = backend == Backend.NATIVE and packs_int8_weights()
    return load_model(folder, dtype="float32", packed=packed, quantization="int8", **form)


@pytest.mark.parametrize("backend", BACKENDS)
def test_logits_and_tokens_of_a_folder(zoo: tuple[Path, Any], backend: Backend) -> None:
    folder, theirs = zoo
    model = load(folder, backend)
    config = EngineConfig(attention_backend=backend.value, max_model_len=256, num_gpu_blocks_override=40, **SMALL)
    engine = LLMEngine(config, model=model)
    assert engine.config.quantization == "int8"  # the given model's
    weights = dict(engine.describe())["weights"]
    assert ("int8, a scale per output" in weights, "XLA's dots" in weights) == (True, not packs_native(model))
    prompt = np.random.default_rng(1).integers(0, theirs.config.vocab_size, 100).tolist()
    wanted = oracle_logits(theirs, prompt)
    found = np.asarray(next(Scorer(engine.runner).logits(prompt)))[: len(prompt)]
    errors = errors_of(found, wanted)
    print(f"{folder.name} {backend}: median {np.median(errors):.4f}, largest {errors.max():.4f}")
    assert 1e-4 < np.median(errors) < FLOAT_ERROR
    engine.runner.rebuild_pool()
    engine.submit(prompt, SamplingParams(temperature=0, max_tokens=5, ignore_eos=True))
    outputs = []
    while engine.has_unfinished:
        outputs += engine.step()
    tokens = outputs[-1].outputs[0].token_ids
    assert len(tokens) == 5
    assert tokens[0] == int(found[-1].argmax())
    if "mixtral" not in folder.name:  # whose experts are no modules of their own there
        with rounded_like_ours(theirs):
            errors = errors_of(found, oracle_logits(theirs, prompt))
        print(f"beside the same rounding: median {np.median(errors):.5f}, largest {errors.max():.5f}")
        assert np.quantile(errors, 0.1) < SAME_ROUNDING_ERROR
        assert np.median(errors) < 0.3 * FLOAT_ERROR


def errors_of(found: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    return np.sqrt(np.mean((found - wanted) ** 2, axis=1) / np.mean(wanted**2, axis=1))


@contextmanager
def rounded_like_ours(model: Any) -> Iterator[None]:
    """Every product of a transformers model as one of int8 by int8, in float32; a tied table goes with its head."""
    import torch

    def rounded(x: Any) -> Any:
        scale = x.abs().amax(dim=-1, keepdim=True).clamp(min=1e-30) / 127
        return torch.round(x / scale) * scale

    linears = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    before = [module.weight.detach().clone() for module in linears]
    hooks = [module.register_forward_pre_hook(lambda _, inputs: (rounded(inputs[0]),)) for module in linears]
    with torch.no_grad():
        for module in linears:
            module.weight.copy_(rounded(module.weight))
        yield
        for module, weight, hook in zip(linears, before, hooks, strict=True):
            module.weight.copy_(weight)
            hook.remove()


def packs_native(model: LoadedModel) -> bool:
    return any(spec.packed for spec in model.graphdef.specs)


def test_both_backends_hold_the_same_numbers(zoo: tuple[Path, Any]) -> None:
    """What a packed matrix holds is what a plain one does: read back through the rows of each."""
    folder, _ = zoo
    plain, packed = (load(folder, backend) for backend in BACKENDS)
    for spec, ours, theirs in zip(plain.graphdef.specs, plain.leaves, packed.leaves, strict=True):
        if spec.is_scale:
            np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))
        if spec.quantised:  # an order of its own, and zeros
            counts = [np.bincount(np.asarray(a).view(np.uint8).reshape(-1), minlength=256) for a in (ours, theirs)]
            assert (counts[0][1:] == counts[1][1:]).all(), spec.path


def test_values_and_scales_are_the_tensors_within_half_a_step(zoo: tuple[Path, Any]) -> None:
    folder, theirs = zoo
    model = load(folder, Backend.XLA)
    held = {spec.path: np.asarray(leaf) for spec, leaf in zip(model.graphdef.specs, model.leaves, strict=True)}
    values, scales = (held[f"layers.1.self_attn.o_proj.{name}"] for name in ("weight", "weight_scale"))
    tensor = theirs.get_parameter("model.layers.1.self_attn.o_proj.weight").detach().numpy()
    assert (values.dtype, scales.shape) == (np.int8, tensor.shape[:1])
    assert (np.abs(values * scales[:, None] - tensor) <= 0.5001 * scales[:, None]).all()
    assert (np.abs(values).max(axis=1) == 127).all()
    kinds = {path.rpartition(".")[2]: leaf.dtype.name for path, leaf in held.items()}
    assert kinds["weight_scale"] == "float32"
    whole = [path for path, leaf in held.items() if leaf.dtype == np.float32 and leaf.ndim > 1 and "scale" not in path]
    assert all("router" in path or "bias" in path or path == "embed_tokens.weight" for path in whole), whole


def test_memory_counts_a_byte_a_weight() -> None:
    engine = tiny(quantization="int8")
    matrices = [spec for spec in engine.runner.model.graphdef.specs if spec.quantised]
    least = sum(int(np.prod(spec.shape)) for spec in matrices)
    assert len(matrices) == 1 + 4 * 6
    assert least < engine.weight_bytes < 1.02 * least


def test_what_it_costs_on_text_the_model_never_saw() -> None:
    plain, quantised = tiny(), tiny(quantization="int8")
    ids = plain.tokenizer.encode("".join(read_corpus().held_out)[:30_000])[:1024]
    row = compare(Scorer(plain.runner), Scorer(quantised.runner), ids, progress={"disable": True}).row()
    print(row)
    assert 0 < row["max_logit_error"] < 0.12
    assert 0 < row["mean_kl_nats"] < 0.003
    assert row["top1_agreement"] > 0.96
    assert abs(row["bits_per_token_difference"]) < 0.01


def test_a_bundle_says_whether_weights_are_quantised(tmp_path: Path) -> None:
    engine = tiny(quantization="int8")
    write_bundle(tmp_path / "b", {}, fingerprint=engine.runner.fingerprint, config=engine.config)
    bundle = read_bundle(tmp_path / "b")
    assert bundle.apply(EngineConfig()).quantization == "int8"
    plain = tiny()
    with pytest.raises(ConfigError, match="model of the bundle"):
        bundle.check(plain.runner.fingerprint)
    write_bundle(tmp_path / "p", {}, fingerprint=plain.runner.fingerprint, config=plain.config)
    with pytest.raises(ConfigError, match=r"quantization is 'int8': the bundle .* was compiled for None"):
        read_bundle(tmp_path / "p").apply(EngineConfig(quantization="int8"))


def test_what_is_refused() -> None:
    for word, reason in (("int4", "one of int8"), ("awq", "quantised as they are loaded.*one of int8"), (8, "int8")):
        with pytest.raises(ConfigError, match=rf"quantization is {word!r}: .*{reason}"):
            EngineConfig(quantization=word)  # pyright: ignore[reportArgumentType]
    plain = tiny()
    with pytest.raises(ConfigError, match="quantization is 'int8': the given model was loaded with quantization=None"):
        LLMEngine(EngineConfig(quantization="int8", **SMALL), model=plain.runner.model)
    with pytest.raises(ModelError, match="quantization is 'int3'"):
        build(read_model_config(EngineConfig().model), dtype="float32", quantization="int3")


def tiny(**options: Any) -> LLMEngine:
    config = EngineConfig(dtype="float32", max_model_len=512, num_gpu_blocks_override=65, **SMALL)
    return LLMEngine(replace(config, **options))
