"""Prometheus metrics: plain counts and stream states read at the scrape, and the event loop's lag."""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from gateway.counters import Counters, StreamStatus

LAG_BUCKETS_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class Metrics:
    """One process's metrics in a registry of their own. Scrape in the event loop's thread: the counts live there."""

    def __init__(
        self,
        counters: Counters,
        *,
        version: str,
        streams: Callable[[], Iterable[StreamStatus]] = tuple,
        lag_interval_seconds: float = 0.25,
    ) -> None:
        self.registry = CollectorRegistry()
        self._lag_interval_seconds = lag_interval_seconds
        self._lag = Histogram(
            "gateway_loop_lag_seconds",
            "How late the event loop ran a timer that was due.",
            buckets=LAG_BUCKETS_SECONDS,
            registry=self.registry,
        )
        self.registry.register(_CountersCollector(counters, version=version))
        self.registry.register(_StreamsCollector(streams))
        ProcessCollector(registry=self.registry)

    def exposition(self) -> tuple[bytes, str]:
        """The text format and its content type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST

    async def watch_loop_lag(self) -> None:
        """Sample the loop's lag until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + self._lag_interval_seconds
            await asyncio.sleep(self._lag_interval_seconds)
            self._lag.observe(max(0.0, loop.time() - due))


class _CountersCollector(Collector):
    """Reads ``Counters`` at the scrape, so that counting costs an integer addition and never a metric's lock."""

    def __init__(self, counters: Counters, *, version: str) -> None:
        self._counters = counters
        self._version = version

    def collect(self) -> Iterator[Metric]:
        counters = self._counters
        build = GaugeMetricFamily("gateway_build_info", "What runs here; always 1.", labels=["version", "python"])
        build.add_metric([self._version, platform.python_version()], 1)
        yield build

        connections = GaugeMetricFamily("gateway_connections", "Open reads now.", labels=["protocol"])
        for protocol, count in counters.connections.items():
            connections.add_metric([protocol], count)
        yield connections

        yield _counter(
            "gateway_opens", "Attempts to read, by outcome.", ["stream", "protocol", "outcome"], counters.opens.items()
        )
        yield _counter("gateway_goodbyes", "Reads the server ended.", ["protocol", "code"], counters.goodbyes.items())
        yield _counter(
            "gateway_requests", "Requests answered.", ["route", "method", "status"], counters.requests.items()
        )
        yield _counter(
            "gateway_tokens_refused",
            "Access tokens refused, by reason.",
            ["reason"],
            (((reason,), count) for reason, count in counters.refused_tokens.items()),
        )
        yield from self._deliveries()

    def _deliveries(self) -> Iterator[Metric]:
        labels = ["stream", "protocol"]
        records = CounterMetricFamily("gateway_records_delivered", "Records written to readers.", labels=labels)
        sizes = CounterMetricFamily("gateway_delivered_bytes", "Bytes of data written to readers.", labels=labels)
        replays = CounterMetricFamily(
            "gateway_replay_records", "Records read from Kafka again for readers older than the log.", labels=["stream"]
        )
        for stream in self._counters.streams.values():
            replays.add_metric([stream.stream], stream.replayed_records)
            for protocol, delivered in stream.by_protocol.items():
                records.add_metric([stream.stream, protocol], delivered.records)
                sizes.add_metric([stream.stream, protocol], delivered.bytes)
        yield records
        yield sizes
        yield replays


class _StreamsCollector(Collector):
    """Asks the engine how its readers stand, at the scrape."""

    def __init__(self, streams: Callable[[], Iterable[StreamStatus]]) -> None:
        self._streams = streams

    def collect(self) -> Iterator[Metric]:
        states = list(self._streams())
        state = GaugeMetricFamily(
            "gateway_reader_state", "1 for the state the stream's reader is in.", labels=["stream", "state"]
        )
        for status in states:
            state.add_metric([status.stream, status.state], 1)
        yield state
        yield _gauge(
            "gateway_reader_age_seconds",
            "Since Kafka last answered this reader's fetch.",
            ((status.stream, status.age_seconds) for status in states),
        )
        yield _gauge(
            "gateway_reader_lag_records",
            "Records that Kafka holds beyond the reader.",
            ((status.stream, status.lag_records) for status in states),
        )
        yield _gauge(
            "gateway_topic_head_age_seconds",
            "Since the newest record of the stream was made.",
            ((status.stream, status.head_age_seconds) for status in states),
        )
        yield _gauge(
            "gateway_log_records",
            "Records in the stream's shared log.",
            ((status.stream, status.log_records) for status in states),
        )
        yield _gauge(
            "gateway_log_bytes",
            "Bytes in the stream's shared log.",
            ((status.stream, status.log_bytes) for status in states),
        )
        yield _gauge(
            "gateway_view_bytes",
            "Bytes of encoded views of the stream.",
            ((status.stream, status.view_bytes) for status in states),
        )


def _counter(
    name: str, meaning: str, labels: list[str], samples: Iterable[tuple[tuple[object, ...], int]]
) -> CounterMetricFamily:
    family = CounterMetricFamily(name, meaning, labels=labels)
    for values, count in samples:
        family.add_metric([str(value) for value in values], count)
    return family


def _gauge(name: str, meaning: str, samples: Iterable[tuple[str, float | None]]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, meaning, labels=["stream"])
    for stream, value in samples:
        if value is not None:
            family.add_metric([stream], value)
    return family
