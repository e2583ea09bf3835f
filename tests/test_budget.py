"""What one read may take, and what is counted of it: live and replayed, left out, taken back, held and told."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gateway.clock import ManualClock
from gateway.errors import QuotaExceeded, Unavailable
from gateway.limits.allowance import Allowances
from gateway.limits.pace import Hindrance, Waiter
from gateway.model import FilterField, Grant, RowMatch, Transport
from gateway.subscription.books import Books
from gateway.subscription.filter import parse_terms
from gateway.subscription.request import ReadRequest, Start
from gateway.subscription.shape import Shape
from gateway.subscription.subscription import Subscription
from gateway.transport import pull
from gateway.usage import Usage, units_of
from tests.parts.serving import until
from tests.parts.source import Engine, MemoryKafka, MemoryTopic, contract, grant
from tests.test_subscription import FakeOutlet

FIELDS = (FilterField("n", "/n", "integer"), FilterField("row", "/row", "string"), FilterField("k", "/k", "string"))
CONTRACT = contract("s", "t", filters=FIELDS)
GRANT = grant(CONTRACT)
RED = RowMatch("/row", frozenset({"red"}))
OLD_MS = 901_000


class FakeCount:
    """A meter of one read in memory."""

    def __init__(self) -> None:
        self.usage = Usage()
        self.grants: list[str] = []
        self.is_open = True

    def add(self, records: int, data_bytes: int, units: int) -> None:
        self.usage += Usage(records=records, bytes=data_bytes, units=units)

    def add_replayed(
        self, records: int, data_bytes: int, units: int, replayed_records: int, replayed_bytes: int
    ) -> None:
        self.usage += Usage(
            records=records,
            bytes=data_bytes,
            units=units,
            replayed_records=replayed_records,
            replayed_bytes=replayed_bytes,
        )

    def add_filtered(self, records: int, hidden: int) -> None:
        self.usage += Usage(filtered_records=records, hidden_records=hidden)

    def take_back(self, records: int, data_bytes: int, units: int, replayed_records: int, replayed_bytes: int) -> None:
        self.add_replayed(-records, -data_bytes, -units, -replayed_records, -replayed_bytes)

    def renew(self, grant: Grant) -> None:
        self.grants.append(grant.plan.name)

    def request(self) -> None:
        self.usage += Usage(requests=1)

    def end(self) -> None:
        self.is_open = False


class FakeMeter:
    """All counts it gave out."""

    def __init__(self) -> None:
        self.counts: list[FakeCount] = []
        self.stops_reads = False
        self.flushes = 0

    def flush(self) -> None:
        self.flushes += 1

    def begin(self, grant: Grant, *, transport: Transport) -> FakeCount:
        self.counts.append(FakeCount())
        return self.counts[-1]

    @property
    def usage(self) -> Usage:
        (count,) = self.counts
        return count.usage


class FakePace:
    """Room that a test gives by hand."""

    def __init__(self, records: int = 0, *, data_bytes: int = 1 << 40) -> None:
        self.records = records
        self.data_bytes = data_bytes
        self.spent: list[tuple[int, int, int]] = []
        self.waiters: list[Waiter] = []
        self.kinds: list[bool] = []
        self.is_used_up = False
        self.is_over = True
        self.quota: dict[str, object] | None = None
        self.is_due = False
        self.is_open = True

    def room(self, *, replayed: bool) -> int:
        self.kinds.append(replayed)
        if self.is_used_up:
            raise QuotaExceeded("The month's records are used up.")
        return self.records

    def bytes_room(self) -> int:
        return self.data_bytes

    def spend(self, records: int, replayed: int, data_bytes: int) -> None:
        self.spent.append((records, replayed, data_bytes))
        self.records -= records + replayed
        self.data_bytes -= data_bytes

    def wait(self, waiter: Waiter) -> None:
        self.waiters.append(waiter)

    def forget(self, waiter: Waiter) -> None:
        self.waiters = [one for one in self.waiters if one is not waiter]

    def hindrance(self) -> Hindrance | None:
        if self.records > 0 and self.data_bytes > 0:
            return None
        return Hindrance("records_per_second", 50, "records", 40, self.is_over)

    def quota_news(self) -> dict[str, object] | None:
        found, self.quota = self.quota, None
        return found

    def close(self) -> None:
        self.is_open = False

    def give(self, records: int, *, data_bytes: int = 0) -> None:
        """More room, and everybody who waits hears of it."""
        self.records += records
        self.data_bytes += data_bytes
        waiting, self.waiters = self.waiters, []
        for waiter in waiting:
            waiter.wake()


class Bench:
    """An engine, one topic, a meter and a pace for all reads."""

    def __init__(self, engine: Engine, topic: MemoryTopic, clock: ManualClock, meter: FakeMeter) -> None:
        self.engine = engine
        self.topic = topic
        self.clock = clock
        self.meter = meter

    async def open(
        self, start: str = "latest", *, rows: RowMatch | None = None, filters: tuple[str, ...] = (), **shape: Any
    ) -> tuple[Subscription, FakeOutlet]:
        outlet = FakeOutlet()
        granted = grant(CONTRACT, rows=rows)
        opening = await self.engine.openings.open(CONTRACT, ReadRequest(start=Start(start)))  # type: ignore[arg-type]
        wanted = Shape(terms=parse_terms(filters, FIELDS), **shape)
        session = self.engine.registry.new_session()
        subscription = self.engine.registry.subscribe(
            opening, granted, wanted, session=session, transport="ndjson", outlet=outlet
        )
        return subscription, outlet

    def produce(self, count: int, *, age_ms: int = 0, partition: int = 0, size: int = 0, **members: Any) -> None:
        millis = int(self.clock.now() * 1000) - age_ms
        for _ in range(count):
            value = {"n": self.topic.ends[partition], "row": "red", "k": "x", "pad": "." * size} | members
            self.topic.produce(partition, json.dumps(value).encode(), millis=millis)

    async def pull(self, query: str) -> dict[str, Any]:
        """A page, as a client gets it."""
        sent: list[Any] = []

        async def receive() -> Any:
            await asyncio.Event().wait()

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": "GET",
            "headers": [(b"tenant", b"acme")],
            "query_string": query.encode(),
            "state": {"access_fields": {}},
        }
        await pull.serve(self.engine.gate({"acme": GRANT}), scope, receive, send)
        page: dict[str, Any] = json.loads(sent[-1]["body"])
        return page


@asynccontextmanager
async def bench(
    pace: FakePace | None = None,
    *,
    partitions: int = 1,
    prefill: int = 0,
    allowances: Allowances | None = None,
    **options: Any,
) -> AsyncIterator[Bench]:
    kafka = MemoryKafka(prefill=prefill)
    topic = kafka.create_topic("t", partitions=partitions)
    clock, meter = ManualClock(), FakeMeter()
    engine = Engine(kafka, clock=clock, books=Books(lambda grant: pace, meter, None, allowances), **options)
    try:
        yield Bench(engine, topic, clock, meter)
    finally:
        for subscription, _ in engine.registry.made:
            subscription.leave()
        await engine.hub.close()


def sizes(outlet: FakeOutlet) -> list[int]:
    return [len(json.dumps(message["data"])) for message in outlet.said("record")]


async def test_a_record_is_live_or_replayed_by_its_time_and_the_reads_beginning_and_never_both() -> None:
    async with bench(prefill=100) as b:
        b.produce(3, age_ms=OLD_MS)
        b.produce(2, age_ms=899_000)
        b.produce(4, age_ms=OLD_MS)
        _, outlet = await b.open("earliest")
        await until(lambda: len(outlet.numbers()) == 9)
        # What was live when the read began stays so, however long it lasts.
        b.produce(1)
        given = sizes(outlet)
        old = given[:3] + given[5:9]
        assert b.meter.usage == Usage(
            records=3,
            bytes=sum(given) - sum(old),
            units=10,
            replayed_records=7,
            replayed_bytes=sum(old),
        )


async def test_records_over_64_kib_are_several_units_and_an_empty_one_none() -> None:
    async with bench() as b:
        _, outlet = await b.open()
        b.produce(1, size=150_000)
        b.produce(1)
        given = sizes(outlet)
        assert b.meter.usage.units == units_of(given[0]) + 1 == 4
        assert units_of(0) == 0


async def test_what_a_filter_took_and_what_rows_hid_are_counted_apart_and_exactly() -> None:
    randomly = random.Random(11)
    for rows, filters in (
        (None, ("n:ge:5",)),
        (None, ("k:eq:a",)),
        (RED, ()),
        (RED, ("k:eq:a",)),
        (RED, ("n:lt:1000", "k:in:a,b")),
    ):
        async with bench() as b:
            subscription, outlet = await b.open(rows=rows, filters=filters)
            made: list[dict[str, Any]] = []
            for step in range(120):
                row, k = randomly.choice(["red", "blue"]), randomly.choice("abcd")
                made.append({"n": b.topic.ends[0], "row": row, "k": k})
                b.produce(1, row=row, k=k)
                if step % 17 == 0:
                    subscription.say_checkpoint()
            in_rows = [one for one in made if rows is None or one["row"] == "red"]
            wanted = [one for one in in_rows if _passes(one, filters)]
            subscription.leave()
            assert outlet.numbers() == [one["n"] for one in wanted]
            usage = b.meter.usage
            assert usage.records == len(wanted)
            assert usage.filtered_records == len(in_rows) - len(wanted), (rows, filters)
            assert usage.hidden_records == len(made) - len(in_rows), (rows, filters)


def _passes(one: dict[str, Any], filters: tuple[str, ...]) -> bool:
    tests = {
        "n:ge:5": one["n"] >= 5,
        "n:lt:1000": one["n"] < 1000,
        "k:eq:a": one["k"] == "a",
        "k:in:a,b": one["k"] in "ab",
    }
    return all(tests[term] for term in filters)


async def test_another_shards_records_are_neither_filtered_nor_hidden() -> None:
    async with bench(partitions=2) as b:
        subscription, outlet = await b.open(filters=("k:eq:a",), shard=(0, 2))
        for number in range(40):
            b.produce(1, partition=number % 2, k="ab"[number // 2 % 2])
        subscription.leave()
        assert len(outlet.numbers()) == 10
        assert b.meter.usage.filtered_records == 10


async def test_what_never_left_the_process_is_taken_back() -> None:
    async with bench() as b:
        subscription, outlet = await b.open()
        b.produce(10)
        lines = [json.dumps(one, separators=(",", ":")) for one in outlet.said("record")]
        # Two whole lines and a part of a third.
        outlet.left_behind = len(lines[9]) + len(lines[8]) + 2 + 40
        subscription.leave()
        assert b.meter.usage.records == 8
        assert b.meter.usage.bytes == sum(sizes(outlet)[:8])
        assert b.meter.usage.units == 8
        assert not b.meter.counts[0].is_open


async def test_a_goodbye_takes_nothing_back() -> None:
    async with bench() as b:
        subscription, outlet = await b.open()
        b.produce(10)
        outlet.left_behind = 10_000
        subscription.end(QuotaExceeded())
        assert b.meter.usage.records == 10


async def test_reads_end_and_none_begins_while_nothing_can_be_counted_and_that_is_to_stop_them() -> None:
    async with bench() as b:
        subscription, outlet = await b.open()
        following = asyncio.ensure_future(b.engine.registry.follow_meter())
        await asyncio.sleep(0)
        assert subscription.ended is False
        b.meter.stops_reads = True
        await until(lambda: subscription.ended is not False)
        following.cancel()
        (goodbye,) = outlet.said("goodbye")
        assert (goodbye["code"], goodbye["close_code"], goodbye["reconnect"]) == ("unavailable", 4503, True)
        with pytest.raises(Unavailable):
            await b.open()
        with pytest.raises(Unavailable):
            await b.pull("from=earliest")


async def test_over_its_rate_a_stream_waits_says_so_once_and_drops_nothing() -> None:
    pace = FakePace(3)
    async with bench(pace) as b:
        _, outlet = await b.open()
        b.produce(10)
        assert outlet.numbers() == [0, 1, 2]
        (said,) = outlet.said("throttled")
        assert said["limit"] == 50
        assert said["unit"] == "records_per_second"
        assert said["resume_in_ms"] == 40
        assert set(said) == {"type", "limit", "unit", "resume_in_ms", "behind_ms", "retention_in_ms"}
        for _ in range(7):
            pace.give(1)
            await asyncio.sleep(0)
        await until(lambda: outlet.numbers() == list(range(10)))
        assert len(outlet.said("throttled")) == 1
        assert sum(records for records, _, _ in pace.spent) == 10


async def test_whoever_only_waits_for_its_first_share_is_told_nothing() -> None:
    pace = FakePace(0)
    pace.is_over = False
    async with bench(pace) as b:
        _, outlet = await b.open()
        b.produce(2)
        assert outlet.messages == []
        pace.give(5)
        await until(lambda: outlet.numbers() == [0, 1])
        assert outlet.said("throttled") == []


async def test_who_turns_out_to_be_over_its_rate_while_it_waits_is_told_then() -> None:
    pace = FakePace(0)
    pace.is_over = False
    async with bench(pace) as b:
        _, outlet = await b.open()
        b.produce(2)
        assert outlet.messages == []
        pace.is_over = True
        b.clock.advance(1)
        await until(lambda: len(outlet.said("throttled")) == 1)
        pace.give(5)
        await until(lambda: outlet.numbers() == [0, 1])


async def test_who_waits_long_for_a_quotas_portion_is_looked_at_ever_more_seldom() -> None:
    pace = FakePace(0)
    pace.is_over = False
    looks = 0

    def hindrance() -> Hindrance:
        nonlocal looks
        looks += 1
        return Hindrance("records_per_day", 50, "records", 40, is_over=False)

    pace.hindrance = hindrance  # type: ignore[method-assign]
    async with bench(pace) as b:
        _, outlet = await b.open()
        b.produce(2)
        for _ in range(600):
            b.clock.advance(0.1)
            b.engine.wheel.advance()
        assert 5 <= looks <= 15, "in a minute"
        assert outlet.said("throttled") == []


async def test_a_held_stream_still_passes_what_is_not_for_it() -> None:
    pace = FakePace(0)
    async with bench(pace) as b:
        subscription, outlet = await b.open(filters=("k:eq:a",))
        b.produce(5, k="b")
        assert outlet.said("throttled") == []
        subscription.say_checkpoint()
        assert outlet.said("checkpoint")[-1]["behind_ms"] == 0


async def test_bytes_are_kept_within_their_rate_but_for_one_record_that_is_larger() -> None:
    pace = FakePace(1 << 40, data_bytes=1_000)
    async with bench(pace) as b:
        _, outlet = await b.open()
        b.produce(1, size=5_000)
        assert outlet.numbers() == [0]
        assert pace.data_bytes < 0
        b.produce(3, size=300)
        assert outlet.numbers() == [0]
        pace.give(0, data_bytes=-pace.data_bytes + 500)
        await until(lambda: outlet.numbers() == [0, 1, 2])
        assert pace.data_bytes < 0


async def test_what_lies_behind_is_taken_from_the_replays_rate_and_the_rest_from_the_other() -> None:
    pace = FakePace(1 << 40)
    async with bench(pace, prefill=100) as b:
        b.produce(5, age_ms=OLD_MS)
        b.produce(5)
        _, outlet = await b.open("earliest")
        await until(lambda: len(outlet.numbers()) == 10)
        b.produce(1)
        assert pace.kinds[0] is True
        assert pace.kinds[-1] is False
        live, old = (sum(one) for one in list(zip(*pace.spent, strict=True))[:2])
        assert (live, old) == (6, 5)


async def test_a_stream_whose_quota_is_used_up_ends_with_its_cursor() -> None:
    pace = FakePace(1 << 40)
    async with bench(pace) as b:
        subscription, outlet = await b.open()
        b.produce(2)
        pace.is_used_up = True
        b.produce(1)
        assert outlet.numbers() == [0, 1]
        (goodbye,) = outlet.said("goodbye")
        assert (goodbye["code"], goodbye["close_code"]) == ("quota_exceeded", 4429)
        assert b.engine.codec.decode(goodbye["cursor"], stream="s").vector == (2,)
        assert isinstance(subscription.ended, QuotaExceeded)
        assert not pace.is_open


async def test_a_checkpoint_says_what_is_used_of_a_quota_when_there_are_news() -> None:
    pace = FakePace(1 << 40)
    async with bench(pace) as b:
        subscription, outlet = await b.open()
        pace.quota = {"limit": "records_per_month", "used_percent": 50, "resets_at": "2026-12-01T00:00:00Z"}
        subscription.say_checkpoint()
        subscription.say_checkpoint()
        assert [one.get("quota", {}).get("used_percent") for one in outlet.said("checkpoint")] == [50, None]


async def test_a_quotas_mark_is_told_right_after_the_slice_that_passed_it() -> None:
    pace = FakePace(1 << 40)
    async with bench(pace) as b:
        _, outlet = await b.open()
        b.produce(1)
        pace.is_due, pace.quota = True, {"limit": 2, "used_percent": 80}
        b.produce(1)
        pace.is_due = False
        b.produce(1)
        assert [one["type"] for one in outlet.messages] == ["record", "record", "checkpoint", "record"]
        assert outlet.messages[2]["quota"] == {"limit": 2, "used_percent": 80}


async def test_a_page_over_the_rate_is_shorter_and_says_when_there_may_be_more() -> None:
    pace = FakePace(3)
    async with bench(pace, prefill=100) as b:
        b.produce(10)
        page = await b.pull("from=earliest&limit=8")
        assert [one["data"]["n"] for one in page["records"]] == [0, 1, 2]
        assert page["throttled_ms"] == 40
        pace.give(100)
        page = await b.pull(f"cursor={page['next_cursor']}")
        assert [one["data"]["n"] for one in page["records"]] == list(range(3, 10))
        assert page["throttled_ms"] == 0
        counts = [count.usage for count in b.meter.counts]
        assert sum(usage.records for usage in counts) == 10
        assert [usage.requests for usage in counts] == [1, 1]


async def test_a_page_without_room_waits_for_its_first_record() -> None:
    pace = FakePace(0)
    async with bench(pace, prefill=100) as b:
        b.produce(2)
        asking = asyncio.ensure_future(b.pull("from=earliest"))
        await until(lambda: bool(pace.waiters))
        pace.give(1)
        page = await asking
        assert len(page["records"]) == 1
        assert pace.waiters == []


async def test_a_page_that_meets_the_end_of_a_quota_gives_what_was_within() -> None:
    pace = FakePace(2)
    async with bench(pace, prefill=100) as b:
        b.produce(5)
        spend = pace.spend

        def spending(records: int, replayed: int, data_bytes: int) -> None:
            spend(records, replayed, data_bytes)
            pace.is_used_up = pace.records <= 0

        pace.spend = spending  # type: ignore[method-assign]
        page = await b.pull("from=earliest")
        assert [one["data"]["n"] for one in page["records"]] == [0, 1]
        with pytest.raises(QuotaExceeded):
            await b.pull(f"cursor={page['next_cursor']}")
