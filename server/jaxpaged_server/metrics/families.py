"""Metric families of prometheus_client from plain numbers, one call each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

from prometheus_client import metrics_core
from prometheus_client.metrics_core import Metric

from jaxpaged_server.metrics.histogram import Histogram

Labels: TypeAlias = Mapping[str, str]
Keyed: TypeAlias = Mapping[str, float]
"""A number for each value of one more label."""


def gauge(name: str, text: str, labels: Labels, value: float) -> Metric:
    """A number that goes up and down."""
    family = metrics_core.GaugeMetricFamily(name, text, labels=tuple(labels))
    family.add_metric(tuple(labels.values()), value)
    return family


def gauges(name: str, text: str, labels: Labels, key: str, values: Keyed) -> Metric:
    """One gauge for each value of the label `key`."""
    family = metrics_core.GaugeMetricFamily(name, text, labels=(*labels, key))
    for value, number in values.items():
        family.add_metric((*labels.values(), value), number)
    return family


def counter(name: str, text: str, labels: Labels, value: float) -> Metric:
    """A total; the name goes without its _total."""
    family = metrics_core.CounterMetricFamily(name, text, labels=tuple(labels))
    family.add_metric(tuple(labels.values()), value)
    return family


def counters(name: str, text: str, labels: Labels, key: str, values: Keyed) -> Metric:
    """One total for each value of the label `key`."""
    return counter_table(name, text, labels, (key,), (((value,), number) for value, number in values.items()))


def counter_table(
    name: str, text: str, labels: Labels, keys: tuple[str, ...], rows: Iterable[tuple[tuple[str, ...], float]]
) -> Metric:
    """One total for each row of values of the labels `keys`."""
    family = metrics_core.CounterMetricFamily(name, text, labels=(*labels, *keys))
    for values, number in rows:
        family.add_metric((*labels.values(), *values), number)
    return family


def histogram(name: str, text: str, labels: Labels, values: Histogram) -> Metric:
    """Counts by upper bound."""
    family = metrics_core.HistogramMetricFamily(name, text, labels=tuple(labels))
    family.add_metric(tuple(labels.values()), buckets=values.buckets(), sum_value=values.total)
    return family


def summaries(name: str, text: str, labels: Labels, key: str, values: Keyed, *, count: int) -> Metric:
    """A sum for each value of the label `key`, all of them over the same `count` of events."""
    family = metrics_core.SummaryMetricFamily(name, text, labels=(*labels, key))
    for value, total in values.items():
        family.add_metric((*labels.values(), value), count_value=count, sum_value=total)
    return family
