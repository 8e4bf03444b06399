"""What is counted of the server's own doing: replies, refusals, and starts of the engine."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.metrics_core import Metric

from jaxpaged_server.metrics.families import Labels, counter, counter_table, counters, gauges

PHASES = ("starting", "loading", "compiling", "ready", "draining", "restarting", "stopped")
REJECTIONS = ("max_num_queued_reqs", "max_num_queued_tokens")
"""Reasons that vLLM has; they are shown from the start."""
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
        self._rejections: dict[str, int] = dict.fromkeys(REJECTIONS, 0)

    def on_reply(self, route: str, status: int) -> None:
        """Count a reply. route: the template; past MAX_ROUTES of them, "other"."""
        if route not in self._routes:
            if len(self._routes) > MAX_ROUTES:
                route = OTHER
            self._routes.add(route)
        self._replies[route, status] = self._replies.get((route, status), 0) + 1

    def on_rejection(self, reason: str) -> None:
        """Count a request that was not admitted. reason: a word of the admission's own."""
        self._rejections[reason] = self._rejections.get(reason, 0) + 1

    def families(self, labels: Labels) -> Iterator[Metric]:
        yield counters(
            "vllm:admission_rejections", "Requests refused by a limit, by which.", labels, "reason", self._rejections
        )
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
