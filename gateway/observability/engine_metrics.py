"""What happens inside, for Prometheus: Kafka's readers, logs and views, replays, memory, turns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from gateway.counters import Counters
from gateway.observability.families import Rows, counter, gauge, histogram, states, value
from gateway.status import EngineStatus, MemoryStatus, TopicStatus

READER_STATES = ("starting", "live", "down")
_TOPIC = ("cluster", "topic")


class EngineCollector(Collector):
    """Asks the engine how it stands, at the scrape."""

    def __init__(self, counters: Counters, engine: Callable[[], EngineStatus]) -> None:
        self._counters = counters
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        engine = self._engine()
        yield gauge(
            "gateway_stream_info",
            "Which topic a stream stands for; always 1.",
            ["stream", "version", "lifecycle", "cluster", "topic"],
            (((one.stream, one.version, one.lifecycle, one.cluster, one.topic), 1) for one in engine.streams),
        )
        yield from _topics(engine.topics)
        yield from self._readers()
        yield from self._replays(engine)
        yield from _memory(engine.memory)
        yield histogram(
            "gateway_pump_turn_seconds", "How long the loop was kept for one turn of writing.", engine.pump_turns
        )
        yield counter("gateway_pump_slices", "Turns of single readers.", (), [((), engine.pump_slices)])
        yield gauge("gateway_sockets", "Open connections by listener.", ["listener"], _by(engine.sockets.items()))
        revision = engine.catalog_revision
        yield gauge("gateway_catalog_revision", "Revision of the catalog that holds.", (), [((), revision)])
        yield counter("gateway_spans", "Spans of sampled traces, by outcome.", ["outcome"], _by(engine.spans.items()))

    def _readers(self) -> Iterator[Metric]:
        topics = list(self._counters.topics.items())
        yield counter(
            "gateway_fetches", "Rounds of fetching that brought records.", _TOPIC, ((k, t.fetches) for k, t in topics)
        )
        yield counter(
            "gateway_fetched_records",
            "Records fetched once for all readers.",
            _TOPIC,
            ((k, t.fetched_records) for k, t in topics),
        )
        yield counter("gateway_reader_rebuilds", "Consumers made anew.", _TOPIC, ((k, t.rebuilds) for k, t in topics))
        yield counter(
            "gateway_reader_faults", "Failures to read the topic.", _TOPIC, ((k, t.faults) for k, t in topics)
        )

    def _replays(self, engine: EngineStatus) -> Iterator[Metric]:
        streams = list(self._counters.streams.values())
        yield counter(
            "gateway_replays",
            "Reads from Kafka again that began, for readers older than the log.",
            ["stream"],
            (((one.stream,), one.replays) for one in streams),
        )
        yield gauge(
            "gateway_replays_running", "Replays now.", ["stream"], (((s.stream,), s.replaying) for s in streams)
        )
        yield counter(
            "gateway_replay_records",
            "Records read from Kafka again.",
            ["stream"],
            (((one.stream,), one.replayed_records) for one in streams),
        )
        yield gauge(
            "gateway_replay_slices_running",
            "Slices of replays that are read from Kafka now.",
            ["cluster"],
            (((one.cluster,), one.reading) for one in engine.replays),
        )
        yield gauge(
            "gateway_replay_slices_waiting",
            "Slices of replays that wait for a consumer.",
            ["cluster"],
            (((one.cluster,), one.waiting) for one in engine.replays),
        )


def _topics(topics: tuple[TopicStatus, ...]) -> Iterator[Metric]:
    def rows(number: Callable[[TopicStatus], float | None]) -> Rows:
        return (((one.cluster, one.topic), number(one)) for one in topics)

    yield states(
        "gateway_reader_state",
        "1 for the state the topic's reader is in.",
        _TOPIC,
        READER_STATES,
        (((one.cluster, one.topic), one.state) for one in topics),
    )
    for name, meaning, number in _TOPIC_GAUGES:
        yield gauge(name, meaning, _TOPIC, rows(number))
    yield counter(
        "gateway_log_evicted_records",
        "Records that left the topic's shared log.",
        _TOPIC,
        rows(lambda one: one.evicted_records),
    )


_TOPIC_GAUGES: tuple[tuple[str, str, Callable[[TopicStatus], float | None]], ...] = (
    (
        "gateway_reader_last_fetch_age_seconds",
        "Since Kafka last answered this reader's fetch.",
        lambda one: one.age_seconds,
    ),
    ("gateway_reader_lag_records", "Records that Kafka holds beyond the reader.", lambda one: one.lag_records),
    ("gateway_topic_head_age_seconds", "Since the newest record was made.", lambda one: one.head_age_seconds),
    ("gateway_topic_users", "Reads that hold the topic.", lambda one: one.readers),
    ("gateway_log_records", "Records in the shared log.", lambda one: one.log_records),
    ("gateway_log_bytes", "Bytes in the shared log.", lambda one: one.log_bytes),
    ("gateway_views", "Encoded views with readers.", lambda one: one.views),
    ("gateway_view_bytes", "Bytes of encoded views.", lambda one: one.view_bytes),
    ("gateway_replay_bytes", "Bytes read again and their views.", lambda one: one.replay_bytes),
)


def _memory(memory: MemoryStatus) -> Iterator[Metric]:
    yield value("gateway_memory_bytes", "Bytes of logs, views and replays.", memory.bytes)
    yield value("gateway_memory_limit_bytes", "Most bytes of logs, views and replays.", memory.limit_bytes)
    yield value("gateway_memory_full", "1 while replays are refused for want of memory.", memory.full)
    yield counter(
        "gateway_memory_reclaims", "Times that something had to go for the limit.", (), [((), memory.reclaims)]
    )
    yield value("gateway_log_limit_bytes", "Most bytes of one topic's log.", memory.log_limit_bytes)
    yield value("gateway_log_limit_records", "Most records of one topic's log.", memory.log_limit_records)


def _by(items: Iterable[tuple[str, int]]) -> Rows:
    return [((name,), number) for name, number in items]
