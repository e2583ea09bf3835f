"""A broker that cuts, delays and lies: what is read is right in the end, or a word says why not."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import struct
import uuid
from collections.abc import AsyncIterator, Callable

import pytest

from gateway.clock import SystemClock
from gateway.kafka.cluster import ClusterSettings
from gateway.kafka.offsets import Offsets
from gateway.kafka.reader import TopicReader
from gateway.kafka.replay import ReplayPool
from gateway.model import UNREADABLE
from tests.parts.kafka import Kafka, eventually
from tests.parts.kafka_proxy import LyingBroker, lying_broker
from tests.parts.sink import FragileCluster, RecordingSink

CLOCK = SystemClock()
WAIT_SECONDS = 40.0


def numbered(first: int, last: int) -> list[bytes]:
    return [b"<value %06d>" % number for number in range(first, last)]


class Case:
    """A topic read through the liar."""

    def __init__(self, kafka: Kafka, topic: str, liar: LyingBroker) -> None:
        self.kafka = kafka
        self.topic = topic
        self.liar = liar
        self.sink = RecordingSink()
        self.cluster = FragileCluster(ClusterSettings(liar.bootstrap), clock=CLOCK)
        self.reader = TopicReader(
            self.cluster,
            Offsets(self.cluster),
            topic,
            sink=self.sink,
            prefill_records=0,
            prefill_bytes=1 << 20,
            clock=CLOCK,
            evidence_seconds=1,
        )

    async def has(self, values: list[bytes]) -> None:
        with contextlib.suppress(AssertionError):
            await eventually(lambda: len(self.sink.values()) >= len(values), seconds=WAIT_SECONDS)
        assert self.sink.values() == values


@pytest.fixture
async def case(kafka: Kafka) -> AsyncIterator[Case]:
    topic = f"liars-{uuid.uuid4().hex}"
    await kafka.create_topic(topic)
    async with lying_broker(kafka.port) as liar:
        one = Case(kafka, topic, liar)
        task = asyncio.create_task(one.reader.run())
        try:
            await eventually(lambda: one.sink.is_live, seconds=WAIT_SECONDS)
            await kafka.produce(topic, numbered(0, 50))
            await one.has(numbered(0, 50))
            yield one
            assert not task.done()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await one.cluster.close()


def in_batch(topic: str, change: Callable[[bytearray, int], None]) -> Callable[[bytes], bytes]:
    """``change`` of an answer that holds a batch, with where its first batch begins."""

    def changed(answer: bytes) -> bytes:
        at = answer.find(b"<value ")
        if at < 0 or topic.encode() not in answer:
            return answer
        data = bytearray(answer)
        # A batch's magic and its checksum's place are known by the header before the first record.
        change(data, data.rfind(b"\x02", 0, at - 40) - 16)
        return bytes(data)

    return changed


async def test_connections_cut_amid_answers_lose_nothing(case: Case) -> None:
    chance = random.Random(7)
    produced = 50
    for _ in range(6):
        case.liar.cut_after_bytes = chance.randrange(30, 3000)
        await case.kafka.produce(case.topic, numbered(produced, produced + 100))
        produced += 100
        await case.has(numbered(0, produced))
    case.liar.cut()
    await case.kafka.produce(case.topic, numbered(produced, produced + 10))
    await case.has(numbered(0, produced + 10))
    assert case.liar.lies


async def test_a_slow_line_is_only_slow(case: Case) -> None:
    case.liar.delay_seconds = 0.4
    await case.kafka.produce(case.topic, numbered(50, 300))
    await case.has(numbered(0, 300))
    assert case.sink.names() == ["start", "live"]


async def test_bytes_that_flip_on_the_way_are_fetched_again(case: Case) -> None:
    chance = random.Random(3)

    def flip(data: bytearray, start: int) -> None:
        if case.liar.lies < 8:
            data[start + chance.randrange(21, 100)] ^= 1 << chance.randrange(8)

    case.liar.change = in_batch(case.topic, flip)
    await case.kafka.produce(case.topic, numbered(50, 200))
    await case.has(numbered(0, 200))
    assert case.liar.lies == 8


async def test_what_is_damaged_alike_each_time_becomes_a_gap_and_reading_goes_on(
    case: Case, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "gateway.kafka")

    def flip(data: bytearray, start: int) -> None:
        at = data.find(b"<value 000055>")
        if at >= 0:
            data[at] ^= 1

    case.liar.change = in_batch(case.topic, flip)
    await case.kafka.produce(case.topic, numbered(50, 60))
    await case.kafka.produce(case.topic, numbered(60, 70))
    await case.has([*numbered(0, 50), UNREADABLE, *numbered(60, 70)])
    (gap,) = [record for record in case.sink.records[0] if record.value is UNREADABLE]
    assert (gap.offset, gap.next) == (50, 60)
    assert any(
        "from offset 50 to 59" in record.getMessage() and "checksum" in record.getMessage() for record in caplog.records
    )
    # A reader of old records is told the same.
    pool = ReplayPool(case.cluster, Offsets(case.cluster))
    try:
        got, at = [], (45,)
        while at < (65,):
            slice_ = await pool.read(case.topic, at, (65,))
            got += slice_.records
            at = slice_.vector
    finally:
        await pool.close()
    assert [record.value for record in got] == [*numbered(45, 50), UNREADABLE, *numbered(60, 65)]


@pytest.mark.parametrize("shift", [-45, 7, 100_000])
async def test_offsets_that_lie_are_not_believed(case: Case, shift: int) -> None:
    def move(data: bytearray, start: int) -> None:
        (base,) = struct.unpack_from(">q", data, start)
        if case.liar.lies < 4 and base >= 50:
            struct.pack_into(">q", data, start, base + shift)

    case.liar.change = in_batch(case.topic, move)
    await case.kafka.produce(case.topic, numbered(50, 60))
    await case.has(numbered(0, 60))
    offsets = [record.offset for record in case.sink.records[0]]
    assert offsets == list(range(60))
    assert case.liar.lies == 4


async def test_junk_in_place_of_answers_is_survived(case: Case) -> None:
    chance = random.Random(11)

    def junk(answer: bytes) -> bytes | None:
        if case.liar.lies >= 6:
            return answer
        return [answer[:4] + chance.randbytes(60), answer[: len(answer) // 2], None, chance.randbytes(40)][
            case.liar.lies % 4
        ]

    case.liar.change = junk
    await case.kafka.produce(case.topic, numbered(50, 100))
    await case.has(numbered(0, 100))
    assert case.liar.lies == 6
