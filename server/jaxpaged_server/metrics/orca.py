"""The load report in a reply's header, by the ORCA standard (Open Request Cost Aggregation); the forms are vLLM's."""

from __future__ import annotations

import json
from collections.abc import Mapping

FORMAT_HEADER = "endpoint-load-metrics-format"
"""Of a request: TEXT or JSON. Without it no report is sent."""
REPORT_HEADER = "endpoint-load-metrics"


def load_report(asked: str | None, load: Mapping[str, float]) -> dict[str, str]:
    """The header to add to a reply, none where the request asks for none or for a form that there is not.

    asked: the request's FORMAT_HEADER, in any case. load: names and numbers, see `ServerMetrics.load`.
    """
    match (asked or "").strip().lower():
        case "text":
            body = ", ".join(f"named_metrics.{name}={float(value)}" for name, value in load.items())
            return {REPORT_HEADER: f"TEXT {body}"}
        case "json":
            named = {name: float(value) for name, value in load.items()}
            return {REPORT_HEADER: f"JSON {json.dumps({'named_metrics': named})}"}
        case _:
            return {}
