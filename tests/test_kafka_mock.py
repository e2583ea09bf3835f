"""The same adapters against librdkafka's mock cluster, which the demo runs on and which answers no question of time."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.clock import SystemClock
from gateway.kafka.cluster import ClusterSettings, KafkaCluster
from gateway.kafka.offsets import Offsets, TopicMissing
from gateway.kafka.reader import TopicReader
from gateway.kafka.replay import ReplayPool
from tests.parts.kafka import eventually
from tests.parts.sink import RecordingSink

PARTITIONS = 4


class Mock:
    """A mock cluster, which lives as long as the producer that made it."""

    def __init__(self) -> None:
        from confluent_kafka import Producer

        self._producer = Producer({"test.mock.num.brokers": 1, "linger.ms": 1})
        brokers = self._producer.list_topics(timeout=10).brokers.values()
        self.bootstrap = ",".join(f"{broker.host}:{broker.port}" for broker in brokers)

    def produce(self, topic: str, values: list[bytes], *, partition: int, timestamps: list[int] | None = None) -> None:
        for index, value in enumerate(values):
            times = {} if timestamps is None else {"timestamp": timestamps[index]}
            self._producer.produce(topic, value, partition=partition, **times)
        assert self._producer.flush(10) == 0


@pytest.fixture(scope="module")
def mock() -> Iterator[Mock]:
    try:
        mock = Mock()
    except ImportError as missing:
        if os.environ.get("CI") == "true":
            pytest.fail(f"a real part is missing: {missing}", pytrace=False)
        pytest.skip(f"left out: {missing}")
    yield mock


@pytest.fixture
def cluster(mock: Mock) -> KafkaCluster:
    return KafkaCluster(ClusterSettings(mock.bootstrap), clock=SystemClock())


async def test_a_time_is_found_by_bisection(mock: Mock, cluster: KafkaCluster) -> None:
    base = int(time.time() * 1000) - 10_000_000
    for partition in range(PARTITIONS):
        mock.produce(
            "timed",
            [b"x"] * 1000,
            partition=partition,
            timestamps=[base + 100 * partition + 1000 * n for n in range(1000)],
        )
    offsets = Offsets(cluster)
    assert await offsets.latest("timed") == (1000,) * PARTITIONS
    started = time.monotonic()
    assert await offsets.at_time("timed", base + 500_000) == (500,) * PARTITIONS
    assert time.monotonic() - started < 5
    assert await offsets.at_time("timed", base + 500_150) == (501, 501, 500, 500)
    assert await offsets.at_time("timed", 0) == (0,) * PARTITIONS
    assert await offsets.at_time("timed", base + 10_000_000) == (1000,) * PARTITIONS
    await cluster.close()


async def test_a_topic_that_nobody_produced_to_is_missing(cluster: KafkaCluster) -> None:
    with pytest.raises(TopicMissing):
        await Offsets(cluster).partitions("never")
    await cluster.close()


async def test_the_reader_prefills_goes_live_and_follows(mock: Mock, cluster: KafkaCluster) -> None:
    clock, sink = SystemClock(), RecordingSink()
    mock.produce("live", [b"%d" % n for n in range(100)], partition=2)
    reader = TopicReader(
        cluster, Offsets(cluster), "live", sink=sink, prefill_records=10, prefill_bytes=1 << 20, clock=clock
    )
    task: asyncio.Task[Any] = asyncio.create_task(reader.run())
    await eventually(lambda: sink.is_live)
    assert sink.starts == [(0, 0, 90, 0)]
    await asyncio.to_thread(mock.produce, "live", [b"%d" % n for n in range(100, 200)], partition=2)
    await eventually(lambda: len(sink.values(2)) == 110)
    assert sink.values(2) == [b"%d" % n for n in range(90, 200)]
    assert sink.names() == ["start", "live"]
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    await cluster.close()


async def test_replay_covers_exactly_the_stretch(mock: Mock, cluster: KafkaCluster) -> None:
    for partition in range(PARTITIONS):
        mock.produce("old", [b"%d" % n for n in range(300)], partition=partition)
    pool = ReplayPool(cluster, Offsets(cluster))
    vector, until = (0, 250, 299, 10), (300, 260, 299, 200)
    seen: list[tuple[int, int]] = []
    while vector != until:
        replayed = await pool.read("old", vector, until, max_records=70)
        seen += [(record.partition, record.offset) for record in replayed.records]
        vector = replayed.vector
    assert sorted(seen) == [
        (p, n) for p, (a, b) in enumerate([(0, 300), (250, 260), (0, 0), (10, 200)]) for n in range(a, b)
    ]
    await pool.close()
    await cluster.close()
