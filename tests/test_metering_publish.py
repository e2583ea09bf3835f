"""Publishing: what fails is told again, what the ledger has is forgotten, and what is wrong is said."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from gateway.clock import ManualClock
from gateway.database.database import Database
from gateway.errors import Unavailable
from gateway.kafka.faults import AccessDenied
from gateway.metering.collector import Collector
from gateway.metering.ledger import Ledger, Place
from gateway.metering.metering import LATE_SECONDS, Metering
from gateway.metering.publish import AGAIN_SECONDS, WORD_EVERY_SECONDS
from gateway.metering.totals import CELLS_A_MESSAGE, FromTheFuture, SourceWord, Totals, Undecodable, decode, encode
from gateway.usage import BUCKET_SECONDS
from tests.parts.metering import TOPIC, MemoryTopic, at_once, grant, memory_database, total


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(now=1_700_000_100.0)


@pytest.fixture
def database() -> Iterator[Database]:
    one = memory_database()
    yield one
    one.close()


@pytest.fixture
def topic() -> MemoryTopic:
    return MemoryTopic()


@pytest.fixture
def ledger(database: Database) -> Ledger:
    return Ledger(database)


def process(directory: Path, topic: MemoryTopic, ledger: Ledger, clock: ManualClock) -> Metering:
    return Metering(directory, topic=topic, topic_name=TOPIC, follower=None, ledger=ledger, run=at_once, clock=clock)


def slabs(directory: Path) -> int:
    return len(list(directory.iterdir()))


def usage_of(topic: MemoryTopic) -> list[Totals]:
    return [message for message in topic.messages() if isinstance(message, Totals)]


async def test_what_could_not_be_told_is_told_the_next_time(
    tmp_path: Path, topic: MemoryTopic, ledger: Ledger, clock: ManualClock
) -> None:
    one = process(tmp_path, topic, ledger, clock)
    one.meter.begin(grant(), transport="sse").add(5, 50, 5)
    topic.away = True
    with pytest.raises(Unavailable):
        await one.publish()
    clock.advance(LATE_SECONDS + 1)
    assert "not published for 31 s" in str(one.status().trouble)
    topic.away = False
    await one.publish()
    assert one.status().trouble is None
    assert [message.cells[0].counts[0] for message in usage_of(topic)] == [5]
    assert isinstance(topic.messages()[-1], SourceWord)
    await one.close()


async def test_an_idle_process_says_from_time_to_time_that_it_is_complete(
    tmp_path: Path, topic: MemoryTopic, ledger: Ledger, clock: ManualClock
) -> None:
    one = process(tmp_path, topic, ledger, clock)
    for _ in range(20):
        await one.publish()
        clock.advance(1)
    words = topic.messages()
    assert len(words) == 20 / WORD_EVERY_SECONDS
    ledger.merge(words)
    assert ledger.complete_until(now=clock.now()) == 1_700_000_115
    await one.close()


async def test_after_a_lost_answer_totals_are_told_once_more_before_they_are_forgotten(
    tmp_path: Path, topic: MemoryTopic, ledger: Ledger, clock: ManualClock
) -> None:
    one = process(tmp_path, topic, ledger, clock)
    read = one.meter.begin(grant(), transport="sse")
    read.add(1, 1, 1)
    topic.lying = True
    with pytest.raises(Unavailable):
        await one.publish()
    topic.lying = False
    read.add(1, 1, 1)
    await one.publish()
    read.end()
    # What was on its way from the call that failed arrives now, and would be the last of its key.
    topic.logs[0].append(topic.logs[0][0])
    clock.advance(BUCKET_SECONDS)
    one.meter.roll()
    assert topic.compacted()[0].cells[0].counts[0] == 1  # type: ignore[union-attr]
    ledger.merge(topic.messages(), topic.place())
    await one.look_after()
    clock.advance(AGAIN_SECONDS)
    await one.publish()
    ledger.merge(topic.messages(), topic.place())
    await one.look_after()
    assert [message.cells[0].counts[0] for message in topic.compacted() if isinstance(message, Totals)] == [2]
    assert one.status().cells == 0
    await one.close()


async def test_what_the_ledger_has_not_read_is_kept_and_what_it_lost_is_told_again(
    tmp_path: Path, topic: MemoryTopic, ledger: Ledger, clock: ManualClock
) -> None:
    one = process(tmp_path, topic, ledger, clock)
    read = one.meter.begin(grant(), transport="sse")
    read.add(1, 1, 1)
    await one.publish()
    read.end()
    clock.advance(BUCKET_SECONDS)
    await one.publish()
    await one.look_after()
    assert one.status().cells == 1
    ledger.merge([], topic.place())
    await one.look_after()
    assert one.status().cells == 0
    one.meter.begin(grant(), transport="sse").add(1, 1, 1)
    await one.publish()
    await one.look_after()
    before = len(usage_of(topic))
    ledger.merge([], Place(TOPIC, "", {0: 0}))
    await one.look_after()
    await one.publish()
    assert len(usage_of(topic)) == before + 1
    ledger.merge(topic.messages(), topic.place())
    assert total(ledger)["records"] == 2
    await one.close()


async def test_a_directory_that_cannot_be_written_stops_no_start_and_is_told(
    tmp_path: Path, topic: MemoryTopic, ledger: Ledger, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    place = tmp_path / "metering"
    place.write_text("a file in the way")
    with caplog.at_level(logging.ERROR):
        one = process(place, topic, ledger, clock)
        await one.look_after()
    assert len([line for line in caplog.messages if "a crash loses it" in line]) == 1
    assert not one.meter.healthy()
    assert "no slab" in str(one.status().trouble)
    one.meter.begin(grant(), transport="sse").add(3, 3, 3)
    await one.publish()
    assert [message.cells[0].counts[0] for message in usage_of(topic)] == [3]
    place.unlink()
    await one.look_after()
    assert one.meter.healthy()
    assert one.meter.slab is not None
    assert one.meter.slab.source == one.meter.source
    await one.close()


async def test_a_jump_of_the_clock_is_noticed_within_seconds_also_while_kafka_is_away(
    tmp_path: Path, topic: MemoryTopic, ledger: Ledger, clock: ManualClock
) -> None:
    topic.away = True
    one = process(tmp_path, topic, ledger, clock)
    before = one.meter.bucket
    running = asyncio.create_task(one.run())
    try:
        # The first wait for the end of the bucket has begun, which is minutes away by a clock that stands still.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        clock.advance(40 * 60)
        async with asyncio.timeout(30):
            while one.meter.bucket == before:  # noqa: ASYNC110 - it is the clock's news
                await asyncio.sleep(0.02)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await one.close()


async def test_complete_is_never_said_of_a_bucket_that_is_still_counted_in(
    tmp_path: Path, topic: MemoryTopic, ledger: Ledger, clock: ManualClock
) -> None:
    one = process(tmp_path, topic, ledger, clock)
    read = one.meter.begin(grant(), transport="sse")
    for minutes in (3, 40, -70, 5, 90, 15, -1, 15):
        read.add(1, 1, 1)
        clock.advance(60 * minutes)
        await one.publish()
        through = [message for message in topic.messages() if isinstance(message, SourceWord)][-1].complete_through
        read.add(1, 1, 1)
        assert one.meter.bucket + BUCKET_SECONDS >= through
        before = {(message.bucket, message.cells) for message in usage_of(topic)}
        await one.publish()
        later = [message for message in usage_of(topic) if (message.bucket, message.cells) not in before]
        assert later
        assert all(message.bucket + BUCKET_SECONDS > through for message in later)
    await one.close()


class Forbidden(MemoryTopic):
    async def ensure_topic(self, *, partitions: int = 1) -> bool:
        raise AccessDenied("there is no topic: run `gateway usage create-topic`")


async def test_a_right_that_is_missing_is_told_once(
    tmp_path: Path, ledger: Ledger, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    one = process(tmp_path, Forbidden(), ledger, clock)
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            with pytest.raises(AccessDenied):
                await one.publish()
    assert len([line for line in caplog.messages if "gateway usage create-topic" in line]) == 1
    assert not await one.drain(within_seconds=1)
    await one.close()


async def test_a_process_that_ends_is_adopted_by_the_next_and_counted_once(
    tmp_path: Path, topic: MemoryTopic, ledger: Ledger, clock: ManualClock
) -> None:
    one = process(tmp_path, topic, ledger, clock)
    for number in range(CELLS_A_MESSAGE + 5):
        one.meter.begin(grant(application=f"app-{number}"), transport="sse").add(1, 1, 1)
    await one.publish()
    one.meter.begin(grant("late"), transport="sse").add(9, 9, 9)
    await one.close()
    two = process(tmp_path, topic, ledger, clock)
    await two.look_after()
    await two.publish()
    ledger.merge(topic.messages(), topic.place())
    await two.look_after()
    assert dict(two.status().orphans) == {"adopted": 1, "removed": 1, "set_aside": 0}
    assert total(ledger)["records"] == CELLS_A_MESSAGE + 5 + 9
    assert slabs(tmp_path) == 1
    await two.close()


def test_what_is_no_usage_is_passed_over_and_what_is_newer_is_not(ledger: Ledger, clock: ManualClock) -> None:
    word = SourceWord(1, str(uuid4()), 1, "live", "n", 5, 7)
    assert decode(encode(word)) == word
    for value in (None, b"", b"x", b"{}", b'{"v":1}', b'{"v":1,"kind":"usage"}', encode(word)[:-3]):
        with pytest.raises(Undecodable):
            decode(value)
    with pytest.raises(Undecodable, match="cells"):
        decode(
            b'{"kind":"usage","v":1,"source":"s","sequence":1,"tenant":"t","bucket":900,'
            b'"cells":[["a","s","p",1,"sse",true,[-1,0,0,0,0,0,0,0,0]]]}'
        )
    with pytest.raises(FromTheFuture):
        decode(b'{"v":2,"kind":"something new"}')
    collector = Collector(None, ledger, topic=TOPIC, run=at_once, clock=clock, holder="h")  # type: ignore[arg-type]
    assert ledger.take_lease("h", seconds=10)
    assert collector._take_in([b"x", encode(word)], Place(TOPIC, "", {0: 2})) == 1
    assert collector.status().refused == 1
    with pytest.raises(FromTheFuture):
        collector._take_in([encode(word), b'{"v":2,"kind":"new"}'], Place(TOPIC, "", {0: 4}))
    assert ledger.place(TOPIC).positions == {0: 2}
