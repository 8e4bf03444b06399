"""The roofline: literal figures of published devices and models."""

from __future__ import annotations

import pytest

from jaxpaged.bench.shapes import SHAPES
from jaxpaged.models.config import ModelConfig
from jaxpaged.models.families import read_config
from jaxpaged.roofline import (
    SHEETS,
    Rates,
    Weights,
    decode_seconds,
    kv_bytes_of_token,
    mean_seen,
    offline_seconds,
    prefill_seconds,
    sheet_of,
    step_work,
    touched_experts,
    weights_of,
)


def model(name: str) -> ModelConfig:
    return read_config(SHAPES[name])


def sheet(name: str) -> Rates:
    found = sheet_of(f"NVIDIA {name}")
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("name", "device", "rows", "context", "milliseconds"),
    [
        ("llama-3.1-8b", "H100", 1, 1024, 4.52),
        ("llama-3.1-8b", "H200", 1, 1024, 3.16),
        ("llama-3.1-8b", "H200", 8, 1024, 3.35),
        ("llama-3.1-8b", "H200", 64, 1024, 4.92),
        # 15.0 GB of weights and 34.4 of KV; the dots alone would take 3.9 ms beside them
        ("llama-3.1-8b", "H200", 256, 1024, 10.285),
        # 7.7 TFLOP bind: 19.3 GB would take 4.0 ms
        ("llama-3.1-8b", "H200", 512, 64, 7.788),
        ("llama-3.1-8b", "H200", 64, 4096, 10.29),
        ("llama-3.1-8b", "MI300X", 256, 1024, 9.315),
        ("mistral-7b", "H200", 1, 1024, 2.99),
        ("mixtral-8x7b", "H200", 1, 1024, 5.34),
        ("mixtral-8x7b", "H200", 8, 1024, 17.75),
        ("mixtral-8x7b", "MI300X", 64, 1024, 19.19),
    ],
)
def test_a_decode_step_on_the_sheet(name: str, device: str, rows: int, context: int, milliseconds: float) -> None:
    seconds = decode_seconds(
        model(name), sheet(device), rows=rows, context=context, dtype="bfloat16", kv_dtype="bfloat16"
    )
    assert seconds * 1e3 == pytest.approx(milliseconds, abs=0.006)


def test_the_weights_of_llama_8b() -> None:
    # 32 layers of (32 + 2 * 8 + 32) * 128 and 3 * 14336 columns of 4096, and a head of 128256 of them
    assert weights_of(model("llama-3.1-8b")) == Weights(layers=6_979_321_856, head=525_336_576, expert=0)


def test_one_token_of_mixtral_meets_two_of_eight_experts() -> None:
    assert touched_experts(8, 2, 1) == pytest.approx(2)
    assert touched_experts(8, 2, 8) == pytest.approx(7.199, abs=1e-3)
    work = step_work(model("mixtral-8x7b"), rows=1, context=0, dtype="bfloat16", kv_dtype="bfloat16")
    assert work.weight_bytes == pytest.approx(25.5e9, rel=0.002)
    assert work.weight_flops == work.weight_bytes


@pytest.mark.parametrize(("dtype", "count"), [("bfloat16", 4096), ("float32", 8192), ("int8", 2112)])
def test_bytes_of_a_tokens_keys_and_values(dtype: str, count: int) -> None:
    assert kv_bytes_of_token(model("llama-3.1-8b"), dtype) == count


def test_nothing_is_read_behind_a_window() -> None:
    mistral = model("mistral-7b")
    near, far = (
        step_work(mistral, rows=1, context=context, dtype="bfloat16", kv_dtype="bfloat16") for context in (4096, 32768)
    )
    assert near == far


def test_a_token_sees_what_its_window_lets_it() -> None:
    mistral = model("mistral-7b")  # 32 layers, window 4096
    assert mean_seen(mistral, first=1, last=1) == 32
    assert mean_seen(mistral, first=1, last=101) == 32 * 51
    assert mean_seen(mistral, first=5000, last=6000) == 32 * 4096
    # 1 to 4096 tokens in the first half, 4096 in the second: (2048.5 + 4096) / 2, to half a token
    assert mean_seen(mistral, first=1, last=8192) == pytest.approx(32 * 3072.25, abs=16)


def test_the_head_is_for_rows_that_sample() -> None:
    llama = model("llama-3.1-8b")
    chunk, last = (
        step_work(
            llama, rows=1, tokens_per_row=512, context=512, dtype="bfloat16", kv_dtype="bfloat16", sampled=sampled
        )
        for sampled in (0, 1)
    )
    assert chunk.weight_flops == 2 * 512 * 6_979_321_856
    assert last.weight_flops - chunk.weight_flops == 2 * 525_336_576
    assert chunk.attention_flops == 4 * 512 * 256.5 * 32 * 32 * 128
    assert chunk.kv_bytes == 512 * 32 * 4096


def test_offline_a_thousand_in_and_out_on_an_h200() -> None:
    llama, h200 = model("llama-3.1-8b"), sheet("H200")
    seconds = offline_seconds(llama, h200, requests=2, input_len=1000, output_len=1000, kv_dtype="bfloat16")
    # 999 decode steps read 1001 to 1999 tokens of 131,072 bytes: 196 GB a request, 28.9 TFLOP meanwhile
    assert seconds == pytest.approx(2 * 999 * 1500 * 131_072 / 4.8e12, rel=1e-9)
    seconds = offline_seconds(llama, h200, requests=2, input_len=1000, output_len=1, kv_dtype="bfloat16")
    flops = 2 * 1000 * 6_979_321_856 + 2 * 525_336_576 + 4 * 1000 * 500.5 * 32 * 4096
    assert seconds == pytest.approx(2 * flops / 989e12, rel=1e-9)


def test_prefill_is_bound_by_the_rate() -> None:
    seconds = prefill_seconds(model("llama-3.1-8b"), sheet("H200"), tokens=8192, length=4096, dtype="bfloat16")
    dots, heads = 2 * 6_979_321_856 * 8192, 2 * 525_336_576 * 2
    attention = 4 * 8192 * 2048.5 * 4096 * 32
    assert seconds == pytest.approx((dots + heads + attention) / 989e12, rel=1e-9)


def test_the_kind_of_a_device_finds_its_sheet() -> None:
    assert sheet("H100 80GB HBM3").gb_s == 3350
    assert sheet("H100 PCIe").gb_s == 2000
    assert sheet_of("AMD Instinct MI325X") == next(s for s in SHEETS if s.name == "MI325X")
    assert sheet_of("AMD EPYC 9654") is None
    assert sheet_of("NVIDIA GH200 480GB") is None
    assert sheet_of("gfx942:sramecc+:xnack-") == next(s for s in SHEETS if s.name == "gfx942")


def test_rates_are_positive() -> None:
    with pytest.raises(ValueError, match="they must be > 0"):
        Rates(name="x", gb_s=0, tflop_s=1, source="measured")
