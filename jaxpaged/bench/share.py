"""What part of the hardware's limit a measured row reached: the fields and the sentence beside every figure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jaxpaged.bench.circumstances import digits
from jaxpaged.bench.rates import DeviceRates
from jaxpaged.roofline import decode_seconds, offline_seconds, prefill_seconds

if TYPE_CHECKING:
    from jaxpaged.engine import LLMEngine


def latency_share(engine: LLMEngine, row: Mapping[str, Any], rates: DeviceRates) -> dict[str, Any]:
    """The least TTFT and time a token of the row's batch; shares are least over measured medians."""
    kv_dtype = engine.runner.pool[0].dtype
    context = row["input_len"] + row["output_len"] / 2
    config, dtype, rows = engine.model_config, engine.config.weight_dtype, row["batch_size"]
    least_tpot_ms = 1e3 * decode_seconds(
        config, rates.roofline, rows=rows, context=context, dtype=dtype, kv_dtype=kv_dtype
    )
    prompt_tokens = rows * row["input_len"]
    least_ttft_ms = 1e3 * prefill_seconds(
        config, rates.roofline, tokens=prompt_tokens, length=row["input_len"], dtype=dtype
    )
    return _fields(rates) | {
        "tpot_ms": digits(least_tpot_ms),
        "tpot_share": _ratio(least_tpot_ms, row["tpot_p50_ms"]),
        "ttft_ms": digits(least_ttft_ms),
        # requests of a batch get their first tokens one chunk after the other: the last one waits for all prompts
        "ttft_share": _ratio(least_ttft_ms, row["ttft_p99_ms"]),
    }


def throughput_share(engine: LLMEngine, row: Mapping[str, Any], rates: DeviceRates) -> dict[str, Any]:
    """The most output tokens a second that so many tokens could come at, all requests being there from the start."""
    requests = row["requests"]
    seconds = offline_seconds(
        engine.model_config,
        rates.roofline,
        requests=requests,
        input_len=row["in_tokens"] / requests,
        output_len=row["out_tokens"] / requests,
        kv_dtype=engine.runner.pool[0].dtype,
    )
    most = row["out_tokens"] / seconds
    return _fields(rates) | {"out_tok_s": digits(most), "share": digits(row["out_tok_s"] / most)}


def latency_sentence(row: Mapping[str, Any]) -> str:
    """One line for people."""
    limit = row["roofline"]
    if row["tpot_p50_ms"] is None:
        return f"first token after {row['ttft_p50_ms']} ms"
    return (
        f"first token after {row['ttft_p50_ms']} ms, {row['tpot_p50_ms']} ms a token (p99 {row['tpot_p99_ms']}): "
        f"{limit['tpot_share']:.1%} of the roofline ({limit['tpot_ms']} ms by {limit['source']} {limit['device']}, "
        f"{limit['gb_s']:.0f} GB/s)"
    )


def throughput_sentence(row: Mapping[str, Any]) -> str:
    """One line for people."""
    limit, told = row.get("roofline"), f"{row['out_tok_s']} output tokens/s"
    if limit is None:
        return f"{told}, requests not all there from the start: no roofline"
    return (
        f"{told}: {limit['share']:.1%} of the roofline ({limit['out_tok_s']} by {limit['source']} {limit['device']}, "
        f"{limit['tflop_s']:.3g} TFLOP/s, {limit['gb_s']:.0f} GB/s)"
    )


def _fields(rates: DeviceRates) -> dict[str, Any]:
    limit, measured = rates.roofline, rates.measured
    return {
        "source": limit.source,
        "device": limit.name,
        "gb_s": digits(limit.gb_s),
        "tflop_s": digits(limit.tflop_s),
        "measured_gb_s": digits(measured.gb_s),
        "measured_tflop_s": digits(measured.tflop_s),
    }


def _ratio(least_ms: float, measured_ms: float | None) -> float | None:
    return digits(least_ms / measured_ms) if measured_ms else None
