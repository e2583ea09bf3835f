"""Readers of one part of the past go on together: what is read from Kafka for one is there for all, and only once."""

from __future__ import annotations

import asyncio
import math
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.errors import Internal, Unavailable
from gateway.hub.past import RESTING_TRACKS, Past
from gateway.hub.track import NEAR_RECORDS
from gateway.kafka.faults import OutOfRange
from gateway.kafka.replay import Replayed
from gateway.model import FilterField, Record, RowMatch, Vector
from gateway.subscription.filter import parse_terms
from gateway.subscription.reading import AHEAD_RECORDS, REPLAY_RECORDS, Reading
from gateway.subscription.shape import Shape
from tests.parts.serving import until
from tests.parts.source import MemoryKafka
from tests.test_splice import Node, Partner, Topic, drain, recipe
from tests.test_subscription import HEARTBEAT_SECONDS, FakeOutlet, bench

RED = recipe(RowMatch("/k", frozenset({"a"})))
EVERYTHING = recipe()
RECIPES = (EVERYTHING, RED)


class CountingTopic(Topic):
    """Kafka's side that counts what it gives out, and fails when told to."""

    def __init__(self, partitions: int) -> None:
        super().__init__(partitions)
        self.given: Counter[tuple[int, int]] = Counter()
        self.failures: list[Exception] = []
        self.reads = 0

    async def read(self, start: Vector, until: Vector, *, max_records: int, max_bytes: int) -> Replayed:
        self.reads += 1
        if self.failures:
            failure = self.failures.pop()
            await asyncio.sleep(0)
            raise failure
        if any(at > end for at, end in zip(start, self.ends, strict=False)):
            raise OutOfRange(earliest=tuple(self.earliest), latest=tuple(self.ends))
        found = await super().read(start, until, max_records=max_records, max_bytes=max_bytes)
        self.given.update((one.partition, one.offset) for one in found.records)
        return found

    def fill(self, per_partition: int) -> None:
        """Records in every partition, all of them good and without holes."""
        for partition in range(len(self.ends)):
            for _ in range(per_partition):
                self.produce(partition, hole=0, bad=False)

    def twice(self) -> int:
        """How many records were given out again."""
        return self.given.total() - len(self.given)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("gateway.hub.track._RETRY_SECONDS", (0.0, 0.0))
    yield


def evicted(topic: Topic, *, most: int = 8, past_bytes: int = 1 << 20) -> Node:
    """A node whose log holds the last few records only."""
    node = Node(topic, start=(0,) * len(topic.ends), max_records=most, past_bytes=past_bytes)
    for partition in range(len(topic.ends)):
        node.fetch(partition, 1_000_000)
    return node


def expected(topic: Topic, partner: Partner, *, red: bool) -> set[tuple[int, int]]:
    return {
        (one.partition, one.offset)
        for records in topic.partitions
        for one in records
        if one.offset >= partner.start[one.partition]
        and not partner.excused(one)
        and not (red and (one.value == b"\xff" or one.offset % 3 == 0))
    }


# ---- the model: many readers, little memory, bad days ------------------------------------------------------------

READERS = 4
readers = st.integers(0, READERS - 1)
actions = st.lists(
    st.one_of(
        st.tuples(st.just("produce"), st.integers(0, 2), st.integers(0, 2), st.booleans()),
        st.tuples(st.just("fetch"), st.integers(0, 2), st.integers(1, 9)),
        st.tuples(st.just("take"), readers, st.integers(1, 6), st.integers(1, 4)),
        st.tuples(st.just("take"), readers, st.integers(1, 6), st.integers(1, 4)),
        st.tuples(st.just("resume"), readers, st.booleans()),
        st.tuples(st.just("trim"), st.integers(0, 2), st.integers(0, 30)),
        st.tuples(st.just("fail"), st.integers(1, 2)),
        st.tuples(st.just("shrink"), st.integers(0, 4000)),
    ),
    min_size=10,
    max_size=120,
)
starts = st.lists(st.lists(st.integers(0, 24), min_size=3, max_size=3), min_size=READERS, max_size=READERS)


