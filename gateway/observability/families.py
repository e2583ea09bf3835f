"""Metric families from rows of label values and a number."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from gateway.counters import Distribution

Rows = Iterable[tuple[Sequence[object], float | None]]
"""Label values and the number; None where it is not known, and then there is no sample."""


def counter(name: str, meaning: str, labels: Sequence[str], rows: Rows) -> CounterMetricFamily:
    """A number that only grows while the process lives; ``name`` is without ``_total``."""
    family = CounterMetricFamily(name, meaning, labels=labels)
    _fill(family, rows)
    return family


def gauge(name: str, meaning: str, labels: Sequence[str], rows: Rows) -> GaugeMetricFamily:
    """A number as it is now."""
    family = GaugeMetricFamily(name, meaning, labels=labels)
    _fill(family, rows)
    return family


def value(name: str, meaning: str, number: float) -> GaugeMetricFamily:
    """A gauge without labels."""
    return GaugeMetricFamily(name, meaning, value=number)


def states(
    name: str, meaning: str, labels: Sequence[str], known: Sequence[str], rows: Iterable[tuple[Sequence[object], str]]
) -> GaugeMetricFamily:
    """1 for the state each is in, 0 for the others that are known: an alert on a state always has a value."""
    family = GaugeMetricFamily(name, meaning, labels=[*labels, "state"])
    for values, state in rows:
        for one in (*known, state) if state not in known else known:
            family.add_metric([*map(str, values), one], float(one == state))
    return family


def histogram(name: str, meaning: str, distribution: Distribution) -> HistogramMetricFamily:
    """A distribution as Prometheus has it: each bucket holds those before it too."""
    family = HistogramMetricFamily(name, meaning)
    so_far, buckets = 0, []
    for bound, count in zip((*map(str, distribution.bounds), "+Inf"), distribution.counts, strict=True):
        so_far += count
        buckets.append((bound, so_far))
    family.add_metric([], buckets, distribution.sum)
    return family


def _fill(family: CounterMetricFamily | GaugeMetricFamily, rows: Rows) -> None:
    for values, number in rows:
        if number is not None:
            family.add_metric([str(one) for one in values], number)
