"""Openings under pressure: Kafka away, brokers that lie, memory at its bound, partitions that retention emptied."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gateway.cursor import Position
from gateway.errors import CursorExpired, Unavailable
from gateway.kafka.faults import OutOfRange
from gateway.kafka.replay import Replayed
from gateway.model import Vector
from gateway.subscription import opening as opening_module
from gateway.subscription.opening import Opening
from gateway.subscription.page_read import PageRead
from gateway.subscription.request import ReadRequest, Start
from gateway.subscription.shape import Shape
from tests.parts.source import Engine, MemoryKafka, contract, grant

CONTRACT = contract("s", "t")
LONG_AGO, THEN = 1_600_000_000_000, 1_700_000_000_000


@asynccontextmanager
async def running(*, partitions: int = 1, kafka: MemoryKafka | None = None, **options: Any) -> AsyncIterator[Engine]:
    kafka = kafka or MemoryKafka()
    kafka.create_topic("t", partitions=partitions)
    engine = Engine(kafka, **options)
    try:
        yield engine
    finally:
        await engine.hub.close()


async def opened(engine: Engine, start: Start, **more: Any) -> Opening:
    return await engine.openings.open(CONTRACT, ReadRequest(start=start, **more))


async def test_many_who_open_while_kafka_is_slow_wait_once_and_not_in_a_row() -> None:
    class Slow(MemoryKafka):
        async def earliest(self, topic: str) -> Vector:
            self.looks += 1
            await asyncio.sleep(0.05)
            raise Unavailable("away")

    kafka = Slow()
    async with running(kafka=kafka) as engine:
        found = await asyncio.gather(*(opened(engine, Start("earliest")) for _ in range(10)), return_exceptions=True)
        assert [type(one) for one in found] == [Unavailable] * 10
        assert kafka.looks == 1, "one look for all who came together"


async def test_a_partition_that_retention_emptied_is_no_gap_before_what_comes() -> None:
    async with running(partitions=2) as engine:
        topic = engine.kafka.topics["t"]
        topic.produce(0, b"{}", b"{}", millis=LONG_AGO)
        topic.trim(0, 2)
        topic.produce(1, b"{}", millis=THEN)
        for on_gap in ("continue", "error"):
            found = await opened(engine, Start("time", millis=THEN), on_gap=on_gap)
            assert found.skipped is None
            assert found.vector == (2, 0)


async def test_another_shards_lost_beginning_is_not_ones_own() -> None:
    async with running(partitions=2) as engine:
        topic = engine.kafka.topics["t"]
        topic.produce(0, b"{}", b"{}", b"{}", millis=THEN)
        topic.produce(1, b"{}", millis=THEN)
        topic.trim(0, 1)
        assert (await opened(engine, Start("time", millis=LONG_AGO), shard=(0, 2))).skipped is not None
        assert (await opened(engine, Start("time", millis=LONG_AGO), shard=(1, 2))).skipped is None


async def test_who_would_rather_be_refused_is_told_of_retention_at_once() -> None:
    async with running() as engine:
        topic = engine.kafka.topics["t"]
        topic.produce(0, b"{}", b"{}", b"{}")
        start = await opened(engine, Start("earliest"))
        cursor = engine.registry.start_cursor(start, grant(CONTRACT), Shape())
        # Within the time that the beginning is remembered.
        topic.trim(0, 2)
        with pytest.raises(CursorExpired):
            await opened(engine, Start("cursor", cursor=cursor), on_gap="error")


async def test_one_stale_answer_about_the_end_does_not_send_a_reader_back(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stale(MemoryKafka):
        async def latest(self, topic: str) -> Vector:
            self.looks += 1
            return (1,) if self.looks == 2 else (9,)

    monkeypatch.setattr(opening_module, "HISTORY_PAUSE_SECONDS", 0.001)
    async with running(kafka=Stale()) as engine:
        engine.kafka.topics["t"].produce(0, b"{}")
        cursor = engine.codec.encode("s", Position((5,), 1))
        assert (await opened(engine, Start("cursor", cursor=cursor))).skipped is None


async def test_a_broker_that_contradicts_itself_makes_a_read_wait_and_no_gaps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Lying(MemoryKafka):
        lies = 3

        async def read(self, topic: str, start: Vector, until: Vector, **bounds: Any) -> Replayed:
            if self.lies:
                self.lies -= 1
                raise OutOfRange(earliest=(0,), latest=(100,))
            return await super().read(topic, start, until, **bounds)

    monkeypatch.setattr("gateway.hub.track._RETRY_SECONDS", (0.001, 0.002))
    async with running(kafka=Lying(), ring_records=8) as engine:
        topic = engine.kafka.topics["t"]
        await opened(engine, Start("latest"))
        for _ in range(100):
            topic.produce(0, b"{}")
        start = await opened(engine, Start("earliest"))
        read = PageRead(engine.registry, start, grant(CONTRACT), Shape(), limit=1000)
        gaps = records = 0
        async with asyncio.timeout(10):
            while records < 100:
                piece = read.reading.take()
                if piece is None:
                    await read.wait()
                    continue
                records += piece.records
                gaps += piece.gap is not None
        read.close()
        assert (records, gaps) == (100, 0)


@pytest.mark.parametrize("start", [Start("earliest"), Start("time", millis=LONG_AGO)])
async def test_at_the_memory_bound_reads_of_the_past_are_refused_and_live_ones_are_not(start: Start) -> None:
    async with running(ring_records=8, memory_bytes=1) as engine:
        topic = engine.kafka.topics["t"]
        await opened(engine, Start("latest"))
        for _ in range(50):
            topic.produce(0, b'{"n": 1}')
        engine.hub._reclaimed_at = 0.0
        topic.produce(0, b"{}")
        assert engine.hub.is_full
        with pytest.raises(Unavailable, match="memory"):
            await opened(engine, start)
        assert (await opened(engine, Start("latest"))).vector == (51,)
