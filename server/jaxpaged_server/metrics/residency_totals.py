"""What the sampled blocks of the KV pool have done, over all engines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

from prometheus_client.metrics_core import Metric

from jaxpaged.residency import BOUNDS_S, ResidencyCounts, Spans
from jaxpaged_server.metrics.families import Labels, histogram
from jaxpaged_server.metrics.histogram import Histogram

_TEXTS = {
    "lifetime": ("vllm:kv_block_lifetime_seconds", "From a block's allocation to its eviction, of sampled blocks."),
    "idle": ("vllm:kv_block_idle_before_evict_seconds", "From a block's last use to its eviction, of sampled blocks."),
    "gap": ("vllm:kv_block_reuse_gap_seconds", "From one use of a block to its next, of sampled blocks."),
}


class ResidencyTotals:
    """Fed by `on_counts` and `on_other_engine`; read as families of metrics."""

    def __init__(self) -> None:
        self._before = ResidencyCounts()  # of engines that are gone
        self._now = ResidencyCounts()

    def on_counts(self, counts: ResidencyCounts) -> None:
        """Take in what the present engine has counted since it began."""
        self._now = counts

    def on_other_engine(self) -> None:
        """The next counts are another engine's."""
        for field in fields(ResidencyCounts):
            setattr(self._before, field.name, self._total(field.name))
        self._now = ResidencyCounts()

    def families(self, labels: Labels) -> Iterator[Metric]:
        for field, (name, text) in _TEXTS.items():
            spans = self._total(field)
            yield histogram(name, text, labels, Histogram.of(BOUNDS_S, spans.counts, spans.total_s))

    def _total(self, name: str) -> Spans:
        before, now = getattr(self._before, name), getattr(self._now, name)
        counts = [a + b for a, b in zip(before.counts, now.counts, strict=True)]
        return Spans(counts=counts, total_s=before.total_s + now.total_s)
