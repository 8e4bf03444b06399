"""What a smaller KV cache does to the bundled model's logits on text it never saw, within stated bounds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from step_recorder import record

from jaxpaged.bench.accuracy import CHUNK, Scorer, compare
from jaxpaged.combinations import KV_DTYPES
from jaxpaged.commands.bench_accuracy import main
from jaxpaged.config import EngineConfig
from jaxpaged.engine import LLMEngine
from jaxpaged.errors import ConfigError
from jaxpaged.programs import Programs
from jaxpaged.runner import ModelRunner
from jaxpaged.tiny.corpus import read_corpus

CONTEXT = 1024
QUIET = {"disable": True}


@pytest.fixture(scope="module")
def engine() -> LLMEngine:
    return LLMEngine(
        EngineConfig(
            dtype="float32",
            max_model_len=CONTEXT,
            max_num_seqs=8,
            max_num_batched_tokens=128,
            block_size=64,
            num_gpu_blocks_override=CONTEXT // 64 + 1,
            compile_cache="off",
            warmup=False,
        )
    )


@pytest.fixture(scope="module")
def baseline(engine: LLMEngine) -> Scorer:
    return Scorer(engine.runner)


@pytest.fixture(scope="module")
def text(engine: LLMEngine) -> list[int]:
    return engine.tokenizer.encode("".join(read_corpus().held_out)[:60_000])


@pytest.mark.parametrize(
    ("kv_cache_dtype", "bytes_per_token", "logit_error", "kl", "agreement", "bits"),
    [
        ("bf16", 3072, 0.02, 5e-5, 0.99, 0.002),
        ("int8", 1632, 0.06, 5e-4, 0.985, 0.004),
        ("fp8", 1632, 0.25, 8e-3, 0.95, 0.01),
    ],
)
def test_logits_stay_close(
    engine: LLMEngine,
    baseline: Scorer,
    text: list[int],
    kv_cache_dtype: str,
    bytes_per_token: int,
    logit_error: float,
    kl: float,
    agreement: float,
    bits: float,
) -> None:
    config = replace(engine.config, kv_cache_dtype=KV_DTYPES[kv_cache_dtype])
    variant = Scorer(ModelRunner(Programs(engine.runner.model, config)))
    assert (baseline.kv_bytes_per_token, variant.kv_bytes_per_token) == (6144, bytes_per_token)
    row = compare(baseline, variant, text[: 2 * CONTEXT], progress=QUIET).row()
    print(kv_cache_dtype, row)
    assert row["positions"] == 2 * (CONTEXT - 1)
    assert 0 < row["max_logit_error"] < logit_error
    assert 0 < row["mean_kl_nats"] < kl
    assert row["top1_agreement"] > agreement
    assert abs(row["bits_per_token_difference"]) < bits


def test_the_scorer_computes_what_the_engine_does(engine: LLMEngine, baseline: Scorer, text: list[int]) -> None:
    ids = text[: CHUNK + 70]
    chunks = [np.asarray(chunk) for chunk in baseline.logits(ids)]
    steps = record(engine, {"p": ids}, count=1, rows=1, tokens=128, gap=0)
    assert [chunk.shape for chunk in chunks] == [(CHUNK, 4096)] * 2
    np.testing.assert_allclose(chunks[1][69], np.frombuffer(steps["p", len(ids)], np.float32), rtol=0, atol=1e-4)


def test_a_model_differs_from_itself_in_nothing(baseline: Scorer, text: list[int]) -> None:
    found = compare(baseline, baseline, text[:200], progress=QUIET)
    assert len(found.kl) == 199
    assert not found.max_error.any()
    assert not found.kl.any()
    assert found.agree.all()
    assert np.array_equal(found.baseline_nll, found.variant_nll)
    row = found.row()
    assert row["bits_per_token_difference"] == 0
    assert 3 < row["baseline_bits_per_token"] < 8
    with pytest.raises(ConfigError, match="at least 2"):
        compare(baseline, baseline, text[:1], progress=QUIET)


def test_the_command_prints_one_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.py").write_text("def add(a, b):\n    return a + b\n" * 20)
    flags = ["--quiet", "--dtype", "float32", "--max-model-len", "128", "--compile-cache", "off", "--tokens", "150"]
    assert main([*flags, "--kv-cache-dtype", "fp8_e4m3", "--input", str(tmp_path / "a.py")]) == 0
    row: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert (row["mode"], row["text"], row["context"]) == ("accuracy", str(tmp_path / "a.py"), 128)
    assert (row["baseline_kv_cache_dtype"], row["variant_kv_cache_dtype"]) == ("float32", "float8_e4m3fn")
    assert (row["baseline_kv_bytes_per_token"], row["variant_kv_bytes_per_token"]) == (6144, 1632)
    assert row["positions"] == 127 + 21
    assert row["variant_bits_per_token"] > 0


def test_the_command_compares_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.py").write_text("def add(a, b):\n    return a + b\n" * 20)
    flags = ["--quiet", "--dtype", "float32", "--max-model-len", "128", "--compile-cache", "off", "--tokens", "150"]
    assert main([*flags, "--quantization", "int8", "--input", str(tmp_path / "a.py")]) == 0
    row: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert (row["baseline_quantization"], row["variant_quantization"]) == (None, "int8")
    assert row["variant_weight_bytes"] < 0.3 * row["baseline_weight_bytes"]
    assert (row["baseline_kv_cache_dtype"], row["variant_kv_cache_dtype"]) == ("float32", "float32")
    assert 0 < row["mean_kl_nats"] < 0.01


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "kv-cache-dtype is 'auto'.*Give bf16, int8 or fp8, or --quantization int8"),
        (["--kv-cache-dtype", "int8", "--tokens", "1"], "--tokens is 1"),
        (["--kv-cache-dtype", "int8", "--input", "/nowhere"], "--input is '/nowhere'.*UTF-8"),
    ],
)
def test_what_cannot_be_compared_is_refused(flags: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        main(flags)
