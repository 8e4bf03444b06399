"""The figures of a run, under vLLM's names: rates, latencies with percentiles, goodput, and what went wrong."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from jaxpaged.errors import ConfigError
from jaxpaged_server.load.outcome import End, Outcome
from jaxpaged_server.load.run import Run
from jaxpaged_server.load.spread import METRICS, Spread

GOODPUT_METRICS = ("ttft", "tpot", "e2el")


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which metrics and percentiles are told, and the limits (ms) that a request must keep to be a good one."""

    metrics: tuple[str, ...]
    percentiles: tuple[float, ...]
    goodput: Mapping[str, float]

    def __post_init__(self) -> None:
        for name in self.metrics:
            if name not in METRICS:
                raise ConfigError(
                    name="--percentile-metrics", value=name, limit=f"it must be one of {', '.join(METRICS)}"
                )
        for percent in self.percentiles:
            if not 0 <= percent <= 100:
                raise ConfigError(name="--metric-percentiles", value=percent, limit="it must be from 0 to 100")
        for name, limit_ms in self.goodput.items():
            if name not in GOODPUT_METRICS:
                raise ConfigError(name="--goodput", value=name, limit=f"it must be one of {', '.join(GOODPUT_METRICS)}")
            if not limit_ms >= 0:
                raise ConfigError(name="--goodput", value=f"{name}:{limit_ms:g}", limit="milliseconds, 0 or more")

    @classmethod
    def parse(cls, metrics: str, percentiles: str, goodput: Sequence[str]) -> Selection:
        """From the words of a command line: "ttft,itl", "50,99", ["ttft:500", "tpot:50"]."""
        return cls(
            metrics=tuple(name.strip() for name in metrics.split(",") if name.strip()),
            percentiles=tuple(_number("--metric-percentiles", word) for word in percentiles.split(",")),
            goodput=dict(_limit(word) for word in goodput),
        )


def _limit(word: str) -> tuple[str, float]:
    name, colon, value = word.partition(":")
    if not colon:
        raise ConfigError(name="--goodput", value=word, limit="it must be METRIC:MILLISECONDS, such as ttft:500")
    return name, _number("--goodput", value)


