"""Old reads against a real Kafka: exact stretches, shared consumers, honest ends."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from functools import partial

import pytest

from gateway.clock import SystemClock
from gateway.kafka.cluster import ClusterSettings
from gateway.kafka.faults import KafkaUnavailable, OutOfRange
from gateway.kafka.offsets import Offsets
from gateway.kafka.replay import ReplayPool
from gateway.model import Record, Vector
from tests.parts.kafka import Kafka, KafkaBroker, eventually
from tests.parts.sink import FragileCluster


@pytest.fixture
async def cluster(kafka: Kafka) -> AsyncIterator[FragileCluster]:
    cluster = FragileCluster(ClusterSettings(kafka.bootstrap), clock=SystemClock())
    yield cluster
    await cluster.close()


@pytest.fixture
async def pool(cluster: FragileCluster) -> AsyncIterator[ReplayPool]:
    pool = ReplayPool(cluster, Offsets(cluster))
    yield pool
    await pool.close()


@pytest.fixture
async def topic(kafka: Kafka) -> str:
    """Three partitions: 3 000 small records, 500 larger ones, none."""
    name = f"replay-{uuid.uuid4().hex}"
    await kafka.create_topic(name, 3)
    await kafka.produce(name, [b"%d" % n for n in range(3000)], partition=0)
    await kafka.produce(name, [b"%d" % n + b"." * 1000 for n in range(500)], partition=1)
    return name


async def read_all(
    pool: ReplayPool, topic: str, start: Vector, until: Vector, *, max_records: int = 2000, max_bytes: int = 1 << 20
) -> tuple[list[list[Record]], int]:
    """Everything in slices, by partition, and how many slices it took; every slice checked against the contract."""
    by_partition: list[list[Record]] = [[] for _ in start]
    vector, slices = start, 0
    while any(at < end for at, end in zip(vector, until, strict=True)):
        replayed = await pool.read(topic, vector, until, max_records=max_records, max_bytes=max_bytes)
        assert replayed.vector != vector, "no progress"
        assert len(replayed.records) <= max_records
        at = list(vector)
        for record in replayed.records:
            assert at[record.partition] <= record.offset < until[record.partition]
            assert record.next <= until[record.partition]
            at[record.partition] = record.next
            by_partition[record.partition].append(record)
        for before, after, end, begin in zip(at, replayed.vector, until, vector, strict=True):
            assert before <= after <= max(end, begin)
        vector, slices = replayed.vector, slices + 1
    return by_partition, slices


def offsets_of(records: list[Record]) -> list[int]:
    return [record.offset for record in records]


@pytest.mark.parametrize("max_records", [1_000_000, 700, 97])
async def test_slices_cover_exactly_the_stretch(pool: ReplayPool, topic: str, max_records: int) -> None:
    read, _ = await read_all(pool, topic, (5, 0, 0), (2990, 499, 0), max_records=max_records)
    assert offsets_of(read[0]) == list(range(5, 2990))
    assert offsets_of(read[1]) == list(range(499))
    assert read[0][100].value == b"105"


async def test_one_record_and_nothing_at_all(pool: ReplayPool, topic: str) -> None:
    read, slices = await read_all(pool, topic, (7, 500, 0), (8, 500, 0))
    assert (offsets_of(read[0]), slices) == ([7], 1)
    empty = await pool.read(topic, (8, 9, 0), (8, 3, 0))
    assert (empty.records, empty.vector) == ([], (8, 9, 0))


async def test_slices_keep_to_bytes(pool: ReplayPool, topic: str) -> None:
    read, slices = await read_all(pool, topic, (0, 0, 0), (0, 500, 0), max_bytes=20_000)
    assert offsets_of(read[1]) == list(range(500))
    assert 500 * 1000 / 20_000 <= slices <= 60


async def test_following_slices_use_one_consumer_without_seeking(cluster: FragileCluster, topic: str) -> None:
    pool = ReplayPool(cluster, Offsets(cluster), consumers=1)
    vector = (await pool.read(topic, (0, 0, 0), (3000, 500, 0), max_records=50)).vector
    (consumer,) = cluster.made
    seek, sought = consumer.seek, []

    def noted(*args: object) -> None:
        sought.append(args)
        seek(*args)

    consumer.seek = noted
    for _ in range(8):
        vector = (await pool.read(topic, vector, (3000, 500, 0), max_records=50)).vector
    assert len(cluster.made) == 1
    assert sought == []
    await pool.read(topic, (0, 0, 0), (3000, 500, 0), max_records=50)
    assert sought
    await pool.close()


async def test_more_readers_than_consumers_all_get_everything(cluster: FragileCluster, topic: str) -> None:
    pool = ReplayPool(cluster, Offsets(cluster), consumers=2)
    starts: list[Vector] = [(n * 100, n * 10, 0) for n in range(12)]
    reads = await asyncio.gather(*(read_all(pool, topic, start, (3000, 500, 0), max_records=900) for start in starts))
    for start, (read, _) in zip(starts, reads, strict=True):
        assert offsets_of(read[0]) == list(range(start[0], 3000))
        assert offsets_of(read[1]) == list(range(start[1], 500))
    assert len(cluster.made) == 2
    await pool.close()


async def test_those_who_wait_for_a_consumer_take_turns(cluster: FragileCluster, topic: str) -> None:
    pool = ReplayPool(cluster, Offsets(cluster), consumers=2)
    slices = [0] * 10
    widest = 0

    async def read(number: int) -> None:
        nonlocal widest
        vector: Vector = (number * 20, 0, 0)
        while vector[0] < 3000 and max(slices) < 20:
            vector = (await pool.read(topic, vector, (3000, 0, 0), max_records=50)).vector
            slices[number] += 1
            widest = max(widest, max(slices) - min(slices))

    await asyncio.gather(*map(read, range(len(slices))))
    assert max(slices) == 20
    assert widest <= 3, "some waited while others went on and on"
    assert len(cluster.made) == 2
    await pool.close()


async def test_one_consumer_changes_between_topics(kafka: Kafka, cluster: FragileCluster, topic: str) -> None:
    other = f"other-{uuid.uuid4().hex}"
    await kafka.create_topic(other, 2)
    await kafka.produce(other, [b"o%d" % n for n in range(100)], partition=1)
    pool = ReplayPool(cluster, Offsets(cluster), consumers=1)
    for _ in range(3):
        there = await pool.read(other, (0, 40), (0, 50))
        assert [record.value for record in there.records] == [b"o%d" % n for n in range(40, 50)]
        here = await pool.read(topic, (10, 0, 0), (15, 0, 0))
        assert offsets_of(here.records) == list(range(10, 15))
    assert len(cluster.made) == 1
    await pool.close()


async def test_aborted_records_and_markers_are_passed(kafka: Kafka, pool: ReplayPool, cluster: FragileCluster) -> None:
    name = f"aborted-{uuid.uuid4().hex}"
    await kafka.create_topic(name, 1)
    offsets = Offsets(cluster)

    async def is_ended(turn: int) -> bool:
        return await offsets.latest(name) == (11 * (turn + 1),)

    for turn in range(4):
        async with kafka.transaction(f"{name}-{turn}", commit=turn % 2 == 0) as producer:
            for n in range(10):
                await producer.send(name, b"%d-%d" % (turn, n), partition=0)
        # A broker answers that a transaction is over before its marker is in the log.
        await eventually(partial(is_ended, turn))
    read, _ = await read_all(pool, name, (0,), (44,), max_records=4)
    assert [record.value for record in read[0]] == [b"%d-%d" % (turn, n) for turn in (0, 2) for n in range(10)]
    # An end within the aborted part, and one within markers.
    for end in (15, 22, 11, 10):
        read, _ = await read_all(pool, name, (0,), (end,))
        assert offsets_of(read[0]) == list(range(10))
    nothing = await pool.read(name, (12,), (20,))
    assert (nothing.records, nothing.vector) == ([], (20,))


async def test_what_retention_took_is_out_of_range_with_the_bounds(kafka: Kafka, pool: ReplayPool, topic: str) -> None:
    await kafka.delete_records(topic, {0: 1000})
    with pytest.raises(OutOfRange) as raised:
        await read_all(pool, topic, (10, 0, 0), (3000, 500, 0))
    assert raised.value.earliest == (1000, 0, 0)
    assert raised.value.latest == (3000, 500, 0)
    read, _ = await read_all(pool, topic, (1000, 0, 0), (3000, 500, 0))
    assert offsets_of(read[0]) == list(range(1000, 3000))


async def test_a_position_beyond_the_end_is_out_of_range(pool: ReplayPool, topic: str) -> None:
    with pytest.raises(OutOfRange) as raised:
        await pool.read(topic, (3000, 500, 50), (3000, 500, 60))
    assert raised.value.latest == (3000, 500, 0)


async def test_a_dead_fetch_task_costs_another_consumer_and_no_record(
    pool: ReplayPool, cluster: FragileCluster, topic: str
) -> None:
    await pool.read(topic, (0, 0, 0), (3000, 500, 0), max_records=10)
    cluster.break_fetching()
    await eventually(lambda: cluster.made[0]._fetcher.error_future.done())
    read, _ = await read_all(pool, topic, (100, 100, 0), (3000, 500, 0))
    assert offsets_of(read[0]) == list(range(100, 3000))
    assert offsets_of(read[1]) == list(range(100, 500))
    assert len(cluster.made) == 2


async def test_a_cancelled_slice_loses_nothing_for_the_next(cluster: FragileCluster, topic: str) -> None:
    pool = ReplayPool(cluster, Offsets(cluster), consumers=1)
    await pool.read(topic, (0, 0, 0), (10, 0, 0))
    for wait in range(20):
        slice_ = asyncio.create_task(pool.read(topic, (100, 0, 0), (3000, 500, 0)))
        for _ in range(wait):
            await asyncio.sleep(0)
        slice_.cancel()
        await asyncio.gather(slice_, return_exceptions=True)
    read, _ = await read_all(pool, topic, (100, 0, 0), (3000, 500, 0))
    assert offsets_of(read[0]) == list(range(100, 3000))
    await pool.close()


async def test_idle_consumers_are_closed_and_opened_again(cluster: FragileCluster, topic: str) -> None:
    pool = ReplayPool(cluster, Offsets(cluster), max_age_idle_seconds=0.1)
    await pool.read(topic, (0, 0, 0), (10, 0, 0))
    await eventually(lambda: cluster.made[0]._closed is True)
    again = await pool.read(topic, (0, 0, 0), (10, 0, 0))
    assert offsets_of(again.records) == list(range(10))
    await pool.close()
    assert all(consumer._closed for consumer in cluster.made)
    with pytest.raises(KafkaUnavailable):
        await pool.read(topic, (0, 0, 0), (10, 0, 0))


async def test_a_broker_that_is_away_is_unavailable_and_reads_go_on_after(own_kafka: KafkaBroker) -> None:
    cluster = FragileCluster(ClusterSettings(own_kafka.bootstrap), clock=SystemClock())
    await own_kafka.create_topic("t", 1)
    await own_kafka.produce("t", [b"x" * 1000] * 5000)
    pool = ReplayPool(cluster, Offsets(cluster))
    first = await pool.read("t", (0,), (5000,), max_records=10)
    await asyncio.to_thread(own_kafka.kill)
    with pytest.raises(KafkaUnavailable):
        await read_all(pool, "t", first.vector, (5000,))
    await asyncio.to_thread(own_kafka.start)
    read, _ = await read_all(pool, "t", first.vector, (5000,))
    assert offsets_of(read[0]) == list(range(10, 5000))
    await pool.close()
    await cluster.close()
