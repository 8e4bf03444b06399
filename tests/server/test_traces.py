"""Spans of requests, seen by an exporter in memory and by a collector on this machine."""

from __future__ import annotations

import http.server
import subprocess
import sys
import threading
from typing import Any

import pytest
from jaxpaged_server.metrics.request_figures import RequestFigures
from jaxpaged_server.traces import TracedRequest, Traces, traces_url

from jaxpaged.errors import ConfigError

pytest.importorskip("opentelemetry.sdk")
STARTED_NS = 1_700_000_000_000_000_000
FIGURES = RequestFigures(
    model="tiny",
    finish_reason="length",
    prompt_tokens=20,
    cached_tokens=16,
    generation_tokens=5,
    e2e_s=1.25,
    queue_s=0.25,
    ttft_s=0.5,
    prefill_s=0.25,
    decode_s=0.75,
    n=1,
    max_tokens=5,
)
TRACED = TracedRequest(request_id="cmpl-1", started_ns=STARTED_NS, temperature=0.0, top_p=0.9)
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def spans(*requests: tuple[RequestFigures, TracedRequest, dict[str, str]]) -> tuple[Any, ...]:
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    traces = Traces("http://127.0.0.1:4318", exporter=exporter)
    for request in requests:
        traces.on_request(*request)
    traces.close()
    return exporter.get_finished_spans()


def test_a_span_has_vllms_attributes() -> None:
    (span,) = spans((FIGURES, TRACED, {}))
    assert span.name == "llm_request"
    assert span.kind.name == "SERVER"
    assert span.parent is None
    assert (span.start_time, span.end_time) == (STARTED_NS, STARTED_NS + 1_250_000_000)
    assert dict(span.attributes) == {
        "gen_ai.request.id": "cmpl-1",
        "gen_ai.request.temperature": 0.0,
        "gen_ai.request.top_p": 0.9,
        "gen_ai.request.max_tokens": 5,
        "gen_ai.request.n": 1,
        "gen_ai.response.model": "tiny",
        "gen_ai.response.finish_reasons": ("length",),
        "gen_ai.usage.prompt_tokens": 20,
        "gen_ai.usage.completion_tokens": 5,
        "gen_ai.latency.e2e": 1.25,
        "gen_ai.latency.time_in_queue": 0.25,
        "gen_ai.latency.time_to_first_token": 0.5,
        "gen_ai.latency.time_in_model_prefill": 0.25,
        "gen_ai.latency.time_in_model_decode": 0.75,
        "gen_ai.latency.time_in_model_inference": 1.0,
    }
    assert span.resource.attributes["service.name"] == "jaxpaged"
    assert span.status.status_code.name == "UNSET"


def test_a_traceparent_makes_the_span_a_child() -> None:
    first, second, broken = spans(
        (FIGURES, TRACED, {"Traceparent": PARENT, "TraceState": "a=1", "Authorization": "Bearer secret"}),
        (FIGURES, TRACED, {"traceparent": PARENT}),
        (FIGURES, TRACED, {"traceparent": "00-nonsense"}),
    )
    for span in (first, second):
        assert f"{span.context.trace_id:032x}" == "0af7651916cd43dd8448eb211c80319c"
        assert f"{span.parent.span_id:016x}" == "b7ad6b7169203331"
    assert first.context.trace_state.get("a") == "1"
    assert broken.parent is None
    assert "secret" not in first.to_json()


def test_what_did_not_happen_is_not_told() -> None:
    ended = RequestFigures(model="tiny", finish_reason="error", prompt_tokens=3, e2e_s=0.5)
    (span,) = spans((ended, TracedRequest(request_id="x", started_ns=STARTED_NS), {}))
    assert set(span.attributes) == {
        *("gen_ai.request.id", "gen_ai.response.model", "gen_ai.response.finish_reasons", "gen_ai.latency.e2e"),
        *("gen_ai.usage.prompt_tokens", "gen_ai.usage.completion_tokens"),
    }
    assert span.status.status_code.name == "ERROR"


def test_a_collector_gets_them_by_http() -> None:
    posted: list[tuple[str, str | None, bytes]] = []

    class Collector(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            posted.append((self.path, self.headers["Content-Type"], body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Collector) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        traces = Traces(f"http://127.0.0.1:{server.server_port}")
        traces.on_request(FIGURES, TRACED, {"traceparent": PARENT})
        traces.close()
        server.shutdown()
        thread.join()
    ((path, kind, body),) = posted
    assert (path, kind) == ("/v1/traces", "application/x-protobuf")
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    sent = ExportTraceServiceRequest.FromString(body).resource_spans[0].scope_spans[0].spans[0]
    assert sent.name == "llm_request"
    assert sent.trace_id.hex() == "0af7651916cd43dd8448eb211c80319c"


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        ("http://collector:4318", "http://collector:4318/v1/traces"),
        ("http://collector:4318/", "http://collector:4318/v1/traces"),
        ("https://collector/own/path", "https://collector/own/path"),
    ],
)
def test_where_spans_are_posted(endpoint: str, url: str) -> None:
    assert traces_url(endpoint) == url


@pytest.mark.parametrize("endpoint", ["collector:4317", "grpc://collector:4317", "http://", ""])
def test_an_endpoint_that_cannot_be_is_refused(endpoint: str) -> None:
    with pytest.raises(ConfigError, match=r"otlp_traces_endpoint is .*: it must be a URL of http or https"):
        Traces(endpoint)


def test_a_protocol_that_cannot_be_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc")
    with pytest.raises(ConfigError, match="OTEL_EXPORTER_OTLP_TRACES_PROTOCOL is 'grpc'"):
        Traces("http://127.0.0.1:4318")


def test_without_the_sdk_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(ConfigError, match=r"which is not installed. pip install 'jaxpaged\[otel\]'"):
        Traces("http://127.0.0.1:4318")


def test_the_module_alone_imports_no_opentelemetry() -> None:
    code = "import sys; import jaxpaged_server.traces; print([m for m in sys.modules if m.startswith('opentelemetry')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"
