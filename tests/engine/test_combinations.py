"""Options that cannot be, alone or together, are refused by name with what would work."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from jaxpaged.combinations import RULES, Choice, check_combination
from jaxpaged.config import EngineConfig
from jaxpaged.errors import ConfigError
from jaxpaged.llm import LLM
from pallas_kernels.backend import Backend, choose_backend

H200 = Choice(
    platform="cuda",
    compute_capability=(9, 0),
    backend="triton",
    kv_cache_dtype="float8_e4m3fn",
    block_size=16,
    head_dim=128,
)
MI300X = replace(H200, platform="rocm", compute_capability=None)
CPU = replace(MI300X, platform="cpu", backend="xla", block_size=64)


@pytest.mark.parametrize("choice", [H200, MI300X, CPU, replace(CPU, backend="triton", block_size=32)])
@pytest.mark.parametrize("kv_cache_dtype", ["float32", "bfloat16", "int8", "float8_e4m3fn"])
def test_what_goes_together(choice: Choice, kv_cache_dtype: str) -> None:
    check_combination(replace(choice, kv_cache_dtype=kv_cache_dtype))


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        (replace(H200, block_size=8), r"block_size is 8: .*16, 32 and 64.*attention_backend=xla"),
        (replace(MI300X, block_size=128), r"block_size is 128: .*16, 32 and 64"),
        (replace(MI300X, head_dim=512), r"head_dim is 512: .*at most 256.*attention_backend=xla"),
        (replace(H200, compute_capability=(7, 5)), r"backend is 'triton': .*8\.0.*attention_backend=xla"),
        (replace(H200, compute_capability=(8, 0)), r"kv_cache_dtype is 'float8_e4m3fn': .*8\.9.*Use int8"),
    ],
)
def test_what_does_not(choice: Choice, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_combination(choice)


def test_what_the_refusals_advise_is_taken() -> None:
    check_combination(replace(H200, backend="xla", block_size=8, head_dim=512))
    check_combination(replace(H200, compute_capability=(8, 0), kv_cache_dtype="int8"))
    assert {rule.name for rule in RULES} <= set(Choice.__dataclass_fields__)


def test_a_combination_is_refused_before_any_weight_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jaxpaged.loading.load_model", None)
    with pytest.raises(ConfigError, match="block_size is 8"):
        LLM(attention_backend="triton", block_size=8)


@pytest.mark.parametrize(
    ("name", "word", "words"),
    [
        ("dtype", "float16", "float16 is not offered.*one of auto, float32, bfloat16.*Use bfloat16"),
        ("dtype", "half", "float16 is not offered"),
        ("kv_cache_dtype", "fp8_e5m2", "one of auto, bf16, int8, fp8.*Use fp8 .*or int8"),
        ("kv_cache_dtype", "float16", "Use bfloat16"),
        ("quantization", "gptq", "quantised as they are loaded.*one of int8.*unquantised checkpoint"),
        ("quantization", "fp8", "one of int8.*Use int8"),
        ("quantization", "int4", "one of int8"),
        ("dtype", "int8", "For weights: quantization=int8"),
        ("kv_cache_dtype", "float32", 'Use "auto" with dtype="float32"'),
        ("kv_cache_dtype", "int4", "4 bits.*Use int8 or fp8"),
        ("kv_cache_dtype", "fp9", "one of auto, bf16, int8, fp8"),
        ("kv_cache_dtype", None, "one of auto"),
        ("attention_backend", "flash", "one of auto, reference, xla, triton, native"),
        ("enable_prefix_caching", "no", "True or False"),
        ("warmup", 1, "True or False"),
        ("block_size", 24, "power of two"),
    ],
)
def test_words_of_other_engines_are_refused_with_a_reason(name: str, word: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} is .*{words}"):
        EngineConfig(**{name: word})


def test_vllm_s_spellings_are_taken() -> None:
    assert EngineConfig(kv_cache_dtype="bfloat16") == EngineConfig(kv_cache_dtype="bf16")
    assert EngineConfig(kv_cache_dtype="fp8_e4m3").kv_cache_dtype == "fp8"


@pytest.mark.parametrize(
    ("platform", "backend", "words"),
    [
        ("cpu", "triton", "interpreted"),
        ("rocm", "xla", "slower than triton on rocm"),
        ("cpu", "xla", "asked for"),
        ("cuda", "reference", "slow, for tests only"),
    ],
)
def test_what_works_but_slowly_is_said(platform: str, backend: str, words: str) -> None:
    chosen, reason = choose_backend(platform, backend)
    assert chosen == Backend(backend)
    assert words in reason
