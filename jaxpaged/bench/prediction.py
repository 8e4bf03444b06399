"""How an engine would serve a trace on a device: a simulation of it, and the sentences about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from jaxpaged import __version__
from jaxpaged.bench.capacity import Capacity
from jaxpaged.bench.circumstances import digits, versions
from jaxpaged.bench.simulate import SimulatedClock, SimulatedEngine
from jaxpaged.bench.step_cost import StepCost
from jaxpaged.bench.throughput import serve
from jaxpaged.bench.trace import TraceRequest
from jaxpaged.buckets import BucketTable
from jaxpaged.device import gib
from jaxpaged.inventory import contexts_that_fit, inventory, kv_bytes_per_block, kv_bytes_per_token
from jaxpaged.weights.source import shown_name

_LEFT_OUT = ("finished", "short", "errors", "compiles_at_start", "compiles_after_ready")


def subject_of(capacity: Capacity) -> dict[str, str]:
    """What a measured table of costs must be of, to hold for an engine of this capacity."""
    config, device = capacity.config, capacity.device
    found = versions()
    return {
        "model": repr(capacity.model),
        "dtype": config.dtype,
        "quantization": config.quantization or "none",
        "kv_cache_dtype": config.kv_cache_dtype,
        "attention_backend": config.attention_backend,
        "block_size": str(config.block_size),
        "device": f"{device.name} ({device.platform})",
        "jax": str(found["jax"]),
        "jaxpaged": __version__,
    }


def predict(
    capacity: Capacity, cost: StepCost, trace: Sequence[TraceRequest], *, max_concurrency: int | None = None
) -> dict[str, Any]:
    """The figures of `bench throughput` for this trace, in simulated seconds, and what bounds the steps.

    bound_by: share of the steps bound by each. device_busy: share of the time. Raises RequestError where the engine
    would refuse a request.
    """
    clock = SimulatedClock()
    engine = SimulatedEngine(capacity.config, capacity.model, cost, clock)
    row = serve(
        engine, trace, progress={"disable": True}, max_concurrency=max_concurrency, clock=clock, sleep=clock.sleep
    )
    steps, total_s = row["steps"], row["total_s"]
    kept = {name: row[name] for name in row if name not in _LEFT_OUT and not name.endswith("_ms_per_step")}
    return kept | {
        "req_s": digits(row["requests"] / max(total_s, 1e-9)),
        "bound_by": {name: round(count / steps, 4) for name, count in sorted(engine.bounds.items())},
        "device_busy": round(engine.device_s / max(total_s, 1e-9), 4),
    }


def capacity_row(capacity: Capacity, buckets: BucketTable, trace: Sequence[TraceRequest]) -> dict[str, Any]:
    """What fits, as plain values. Contexts that fit are counted in blocks, as the pool is."""
    config, device = capacity.config, capacity.device
    per_token = kv_bytes_per_token(config, capacity.model)
    mean = mean_context(trace)
    return {
        "device": {"name": device.name, "platform": device.platform, "total_bytes": device.total_bytes},
        "weight_bytes": capacity.weight_bytes,
        "kv_bytes_per_token": per_token,
        "kv_bytes": kv_bytes_per_block(config, capacity.model) * config.num_blocks,
        "draft_weight_bytes": capacity.draft_bytes,
        "draft_kv_bytes": capacity.draft_block_bytes * config.num_blocks,
        "contexts_of_max_model_len": _contexts(capacity, config.max_model_len),
        "contexts_of_mean_len": None if mean is None else _contexts(capacity, mean),
        "mean_len": None if mean is None else round(mean, 1),
        "buckets": [[bucket.tokens, bucket.rows] for bucket in buckets],
        "settings": {
            name: value if isinstance(value, int | float | bool) or value is None else str(value)
            for name, value in asdict(config).items()
            if name != "reasons"
        },
        "reasons": dict(config.reasons),
    }


def capacity_table(capacity: Capacity, buckets: BucketTable, trace: Sequence[TraceRequest]) -> list[tuple[str, str]]:
    """What fits, for people: the engine's start-up table for a device that need not be here."""
    model, config, device, sheet = capacity.model, capacity.config, capacity.device, capacity.sheet
    what = f"{device.name} ({device.platform}), "
    what += "here" if sheet is None else f"not here: {sheet.memory_gb} GB, {_rates(capacity)}, by its vendor's sheet"
    rows = inventory(config, model, buckets, weight_bytes=capacity.weight_bytes, dtype_reason=capacity.dtype_reason)
    mean = mean_context(trace)
    if mean is not None:
        fits = f"{_contexts(capacity, mean):,} of the trace's mean of {mean:,.0f} tokens fit"
        rows = [(name, f"{value}; {fits}" if name == "concurrency" else value) for name, value in rows]
    if capacity.draft_bytes:
        keys = gib(capacity.draft_block_bytes * config.num_blocks)
        rows.append(("draft model", f"weights {gib(capacity.draft_bytes)} of these, and {keys} beside the KV pool"))
    return [("model", f"{shown_name(config.model)} ({model.architecture})"), ("device", what), *rows]


def prediction_table(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The figures of `predict`, for people."""
    bounds = ", ".join(f"{name} {share:.0%}" for name, share in row["bound_by"].items())
    return [
        ("requests", f"{row['requests']:,} ({row['in_tokens']:,} + {row['out_tokens']:,} tokens), {row['mode']}"),
        (
            "throughput",
            f"{row['out_tok_s']:,} output tokens/s, {row['total_tok_s']:,} with prompts, {row['req_s']:,} requests/s, "
            f"{row['total_s']:,} s in all",
        ),
        ("first token", f"p50 {row['ttft_p50_ms']:,} ms, p99 {row['ttft_p99_ms']:,} ms"),
        (
            "time a token",
            "none has two"
            if row["tpot_p50_ms"] is None
            else f"p50 {row['tpot_p50_ms']:,} ms, p99 {row['tpot_p99_ms']:,} ms; between two: "
            f"p50 {row['itl_p50_ms']:,} ms, p99 {row['itl_p99_ms']:,} ms",
        ),
        ("steps", f"{row['steps']:,}, bound by {bounds}; the device is busy {row['device_busy']:.0%} of the time"),
        ("padding", f"{row['padding_share']:.1%} of the computed tokens"),
        ("KV waste", f"{row['kv_waste']:.1%} of the held slots; {row['preemptions']:,} preemptions"),
    ]


def mean_context(trace: Sequence[TraceRequest]) -> float | None:
    """Tokens of a request's prompt and answer, a mean over the trace; None without one."""
    return sum(len(r.prompt_ids) + r.max_tokens for r in trace) / len(trace) if trace else None


def _contexts(capacity: Capacity, tokens: float) -> int:
    """How many contexts of so many tokens the pool holds at once."""
    return int(contexts_that_fit(capacity.config, capacity.model, tokens))


def _rates(capacity: Capacity) -> str:
    assert capacity.sheet is not None
    rates = capacity.sheet.rates
    return f"{rates.gb_s:,.0f} GB/s, {rates.tflop_s:,.0f} TFLOP/s in bfloat16"
