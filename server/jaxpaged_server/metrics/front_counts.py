"""What is counted of the server's own doing: replies, refusals, and the engine's phase."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client.metrics_core import Metric

from jaxpaged_server.metrics.families import Labels, counter, counter_table, counters, gauges

PHASES = ("starting", "loading", "compiling", "ready", "draining", "restarting", "failed", "stopped")
VLLM_REASONS = {"queue_full": "max_num_queued_reqs", "queue_tokens": "max_num_queued_tokens"}
"""What vLLM calls the reasons for a refusal that it has."""
MAX_ROUTES = 64
OTHER = "other"


class FrontCounts:
    """Labels come from the server's own code: route templates, never paths."""

    def __init__(self) -> None:
        self.phase = PHASES[0]
        self.restarts = 0
        self.sse_bytes = 0
        self._replies: dict[tuple[str, int], int] = {}
        self._routes: set[str] = {OTHER}

    def on_reply(self, route: str, status: int) -> None:
        """Count a reply. route: the template; past MAX_ROUTES of them, "other"."""
        if route not in self._routes:
            if len(self._routes) > MAX_ROUTES:
                route = OTHER
            self._routes.add(route)
        self._replies[route, status] = self._replies.get((route, status), 0) + 1

    def families(self, labels: Labels, rejections: Mapping[str, int]) -> Iterator[Metric]:
        """rejections: requests that were not admitted, by reason."""
        reasons = dict.fromkeys(VLLM_REASONS.values(), 0)
        for reason, count in rejections.items():
            name = VLLM_REASONS.get(reason, reason)
            reasons[name] = reasons.get(name, 0) + count
        yield counters("vllm:admission_rejections", "Requests refused by a limit, by which.", labels, "reason", reasons)
        yield counter("jaxpaged:engine_restarts", "Times that the engine was started again.", labels, self.restarts)
        phases = dict.fromkeys((*PHASES, self.phase), 0) | {self.phase: 1}
        yield gauges("jaxpaged:engine_phase", "1 for the phase that the engine is in.", labels, "phase", phases)
        yield counter_table(
            "jaxpaged:http_requests",
            "Replies by route and status.",
            labels,
            ("route", "status"),
            [((route, str(status)), count) for (route, status), count in self._replies.items()],
        )
        yield counter("jaxpaged:sse_bytes", "Bytes of server-sent events written.", labels, self.sse_bytes)
