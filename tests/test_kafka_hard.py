"""Topics as they are on harder days: bombs, huge records, every codec, compaction, transactions that hang."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import os
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer

from gateway.clock import SystemClock
from gateway.kafka.cluster import ClusterSettings
from gateway.kafka.offsets import Offsets
from gateway.kafka.reader import TopicReader
from gateway.kafka.replay import ReplayPool
from gateway.model import UNREADABLE, Record
from tests.parts.gateway import Deployment, contract
from tests.parts.kafka import Kafka, eventually
from tests.parts.partner import Partner
from tests.parts.sink import FragileCluster, RecordingSink

CLOCK = SystemClock()
CODECS = ["gzip", "snappy", "lz4", "zstd"]
MIB = 1 << 20
WAIT_SECONDS = 40.0


class Reading:
    """A running reader of one topic with its sink, and old reads beside it."""

    def __init__(self, kafka: Kafka, topic: str, *, prefill_records: int = 0, **bounds: int) -> None:
        self.cluster = FragileCluster(ClusterSettings(kafka.bootstrap), clock=CLOCK, **bounds)
        self.offsets = Offsets(self.cluster)
        self.topic = topic
        self.sink = RecordingSink()
        options: dict[str, Any] = {"prefill_records": prefill_records, "prefill_bytes": 256 * MIB}
        self.reader = TopicReader(self.cluster, self.offsets, topic, sink=self.sink, clock=CLOCK, **options)

    async def has(self, values: list[bytes]) -> None:
        with contextlib.suppress(AssertionError):
            await eventually(lambda: len(self.sink.values()) >= len(values), seconds=WAIT_SECONDS)
        # Not the values themselves: a difference of megabytes is no message.
        assert [_print(value) for value in self.sink.values()] == [_print(value) for value in values]

    async def replayed(self, start: int, until: int) -> list[Record]:
        pool = ReplayPool(self.cluster, self.offsets)
        try:
            got: list[Record] = []
            at: tuple[int, ...] = (start,)
            while at < (until,):
                slice_ = await pool.read(self.topic, at, (until,))
                got += slice_.records
                at = slice_.vector
            return got
        finally:
            await pool.close()


def _print(value: bytes | None) -> tuple[int, int]:
    return len(value or b""), hash(value)


@contextlib.asynccontextmanager
async def reading(kafka: Kafka, topic: str, **options: Any) -> AsyncIterator[Reading]:
    one = Reading(kafka, topic, **options)
    task = asyncio.create_task(one.reader.run())
    try:
        await eventually(lambda: one.sink.is_live, seconds=WAIT_SECONDS)
        yield one
        assert not task.done(), "the reader ended by itself"
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await one.cluster.close()


@pytest.fixture
def topic() -> str:
    return f"hard-{uuid.uuid4().hex}"


@pytest.mark.parametrize("codec", CODECS)
async def test_what_the_broker_itself_compresses_is_byte_exact(kafka: Kafka, topic: str, codec: str) -> None:
    await kafka.create_topic(topic, compression_type=codec)
    values = [os.urandom(50), b"", *(b'{"n": %d}' % n * n for n in range(1, 300)), os.urandom(300_000)]
    async with reading(kafka, topic) as one:
        await kafka.produce(topic, values)
        await one.has(values)


@pytest.mark.parametrize("codec", CODECS)
async def test_a_bomb_is_a_gap_and_reading_goes_on_behind_it(
    kafka: Kafka, topic: str, codec: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "gateway.kafka")
    await kafka.create_topic(topic, max_message_bytes=str(8 * MIB))
    async with reading(kafka, topic, max_batch_bytes=2 * MIB, max_record_bytes=MIB) as one:
        await kafka.produce(topic, [b"before"])
        await kafka.produce(topic, [b"\0" * (8 * MIB)], compression=codec, max_bytes=32 * MIB)
        await kafka.produce(topic, [b"\0" * (8 * MIB)], compression=codec, max_bytes=32 * MIB)
        await kafka.produce(topic, [b"after"])
        await one.has([b"before", UNREADABLE, UNREADABLE, b"after"])
        assert one.sink.names() == ["start", "live"]
        assert [record.value for record in await one.replayed(0, 4)] == one.sink.values()
    (said,) = [record.getMessage() for record in caplog.records if record.name == "gateway.kafka"]
    assert f"more than {2 * MIB} bytes" in said
    assert topic in said


async def test_a_record_of_20_mb_is_delivered_where_it_is_allowed_and_a_gap_where_it_is_not(
    kafka: Kafka, topic: str
) -> None:
    await kafka.create_topic(topic, max_message_bytes=str(21 * MIB))
    huge = os.urandom(20 * MIB)
    async with (
        reading(kafka, topic) as usual,
        reading(kafka, topic, max_record_bytes=24 * MIB, max_batch_bytes=32 * MIB) as roomy,
    ):
        await kafka.produce(topic, [b"before", huge, b"after"], max_bytes=21 * MIB)
        await usual.has([b"before", UNREADABLE, b"after"])
        await roomy.has([b"before", huge, b"after"])
        assert usual.sink.names() == roomy.sink.names() == ["start", "live"]
        again = await usual.replayed(0, 3)
        assert [record.value for record in again] == [b"before", UNREADABLE, b"after"]


async def test_records_of_the_brokers_usual_limit_are_delivered(kafka: Kafka, topic: str) -> None:
    await kafka.create_topic(topic)
    values = [os.urandom(MIB - 1000) for _ in range(6)]
    async with reading(kafka, topic) as one:
        await kafka.produce(topic, values, max_bytes=MIB)
        await one.has(values)


async def test_holes_of_compaction_are_stepped_over(kafka: Kafka, topic: str) -> None:
    await kafka.create_topic(
        topic,
        cleanup_policy="compact",
        segment_ms="100",
        min_cleanable_dirty_ratio="0.01",
        max_compaction_lag_ms="200",
        delete_retention_ms="0",
    )
    for turn in range(5):
        await kafka.produce(topic, [b"stays", *[b"%d" % turn] * 20], keys=[b"own-%d" % turn, *[b"key"] * 20])

    left = [*[(21 * turn, b"stays") for turn in range(5)], (104, b"4")]

    async def is_compacted() -> bool:
        # The segment that is written to is never compacted; another record closes the one before.
        await kafka.produce(topic, [b"tick"], keys=[b"tick"])
        async with reading(kafka, topic, prefill_records=10_000) as one:
            return [(record.offset, record.value) for record in one.sink.records[0][:6]] == left

    await eventually(is_compacted, seconds=60)
    async with reading(kafka, topic, prefill_records=10_000) as one:
        assert [(record.offset, record.value) for record in one.sink.records[0][:6]] == left
        assert [(record.offset, record.value) for record in await one.replayed(0, 105)] == left
        assert [record.offset for record in await one.replayed(22, 104)] == [42, 63, 84]
        await kafka.produce(topic, [b"next"], keys=[b"next"])
        await eventually(lambda: one.sink.values()[-1] == b"next")


async def test_a_transaction_that_hangs_holds_what_follows_back_and_the_lag_says_so(kafka: Kafka, topic: str) -> None:
    await kafka.create_topic(topic)
    async with reading(kafka, topic) as one:
        await kafka.produce(topic, [b"before"])
        await one.has([b"before"])
        producer = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap, transactional_id=f"hangs-{topic}")
        await producer.start()
        try:
            await producer.begin_transaction()
            await producer.send_and_wait(topic, b"open", partition=0)
            await kafka.produce(topic, [b"behind"] * 4)
            await eventually(lambda: one.reader.status.lag_records == 5)
            # Longer than the watchdog's patience: to wait for the end of a transaction is nothing that is wrong.
            fetches = one.reader.status.last_fetch_monotonic or 0
            await eventually(lambda: (one.reader.status.last_fetch_monotonic or 0) > fetches + 3)
            assert one.sink.names() == ["start", "live"]
            assert one.sink.values() == [b"before"]
            assert await one.offsets.latest(topic) == (1,)
            await producer.abort_transaction()
        finally:
            await producer.stop()
        await one.has([b"before", *[b"behind"] * 4])
        await eventually(lambda: one.reader.status.lag_records == 0)


async def test_what_cannot_be_taken_is_a_gap_for_partners_of_every_kind_of_payload(
    kafka: Kafka, tmp_path: Path
) -> None:
    topic = f"hard-{uuid.uuid4().hex}"
    await kafka.create_topic(topic, max_message_bytes=str(4 * MIB))
    deployment = Deployment(
        tmp_path / "gaps",
        kafka.bootstrap,
        [
            contract("json", topic, partitions=1),
            contract("bytes", topic, partitions=1, content_type="application/octet-stream"),
        ],
        settings={"stream": {"max_record_bytes": "1 MiB", "max_batch_bytes": "8 MiB", "heartbeat_seconds": 1}},
    )
    largest = b'"' + base64.b64encode(os.urandom(700_000)) + b'"'
    with deployment.gateway() as node:
        partner = Partner(node.base_url, deployment.token())
        async with partner.open("ws", "json") as live, partner.open("sse", "bytes") as raw:
            await kafka.produce(topic, [largest])
            await kafka.produce(topic, [b'"' + b"x" * (2 * MIB) + b'"'], max_bytes=4 * MIB)
            await kafka.produce(topic, [b"1" * (32 * MIB)], compression="zstd", max_bytes=64 * MIB)
            await kafka.produce(topic, [b'"after"'])
            for stream, spelled in (
                (live, {"data": json.loads(largest)}),
                (raw, {"data_base64": base64.b64encode(largest).decode()}),
            ):
                (first,) = await stream.records(1)
                assert spelled.items() <= first.data.items()
                gap = await stream.next_but_checkpoints()
                assert (gap.kind, gap.data["reason"]) == ("gap", "undecodable")
                assert len(await stream.records(1)) == 1
        page = await partner.pull("json", from_="earliest", max_bytes=1_048_576, limit=10)
        more = await partner.pull("json", cursor=page["next_cursor"], limit=10)
        found = [record["data"] for record in page["records"] + more["records"]]
        assert found == [json.loads(largest), "after"]
        assert [gap["reason"] for gap in page["gaps"] + more["gaps"]] == ["undecodable"]


async def test_a_connection_that_comes_up_while_its_client_is_closed_is_closed_too(kafka: Kafka) -> None:
    cluster = FragileCluster(ClusterSettings(kafka.bootstrap), clock=CLOCK)
    client = await cluster._connected()
    node = client.any_node()
    coming = [asyncio.create_task(client._get_conn(node, group=group)) for group in range(7, 12)]
    await asyncio.sleep(0)
    await cluster.close()
    assert await asyncio.gather(*coming) == [None] * len(coming)
    assert not [one for one in client._conns.values() if one.connected()]