@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(
    actions=actions, starts=starts, past_bytes=st.sampled_from([0, 2_000, 8_000, 1 << 20]), filled=st.integers(0, 30)
)
def test_readers_who_share_replays_each_get_every_record_once_and_in_order_or_within_a_gap(
    actions: Sequence[tuple[Any, ...]], starts: list[list[int]], past_bytes: int, filled: int
) -> None:
    asyncio.run(_play(actions, starts, past_bytes=past_bytes, filled=filled))


async def _play(actions: Sequence[tuple[Any, ...]], starts: list[list[int]], *, past_bytes: int, filled: int) -> None:
    topic = CountingTopic(3)
    topic.fill(filled)
    node = evicted(topic, past_bytes=past_bytes)
    partners = [Partner(tuple(min(filled, at) for at in start)) for start in starts]
    open_ = [
        node.open(partner.start, like=RECIPES[number % 2], ahead_records=number)
        for number, partner in enumerate(partners)
    ]
    for name, *rest in actions:
        if name == "produce":
            for _ in range(3):
                topic.produce(rest[0], hole=rest[1], bad=rest[2] and rest[1] == 2)
        elif name == "fetch":
            node.fetch(rest[0], rest[1])
        elif name == "take":
            await drain(open_[rest[0]], partners[rest[0]], most=rest[1], takes=rest[2])
        elif name == "resume":
            reading, partner = open_[rest[0]], partners[rest[0]]
            at = reading.vector() if rest[1] else partner.vector
            assert all(a >= b for a, b in zip(at, partner.vector, strict=True))
            partner.vector = at
            reading.close()
            open_[rest[0]] = node.open(at, like=RECIPES[rest[0] % 2], ahead_records=rest[0])
        elif name == "trim":
            topic.trim(rest[0], rest[1])
        elif name == "fail":
            topic.failures += [Unavailable("away")] * rest[0]
        elif name == "shrink":
            node.past.shrink(rest[0])
    for partition in range(3):
        node.fetch(partition, 10_000)
    # All at once, so that they wait for each other's reads and meet.
    await asyncio.gather(*(drain(*one) for one in zip(open_, partners, strict=True)))
    for number, (reading, partner) in enumerate(zip(open_, partners, strict=True)):
        assert reading.at_head, (reading.mode, reading.failed)
        wanted = expected(topic, partner, red=number % 2 == 1)
        assert set(partner.seen) == wanted, (wanted - set(partner.seen), partner.gaps)
        assert len(set(partner.seen)) == len(partner.seen)
        assert reading.vector() == node.log.head_vector
    assert sum(reading.replayed for reading in open_) <= topic.given.total()
    for reading in open_:
        reading.close()
    assert len(node.past) <= RESTING_TRACKS
    node.past.end_all()
    assert (len(node.past), node.past.bytes) == (0, 0)


# ---- how much is read --------------------------------------------------------------------------------------------


def shapes() -> list[Any]:
    """Twenty views that have nothing in common but their records."""
    terms = [parse_terms([f"k:eq:{name}"], [FilterField("k", "/k", "string")]) for name in "ab"]
    return [
        EVERYTHING,
        RED,
        *(recipe(shape=Shape(terms=term)) for term in terms),
        *(recipe(shape=Shape(shard=(shard, 4))) for shard in range(4)),
        *(recipe(shape=Shape(projection=("/p", "/o", *(f"/x{number}",)))) for number in range(12)),
    ]


async def take_all(pairs: Sequence[tuple[Reading, Partner]]) -> None:
    await asyncio.gather(*(drain(reading, partner) for reading, partner in pairs))
    assert all(reading.at_head for reading, _ in pairs)
    for reading, _ in pairs:
        reading.close()


async def test_two_hundred_readers_from_the_beginning_read_each_record_from_kafka_once() -> None:
    topic = CountingTopic(4)
    topic.fill(60)
    node = evicted(topic)
    pairs = [(node.open((0, 0, 0, 0)), Partner((0, 0, 0, 0))) for _ in range(200)]
    await take_all(pairs)
    assert topic.twice() == 0
    assert all(len(partner.seen) == 240 for _, partner in pairs)
    assert sum(reading.replayed for reading, _ in pairs) == topic.given.total() <= 240


