"""One feed per topic, for as long as somebody reads it and a while longer."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gateway.clock import ManualClock
from gateway.cursor import Position
from gateway.errors import CursorExpired, GatewayError, Unavailable
from gateway.hub import hub as hub_module
from gateway.hub.feed import TopicFeed
from gateway.model import Contract
from gateway.subscription.floors import FLOOR_SECONDS
from gateway.subscription.opening import Opening
from gateway.subscription.request import ReadRequest, Start
from gateway.subscription.shape import Shape
from tests.parts.serving import until
from tests.parts.source import CLUSTER, Engine, MemoryKafka, contract, grant

CONTRACT = contract("s", "t")


@asynccontextmanager
async def running(*, partitions: int = 1, **options: Any) -> AsyncIterator[tuple[MemoryKafka, Engine]]:
    kafka = MemoryKafka(prefill=options.pop("prefill", 0))
    kafka.create_topic("t", partitions=partitions)
    engine = Engine(kafka, **options)
    try:
        yield kafka, engine
    finally:
        await engine.hub.close()


def fill(kafka: MemoryKafka, count: int, *, partition: int = 0, millis: int = 1_700_000_000_000) -> None:
    topic = kafka.topics["t"]
    for _ in range(count):
        topic.produce(partition, json.dumps({"n": topic.ends[partition]}).encode(), millis=millis)


async def opened(engine: Engine, start: Start, *, given: Contract = CONTRACT, **more: Any) -> Opening:
    """An opening; its feed stays in use until the hub closes."""
    return await engine.openings.open(given, ReadRequest(start=start, **more))


# ---- one feed for all --------------------------------------------------------------------------------------------


async def test_many_who_come_at_once_share_one_reader() -> None:
    async with running() as (kafka, engine):
        feeds = await asyncio.gather(*(engine.hub.acquire(CLUSTER, "t") for _ in range(20)))
        assert len({id(feed) for feed in feeds}) == 1
        assert len(kafka.readers) == 1
        assert feeds[0].users == 20


async def test_a_topic_is_kept_for_the_linger_and_then_let_go() -> None:
    async with running(linger_seconds=0.1) as (kafka, engine):
        feed = await engine.hub.acquire(CLUSTER, "t")
        engine.hub.release(feed)
        assert await engine.hub.acquire(CLUSTER, "t") is feed, "within the linger it is the same"
        await asyncio.sleep(0.2)
        assert [one for one, _ in engine.hub.readers()] == [feed], "in use: the old linger does not count"
        engine.hub.release(feed)
        await until(lambda: not engine.hub.readers())
        await until(lambda: not kafka.topics["t"].feeds)
        another = await engine.hub.acquire(CLUSTER, "t")
        assert another is not feed
        assert len(kafka.readers) == 2


async def test_one_who_gives_up_waiting_leaves_nothing_behind() -> None:
    async with running(linger_seconds=0.05) as (kafka, engine):
        kafka.answering.clear()
        waiting = [asyncio.ensure_future(engine.hub.acquire(CLUSTER, "t")) for _ in range(3)]
        await until(lambda: len(kafka.readers) == 1)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await until(lambda: not engine.hub.readers())


async def test_an_open_waits_for_a_source_that_does_not_answer_and_is_refused_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hub_module, "OPEN_SECONDS", 0.05)
    async with running(linger_seconds=0.01) as (kafka, engine):
        kafka.answering.clear()
        with pytest.raises(Unavailable) as caught:
            await engine.hub.acquire(CLUSTER, "t")
        assert caught.value.retry_after_ms
        await until(lambda: not engine.hub.readers())


async def test_a_cluster_that_is_not_configured_is_unavailable(caplog: pytest.LogCaptureFixture) -> None:
    async with running() as (_, engine):
        with caplog.at_level(logging.ERROR), pytest.raises(Unavailable):
            await engine.hub.acquire("elsewhere", "t")
        assert not engine.hub.readers()


async def test_a_reader_that_breaks_is_replaced_and_those_who_read_are_told(caplog: pytest.LogCaptureFixture) -> None:
    async with running() as (kafka, engine):
        told: list[tuple[TopicFeed, str]] = []
        engine.hub.on_feed_over.append(lambda feed, reason: told.append((feed, reason)))
        feed = await engine.hub.acquire(CLUSTER, "t")
        with caplog.at_level(logging.ERROR, "gateway.hub"):
            kafka.readers[0].fail.set()
            await until(lambda: bool(told))
        assert told[0][0] is feed
        assert caplog.records[0].exc_info
        engine.hub.release(feed)
        again = await engine.hub.acquire(CLUSTER, "t")
        assert again is not feed
        assert again.incarnation == feed.incarnation, "the topic is the one it was"
        fill(kafka, 1)
        assert again.log.head_vector == (1,)


# ---- where a read starts -----------------------------------------------------------------------------------------


async def test_a_cursor_of_a_partition_that_has_just_come_is_no_other_history() -> None:
    async with running() as (kafka, engine):
        await opened(engine, Start("earliest"))
        kafka.topics["t"].grow()
        fill(kafka, 3, partition=1)
        # Another node knows the partition already; what this one remembers of the topic's beginning is older.
        cursor = engine.codec.encode("s", Position((0, 2), 1))
        opening = await opened(engine, Start("cursor", cursor=cursor))
        assert opening.skipped is None
        assert opening.vector == (0, 2)


async def test_a_time_in_a_topic_that_has_just_grown_is_found() -> None:
    async with running() as (kafka, engine):
        fill(kafka, 3)
        kafka.topics["t"].trim(0, 1)
        await opened(engine, Start("earliest"))
        kafka.topics["t"].grow()
        fill(kafka, 2, partition=1)
        opening = await opened(engine, Start("time", millis=1_600_000_000_000))
        assert opening.vector == (1, 0)
        assert opening.skipped is not None
        assert opening.skipped.reason == "retention"


async def test_the_beginning_is_asked_for_once_in_a_while_only() -> None:
    clock = ManualClock()
    async with running(clock=clock) as (kafka, engine):
        await asyncio.gather(*(opened(engine, Start("earliest")) for _ in range(10)))
        assert kafka.looks == 1
        kafka.topics["t"].trim(0, 0)
        clock.advance(FLOOR_SECONDS + 1)
        await opened(engine, Start("earliest"))
        assert kafka.looks == 2


async def test_the_beginning_of_an_earlier_life_is_not_taken_for_that_of_the_next() -> None:
    async with running() as (kafka, engine):
        topic = kafka.topics["t"]
        fill(kafka, 10)
        topic.trim(0, 8)
        before = await opened(engine, Start("earliest"))
        cursor = engine.registry.start_cursor(before, grant(CONTRACT), Shape())
        # Within the time that the beginning is remembered.
        topic.make_anew()
        opening = await opened(engine, Start("cursor", cursor=cursor))
        assert opening.feed.incarnation == before.feed.incarnation + 1
        assert opening.skipped is not None
        assert (opening.skipped.reason, opening.vector) == ("history_changed", (0,))


@pytest.mark.parametrize("topic_id", [None, "two"])
async def test_a_topic_that_was_made_anew_begins_one_life_more(topic_id: str | None) -> None:
    async with running() as (kafka, engine):
        topic = kafka.topics["t"]
        topic.topic_id = topic_id and "one"
        first = await engine.hub.acquire(CLUSTER, "t")
        topic.make_anew(topic_id=topic_id)
        second = await engine.hub.acquire(CLUSTER, "t")
        assert (first.incarnation, second.incarnation) == (1, 2)
        assert first.identity.uid(0, 0) != second.identity.uid(0, 0)


async def test_a_log_that_starts_again_further_back_is_no_other_history() -> None:
    async with running(partitions=2) as (_, engine):
        feed = await engine.hub.acquire(CLUSTER, "t")
        # A prefill that was too large: one partition had come to its end already.
        feed.start((10, 0))
        feed.start((7, 7))
        feed.live()
        assert feed.over_reason is None
        assert await engine.hub.acquire(CLUSTER, "t") is feed


async def test_a_topic_that_was_made_anew_while_nobody_read_it_is_told_by_its_id() -> None:
    async with running(linger_seconds=0) as (kafka, engine):
        topic = kafka.topics["t"]
        topic.topic_id = "one"
        fill(kafka, 10)
        first = await engine.hub.acquire(CLUSTER, "t")
        cursor = engine.codec.encode("s", Position((4,), first.incarnation))
        engine.hub.release(first)
        await until(lambda: not topic.feeds)
        topic.make_anew(topic_id="two")
        # Longer than before: no offset tells that anything changed.
        fill(kafka, 20)
        opening = await opened(engine, Start("cursor", cursor=cursor))
        assert opening.skipped is not None
        assert (opening.skipped.reason, opening.vector) == ("history_changed", (0,))


async def test_a_cursor_beyond_the_end_is_other_history_where_topics_have_no_ids() -> None:
    async with running() as (kafka, engine):
        fill(kafka, 10)
        cursor = engine.codec.encode("s", Position((12,), 1))
        opening = await opened(engine, Start("cursor", cursor=cursor))
        assert opening.skipped is not None
        assert (opening.skipped.reason, opening.vector) == ("history_changed", (0,))
        # What this process has not seen yet is not beyond the end.
        feeds = kafka.topics["t"].feeds
        (slow,) = feeds
        feeds.clear()
        fill(kafka, 5)
        feeds.append(slow)
        opening = await opened(engine, Start("cursor", cursor=cursor))
        assert (opening.skipped, opening.vector) == (None, (12,))


async def test_a_cursor_before_retention_is_told_of_the_gap_or_refused_with_the_earliest() -> None:
    async with running() as (kafka, engine):
        fill(kafka, 10)
        kafka.topics["t"].trim(0, 4)
        cursor = engine.codec.encode("s", Position((2,), 1))
        opening = await opened(engine, Start("cursor", cursor=cursor))
        assert opening.vector == (4,)
        assert opening.skipped is not None
        assert (opening.skipped.before, opening.skipped.after) == ((2,), (4,))
        with pytest.raises(CursorExpired) as caught:
            await opened(engine, Start("cursor", cursor=cursor), on_gap="error")
        earliest = str(caught.value.extensions["earliest"])
        assert engine.codec.decode(earliest, stream="s").vector == (4,)


async def test_a_refused_open_gives_the_topic_back() -> None:
    async with running(linger_seconds=0.01) as (kafka, engine):
        kafka.away = True
        with pytest.raises(GatewayError):
            await opened(engine, Start("earliest"))
        await until(lambda: not engine.hub.readers())
