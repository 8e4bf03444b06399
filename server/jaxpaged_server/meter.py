"""Times one answer and tells the metrics: when it came, when it was let in, when its tokens came, how it ended."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import groupby

from jaxpaged.request import FinishReason
from jaxpaged_server.metrics.registry import ServerMetrics
from jaxpaged_server.metrics.request_figures import RequestFigures


class Meter:
    """Of one answer. Seconds on the monotonic clock. n: the parameter, for the first of its answers; else None."""

    def __init__(
        self, metrics: ServerMetrics, *, model: str, key: str, prompt_tokens: int, max_tokens: int, n: int | None
    ) -> None:
        self._metrics = metrics
        self._model = model
        self._key = key
        self._prompt_tokens = prompt_tokens
        self._max_tokens = max_tokens
        self._n = n
        self._arrived = time.monotonic()
        self._admitted: float | None = None
        self._queue_s = 0.0  # in the engine's own queue
        self._first: float | None = None
        self._last = 0.0  # when the latest token came
        self._tokens = 0

    def admitted(self) -> None:
        """It has its place."""
        self._admitted = time.monotonic()

    def tokens(self, times: Sequence[float], *, queue_s: float = 0.0) -> None:
        """Tokens came, each at its time. queue_s: how long it waited in the engine, said with the first of them."""
        self._queue_s += queue_s
        self._tokens += len(times)
        if times and self._first is None:
            self._first = self._last = times[0]
            self._metrics.on_first_token(times[0] - self._arrived)
            times = times[1:]
        for at, together in groupby(times):
            self._metrics.on_tokens(len(list(together)), at - self._last)
            self._last = at

    def end(self, finish: FinishReason | None, *, cached_tokens: int) -> RequestFigures:
        """It has ended; None: its reader left, or the engine did. Returns what the metrics were told."""
        now, first = time.monotonic(), self._first
        started = now if self._admitted is None else self._admitted + self._queue_s
        figures = RequestFigures(
            model=self._model,
            finish_reason=(finish or FinishReason.ABORT).value,
            prompt_tokens=self._prompt_tokens,
            cached_tokens=min(cached_tokens, self._prompt_tokens),
            generation_tokens=self._tokens,
            e2e_s=now - self._arrived,
            queue_s=started - self._arrived,
            ttft_s=None if first is None else first - self._arrived,
            prefill_s=None if first is None else max(0.0, first - started),
            decode_s=None if first is None else self._last - first,
            n=self._n,
            max_tokens=self._max_tokens,
            key=self._key,
        )
        self._metrics.on_request(figures)
        return figures