async def test_readers_of_different_policies_filters_and_fields_read_each_record_from_kafka_once() -> None:
    topic = CountingTopic(4)
    topic.fill(60)
    node = evicted(topic)
    pairs = [(node.open((0, 0, 0, 0), like=shapes()[n % 20]), Partner((0, 0, 0, 0))) for n in range(200)]
    await take_all(pairs)
    assert topic.twice() == 0
    wanted = [(p, n) for p in range(4) for n in range(60)]
    for number, (_, partner) in enumerate(pairs):
        kind = number % 20
        if kind == 0 or kind >= 8:
            assert sorted(partner.seen) == wanted
        elif kind in (1, 2):
            assert sorted(partner.seen) == [(p, n) for p, n in wanted if n % 3]
        elif kind == 3:
            assert sorted(partner.seen) == [(p, n) for p, n in wanted if n % 3 == 0]
        else:
            assert sorted(partner.seen) == [(p, n) for p, n in wanted if p == kind - 4]


async def test_a_reader_who_comes_later_goes_on_with_what_is_held() -> None:
    topic = CountingTopic(2)
    topic.fill(500)
    node = evicted(topic)
    pairs = []
    for _ in range(20):
        pairs.append((node.open((0, 0)), Partner((0, 0))))
        # The first ones are far ahead by then.
        await drain(*pairs[0], takes=20)
        await drain(*pairs[-1], takes=1)
    await take_all(pairs)
    assert topic.twice() == 0


async def test_readers_at_positions_of_other_nodes_soon_read_together() -> None:
    chance = random.Random(5)
    topic = CountingTopic(4)
    topic.fill(400)
    node = evicted(topic, past_bytes=1 << 24)
    starts = [tuple(chance.randrange(100, 200) for _ in range(4)) for _ in range(40)]
    pairs = [(node.open(start), Partner(start)) for start in starts]
    await take_all(pairs)
    for start, (_, partner) in zip(starts, pairs, strict=True):
        assert sorted(partner.seen) == [(p, n) for p in range(4) for n in range(start[p], 400)]
    # Where they begin they have to be brought together; from there on each record is read once.
    together = sum(count - 1 for (_, number), count in topic.given.items() if number >= 200)
    assert together == 0
    assert topic.given.total() < 2 * 4 * 300


async def test_readers_far_from_each_other_do_not_wait_for_each_other() -> None:
    topic = CountingTopic(1)
    topic.fill(3 * NEAR_RECORDS)
    node = evicted(topic, past_bytes=1 << 24)
    behind, ahead = Partner((0,)), Partner((2 * NEAR_RECORDS,))
    pairs = [(node.open(behind.start), behind), (node.open(ahead.start), ahead)]
    await drain(*pairs[1], takes=3)
    assert ahead.seen[0] == (0, 2 * NEAR_RECORDS)
    assert not behind.seen
    assert set(topic.given) == {(0, 2 * NEAR_RECORDS + n) for n in range(topic.given.total())}
    await take_all(pairs)
    # The one behind takes what is left of the other's.
    assert topic.given.total() < 3.2 * NEAR_RECORDS


async def test_a_reader_that_takes_nothing_reads_nothing_and_keeps_nobody_waiting() -> None:
    topic = CountingTopic(2)
    topic.fill(500)
    node = evicted(topic, past_bytes=40_000)
    idle = node.open((0, 0)), Partner((0, 0))
    await asyncio.sleep(0)
    assert topic.reads == 0
    await drain(*idle, takes=2)
    others = [(node.open((0, 0)), Partner((0, 0))) for _ in range(10)]
    await take_all(others)
    assert topic.twice() == 0
    assert node.past.bytes < 60_000, "what the slow one has yet to take is not kept for ever"
    before = topic.given.total()
    await take_all([idle])
    assert len(idle[1].seen) == 1000
    assert topic.given.total() <= before + 1000


async def test_a_replay_goes_on_where_there_is_no_memory_to_spare() -> None:
    topic = CountingTopic(2)
    topic.fill(300)
    node = evicted(topic, past_bytes=0)
    pairs = [(node.open((0, 0), replay_records=(50, 50)), Partner((0, 0))) for _ in range(2)]
    await take_all(pairs)
    assert [len(partner.seen) for _, partner in pairs] == [600, 600]
    assert topic.twice() <= 600


