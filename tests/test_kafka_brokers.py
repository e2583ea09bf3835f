"""Three real brokers: leaders that move, brokers that die or freeze, and a topic that stays deleted."""

from __future__ import annotations

import asyncio
import contextlib
import os
import uuid
from collections.abc import AsyncIterator, Iterator

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from confluent_kafka import ElectionType
from confluent_kafka import TopicPartition as Place
from confluent_kafka.admin import AdminClient

from gateway.clock import SystemClock
from gateway.kafka.cluster import ClusterSettings
from gateway.kafka.offsets import Offsets
from gateway.kafka.reader import TopicReader
from gateway.model import Record
from tests.conftest import or_left_out
from tests.parts.kafka import eventually
from tests.parts.kafka_trio import KafkaTrio, trio
from tests.parts.sink import FragileCluster, RecordingSink

CLOCK = SystemClock()
WAIT_SECONDS = 60.0
PARTITIONS = 3
# What is promised; from the acknowledgement of a record to its arrival.
KILLED_STALL_SECONDS = 10.0
MOVED_STALL_SECONDS = 5.0
FROZEN_SECONDS = float(os.environ.get("FROZEN_SECONDS", "0"))


@pytest.fixture(scope="module")
def three() -> Iterator[KafkaTrio]:
    with or_left_out(trio()) as brokers:
        yield brokers


class TimedSink(RecordingSink):
    """Notes when each record came."""

    def __init__(self) -> None:
        super().__init__()
        self.came: dict[bytes | None, float] = {}

    def append(self, partition: int, records: list[Record], position: int) -> None:  # type: ignore[override]
        super().append(partition, records, position)
        now = CLOCK.monotonic()
        self.came |= {record.value: now for record in records}


class Traffic:
    """Numbered records to every partition, one after the other, and a reader of them."""

    def __init__(self, brokers: KafkaTrio, topic: str) -> None:
        self.brokers = brokers
        self.topic = topic
        self.sink = TimedSink()
        self.cluster = FragileCluster(ClusterSettings(brokers.bootstrap), clock=CLOCK)
        self.reader = TopicReader(
            self.cluster,
            Offsets(self.cluster),
            topic,
            sink=self.sink,
            prefill_records=0,
            prefill_bytes=1 << 20,
            clock=CLOCK,
        )
        self.acknowledged: dict[int, list[tuple[float, bytes]]] = {partition: [] for partition in range(PARTITIONS)}

    async def produce(self, partition: int) -> None:
        """Until cancelled. A record that is not acknowledged in time is sent again; the reader may see it twice."""
        async with AIOKafkaProducer(
            bootstrap_servers=self.brokers.bootstrap, acks="all", request_timeout_ms=1500, metadata_max_age_ms=1000
        ) as producer:
            number = 0
            while True:
                value = b"%d-%06d" % (partition, number)
                with contextlib.suppress(KafkaError, TimeoutError):
                    await producer.send_and_wait(self.topic, value, partition=partition)
                    self.acknowledged[partition].append((CLOCK.monotonic(), value))
                    number += 1
                await asyncio.sleep(0.01)

    async def arrives_after(self, since: float, partition: int, *, seconds: float = WAIT_SECONDS) -> float:
        """The reader's own stall: how long what was acknowledged after ``since`` took to come, at the worst."""

        def fresh() -> list[tuple[float, bytes]]:
            return [(at, value) for at, value in self.acknowledged[partition] if at > since]

        await eventually(lambda: len(fresh()) >= 20 and fresh()[19][1] in self.sink.came, seconds=seconds)
        return max(self.sink.came[value] - at for at, value in fresh()[:20])

    def check(self) -> None:
        """Everything acknowledged came, in order."""
        for partition, sent in self.acknowledged.items():
            came = list(dict.fromkeys(self.sink.values(partition)))
            assert came == sorted(came, key=bytes)
            assert [value for _, value in sent] == came[: len(sent)]


@pytest.fixture
async def traffic(three: KafkaTrio) -> AsyncIterator[Traffic]:
    topic = f"moves-{uuid.uuid4().hex}"
    await three.create_topic(topic, PARTITIONS, replicas=3)
    one = Traffic(three, topic)
    tasks = [asyncio.create_task(one.reader.run())]
    try:
        await eventually(lambda: one.sink.is_live, seconds=WAIT_SECONDS)
        tasks += [asyncio.create_task(one.produce(partition)) for partition in range(PARTITIONS)]
        await eventually(lambda: all(len(sent) > 20 for sent in one.acknowledged.values()), seconds=WAIT_SECONDS)
        yield one
        for task in tasks[1:]:
            task.cancel()
        await asyncio.gather(*tasks[1:], return_exceptions=True)
        assert not tasks[0].done()
        last = [sent[-1][1] for sent in one.acknowledged.values()]
        await eventually(lambda: all(value in one.sink.came for value in last), seconds=WAIT_SECONDS)
        one.check()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await one.cluster.close()


