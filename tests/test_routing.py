"""Readers that wait for values of a field are woken for those alone, miss none, and stand at the head meanwhile."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from functools import partial

from gateway.clock import SystemClock
from gateway.counters import Counters
from gateway.cursor import Position
from gateway.errors import Draining, GatewayError
from gateway.hub.block import Slice
from gateway.hub.feed import TopicFeed
from gateway.hub.log import TopicLog
from gateway.hub.past import Past
from gateway.hub.pump import Pump
from gateway.model import FilterField, Grant, Plan, Principal, Record, Vector
from gateway.subscription.books import Books
from gateway.subscription.budget import Budget
from gateway.subscription.encode import FRAMINGS
from gateway.subscription.filter import parse_terms
from gateway.subscription.reading import Reading
from gateway.subscription.shape import Shape
from gateway.subscription.subscription import Subscription
from gateway.subscription.wheel import TimerWheel
from tests.test_splice import CODEC, Teller, Topic, contract, recipe

FIELDS = [FilterField("k", "/k", "string"), FilterField("n", "/n", "number")]

PRINCIPAL = Principal("idp", "a", "user", frozenset(), "t1", 2**31)
GRANT = Grant(PRINCIPAL, "t", "a", contract(), Plan("p", 1, "P", "EUR"))


class Sink:
    """An outlet that keeps what it is given."""

    def __init__(self) -> None:
        self.framing = FRAMINGS["ndjson"]
        self.paused = False
        self.on_resume: Callable[[], None] | None = None
        self.on_close: Callable[[], None] | None = None
        self.lines: list[dict[str, object]] = []

    def write(self, piece: Slice) -> None:
        self.say(piece.body)

    def say(self, data: bytes) -> None:
        self.lines += [json.loads(line) for line in data.splitlines()]

    def accepted_monotonic(self) -> float:
        return 0.0

    def unsent(self) -> int:
        return 0

    def finish(self, error: GatewayError | None) -> None:
        pass

    def abort(self) -> None:
        pass

    def numbers(self) -> list[int]:
        return [line["data"]["n"] for line in self.lines if line["type"] == "record"]  # type: ignore[index]


class Rig:
    """A feed with subscriptions by filter, fed by hand."""

    def __init__(self, *, max_records: int) -> None:
        self.clock = SystemClock()
        self.pump = Pump()
        self.wheel = TimerWheel(self.clock)
        self.topic = Topic(2)
        self.log = TopicLog(max_records=max_records, max_bytes=1 << 30, page_records=8)
        self.feed = TopicFeed(
            cluster="main",
            topic="t",
            log=self.log,
            past=Past(self.topic, on_fill=lambda: None),
            pump=self.pump,
            on_other_history=lambda feed: None,
            on_flush=lambda: None,
        )
        self.feed.start((0, 0))
        self.feed.live()
        self.made = 0

    def subscribe(self, *filters: str) -> tuple[Subscription, Sink]:
        terms = parse_terms(filters, FIELDS)
        sink = Sink()
        counters = Counters()
        subscription = Subscription(
            session="x",
            grant=GRANT,
            transport="ndjson",
            feed=self.feed,
            outlet=sink,
            cursor=lambda vector: CODEC.encode("s", Position(vector, 1)),
            pump=self.pump,
            wheel=self.wheel,
            clock=self.clock,
            counters=counters,
            budget=Budget(
                counters.begin_read("s", protocol="ndjson", plan="p", tenant="t"),
                Books(),
                GRANT,
                session="x",
                began=0,
            ),
            heartbeat_seconds=3600,
            on_end=lambda subscription: None,
        )
        subscription.start(
            Reading(
                self.feed.views,
                recipe(shape=Shape(terms=terms)),
                start=self.log.head_vector,
                past=self.feed.past,
                spelling=Teller(),
                on_ready=subscription.wake,
            )
        )
        return subscription, sink

    def produce(self, count: int, choose: Callable[[], str]) -> list[tuple[int, str]]:
        made = []
        runs: dict[int, list[Record]] = {0: [], 1: []}
        for _ in range(count):
            partition = random.randrange(2)
            key = choose()
            value = json.dumps({"n": self.made, "k": key, "p": partition, "o": self.topic.ends[partition]}).encode()
            offset = self.topic.ends[partition]
            record = Record(partition, offset, offset + 1, 1000, None, value)
            self.topic.partitions[partition].append(record)
            self.topic.ends[partition] += 1
            runs[partition].append(record)
            made.append((self.made, key))
            self.made += 1
        for partition, records in runs.items():
            self.feed.append(partition, records, self.topic.ends[partition])
        self.feed.flush()
        return made


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_each_filtered_reader_gets_all_of_its_records_over_evictions_pauses_and_quiet_times() -> None:
    random.seed(7)
    rig = Rig(max_records=64)
    keys = [f"k{number}" for number in range(12)]
    readers = {key: rig.subscribe(f"k:eq:{key}") for key in keys}
    pair = rig.subscribe("k:in:k1,k2", "n:ge:50")
    general = rig.subscribe("k:prefix:k1")
    await settle()
    made: list[tuple[int, str]] = []

    def some_key(step: int) -> str:
        return keys[(step // 40 + random.randrange(3)) % 12]

    for step in range(200):
        # Some keys stay away long enough for the log to forget everything since they came last.
        made += rig.produce(random.randrange(1, 12), partial(some_key, step))
        if step % 7 == 0:
            victim = readers[random.choice(keys)]
            victim[1].paused = not victim[1].paused
            if not victim[1].paused and victim[1].on_resume is not None:
                victim[1].on_resume()
        await settle()
    for _, sink in readers.values():
        if sink.paused:
            sink.paused = False
            if sink.on_resume is not None:
                sink.on_resume()
    for _ in range(200):
        await settle()
    for key, (_, sink) in readers.items():
        assert sorted(sink.numbers()) == [number for number, name in made if name == key]
    assert sorted(pair[1].numbers()) == [n for n, name in made if name in ("k1", "k2") and n >= 50]
    assert sorted(general[1].numbers()) == [n for n, name in made if name.startswith("k1")]


async def test_a_flush_wakes_only_those_whose_value_came() -> None:
    rig = Rig(max_records=1000)
    for number in range(100):
        rig.subscribe(f"k:eq:k{number}")
    await settle()
    before = rig.pump.turns
    rig.produce(10, lambda: "k5")
    await settle()
    # The one reader, once for what came (its page at a time), and nobody else.
    assert 1 <= rig.pump.turns - before <= 4


async def test_a_resting_reader_says_goodbye_with_the_cursor_of_the_head() -> None:
    rig = Rig(max_records=16)
    subscription, sink = rig.subscribe("k:eq:never")
    await settle()
    for _ in range(20):
        rig.produce(10, lambda: "other")
    await settle()
    head: Vector = rig.log.head_vector
    subscription.end(Draining())
    assert CODEC.decode(str(sink.lines[-1]["cursor"]), stream="s").vector == head


async def test_a_resting_reader_hears_of_history_that_was_skipped() -> None:
    rig = Rig(max_records=16)
    _, sink = rig.subscribe("k:eq:never")
    await settle()
    for _ in range(20):
        rig.produce(10, lambda: "other")
    at = rig.log.head_vector
    rig.topic.ends = [end + 100 for end in rig.topic.ends]
    rig.topic.earliest = list(rig.topic.ends)
    rig.feed.start(tuple(rig.topic.ends))
    rig.feed.live()
    for _ in range(50):
        await settle()
    gaps = [line for line in sink.lines if line["type"] == "gap"]
    assert [gap["reason"] for gap in gaps] == ["retention"]
    assert CODEC.decode(str(gaps[0]["from"]), stream="s").vector == at
