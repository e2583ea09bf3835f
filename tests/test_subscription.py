"""One open stream from its first slice to its one end."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from gateway.clock import ManualClock
from gateway.counters import Total
from gateway.errors import Draining, GatewayError, Internal, TokenExpired, TooSlow
from gateway.hub.block import Slice
from gateway.model import Contract, Grant, Replay, RowMatch, Vector
from gateway.subscription.encode import FRAMINGS, Framing
from gateway.subscription.request import ReadRequest, Start
from gateway.subscription.shape import Shape
from gateway.subscription.subscription import TOO_SLOW_SECONDS, Subscription
from tests.parts.serving import until
from tests.parts.source import Engine, MemoryKafka, MemoryTopic, contract, grant

HEARTBEAT_SECONDS = 15.0


class FakeOutlet:
    """A client that keeps what it gets. ``stalled`` makes it take nothing from the next write on."""

    def __init__(self) -> None:
        self.framing: Framing = FRAMINGS["ndjson"]
        self.paused = False
        self.stalls = False
        self.on_resume: Callable[[], None] | None = None
        self.on_close: Callable[[], None] | None = None
        self.messages: list[dict[str, Any]] = []
        self.events: list[str] = []
        self.accepted = time.monotonic()
        self.finished: list[GatewayError | None] = []
        self.break_with: Exception | None = None
        self.left_behind = 0

    def write(self, piece: Slice) -> None:
        if self.break_with is not None:
            raise self.break_with
        self.events.append("write")
        self._keep(piece.body)
        self.paused = self.paused or self.stalls

    def say(self, data: bytes) -> None:
        self._keep(data)
        self.events.append(self.messages[-1]["type"])

    def accepted_monotonic(self) -> float:
        return self.accepted

    def unsent(self) -> int:
        return self.left_behind

    def finish(self, error: GatewayError | None) -> None:
        self.events.append("finish")
        self.finished.append(error)

    def abort(self) -> None:
        self.events.append("abort")

    def resume(self) -> None:
        """The client reads again."""
        self.stalls = self.paused = False
        assert self.on_resume is not None
        self.on_resume()

    def _keep(self, data: bytes) -> None:
        self.messages += [json.loads(line) for line in data.splitlines()]

    def said(self, kind: str) -> list[dict[str, Any]]:
        return [message for message in self.messages if message["type"] == kind]

    def numbers(self) -> list[int]:
        return [message["data"]["n"] for message in self.said("record")]


@dataclass
class Bench:
    """An engine on a clock that is moved by hand, one topic, and reads of it."""

    engine: Engine
    topic: MemoryTopic
    clock: ManualClock

    async def open(
        self,
        *,
        at: str = "latest",
        cursor: str = "",
        rows: RowMatch | None = None,
        expires_in: float = 3600,
        outlet: FakeOutlet | None = None,
        given: Contract | None = None,
    ) -> tuple[Subscription, FakeOutlet]:
        outlet = outlet or FakeOutlet()
        granted = self.grant(rows=rows, expires_in=expires_in, given=given)
        start = Start("cursor", cursor=cursor) if cursor else Start(at)  # type: ignore[arg-type]
        opening = await self.engine.openings.open(granted.contract, ReadRequest(start=start))
        subscription = self.engine.registry.subscribe(
            opening, granted, Shape(), session=self.engine.registry.new_session(), transport="ndjson", outlet=outlet
        )
        return subscription, outlet

    def grant(self, *, rows: RowMatch | None = None, expires_in: float = 3600, given: Contract | None = None) -> Grant:
        return grant(given or CONTRACT, rows=rows, expires_at=int(self.clock.now() + expires_in))

    def produce(self, *numbers: int, row: str = "red", size: int = 0) -> None:
        for number in numbers:
            self.topic.produce(0, json.dumps({"n": number, "row": row, "pad": "x" * size}).encode())

    def advance(self, seconds: float) -> None:
        """Let time pass in steps of the wheel."""
        while seconds > 0:
            self.clock.advance(min(0.1, seconds))
            self.engine.wheel.advance()
            seconds -= 0.1

    def vector(self, cursor: str) -> Vector:
        return self.engine.codec.decode(cursor, stream="s").vector

    @property
    def delivered(self) -> tuple[int, int]:
        counted = self.counted
        return counted.records, counted.bytes

    @property
    def counted(self) -> Total:
        (kind,) = self.engine.counters.census().by_kind.items()
        assert kind[0] == ("s", "ndjson", "open"), kind
        return kind[1]


CONTRACT = contract("s", "t")
RED = RowMatch("/row", frozenset({"red"}))


@asynccontextmanager
async def bench(*, kafka: MemoryKafka | None = None, **options: Any) -> AsyncIterator[Bench]:
    kafka = kafka or MemoryKafka()
    topic = kafka.create_topic("t")
    clock = ManualClock()
    engine = Engine(kafka, clock=clock, heartbeat_seconds=HEARTBEAT_SECONDS, **options)
    try:
        yield Bench(engine, topic, clock)
    finally:
        for subscription, _ in engine.registry.made:
            subscription.leave()
        await engine.hub.close()


async def test_records_are_written_as_they_come_and_counted_after_the_write() -> None:
    async with bench() as b:
        _, outlet = await b.open()
        b.produce(0, 1)
        assert outlet.numbers() == [0, 1]
        records, size = b.delivered
        assert records == 2
        assert size == sum(len(json.dumps(message["data"])) for message in outlet.said("record"))
        counted: list[tuple[int, int]] = []
        write = outlet.write

        def watching(piece: Slice) -> None:
            counted.append(b.delivered)
            write(piece)

        outlet.write = watching  # type: ignore[method-assign]
        b.produce(2)
        assert counted == [(records, size)], "not before"
        assert b.delivered[0] == 3


async def test_what_the_transport_did_not_take_is_not_counted(caplog: pytest.LogCaptureFixture) -> None:
    async with bench() as b:
        subscription, outlet = await b.open()
        outlet.break_with = ZeroDivisionError("a bug in a transport")
        with caplog.at_level(logging.ERROR):
            b.produce(0)
        assert b.delivered == (0, 0)
        assert isinstance(subscription.ended, Internal)
        assert outlet.events == ["goodbye", "finish"]
        assert caplog.records


async def test_one_that_breaks_takes_no_other_along(caplog: pytest.LogCaptureFixture) -> None:
    async with bench() as b:
        _, broken = await b.open()
        _, sound = await b.open()
        broken.break_with = ZeroDivisionError()
        broken.say = lambda data: 1 / 0  # type: ignore[method-assign,assignment]
        with caplog.at_level(logging.CRITICAL):
            b.produce(0)
        b.produce(1)
        assert sound.numbers() == [0, 1]
        assert len(b.engine.registry) == 1
        assert broken.finished, "its response must end, however badly"


async def test_a_paused_outlet_leaves_the_wake_list_and_comes_back_where_it_was() -> None:
    async with bench(ring_records=100) as b:
        _, outlet = await b.open()
        outlet.stalls = True
        b.produce(0)
        assert outlet.numbers() == [0]
        b.produce(1)
        before = b.engine.pump.turns
        b.produce(*range(2, 50))
        assert b.engine.pump.turns == before, "nobody is woken for it"
        assert outlet.numbers() == [0]
        outlet.resume()
        await until(lambda: outlet.numbers() == list(range(50)))


async def test_a_paused_outlet_that_fell_out_of_the_log_reads_kafka_and_misses_nothing() -> None:
    async with bench(ring_records=16) as b:
        subscription, outlet = await b.open()
        outlet.stalls = True
        b.produce(*range(200))
        assert outlet.numbers() == [0]
        assert b.vector(subscription.cursor()) == (1,)
        outlet.resume()
        await until(lambda: outlet.numbers() == list(range(200)))
        subscription.leave()
        assert b.engine.counters.stream("s").replayed_records > 0


async def test_a_client_that_takes_nothing_for_20_seconds_is_ended_as_too_slow_and_dropped() -> None:
    async with bench() as b:
        subscription, outlet = await b.open()
        outlet.stalls = True
        b.produce(0, 1)
        outlet.accepted = time.monotonic() - TOO_SLOW_SECONDS
        b.advance(TOO_SLOW_SECONDS - 1)
        assert subscription.ended is False
        b.advance(1.5)
        assert isinstance(subscription.ended, TooSlow)
        assert outlet.events[-3:] == ["goodbye", "abort", "finish"]
        goodbye = outlet.said("goodbye")[0]
        assert (goodbye["code"], goodbye["close_code"], goodbye["reconnect"]) == ("too_slow", 4408, True)
        assert b.vector(goodbye["cursor"]) == (1,)


async def test_a_client_that_takes_a_little_now_and_then_is_not_too_slow() -> None:
    async with bench() as b:
        subscription, outlet = await b.open()
        outlet.stalls = True
        b.produce(0, 1)
        for _ in range(5):
            outlet.accepted = time.monotonic() - TOO_SLOW_SECONDS / 2
            b.advance(TOO_SLOW_SECONDS)
            assert subscription.ended is False


async def test_a_resumed_client_is_not_ended_for_an_old_pause() -> None:
    async with bench() as b:
        subscription, outlet = await b.open()
        outlet.stalls = True
        b.produce(0, 1)
        outlet.accepted = time.monotonic() - 2 * TOO_SLOW_SECONDS
        outlet.resume()
        b.advance(TOO_SLOW_SECONDS + 1)
        assert subscription.ended is False


async def test_ending_twice_is_ending_once() -> None:
    async with bench() as b:
        subscription, outlet = await b.open()
        closing = outlet.on_close
        assert closing is not None
        subscription.end(Draining("stop"))
        subscription.end(TokenExpired())
        subscription.leave()
        closing()
        assert isinstance(subscription.ended, Draining)
        assert outlet.events == ["goodbye", "finish"]
        assert len(b.engine.registry) == 0
        assert b.counted.open == 0
        assert b.engine.counters.closes == {("s", "ndjson", "draining"): 1}


async def test_after_its_end_a_stream_says_nothing_more_and_holds_nothing() -> None:
    async with bench() as b:
        subscription, outlet = await b.open()
        feed = subscription.feed
        subscription.leave()
        assert outlet.events == ["finish"], "who has gone hears no goodbye"
        b.produce(0)
        b.advance(4000)
        subscription.wake()
        await asyncio.sleep(0)
        assert outlet.events == ["finish"]
        assert feed.view_bytes() == 0
        assert feed.view_count() == 0
        assert (outlet.on_resume, outlet.on_close) == (None, None)


async def test_a_stream_that_is_ended_in_the_middle_of_a_write_stays_ended() -> None:
    async with bench() as b:
        subscription, outlet = await b.open()
        keep = outlet.write

        def write(piece: Slice) -> None:
            keep(piece)
            assert outlet.on_close is not None
            outlet.on_close()

        outlet.write = write  # type: ignore[method-assign]
        b.produce(0)
        b.produce(1)
        assert subscription.ended is True
        assert outlet.numbers() == [0]
        assert outlet.finished == [None]


async def test_goodbye_carries_the_cursor_of_what_was_not_sent() -> None:
    async with bench() as b:
        subscription, outlet = await b.open()
        outlet.stalls = True
        b.produce(0)
        b.produce(1, 2)
        subscription.end(Draining("stop", retry_after_ms=1234))
        goodbye = outlet.said("goodbye")[0]
        assert goodbye["retry_after_ms"] == 1234
        _, again = await b.open(cursor=goodbye["cursor"])
        await until(lambda: again.numbers() == [1, 2])


async def test_the_stream_ends_when_its_token_does_and_not_before() -> None:
    async with bench() as b:
        subscription, outlet = await b.open(expires_in=100)
        b.advance(99.9)
        assert subscription.ended is False
        b.advance(0.4)
        assert isinstance(subscription.ended, TokenExpired)
        goodbye = outlet.said("goodbye")[0]
        assert (goodbye["code"], goodbye["close_code"], goodbye["reconnect"]) == ("token_expired", 4401, False)
        assert "retry_after_ms" not in goodbye


async def test_an_idle_stream_says_where_it_stands() -> None:
    async with bench() as b:
        _, outlet = await b.open()
        b.topic.move(0, 7)
        b.advance(HEARTBEAT_SECONDS)
        assert len(outlet.said("checkpoint")) == 1
        assert b.vector(outlet.said("checkpoint")[0]["cursor"]) == (7,)
        b.advance(10 * HEARTBEAT_SECONDS)
        assert len(outlet.said("checkpoint")) in (10, 11)


async def test_a_paused_outlet_is_told_nothing() -> None:
    async with bench() as b:
        _, outlet = await b.open()
        outlet.stalls = True
        b.produce(0)
        outlet.accepted = time.monotonic() + 1000
        b.advance(3 * HEARTBEAT_SECONDS)
        assert outlet.events == ["write"]


async def test_a_client_may_ask_for_silence_and_hears_checkpoints_meanwhile() -> None:
    async with bench() as b:
        subscription, outlet = await b.open()
        b.produce(0)
        subscription.pause()
        b.produce(1, 2)
        b.advance(2 * HEARTBEAT_SECONDS)
        assert outlet.numbers() == [0]
        assert b.vector(outlet.said("checkpoint")[-1]["cursor"]) == (1,)
        assert outlet.said("checkpoint")[-1]["behind_ms"] > 0
        assert subscription.ended is False
        subscription.resume()
        await until(lambda: outlet.numbers() == [0, 1, 2])


@pytest.mark.parametrize(
    ("kept_ms", "max_age_seconds", "window_ms"),
    [
        (3_600_000, None, 3_600_000),
        (3_600_000, 1800, 1_800_000),
        (math.inf, 7200, 7_200_000),
        (math.inf, None, None),
        (None, 7200, None),
        (1000, None, 0),
    ],
)
async def test_a_checkpoint_says_how_long_the_next_record_can_be_read(
    kept_ms: float | None, max_age_seconds: int | None, window_ms: int | None
) -> None:
    async with bench() as b:
        b.topic.kept_ms = kept_ms
        given = contract("s", "t", replay=Replay(max_age_seconds=max_age_seconds))
        subscription, outlet = await b.open(given=given)
        await until(lambda: subscription.feed.retention_ms == kept_ms)
        b.advance(HEARTBEAT_SECONDS)
        assert outlet.said("checkpoint")[-1]["retention_in_ms"] is None, "at the head"
        subscription.pause()
        age_ms = 1_000_000
        b.topic.produce(0, b'{"n": 0}', millis=int(time.time() * 1000) - age_ms)
        b.advance(HEARTBEAT_SECONDS)
        left_ms = outlet.said("checkpoint")[-1]["retention_in_ms"]
        if not window_ms:
            assert left_ms == window_ms
        else:
            assert window_ms - age_ms - 5000 < left_ms <= window_ms - age_ms


async def test_a_filtered_stream_at_rest_stands_at_the_head() -> None:
    async with bench(ring_records=16) as b:
        subscription, outlet = await b.open(rows=RED)
        b.produce(0)
        b.produce(*range(5), row="blue")
        b.advance(HEARTBEAT_SECONDS)
        assert outlet.said("checkpoint")[-1]["behind_ms"] == 0, "what is others' makes nobody late"
        b.produce(*range(95), row="blue")
        assert b.vector(subscription.cursor()) == (101,)
        b.produce(1)
        assert outlet.numbers() == [0, 1]


async def test_a_filtered_stream_whose_outlet_stalls_over_heartbeats_misses_nothing() -> None:
    async with bench(ring_records=64) as b:
        subscription, outlet = await b.open(rows=RED)
        outlet.accepted = time.monotonic() + 1000
        # Its last slice fills the buffer: it rests, and its outlet is paused.
        outlet.stalls = True
        b.produce(0)
        b.advance(HEARTBEAT_SECONDS)
        b.produce(1, 2)
        b.advance(2 * HEARTBEAT_SECONDS)
        assert b.vector(subscription.cursor()) == (1,), "records 1 and 2 were not sent"
        outlet.resume()
        await until(lambda: outlet.numbers() == [0, 1, 2])


async def test_a_filtered_stream_misses_nothing_of_a_round_that_is_larger_than_the_log() -> None:
    async with bench(ring_records=16) as b:
        _, outlet = await b.open(rows=RED)
        b.produce(0)
        rows = ["red" if number % 10 == 3 else "blue" for number in range(100)]
        # One round of the reader: appended as a whole, then flushed.
        b.topic.produce(0, *[json.dumps({"n": n, "row": row}).encode() for n, row in enumerate(rows)])
        await until(lambda: outlet.numbers() == [0, *range(3, 100, 10)])
        b.topic.produce(0, *[json.dumps({"n": 500, "row": "red"}).encode()], *[b'{"row":"blue"}'] * 60)
        await until(lambda: outlet.numbers()[-1] == 500)


async def test_a_stream_whose_topic_has_another_history_is_ended_and_told_of_the_gap_on_its_return() -> None:
    async with bench() as b:
        subscription, outlet = await b.open()
        b.produce(*range(5))
        b.topic.make_anew()
        assert subscription.ended is not False
        assert outlet.said("goodbye")[0]["reconnect"] is True
        _, again = await b.open(cursor=outlet.said("goodbye")[0]["cursor"])
        await until(lambda: bool(again.said("gap")))
        assert again.said("gap")[0]["reason"] == "history_changed"
        b.produce(7)
        await until(lambda: again.numbers() == [7])


async def test_the_drain_is_spread_and_a_loop_that_is_late_makes_up_for_it() -> None:
    async with bench() as b:
        for _ in range(100):
            await b.open()
        draining = asyncio.create_task(b.engine.registry.drain(within_seconds=10))
        await b.engine.registry.draining.wait()
        assert 50 < len(b.engine.registry) < 100, "some at a time"
        b.clock.advance(10)
        left = len(b.engine.registry)
        await until(lambda: len(b.engine.registry) < left)
        assert len(b.engine.registry) == 0, "the time is over: all that are left, at once"
        await draining


async def test_the_drain_says_goodbye_to_all_and_whoever_comes_late_too() -> None:
    async with bench() as b:
        reads = [await b.open() for _ in range(5)]
        late = b.grant()
        opening = await b.engine.openings.open(late.contract, ReadRequest())
        await asyncio.wait_for(b.engine.registry.drain(), 10)
        assert [outlet.events for _, outlet in reads] == [["goodbye", "finish"]] * 5
        # Let in before the drain, and open only now.
        outlet = FakeOutlet()
        b.engine.registry.subscribe(opening, late, Shape(), session="late", transport="ndjson", outlet=outlet)
        assert outlet.events == ["goodbye", "finish"]
        assert outlet.said("goodbye")[0]["code"] == "draining"
        assert len(b.engine.registry) == 0
