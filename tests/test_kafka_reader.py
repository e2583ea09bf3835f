"""The live reader against a real Kafka: what it delivers, where it starts, and how it comes back."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.clock import SystemClock
from gateway.kafka.cluster import ClusterSettings
from gateway.kafka.offsets import Offsets
from gateway.kafka.reader import TopicReader, prefill_start
from tests.parts.kafka import Kafka, KafkaBroker, eventually
from tests.parts.sink import FragileCluster, RecordingSink

CLOCK = SystemClock()


def numbered(first: int, last: int) -> list[bytes]:
    return [b"%d" % number for number in range(first, last)]


class OffsetsWithoutIds(Offsets):
    """Those of brokers that give topics no ids."""

    async def topic_id(self, topic: str) -> str | None:
        return None


class Reading:
    """A running reader with its sink."""

    def __init__(
        self, cluster: FragileCluster, topic: str, *, offsets: type[Offsets] = Offsets, **options: Any
    ) -> None:
        self.cluster = cluster
        self.sink = RecordingSink()
        options = {"prefill_records": 0, "prefill_bytes": 1 << 30, **options}
        self.reader = TopicReader(cluster, offsets(cluster), topic, sink=self.sink, clock=CLOCK, **options)

    async def has(self, values: list[bytes], *, partition: int = 0, seconds: float = 20) -> None:
        with contextlib.suppress(AssertionError):
            await eventually(lambda: len(self.sink.values(partition)) >= len(values), seconds=seconds)
        assert self.sink.values(partition) == values


@contextlib.asynccontextmanager
async def reading(kafka: Kafka, topic: str, **options: Any) -> AsyncIterator[Reading]:
    cluster = FragileCluster(ClusterSettings(kafka.bootstrap), clock=CLOCK)
    one = Reading(cluster, topic, **options)
    task = asyncio.create_task(one.reader.run())
    try:
        yield one
        assert not task.done(), "the reader ended by itself"
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await cluster.close()


@pytest.fixture
async def topic(kafka: Kafka) -> str:
    name = f"reader-{uuid.uuid4().hex}"
    await kafka.create_topic(name, 3)
    return name


async def test_it_starts_at_the_ends_goes_live_and_follows(kafka: Kafka, topic: str) -> None:
    await kafka.produce(topic, numbered(0, 5), partition=1)
    async with reading(kafka, topic) as one:
        await eventually(lambda: one.sink.is_live)
        assert one.sink.events == [("start", (0, 5, 0)), ("live", (0, 5, 0))]
        await kafka.produce(topic, numbered(5, 300), partition=1)
        await kafka.produce(topic, numbered(0, 3), partition=2)
        await one.has(numbered(5, 300), partition=1)
        await one.has(numbered(0, 3), partition=2)
        assert one.reader.status.state == "live"
        assert one.reader.status.vector == (0, 300, 3)
        last_fetch = one.reader.status.last_fetch_monotonic
        assert last_fetch is not None
        assert CLOCK.monotonic() - last_fetch < 5


async def test_it_starts_the_prefill_back_and_is_live_after_it(kafka: Kafka, topic: str) -> None:
    await kafka.produce(topic, numbered(0, 50), partition=0)
    await kafka.produce(topic, numbered(0, 2), partition=1)
    async with reading(kafka, topic, prefill_records=12) as one:
        await eventually(lambda: one.sink.is_live)
        assert one.sink.starts == [(40, 0, 0)]
        assert one.sink.values(0) == numbered(40, 50)
        assert one.sink.values(1) == numbered(0, 2)


async def test_a_prefill_of_too_many_bytes_starts_anew_with_less(kafka: Kafka, topic: str) -> None:
    await kafka.produce(topic, [b"x" * 1000] * 100)
    async with reading(kafka, topic, prefill_records=100, prefill_bytes=20_000, max_poll_records=10) as one:
        await eventually(lambda: one.sink.is_live)
        first, second = one.sink.starts
        assert first == (0, 0, 0)
        assert 85 <= second[0] <= 95
        assert sum(len(value or b"") for value in one.sink.values()) <= 20_000
        await kafka.produce(topic, [b"next"])
        await eventually(lambda: one.sink.values()[-1] == b"next")


async def test_records_arrive_whole(kafka: Kafka, topic: str) -> None:
    async with reading(kafka, topic) as one:
        await eventually(lambda: one.sink.is_live)
        await kafka.produce(
            topic, [b"\x00\xffv", None], keys=[b"k\x01", b""], headers=[("h", b"\xfe"), ("h", b"")], timestamps=[5, 7]
        )
        await eventually(lambda: len(one.sink.values()) == 2)
        first, second = one.sink.records[0]
        assert (first.key, first.value, first.timestamp) == (b"k\x01", b"\x00\xffv", 5)
        assert first.headers == (("h", b"\xfe"), ("h", b""))
        assert (second.key, second.value, second.timestamp, second.next) == (b"", None, 7, 2)


@pytest.mark.parametrize("codec", [None, "gzip", "snappy", "lz4", "zstd"])
async def test_every_codec_is_byte_exact(kafka: Kafka, topic: str, codec: str | None) -> None:
    values = [bytes([n % 256]) * (n * 37) + uuid.uuid4().bytes for n in range(200)]
    async with reading(kafka, topic) as one:
        await eventually(lambda: one.sink.is_live)
        await kafka.produce(topic, values, compression=codec)
        await one.has(values)


async def test_aborted_records_never_arrive_and_the_position_passes_them(kafka: Kafka, topic: str) -> None:
    async with reading(kafka, topic) as one:
        await eventually(lambda: one.sink.is_live)
        for turn in range(6):
            async with kafka.transaction(f"half-{topic}-{turn}", commit=turn % 2 == 0) as producer:
                for n in range(10):
                    await producer.send(topic, b"%d-%d" % (turn, n), partition=0)
        # Ten records and a marker for each; the tail is aborted, so nothing but the position says that it was read.
        await eventually(lambda: one.sink.vector[0] == 66)
        assert one.sink.values() == [b"%d-%d" % (turn, n) for turn in (0, 2, 4) for n in range(10)]


async def test_an_aborted_tail_does_not_keep_it_from_going_live(kafka: Kafka, topic: str) -> None:
    await kafka.produce(topic, numbered(0, 3))
    async with kafka.transaction(f"tail-{topic}", commit=False) as producer:
        await producer.send_and_wait(topic, b"bad", partition=0)
    async with reading(kafka, topic, prefill_records=100) as one:
        await eventually(lambda: one.sink.is_live and one.sink.vector[0] == 5)
        assert one.sink.values() == numbered(0, 3)
        assert one.sink.records[0][-1].next in (3, 5)


async def test_a_dead_fetch_task_is_replaced_and_nothing_is_lost(kafka: Kafka, topic: str) -> None:
    async with reading(kafka, topic) as one:
        await eventually(lambda: one.sink.is_live)
        await kafka.produce(topic, numbered(0, 100))
        await one.has(numbered(0, 100))
        one.cluster.break_fetching()
        await kafka.produce(topic, numbered(100, 200))
        await eventually(lambda: one.sink.names() == ["start", "live", "down", "live"], seconds=3)
        await kafka.produce(topic, numbered(200, 300))
        await one.has(numbered(0, 300), seconds=3)
        assert "injected" in dict(one.sink.events)["down"]


async def test_what_a_failed_getmany_had_taken_is_read_again(kafka: Kafka, topic: str) -> None:
    async with reading(kafka, topic) as one:
        await eventually(lambda: one.sink.is_live)
        one.cluster.lose_next = True
        await kafka.produce(topic, numbered(0, 100))
        await one.has(numbered(0, 100))
        assert "injected after taking" in dict(one.sink.events)["down"]


async def test_new_partitions_are_read_from_their_beginning(kafka: Kafka, topic: str) -> None:
    async with reading(kafka, topic) as one:
        one.cluster.overrides = {"metadata_max_age_ms": 200}
        await kafka.produce(topic, numbered(0, 5))
        await eventually(lambda: one.sink.is_live)
        await kafka.grow_topic(topic, 5)
        await kafka.produce(topic, numbered(0, 20), partition=4)
        await one.has(numbered(0, 20), partition=4)
        assert one.sink.vector[3:] == [0, 20]
        assert one.sink.names() == ["start", "live"]


async def test_history_that_retention_took_is_skipped_with_a_fresh_start(kafka: Kafka, topic: str) -> None:
    async with reading(kafka, topic) as one:
        await kafka.produce(topic, numbered(0, 5), partition=1)
        await eventually(lambda: one.sink.is_live)
        began = one.sink.starts[0]
        one.cluster.gate.clear()
        one.cluster.break_fetching()
        await eventually(lambda: one.cluster.waiting)
        await kafka.produce(topic, numbered(5, 100), partition=1)
        await kafka.delete_records(topic, {1: 60})
        one.cluster.gate.set()
        await eventually(lambda: len(one.sink.starts) == 2 and one.sink.is_live)
        assert one.sink.starts == [began, (0, 60, 0)]
        await one.has(numbered(60, 100), partition=1)


async def test_a_topic_that_is_missing_is_waited_for(kafka: Kafka) -> None:
    name = f"late-{uuid.uuid4().hex}"
    async with reading(kafka, name) as one:
        await eventually(lambda: one.reader.status.state == "down")
        assert f"no topic {name}" in one.reader.status.reason
        await kafka.create_topic(name, 2)
        await eventually(lambda: one.sink.is_live)
        assert one.sink.names() == ["down", "start", "live"]


@pytest.mark.parametrize(("offsets", "evidence_seconds"), [(Offsets, 3600), (OffsetsWithoutIds, 0.5)])
async def test_a_topic_made_anew_is_read_afresh(
    kafka: Kafka, topic: str, offsets: type[Offsets], evidence_seconds: float
) -> None:
    await kafka.produce(topic, numbered(0, 50))
    async with reading(kafka, topic, prefill_records=10, offsets=offsets, evidence_seconds=evidence_seconds) as one:
        one.cluster.overrides = {"metadata_max_age_ms": 200}
        await eventually(lambda: one.sink.is_live)
        await kafka.delete_topic(topic)
        await eventually(lambda: one.reader.status.state == "down")
        await kafka.create_topic(topic, 2)
        await kafka.produce(topic, [b"new"])
        await eventually(lambda: one.sink.is_live)
        assert one.sink.starts[-1] == (0, 0)
        assert one.sink.names()[-3:] == ["other_history", "start", "live"]
        await one.has([b"new"])


async def test_a_topic_made_anew_that_is_longer_than_what_was_read_is_told_by_its_id(kafka: Kafka, topic: str) -> None:
    await kafka.produce(topic, numbered(0, 5))
    async with reading(kafka, topic, prefill_records=1000, identity_seconds=0.1) as one:
        await eventually(lambda: one.sink.is_live)
        first = one.sink.topic_id
        # Held back, so that it looks again when no offset tells any more that something happened.
        one.cluster.gate.clear()
        one.cluster.break_fetching()
        await eventually(lambda: one.cluster.waiting)
        await kafka.recreate_topic(topic, 3)
        await kafka.produce(topic, numbered(100, 120))
        one.cluster.gate.set()
        await eventually(lambda: len(one.sink.starts) == 2 and one.sink.is_live)
        assert one.sink.names()[-3:] == ["other_history", "start", "live"]
        assert one.sink.topic_id not in (None, first)
        await one.has(numbered(100, 120))


async def test_a_reader_that_is_not_disturbed_hears_of_nothing(kafka: Kafka, topic: str) -> None:
    async with reading(kafka, topic, identity_seconds=0.02) as one:
        await eventually(lambda: one.sink.is_live)
        for turn in range(20):
            await kafka.produce(topic, numbered(turn, turn + 1))
        await one.has(numbered(0, 20))
        assert one.sink.names() == ["start", "live"]
        assert len(one.cluster.made) == 1


async def test_a_sink_that_raises_ends_the_reader(kafka: Kafka, topic: str) -> None:
    class Refusing(RecordingSink):
        def start(self, vector: Any, *, topic_id: str | None) -> None:
            raise ValueError("refused")

    cluster = FragileCluster(ClusterSettings(kafka.bootstrap), clock=CLOCK)
    reader = TopicReader(
        cluster, Offsets(cluster), topic, sink=Refusing(), prefill_records=0, prefill_bytes=1, clock=CLOCK
    )
    with pytest.raises(ValueError, match="refused"):
        await reader.run()
    await cluster.close()


@pytest.mark.parametrize("how", ["restart", "kill"])
async def test_a_broker_that_goes_and_comes_back_loses_nothing(
    own_kafka: KafkaBroker, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "gateway.kafka")
    await own_kafka.create_topic("t", 2)
    async with reading(own_kafka, "t") as one:
        await eventually(lambda: one.sink.is_live)
        await own_kafka.produce("t", numbered(0, 500))
        await one.has(numbered(0, 500))
        await asyncio.to_thread(own_kafka.kill if how == "kill" else own_kafka.stop)
        await eventually(lambda: one.reader.status.state == "down")
        await asyncio.to_thread(own_kafka.start)
        await own_kafka.produce("t", numbered(500, 1000))
        await one.has(numbered(0, 1000), seconds=10)
        await eventually(lambda: one.sink.is_live)
        assert one.sink.names() == ["start", "live", "down", "live"]
    ours = [record.message for record in caplog.records if record.name == "gateway.kafka"]
    assert len(ours) == 3, ours


async def test_a_frozen_broker_is_noticed_and_followed_again(own_kafka: KafkaBroker) -> None:
    await own_kafka.create_topic("t", 2)
    async with reading(own_kafka, "t") as one:
        await eventually(lambda: one.sink.is_live)
        own_kafka.pause()
        await eventually(lambda: one.reader.status.state == "down", seconds=5)
        own_kafka.resume()
        await own_kafka.produce("t", numbered(0, 100))
        await one.has(numbered(0, 100), seconds=10)
        await eventually(lambda: one.sink.is_live)
        assert one.sink.starts == [(0, 0)]


@pytest.mark.parametrize(
    ("earliest", "latest", "records", "expected"),
    [
        ((0, 0), (100, 100), 10, (95, 95)),
        ((0, 0, 0), (100, 2, 0), 10, (92, 0, 0)),
        ((90, 90), (100, 100), 1000, (90, 90)),
        ((5, 5), (5, 5), 10, (5, 5)),
        ((0,), (7,), 0, (7,)),
    ],
)
def test_the_prefill_is_spread_over_what_the_partitions_hold(
    earliest: tuple[int, ...], latest: tuple[int, ...], records: int, expected: tuple[int, ...]
) -> None:
    assert prefill_start(earliest, latest, records=records) == expected
