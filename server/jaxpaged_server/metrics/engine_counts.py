"""What the engine's beats tell: gauges of the last one, and totals that survive the engine.

An engine that is started again counts from zero; its totals are added to those of the engines before it, so that no
counter ever goes back.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from itertools import zip_longest

from prometheus_client.metrics_core import Metric

from jaxpaged.ledger import KVLedger
from jaxpaged.metrics import EngineMetrics
from jaxpaged_server.engine_process.wire import STEP_TOKEN_BOUNDS, Beat, EngineInfo
from jaxpaged_server.metrics.families import Labels, counter, counters, gauge, gauges, histogram, summaries
from jaxpaged_server.metrics.histogram import Histogram
from jaxpaged_server.metrics.residency_totals import ResidencyTotals

STEP_PHASES = ("plan", "pack", "execute", "wait", "commit")
KV_CLASSES = ("live", "behind", "shared", "tail", "cached", "free", "null")
_NO_SLOTS = KVLedger(live=0, behind=0, shared=0, tail=0, cached=0, free=0, null=0, tokens=0, contiguous=0)


class EngineCounts:
    """Fed by `on_beat` and `on_lost`; read as families of metrics or by attribute.

    residency, estimates: whether there are metrics of these, see `wire.Start`.
    """

    def __init__(self, *, residency: bool = False, estimates: bool = False) -> None:
        self.info: EngineInfo | None = None
        """Of the latest engine."""
        self.ledger = _NO_SLOTS
        self.running = 0
        self.waiting = 0
        """In the engine's own queue."""
        self.occupancy = 0.0
        """Share of the computed tokens that were asked for, in the steps between the last two beats with any."""
        self._before = EngineMetrics()  # totals of the engines that are gone
        self._now = EngineMetrics()
        self._steps_before = [0] * (len(STEP_TOKEN_BOUNDS) + 1)  # by their tokens: see Beat.step_token_counts
        self._steps_now: tuple[int, ...] = ()
        self._accepted_before: tuple[int, ...] = ()  # guesses that came true, by their place: see Beat.accepted_at
        self._accepted_now: tuple[int, ...] = ()
        self._residency = ResidencyTotals() if residency else None
        self._estimates = estimates

    def on_beat(self, beat: Beat, info: EngineInfo) -> None:
        """Take in a beat of the engine that `info` came from; another object means another engine."""
        now = beat.metrics
        if self.info is not None and info is not self.info:
            self._change_engine()
        self.info = info
        self.ledger, self.running, self.waiting = beat.ledger, beat.running, beat.waiting
        asked, padded = now.step_tokens - self._now.step_tokens, now.padded_tokens - self._now.padded_tokens
        if asked + padded:
            self.occupancy = asked / (asked + padded)
        self._now = now
        self._steps_now = beat.step_token_counts
        self._accepted_now = beat.accepted_at
        if self._residency is not None and beat.residency is not None:
            self._residency.on_counts(beat.residency)

    def on_lost(self) -> None:
        """The engine is gone: nothing runs, no slot is held. Its totals stay."""
        self.ledger, self.running, self.waiting, self.occupancy = _NO_SLOTS, 0, 0, 0.0

    def total(self, name: str) -> float:
        """A field of `EngineMetrics`, over all engines."""
        return getattr(self._before, name) + getattr(self._now, name)

    @property
    def kv_usage(self) -> float:
        """Share of the pool's slots that running requests hold, 0 to 1."""
        usable = self.ledger.total - self.ledger.null
        return self.ledger.held / usable if usable else 0.0

    @property
    def kv_waste(self) -> float:
        """Share of the held slots that hold no token."""
        return self.ledger.tail / self.ledger.held if self.ledger.held else 0.0

    @property
    def contiguous_waste(self) -> float:
        """The same share for an allocator that reserves the longest context for each request."""
        reserved = self.ledger.contiguous
        return 1 - self.ledger.tokens / reserved if reserved else 0.0

    def _change_engine(self) -> None:
        for field in fields(EngineMetrics):
            setattr(self._before, field.name, self.total(field.name))
        self._now = EngineMetrics()
        self._steps_before = self._steps()
        self._steps_now = ()
        self._accepted_before, self._accepted_now = self._accepted(), ()
        if self._residency is not None:
            self._residency.on_other_engine()

    def _steps(self) -> list[int]:
        """Steps of all engines by their tokens."""
        now = self._steps_now or (0,) * len(self._steps_before)
        return [a + b for a, b in zip(self._steps_before, now, strict=True)]

    def _accepted(self) -> tuple[int, ...]:
        """Guesses of all engines that came true, by their place; empty where none are made."""
        pairs = zip_longest(self._accepted_before, self._accepted_now, fillvalue=0)
        return tuple(before + now for before, now in pairs)

    def families(self, labels: Labels, *, in_front: tuple[int, int], at: float) -> Iterator[Metric]:
        """in_front: requests that wait before they are given to the engine, as `ServerMetrics` has them by reason.

        at: seconds on the wall clock.
        """
        yield from self._state_families(labels, in_front, at)
        yield from self._token_families(labels)
        if accepted := self._accepted():
            yield from self._speculation_families(labels, accepted)
        yield from self._pool_families(labels)
        if self._residency is not None:
            yield from self._residency.families(labels)
        yield from self._step_families(labels)
        if self._estimates:
            yield from self._work_families(labels)

    def _state_families(self, labels: Labels, in_front: tuple[int, int], at: float) -> Iterator[Metric]:
        capacity, deferred = self.waiting + in_front[0], in_front[1]
        yield gauge("vllm:num_requests_running", "Requests that the engine computes.", labels, self.running)
        yield gauge("vllm:num_requests_waiting", "Requests that wait to be computed.", labels, capacity + deferred)
        yield gauges(
            "vllm:num_requests_waiting_by_reason",
            "Waiting requests: capacity, for room in the engine; deferred, since the room is kept for other keys.",
            labels,
            "reason",
            {"capacity": capacity, "deferred": deferred},
        )
        yield gauge(
            "vllm:kv_cache_usage_perc", "Share of the KV pool that requests hold, 0 to 1.", labels, self.kv_usage
        )
        adapters = {**labels, "max_lora": "0", "running_lora_adapters": "", "waiting_lora_adapters": ""}
        yield gauge("vllm:lora_requests_info", "Adapters in use (there are none); the value is the time.", adapters, at)
        if (info := self.info) is not None:
            config = {
                **labels,
                "block_size": str(info.block_size),
                "num_gpu_blocks": str(info.num_blocks),
                # as vLLM counts them: that windows bound what a group holds is left out
                "kv_cache_size_tokens": str((info.num_blocks - 1) // info.num_groups * info.block_size),
                "cache_dtype": info.kv_cache_dtype,
                "enable_prefix_caching": str(info.enable_prefix_caching),
                "prefix_caching_hash_algo": "sha256",
            }
            yield gauge("vllm:cache_config_info", "Options of the KV pool as labels; the value is 1.", config, 1)

    def _token_families(self, labels: Labels) -> Iterator[Metric]:
        prompt, cached = self.total("prompt_tokens"), self.total("cached_tokens")
        yield counter("vllm:prompt_tokens", "Prompt tokens of requests that were started.", labels, prompt)
        yield counters(
            "vllm:prompt_tokens_by_source",
            "Prompt tokens by where their KV came from.",
            labels,
            "source",
            {"local_compute": prompt - cached, "local_cache_hit": cached, "external_kv_transfer": 0},
        )
        yield counter("vllm:prompt_tokens_cached", "Prompt tokens served by the prefix cache.", labels, cached)
        yield counter("vllm:prefix_cache_queries", "Prompt tokens looked up in the prefix cache.", labels, prompt)
        yield counter("vllm:prefix_cache_hits", "Prompt tokens found in the prefix cache.", labels, cached)
        yield counter("vllm:generation_tokens", "Tokens generated.", labels, self.total("output_tokens"))
        yield counter(
            "vllm:num_preemptions",
            "Times that a request lost its blocks and was computed again.",
            labels,
            self.total("preemptions"),
        )

    def _speculation_families(self, labels: Labels, accepted: tuple[int, ...]) -> Iterator[Metric]:
        for name, field, text in (
            ("num_drafts", "drafts", "Times that guesses of a request were verified."),
            ("num_draft_tokens", "draft_tokens", "Guessed tokens that were verified."),
            ("num_accepted_tokens", "accepted_tokens", "Guessed tokens that came true."),
        ):
            yield counter(f"vllm:spec_decode_{name}", text, labels, self.total(field))
        yield counters(
            "vllm:spec_decode_num_accepted_tokens_per_pos",
            "Guessed tokens that came true, by their place among the guesses.",
            labels,
            "position",
            {str(place): count for place, count in enumerate(accepted)},
        )

    def _pool_families(self, labels: Labels) -> Iterator[Metric]:
        yield gauges(
            "jaxpaged:kv_tokens",
            "Slots (token places) of the KV pool by class; the classes sum to the pool.",
            labels,
            "class",
            {name: getattr(self.ledger, name) for name in KV_CLASSES},
        )
        yield gauge("jaxpaged:kv_waste_ratio", "Share of the held slots without a token.", labels, self.kv_waste)
        yield gauge(
            "jaxpaged:kv_contiguous_waste_ratio",
            "The same for an allocator that reserves the longest context for each request.",
            labels,
            self.contiguous_waste,
        )

    def _step_families(self, labels: Labels) -> Iterator[Metric]:
        step_tokens = Histogram.of(STEP_TOKEN_BOUNDS, self._steps(), self.total("step_tokens"))
        yield histogram("vllm:iteration_tokens_total", "Tokens computed in a step.", labels, step_tokens)
        yield summaries(
            "jaxpaged:step_seconds",
            "Seconds of steps by phase: plan, pack, execute (launching), wait (for results), commit.",
            labels,
            "phase",
            {phase: self.total(f"{phase}_s") for phase in STEP_PHASES},
            count=int(self.total("steps")),
        )
        yield counter(
            "jaxpaged:padding_tokens",
            "Tokens computed for nobody, to fill a bucket.",
            labels,
            self.total("padded_tokens"),
        )
        yield gauge(
            "jaxpaged:bucket_occupancy",
            "Share of the computed tokens that were asked for, in the latest steps.",
            labels,
            self.occupancy,
        )
        yield counters(
            "jaxpaged:compiles",
            "Programs compiled or loaded: start, before the engine was ready; ready, after that, which should not be.",
            labels,
            "when",
            {"start": self.total("compiles_at_start"), "ready": self.total("compiles_after_ready")},
        )

    def _work_families(self, labels: Labels) -> Iterator[Metric]:
        for name, field, what in (
            ("flops", "flops", "Operations that the steps take at least"),
            ("read_bytes", "read_bytes", "Bytes of device memory that the steps read at least"),
            ("write_bytes", "written_bytes", "Bytes of device memory that the steps write at least"),
        ):
            text = f"{what}, by formula: what requests asked for, without padding."
            yield counter(f"vllm:estimated_{name}_per_gpu", text, labels, self.total(field))
