"""The result as text, in the lines and columns that vLLM's bench prints."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from jaxpaged_server.load.figures import Selection, percentile_name
from jaxpaged_server.load.spread import METRICS

_WIDTH = 50


def table(result: Mapping[str, Any], selection: Selection) -> str:
    """All lines, from the heading to the closing rule."""
    lines = [_heading(" Serving Benchmark Result ", "="), *_totals(result)]
    for metric in selection.metrics:
        name, heading = METRICS[metric]
        lines += [
            _heading(heading, "-"),
            _line(f"Mean {name} (ms):", result[f"mean_{metric}_ms"]),
            _line(f"Median {name} (ms):", result[f"median_{metric}_ms"]),
        ]
        for percent in selection.percentiles:
            word = percentile_name(percent)
            lines.append(_line(f"{word.upper()} {name} (ms):", result[f"{word}_{metric}_ms"]))
    return "\n".join([*lines, *_errors(result), "=" * _WIDTH])


def _totals(result: Mapping[str, Any]) -> Sequence[str]:
    rate = result.get("request_rate", "inf")
    rows: list[tuple[str, object]] = [
        ("Successful requests:", result["completed"]),
        ("Failed requests:", result["failed"]),
        *([("  of them refused (429):", result["refused"])] if result["refused"] else []),
        *([("Unfinished requests:", result["unfinished"])] if result["unfinished"] else []),
        *([("Maximum request concurrency:", most)] if (most := result.get("max_concurrency")) else []),
        *([("Request rate configured (RPS):", float(rate))] if float(rate) < math.inf else []),
        ("Benchmark duration (s):", result["duration"]),
        ("Total input tokens:", result["total_input_tokens"]),
        ("Total generated tokens:", result["total_output_tokens"]),
        ("Request throughput (req/s):", result["request_throughput"]),
        *([("Request goodput (req/s):", good)] if (good := result["request_goodput"]) is not None else []),
        ("Output token throughput (tok/s):", result["output_throughput"]),
        ("Peak output token throughput (tok/s):", result["max_output_tokens_per_s"]),
        ("Peak concurrent requests:", float(result["max_concurrent_requests"])),
        ("Total token throughput (tok/s):", result["total_token_throughput"]),
    ]
    return [_line(name, value) for name, value in rows]


def _errors(result: Mapping[str, Any]) -> list[str]:
    kinds = result["errors_by_kind"]
    if not kinds:
        return []
    lines = [_heading("Errors", "-")]
    for kind, told in kinds.items():
        lines += [_line(f"{kind}:", told["count"]), f"  {told['example']}"]
    return lines


def _heading(text: str, rule: str) -> str:
    return f"{text:{rule}^{_WIDTH}}"


def _line(name: str, value: object) -> str:
    shown = "-" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)
    return f"{name:<40} {shown:<10}".rstrip()