def _number(name: str, word: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise ConfigError(name=name, value=word, limit="it is no number") from None


def figures(run: Run, selection: Selection, found: Mapping[str, Spread]) -> dict[str, Any]:
    """The result as vLLM's bench names it, and beside it: `refused` (429, part of `failed`), `unfinished`,
    `errors_by_kind`, `tokens_per_event`, `total_cached_tokens`, `interrupted`.

    found: how the metrics of this run lie. Counts and rates are of requests that are done. Times are in ms; None where
    there is nothing to tell.
    """
    done = [outcome for outcome in run.outcomes if outcome.is_done]
    bad = [outcome for outcome in run.outcomes if outcome.end in (End.REFUSED, End.FAILED)]
    num_input = sum(outcome.num_prompt for outcome in done)
    num_output = sum(outcome.num_output for outcome in done)
    num_events = sum(len(outcome.times_s) for outcome in done)
    seconds = run.duration_s or math.inf
    return {
        "duration": run.duration_s,
        "completed": len(done),
        "failed": len(bad),
        "refused": sum(outcome.end is End.REFUSED for outcome in bad),
        "unfinished": len(run.outcomes) - len(done) - len(bad),
        "interrupted": run.interrupted,
        "total_input_tokens": num_input,
        "total_output_tokens": num_output,
        "total_cached_tokens": sum(outcome.num_cached for outcome in done),
        "request_throughput": len(done) / seconds,
        "request_goodput": _num_good(done, selection.goodput) / seconds if selection.goodput else None,
        **({"goodput_limits_ms": dict(selection.goodput)} if selection.goodput else {}),
        "output_throughput": num_output / seconds,
        "total_token_throughput": (num_input + num_output) / seconds,
        "max_output_tokens_per_s": _most_in_a_second(done),
        "max_concurrent_requests": _most_at_once(done),
        "tokens_per_event": num_output / num_events if num_events else None,
        "errors_by_kind": _kinds(bad),
        **_retry_after(bad),
        **{
            name: value
            for metric in selection.metrics
            for name, value in _told(metric, found.get(metric), selection.percentiles).items()
        },
    }


def per_request(outcomes: Sequence[Outcome]) -> dict[str, list[Any]]:
    """One entry a request, under vLLM's names; seconds."""
    return {
        "input_lens": [outcome.num_prompt for outcome in outcomes],
        "output_lens": [outcome.num_output for outcome in outcomes],
        "ttfts": [outcome.ttft_s for outcome in outcomes],
        "itls": [outcome.gaps_s for outcome in outcomes],
        "latencies": [outcome.latency_s for outcome in outcomes],
        "start_times": [outcome.began_s for outcome in outcomes],
        "queue_times": [outcome.queue_s for outcome in outcomes],
        "generated_texts": ["".join(outcome.text) for outcome in outcomes],
        "errors": [f"{outcome.kind}: {outcome.error}" if outcome.kind else "" for outcome in outcomes],
    }


def percentile_name(percent: float) -> str:
    """99.0 -> "p99", 99.9 -> "p99.9"."""
    return f"p{percent:g}"


def _told(metric: str, spread: Spread | None, percents: Sequence[float]) -> dict[str, float | None]:
    """A metric's figures; None for each where it has no value."""
    at = {} if spread is None else spread.percentiles_ms
    return {
        f"mean_{metric}_ms": None if spread is None else spread.mean_ms,
        f"median_{metric}_ms": at.get(50.0),
        f"std_{metric}_ms": None if spread is None else spread.std_ms,
        **{f"{percentile_name(percent)}_{metric}_ms": at.get(percent) for percent in percents},
    }


def _num_good(done: Sequence[Outcome], limits_ms: Mapping[str, float]) -> int:
    """Requests within all limits. An answer of one token has no time per token, and keeps any limit of it."""
    return sum(all(1000 * (_of(outcome, name)) <= limit for name, limit in limits_ms.items()) for outcome in done)


def _of(outcome: Outcome, name: str) -> float:
    return outcome.ttft_s if name == "ttft" else outcome.latency_s if name == "e2el" else outcome.tpot_s or 0.0


def _most_in_a_second(done: Sequence[Outcome]) -> float:
    """Output tokens of the best whole second, counted from the first sending."""
    if not done:
        return 0.0
    began_s = min(outcome.began_s for outcome in done)
    seconds: defaultdict[int, float] = defaultdict(float)
    for outcome in done:
        for time_s, weight in zip(outcome.times_s, outcome.weights, strict=True):
            seconds[int(time_s - began_s)] += weight
    return max(seconds.values(), default=0.0)


def _most_at_once(done: Sequence[Outcome]) -> int:
    """Requests under way at the busiest moment; one that ends as another begins makes place for it."""
    steps = sorted(step for outcome in done for step in ((outcome.began_s, 1), (outcome.ended_s, -1)))
    return max(accumulate(change for _, change in steps), default=0)


def _kinds(bad: Sequence[Outcome]) -> dict[str, dict[str, Any]]:
    """By kind, the most frequent first: how many, and the first one's words."""
    counts = Counter(outcome.kind for outcome in bad)
    example = {outcome.kind: outcome.error for outcome in reversed(bad)}
    return {kind: {"count": count, "example": example[kind]} for kind, count in counts.most_common()}


def _retry_after(bad: Sequence[Outcome]) -> dict[str, Any]:
    """What refusals said of when to come again: how many did, and the mean of it in seconds."""
    refused = [outcome for outcome in bad if outcome.end is End.REFUSED]
    if not refused:
        return {}
    told = [outcome.retry_after_s for outcome in refused if outcome.retry_after_s is not None]
    return {"refused_with_retry_after": len(told), "mean_retry_after_s": sum(told) / len(told) if told else None}