async def test_who_is_ahead_of_a_replay_that_ends_with_no_records_goes_on_in_the_log() -> None:
    topic = CountingTopic(2)
    for partition, count in ((0, 60), (1, 5)):
        for _ in range(count):
            topic.produce(partition, hole=0, bad=False)
    # What an aborted transaction leaves: the replay's end lies behind the last record there is.
    topic.ends[1] += 3
    node = Node(topic, start=(0, 0), max_records=8)
    for partition in (1, 0):
        node.fetch(partition, 1000)
    pairs = [(node.open(start), Partner(start)) for start in ((0, 0), (58, 0))]
    await take_all(pairs)
    assert len(pairs[0][1].seen) == 65
    assert sorted(pairs[1][1].seen) == [(0, 58), (0, 59), *((1, number) for number in range(5))]
    assert topic.twice() == 0


async def test_when_the_first_reader_leaves_the_others_get_what_it_asked_for() -> None:
    topic = CountingTopic(1)
    topic.fill(400)
    node = evicted(topic)
    pairs = [(node.open((0,)), Partner((0,))) for _ in range(3)]
    while pairs:
        for reading, partner in pairs:
            await drain(reading, partner, takes=1)
        asking = [reading for reading, _ in pairs if not reading.more]
        if asking and len(pairs) > 1:
            pairs.pop(0)[0].close()
        elif all(reading.at_head for reading, _ in pairs):
            assert len(pairs[0][1].seen) == 400
            pairs.pop()[0].close()
    assert topic.twice() <= 8, "what was being read for those who left"


async def test_pages_of_a_pull_go_on_with_one_replay() -> None:
    topic = CountingTopic(2)
    topic.fill(200)
    node = evicted(topic)
    vector: Vector = (0, 0)
    seen: list[tuple[int, int]] = []
    while len(seen) < 380:
        partner = Partner(vector)
        reading = node.open(vector, ahead_records=0)
        await drain(reading, partner, most=7, takes=2)
        vector = reading.vector()
        reading.close()
        seen += partner.seen
        assert len(node.past) <= 1
    assert topic.twice() == 0


async def test_replays_without_readers_are_few_and_empty_ones_are_gone() -> None:
    topic = CountingTopic(1)
    topic.fill(RESTING_TRACKS * 4 * NEAR_RECORDS)
    node = evicted(topic)
    for number in range(RESTING_TRACKS * 3):
        reading = node.open((number * (NEAR_RECORDS + 100),))
        await drain(reading, Partner(reading.vector()), takes=1)
        reading.close()
    assert len(node.past) == RESTING_TRACKS


# ---- when it cannot go on ----------------------------------------------------------------------------------------


async def test_all_readers_of_a_replay_that_breaks_hear_of_it_and_new_ones_begin_anew() -> None:
    topic = CountingTopic(1)
    topic.fill(100)
    node = evicted(topic)
    pairs = [(node.open((0,)), Partner((0,))) for _ in range(3)]
    topic.failures = [RuntimeError("injected")]
    for reading, _ in pairs:
        assert reading.take() is None
    await until(lambda: all(reading.failed for reading, _ in pairs))
    for reading, _ in pairs:
        assert isinstance(reading.failed, Internal)
        assert reading.take() is None
        reading.close()
    await take_all([(node.open((0,)), Partner((0,)))])


async def test_readers_of_a_replay_wait_while_kafka_is_away() -> None:
    topic = CountingTopic(1)
    topic.fill(100)
    node = evicted(topic)
    pairs = [(node.open((0,)), Partner((0,))) for _ in range(3)]
    away = Unavailable("away")
    topic.failures = [away] * 1_000_000
    for reading, _ in pairs:
        assert reading.take() is None
    await until(lambda: all(reading.stalled is away for reading, _ in pairs))
    topic.failures.clear()
    await take_all(pairs)
    assert [reading.stalled for reading, _ in pairs] == [None] * 3
    assert topic.twice() == 0


