"""What is counted of requests: as their tokens come, and when they end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from prometheus_client.metrics_core import Metric

from jaxpaged_server.metrics import buckets
from jaxpaged_server.metrics.families import Labels, counter_table, counters, histogram
from jaxpaged_server.metrics.histogram import Histogram
from jaxpaged_server.metrics.request_figures import FINISH_REASONS, RequestFigures

_SECONDS = (
    ("queue_s", "vllm:request_queue_time_seconds", "Time from arrival to the first step."),
    ("prefill_s", "vllm:request_prefill_time_seconds", "Time from the first step to the first token."),
    ("decode_s", "vllm:request_decode_time_seconds", "Time from the first token to the last."),
    ("inference_s", "vllm:request_inference_time_seconds", "Time from the first step to the last token."),
    ("e2e_s", "vllm:e2e_request_latency_seconds", "Time from arrival to the end."),
)
_TOKENS = (
    ("prompt_tokens", "vllm:request_prompt_tokens", "Prompt tokens of a request."),
    ("computed_tokens", "vllm:request_prefill_kv_computed_tokens", "Prompt tokens that the cache did not have."),
    ("generation_tokens", "vllm:request_generation_tokens", "Generated tokens of a request."),
    ("max_tokens", "vllm:request_params_max_tokens", "The parameter max_tokens."),
)


class RequestCounts:
    """keys: names of the API keys, see `use_keys`. longest: see `on_longest`."""

    def __init__(self, keys: Sequence[str] = (), *, longest: int = 10**6) -> None:
        self.gaps = Histogram(buckets.TOKEN_GAP_SECONDS)
        self.first_tokens = Histogram(buckets.FIRST_TOKEN_SECONDS)
        self._ends: dict[str, int] = dict.fromkeys(FINISH_REASONS, 0)
        self._seconds = {name: Histogram(buckets.REQUEST_SECONDS) for name, _, _ in _SECONDS}
        self._per_output_token = Histogram(buckets.TOKEN_GAP_SECONDS)
        self._choices = Histogram(buckets.CHOICES)
        self._keys: dict[str, list[int]] = {}  # requests, prompt tokens, generated tokens
        self.use_keys(keys)
        self._tokens = {name: Histogram(buckets.token_counts(longest)) for name, _, _ in _TOKENS}

    def use_keys(self, keys: Iterable[str]) -> None:
        """Names of the API keys in force, the only ones that become labels. Those of before stay: no counter goes back,
        and their requests may still run."""
        for key in keys:
            self._keys.setdefault(key, [0, 0, 0])

    def on_longest(self, longest: int) -> None:
        """Fit the bounds of token counts to the longest context, as long as nothing has been counted."""
        if not any(self._ends.values()):
            self._tokens = {name: Histogram(buckets.token_counts(longest)) for name, _, _ in _TOKENS}

    def on_request(self, figures: RequestFigures) -> None:
        """Count a request that has ended. Its tokens' times were counted as they came."""
        self._ends[figures.finish_reason] += 1
        for name, counts in self._seconds.items():
            if (seconds := getattr(figures, name)) is not None:
                counts.observe(seconds)
        if (seconds := figures.per_output_token_s) is not None:
            self._per_output_token.observe(seconds)
        self._tokens["prompt_tokens"].observe(figures.prompt_tokens)
        self._tokens["generation_tokens"].observe(figures.generation_tokens)
        if figures.prefill_s is not None:
            self._tokens["computed_tokens"].observe(figures.prompt_tokens - figures.cached_tokens)
        if figures.max_tokens is not None:
            self._tokens["max_tokens"].observe(figures.max_tokens)
        if figures.n is not None:
            self._choices.observe(figures.n)
        if (totals := self._keys.get(figures.key or "")) is not None:
            totals[0] += 1
            totals[1] += figures.prompt_tokens
            totals[2] += figures.generation_tokens

    def families(self, labels: Labels, *, only: str | None = None) -> Iterator[Metric]:
        """only: the one key that is told apart; without, all are."""
        shown = self._keys if only is None else {key: self._keys[key] for key in (only,) if key in self._keys}
        yield counters("vllm:request_success", "Requests that ended, by why.", labels, "finished_reason", self._ends)
        yield histogram(
            "vllm:time_to_first_token_seconds", "Time from arrival to the first token.", labels, self.first_tokens
        )
        yield histogram("vllm:inter_token_latency_seconds", "Time from one token to the next.", labels, self.gaps)
        yield histogram(
            "vllm:time_per_output_token_seconds",
            "The same as vllm:inter_token_latency_seconds, under its old name.",
            labels,
            self.gaps,
        )
        yield histogram(
            "vllm:request_time_per_output_token_seconds",
            "Mean time from one token to the next of a request with at least two.",
            labels,
            self._per_output_token,
        )
        for name, title, text in _SECONDS:
            yield histogram(title, text, labels, self._seconds[name])
        for name, title, text in _TOKENS:
            yield histogram(title, text, labels, self._tokens[name])
        yield histogram("vllm:request_params_n", "The parameter n.", labels, self._choices)
        if shown:
            yield counters(
                "jaxpaged:key_requests",
                "Requests that ended, by API key.",
                labels,
                "key",
                {key: requests for key, (requests, _, _) in shown.items()},
            )
            yield counter_table(
                "jaxpaged:key_tokens",
                "Tokens of requests that ended, by API key.",
                labels,
                ("key", "kind"),
                [
                    ((key, kind), total)
                    for key, (_, *totals) in shown.items()
                    for kind, total in zip(("prompt", "generation"), totals, strict=True)
                ],
            )
