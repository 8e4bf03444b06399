"""OpenTelemetry traces: one span a request, under vLLM's attribute names, sent by OTLP over HTTP.

Needs the extra `otel`, which is imported when an endpoint is given and never else. No global tracer provider is set.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from jaxpaged.errors import ConfigError
from jaxpaged_server.metrics.request_figures import RequestFigures

OPTION = "otlp_traces_endpoint"
PROTOCOL_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
SPAN = "llm_request"
_FIGURES = {
    "gen_ai.usage.prompt_tokens": "prompt_tokens",
    "gen_ai.usage.completion_tokens": "generation_tokens",
    "gen_ai.latency.e2e": "e2e_s",
    "gen_ai.latency.time_in_queue": "queue_s",
    "gen_ai.latency.time_to_first_token": "ttft_s",
    "gen_ai.latency.time_in_model_prefill": "prefill_s",
    "gen_ai.latency.time_in_model_decode": "decode_s",
    "gen_ai.latency.time_in_model_inference": "inference_s",
    "gen_ai.response.model": "model",
    "gen_ai.request.max_tokens": "max_tokens",
    "gen_ai.request.n": "n",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedRequest:
    """What a span tells beside the figures. Neither prompt nor output is ever among it."""

    request_id: str
    started_ns: int  # on the wall clock
    temperature: float | None = None
    top_p: float | None = None


class Traces:
    """Spans of requests. exporter: an OpenTelemetry SpanExporter, or None for OTLP to `endpoint`.

    Raises ConfigError where the extra is missing, or the endpoint or the protocol of the environment cannot be.
    """

    def __init__(self, endpoint: str, *, service_name: str = "jaxpaged", exporter: Any = None) -> None:
        url = traces_url(endpoint)
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.trace import SpanKind, Status, StatusCode
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ImportError:
            raise ConfigError(
                name=OPTION,
                value=endpoint,
                limit="traces need the OpenTelemetry SDK, which is not installed",
                fix="pip install 'jaxpaged[otel]'",
            ) from None
        named = os.environ.get("OTEL_SERVICE_NAME") or service_name
        self._provider = TracerProvider(resource=Resource.create({"service.name": named}), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter or OTLPSpanExporter(endpoint=url)))
        self._tracer = self._provider.get_tracer("jaxpaged_server")
        self._propagator = TraceContextTextMapPropagator()
        self._kind = SpanKind.SERVER
        self._failed = Status(StatusCode.ERROR)

    def on_request(self, figures: RequestFigures, traced: TracedRequest, headers: Mapping[str, str]) -> None:
        """Tell of a request that has ended. headers: of HTTP; a `traceparent` among them makes the span its child."""
        carrier = {
            name.lower(): value for name, value in headers.items() if name.lower() in ("traceparent", "tracestate")
        }
        span = self._tracer.start_span(
            SPAN,
            context=self._propagator.extract(carrier),
            kind=self._kind,
            attributes=_attributes(figures, traced),
            start_time=traced.started_ns,
        )
        if figures.finish_reason == "error":
            span.set_status(self._failed)
        span.end(end_time=traced.started_ns + int(figures.e2e_s * 1e9))

    def close(self) -> None:
        """Send what is left; takes seconds where the endpoint does not answer, so not on the event loop."""
        self._provider.shutdown()


def traces_url(endpoint: str) -> str:
    """Where spans are posted: the endpoint, with /v1/traces where it has no path. Raises ConfigError."""
    for name in PROTOCOL_VARIABLES:
        if (protocol := os.environ.get(name)) not in (None, "", "http/protobuf"):
            raise ConfigError(name=name, value=protocol, limit="spans are sent by http/protobuf alone", fix="Unset it")
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(
            name=OPTION,
            value=endpoint,
            limit="it must be a URL of http or https: spans are sent by http/protobuf, not by grpc",
            fix="A collector listens for that on port 4318, as in http://127.0.0.1:4318/v1/traces",
        )
    return endpoint if parts.path.strip("/") else f"{endpoint.rstrip('/')}/v1/traces"


def _attributes(figures: RequestFigures, traced: TracedRequest) -> dict[str, Any]:
    found: dict[str, Any] = {
        "gen_ai.request.id": traced.request_id,
        "gen_ai.request.temperature": traced.temperature,
        "gen_ai.request.top_p": traced.top_p,
        "gen_ai.response.finish_reasons": (figures.finish_reason,),
        **{name: getattr(figures, field) for name, field in _FIGURES.items()},
    }
    return {name: value for name, value in found.items() if value is not None}