async def test_each_reader_of_a_replay_that_retention_overtakes_is_told_of_its_own_gap() -> None:
    topic = CountingTopic(2)
    topic.fill(100)
    node = evicted(topic)
    first, second = (node.open((0, 0)), Partner((0, 0))), (node.open((0, 3)), Partner((0, 3)))
    await drain(*first, most=2, takes=4)
    topic.trim(0, 60)
    await take_all([first, second])
    for _, partner in (first, second):
        assert set(partner.seen) == expected(topic, partner, red=False)
        assert [reason for reason, _, _ in partner.gaps] == ["retention"]
    assert first[1].gaps[0][1] != second[1].gaps[0][1] or first[1].seen == second[1].seen


async def test_what_is_held_of_another_history_is_met_by_nobody() -> None:
    topic = CountingTopic(1)
    topic.fill(NEAR_RECORDS + 200)
    node = evicted(topic, past_bytes=100_000)
    old, short = (node.open((0,)), Partner((0,))), node.open((0,))
    while len(old[1].seen) <= NEAR_RECORDS + 50:
        await drain(*old, takes=1)
    # Too late for what the first one left behind: a replay of its own, which rests when it is closed.
    await drain(short, Partner((0,)), takes=2)
    short.close()
    assert len(node.past) == 2
    # Made anew, shorter than what was read of it: the same offsets name other records.
    topic.partitions, topic.ends = [[]], [0]
    for number in range(5):
        topic.partitions[0].append(Record(0, number, number + 1, 1, None, b'{"p":0,"o":%d,"k":"new"}' % number))
    topic.ends = [5]
    bodies: dict[Reading, list[bytes]] = {old[0]: []}

    def said(reading: Reading) -> bool:
        piece = reading.take()
        if piece is not None and piece.body:
            bodies[reading].append(piece.body)
        return any(b'"new"' in body for body in bodies[reading])

    await until(lambda: said(old[0]))
    assert b'"history_changed"' in bodies[old[0]][-2]
    assert not any(b'"new"' in body for body in bodies[old[0]][:-1])
    # Whoever begins after that has been noticed meets what there is now.
    late = node.open((0,))
    bodies[late] = []
    await until(lambda: said(late))
    assert len(bodies[late]) == 1
    for reading in bodies:
        reading.close()


# ---- streams that wait -------------------------------------------------------------------------------------------