async def test_a_leader_that_is_killed_and_one_that_moves_cost_seconds_and_no_record(traffic: Traffic) -> None:
    brokers = traffic.brokers
    first = await brokers.leader_of(traffic.topic)
    killed = CLOCK.monotonic()
    await asyncio.to_thread(brokers.brokers[first].kill)
    assert await traffic.arrives_after(killed, 0) < KILLED_STALL_SECONDS
    # In this thread: a process that dies with its parent dies with the thread that started it.
    brokers.brokers[first].launch()
    await asyncio.to_thread(brokers.brokers[first].wait_up)
    admin = AdminClient({"bootstrap.servers": brokers.bootstrap})

    async def moves_back() -> bool:
        elected = admin.elect_leaders(ElectionType.PREFERRED, [Place(traffic.topic, 0)])
        with contextlib.suppress(Exception):
            await asyncio.to_thread(elected.result, 5)
        return await brokers.leader_of(traffic.topic) == first

    await eventually(moves_back, seconds=WAIT_SECONDS)
    moved = CLOCK.monotonic()
    assert await traffic.arrives_after(moved, 0) < MOVED_STALL_SECONDS


async def test_a_broker_that_freezes_holds_up_its_partitions_only_until_they_have_another_leader(
    traffic: Traffic,
) -> None:
    brokers = traffic.brokers
    frozen = await brokers.leader_of(traffic.topic)
    since = CLOCK.monotonic()
    brokers.brokers[frozen].pause()
    try:
        for partition in range(PARTITIONS):
            assert await traffic.arrives_after(since, partition) < KILLED_STALL_SECONDS
        await eventually(lambda: CLOCK.monotonic() > since + FROZEN_SECONDS, seconds=FROZEN_SECONDS + 5)
    finally:
        brokers.brokers[frozen].resume()
    thawed = CLOCK.monotonic()
    for partition in range(PARTITIONS):
        await traffic.arrives_after(thawed, partition)


async def test_a_topic_that_is_deleted_stays_deleted_while_it_is_read(three: KafkaTrio) -> None:
    topic = f"gone-{uuid.uuid4().hex}"
    await three.create_topic(topic, 1, replicas=3)
    cluster = FragileCluster(ClusterSettings(three.bootstrap), clock=CLOCK)
    # So often is a topic looked for that brokers would create.
    cluster.overrides = {"metadata_max_age_ms": 100}
    sink = RecordingSink()
    reader = TopicReader(cluster, Offsets(cluster), topic, sink=sink, prefill_records=0, prefill_bytes=1, clock=CLOCK)
    task = asyncio.create_task(reader.run())
    admin = AIOKafkaAdminClient(bootstrap_servers=three.bootstrap)
    try:
        await eventually(lambda: sink.is_live, seconds=WAIT_SECONDS)
        await admin.start()
        await three.delete_topic(topic)
        await eventually(lambda: "no topic" in reader.status.reason, seconds=WAIT_SECONDS)
        since = CLOCK.monotonic()
        await eventually(lambda: CLOCK.monotonic() > since + 1.0)
        assert topic not in await admin.list_topics()
        await three.create_topic(topic, 1, replicas=3)
        await eventually(lambda: sink.is_live, seconds=WAIT_SECONDS)
        await three.produce(topic, [b"anew"])
        await eventually(lambda: sink.values() == [b"anew"], seconds=WAIT_SECONDS)
    finally:
        await admin.close()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await cluster.close()


async def test_one_frozen_broker_of_three_does_not_make_the_cluster_seem_away(three: KafkaTrio) -> None:
    cluster = FragileCluster(ClusterSettings(three.bootstrap), clock=CLOCK)
    try:
        await cluster.ping()
        three.brokers[2].pause()
        answered = silent = 0
        try:
            while answered < 20:
                try:
                    # As a prober asks: with less patience than a request has.
                    async with asyncio.timeout(1.5):
                        await cluster.ping()
                    answered += 1
                except TimeoutError:
                    silent += 1
                    assert silent < 3, "the frozen broker is asked again and again"
        finally:
            three.brokers[2].resume()
    finally:
        await cluster.close()
