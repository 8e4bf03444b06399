"""All metrics of one server: fed by the engine's beats, by requests and by the front end; read by Prometheus, by the
status line and by load reports. Names, types, labels and bounds are vLLM's where it has them.

There is no global registry and no lock: the event loop's thread feeds it and reads it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from jaxpaged_server.engine_process.wire import Beat, EngineInfo
from jaxpaged_server.metrics.engine_counts import EngineCounts
from jaxpaged_server.metrics.front_counts import FrontCounts
from jaxpaged_server.metrics.latency_window import LatencyWindow
from jaxpaged_server.metrics.request_counts import RequestCounts
from jaxpaged_server.metrics.request_figures import RequestFigures
from jaxpaged_server.metrics.status_line import Snapshot

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPEN_METRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


class ServerMetrics:
    """model_name: what clients call the model. keys: names of the API keys, which become labels; see `use_keys`.

    queue: requests that wait before they are given to the engine: (for room in it, since its room is kept for others).
    rejections: requests that were not admitted since the start, by reason. residency, estimates: whether the engine
    measures its blocks and estimates its work, see `wire.Start`; without, these metrics are not there. clock,
    wall_clock: seconds, the first one never goes back.
    """

    def __init__(
        self,
        model_name: str,
        *,
        keys: Sequence[str] = (),
        queue: Callable[[], tuple[int, int]] = lambda: (0, 0),
        rejections: Callable[[], Mapping[str, int]] = dict,
        residency: bool = False,
        estimates: bool = False,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.engine = EngineCounts(residency=residency, estimates=estimates)
        self.requests = RequestCounts(keys)
        self.front = FrontCounts()
        self.first_tokens = LatencyWindow()
        """Times to the first token of the last 5 minutes."""
        self.gaps = LatencyWindow()
        """Times from one token to the next, likewise."""
        self._labels = {"model_name": model_name, "engine": "0"}
        self._front_labels = {"model_name": model_name}
        self._queue = queue
        self._rejections = rejections
        self._clock = clock
        self._wall_clock = wall_clock
        self._process = ProcessCollector(registry=None)

    def use_keys(self, keys: Iterable[str]) -> None:
        """Names of the API keys in force now; see `RequestCounts.use_keys`."""
        self.requests.use_keys(keys)

    def on_beat(self, beat: Beat, info: EngineInfo) -> None:
        """Take in a beat. info: the very object that came with the engine's `Ready`; another one is another engine."""
        if info is not self.engine.info:
            self.requests.on_longest(info.max_model_len)
        self.engine.on_beat(beat, info)

    def on_phase(self, phase: str) -> None:
        """The engine, or the server, is in another phase: one of `front_counts.PHASES`."""
        self.front.phase = phase
        if phase not in ("ready", "draining"):
            self.engine.on_lost()

    def on_restart(self) -> None:
        """The engine was lost and is started again."""
        self.front.restarts += 1
        self.engine.on_lost()

    def on_first_token(self, ttft_s: float) -> None:
        """A request got its first token `ttft_s` seconds after it arrived."""
        self.requests.first_tokens.observe(ttft_s)
        self.first_tokens.add(self._clock(), ttft_s)

    def on_tokens(self, count: int, gap_s: float) -> None:
        """A request got `count` more tokens at once, `gap_s` seconds after the token before them. Takes 0.5 us."""
        each = gap_s / count
        self.requests.gaps.observe(each, count)
        self.gaps.add(self._clock(), each)

    def on_request(self, figures: RequestFigures) -> None:
        """A request has ended, in whatever way."""
        self.requests.on_request(figures)

    def on_reply(self, route: str, status: int) -> None:
        """A reply was given. route: the template of its route."""
        self.front.on_reply(route, status)

    def on_sse(self, num_bytes: int) -> None:
        """Bytes of server-sent events were written."""
        self.front.sse_bytes += num_bytes

    @property
    def waiting(self) -> int:
        """Requests that wait, before the engine and in it."""
        return self.engine.waiting + sum(self._queue())

    def load(self) -> dict[str, float]:
        """What load reports tell, by vLLM's names."""
        return {"kv_cache_usage_perc": self.engine.kv_usage, "num_requests_waiting": float(self.waiting)}

    def latencies(self) -> dict[str, dict[str, Any]]:
        """Of the last 5 minutes, for people: "ttft" and "itl", each with "count", "percentiles" ([p50, p90, p99] in
        seconds, or None) and "points" ([time on the wall clock, seconds])."""
        now = self._clock()
        shift_s = self._wall_clock() - now
        return {
            name: {
                "count": window.count(now),
                "percentiles": window.percentiles(now, (0.5, 0.9, 0.99)),
                "points": window.points(now, shift_s=shift_s),
            }
            for name, window in (("ttft", self.first_tokens), ("itl", self.gaps))
        }

    def snapshot(self) -> Snapshot:
        """What the status line is made of."""
        engine = self.engine
        return Snapshot(
            at_s=self._clock(),
            prompt_tokens=int(engine.total("prompt_tokens")),
            cached_tokens=int(engine.total("cached_tokens")),
            generation_tokens=int(engine.total("output_tokens")),
            step_tokens=int(engine.total("step_tokens")),
            padded_tokens=int(engine.total("padded_tokens")),
            preemptions=int(engine.total("preemptions")),
            compiles=int(engine.total("compiles_after_ready")),
            restarts=self.front.restarts,
            running=engine.running,
            waiting=self.waiting,
            kv_usage=engine.kv_usage,
        )

    def collect(self, *, only: str | None = None) -> Iterator[Metric]:
        """All families. only: the one API key that is told apart; without, all are."""
        yield from self.engine.families(self._labels, in_front=self._queue(), at=self._wall_clock())
        yield from self.requests.families(self._labels, only=only)
        yield from self.front.families(self._front_labels, self._rejections())

    def render(self, accept: str | None, *, only: str | None = None) -> tuple[bytes, str]:
        """The body of /metrics and its content type: OpenMetrics for those who accept it, else Prometheus's text.

        only: see `collect`. Names are never escaped: colons are allowed in both, but prometheus_client makes
        underscores of them.
        """
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_View(self, only))
        registry.register(self._process)
        if _accepts_open_metrics(accept or ""):
            return openmetrics.generate_latest(registry, escaping=openmetrics.ALLOWUTF8), OPEN_METRICS
        return generate_latest(registry), TEXT


class _View(Collector):
    """What one reader may see, as a registry asks for it."""

    def __init__(self, metrics: ServerMetrics, only: str | None) -> None:
        self._metrics, self._only = metrics, only

    def collect(self) -> Iterator[Metric]:
        return self._metrics.collect(only=self._only)


def _accepts_open_metrics(accept: str) -> bool:
    """Whether an Accept header names OpenMetrics, in version 1.0.0 or none."""
    for offer in accept.lower().split(","):
        kind, *parameters = (part.strip() for part in offer.split(";"))
        given = {name: value for name, _, value in (part.partition("=") for part in parameters)}
        if kind == "application/openmetrics-text" and given.get("version", "1.0.0") == "1.0.0":
            return given.get("q", "1").strip("0.") != ""
    return False