class BusyKafka(MemoryKafka):
    """A cluster whose replays wait for their turn until ``turn`` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.turn = asyncio.Event()
        self.waiting = 0

    async def read(self, *stretch: Any, **bounds: Any) -> Replayed:
        self.waiting += 1
        await self.turn.wait()
        self.waiting -= 1
        return await super().read(*stretch, **bounds)


async def test_streams_that_wait_for_one_replay_beat_and_all_go_on_with_it() -> None:
    kafka = BusyKafka()
    async with bench(kafka=kafka, ring_records=16) as b:
        await b.open()
        b.produce(*range(200))
        outlets = [outlet for _, outlet in [await b.open(at="earliest") for _ in range(20)]]
        await until(lambda: kafka.waiting > 0)
        b.advance(3 * HEARTBEAT_SECONDS)
        for outlet in outlets:
            assert len(outlet.said("checkpoint")) >= 2
            assert not outlet.numbers()
            assert {b.vector(one["cursor"]) for one in outlet.said("checkpoint")} == {(0,)}
        assert kafka.waiting == 1, "one read for all of them"
        kafka.turn.set()
        await until(lambda: all(outlet.numbers() == list(range(200)) for outlet in outlets))
        assert 180 < b.engine.counters.stream("s").replayed_records < 200
        assert b.engine.hub.memory().bytes > sum(feed.log.bytes for feed, _ in b.engine.hub.readers()), "it counts"
    assert b.engine.counters.stream("s").replaying == 0


async def test_one_who_leaves_a_replay_that_all_wait_for_takes_nothing_from_them() -> None:
    kafka = BusyKafka()
    async with bench(kafka=kafka, ring_records=16) as b:
        await b.open()
        b.produce(*range(200))
        opened = [await b.open(at="earliest") for _ in range(3)]
        await until(lambda: kafka.waiting > 0)
        opened[0][0].leave()
        kafka.turn.set()
        await until(lambda: all(outlet.numbers() == list(range(200)) for _, outlet in opened[1:]))
        assert opened[0][1].numbers() == []


async def test_when_all_who_wait_have_left_nobody_reads_kafka_for_them() -> None:
    kafka = BusyKafka()
    async with bench(kafka=kafka, ring_records=16) as b:
        await b.open()
        b.produce(*range(200))
        opened = [await b.open(at="earliest") for _ in range(3)]
        await until(lambda: kafka.waiting > 0)
        for subscription, _ in opened:
            subscription.leave()
        kafka.turn.set()
        for _ in range(5):
            await asyncio.sleep(0)
        assert kafka.replays == 0


async def test_replays_of_many_readers_stay_within_the_bound_of_the_process() -> None:
    most = 4 << 20
    async with bench(ring_records=64, memory_bytes=most) as b:
        await b.open()
        b.produce(*range(20_000), size=200)
        peak = 0

        async def read(outlet: FakeOutlet) -> None:
            nonlocal peak
            while len(outlet.messages) < 20_000:
                peak = max(peak, b.engine.hub.memory().bytes)
                await asyncio.sleep(0)

        outlets = [outlet for _, outlet in [await b.open(at="earliest") for _ in range(3)]]
        async with asyncio.timeout(60):
            await asyncio.gather(*map(read, outlets))
        # 10 MB of records went through, and as much of encoded ones.
        assert 100_000 < peak < most
        assert b.engine.counters.stream("s").replayed_records < 3 * 20_000


# ---- after a restart ---------------------------------------------------------------------------------------------


class FairTopic(CountingTopic):
    """Gives of each partition in proportion to what is left of it, as replays do."""

    async def read(self, start: Vector, until: Vector, *, max_records: int, max_bytes: int) -> Replayed:
        await asyncio.sleep(0)
        left = [end - at for at, end in zip(start, until, strict=True)]
        share = min(1.0, max_records / sum(left))
        vector = tuple(at + math.ceil(some * share) for at, some in zip(start, left, strict=True))
        records = [
            one for partition, held in enumerate(self.partitions) for one in held[start[partition] : vector[partition]]
        ]
        self.given.update((one.partition, one.offset) for one in records)
        return Replayed(records=records, vector=vector)


async def until_live(reading: Reading) -> None:
    """Take what there is, as a connection that is never full does."""
    turns_in_vain = 0
    while not reading.at_head:
        turns_in_vain = 0 if reading.take_usual() is not None else turns_in_vain + 1
        assert turns_in_vain < 10_000, f"stuck in {reading.mode}: {reading.failed!r}"
        if turns_in_vain:
            await asyncio.sleep(0)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    ("log_records", "back_records", "at_most"),
    [(3_000, 3_000, 1), (1_000, 1_000 + NEAR_RECORDS, 2), (1_000, 1_000 + 2 * NEAR_RECORDS, 2)],
    ids=["within the log", "a past longer than the log", "too long a past for one replay"],
)
async def test_two_thousand_readers_who_come_back_after_a_restart_cost_no_record_more_than_two_fetches(
    log_records: int, back_records: int, at_most: int, seed: int
) -> None:
    chance = random.Random(seed)
    topic = FairTopic(4)
    topic.fill(back_records // 4)
    end, first = back_records // 4, (back_records - log_records) // 4
    node = Node(topic, start=(first,) * 4, max_records=log_records)
    node.past = Past(topic, on_fill=lambda: None)
    for offset in range(first, end):
        for partition, records in enumerate(topic.partitions):
            # What fills the log is a fetch too.
            node.log.append(partition, records[offset : offset + 1], offset + 1)
            topic.given[partition, offset] += 1
    # Anywhere in the order in which the records came, as a reader's last cursor is.
    places = [chance.randrange(back_records) for _ in range(2_000)]
    readings = [
        node.open(
            tuple((place + 3 - partition) // 4 for partition in range(4)),
            replay_records=REPLAY_RECORDS,
            ahead_records=AHEAD_RECORDS,
        )
        for place in places
    ]
    await asyncio.gather(*map(until_live, readings))
    assert len(topic.given) >= back_records - min(places)
    worst = Counter(topic.given.values())
    assert max(worst) <= at_most, f"records by their fetches: {dict(sorted(worst.items()))}"
    for reading in readings:
        reading.close()
