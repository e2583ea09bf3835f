"""A reader at any vector gets every record once and in order, whatever the log did meanwhile."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.cursor import CursorCodec, Position
from gateway.hub.block import Gap
from gateway.hub.log import TopicLog
from gateway.hub.past import PAST_BYTES, Past
from gateway.hub.view import SLICE_RECORDS, View
from gateway.hub.views import Recipe, Views
from gateway.kafka.replay import OutOfRange, Replayed
from gateway.model import Contract, Record, RowMatch, Vector
from gateway.subscription.encode import FRAMINGS, RecordEncoder
from gateway.subscription.reading import Reading
from gateway.subscription.selector import FieldIndex, selector
from gateway.subscription.shape import Shape
from gateway.uid import RecordIdentity

CODEC = CursorCodec([b"k" * 32])
IDENTITY = RecordIdentity(b"u" * 32, cluster="main", topic="t", incarnation=1)


def contract() -> Contract:
    return Contract(
        stream="s",
        id="urn:s",
        title="s",
        version="1.0.0",
        description="",
        lifecycle="published",
        owner="o",
        visibility="public",
        scopes=(),
        transports=("ndjson",),
        cluster="main",
        topic="t",
        content_type="application/json",
        message_name="m",
    )


class Topic:
    """Kafka's side: partitions with holes in their offsets, trimmed from the left by retention."""

    def __init__(self, partitions: int) -> None:
        self.partitions: list[list[Record]] = [[] for _ in range(partitions)]
        self.ends = [0] * partitions
        self.earliest = [0] * partitions

    def produce(self, partition: int, *, hole: int, bad: bool) -> None:
        offset = self.ends[partition] + hole
        kind = "a" if offset % 3 else "b"
        value = b"\xff" if bad else json.dumps({"p": partition, "o": offset, "k": kind}).encode()
        self.partitions[partition].append(Record(partition, offset, offset + 1, 1000 + offset, None, value))
        self.ends[partition] = offset + 1

    def trim(self, partition: int, to: int) -> None:
        self.earliest[partition] = max(self.earliest[partition], min(to, self.ends[partition]))

    def held(self, partition: int, start: int, until: int) -> list[Record]:
        return [r for r in self.partitions[partition] if start <= r.offset < until]

    async def read(self, start: Vector, until: Vector, *, max_records: int, max_bytes: int) -> Replayed:
        if any(s < u and s < e for s, u, e in zip(start, until, self.earliest, strict=False)):
            raise OutOfRange(earliest=tuple(self.earliest), latest=tuple(self.ends))
        await asyncio.sleep(0)
        records: list[Record] = []
        vector = list(start)
        for partition, end in enumerate(until):
            if start[partition] >= end:
                continue
            found = self.held(partition, start[partition], end)
            room = max_records - len(records)
            records += found[:room]
            vector[partition] = end if len(found) <= room else found[room - 1].next if room else start[partition]
        return Replayed(records=records, vector=tuple(vector))


class Teller:
    def __init__(self, framing: str = "ndjson") -> None:
        self._framing = FRAMINGS[framing]  # type: ignore[index]

    def cursor(self, vector: Vector) -> str:
        return CODEC.encode("s", Position(vector, 1))

    def gap(self, gap: Gap) -> bytes:
        return self._framing.event("gap", gap.data(), cursor=gap.resumed_at.decode())


def recipe(rows: RowMatch | None = None, *, shape: Shape = Shape()) -> Recipe:  # noqa: B008 - frozen
    """A view of this contract; equal arguments share one."""

    def make(views: Views) -> View:
        chosen = selector(
            rows=rows,
            terms=shape.terms,
            shard=shape.shard,
            index=lambda pointer: views.shared(pointer, lambda: FieldIndex(views.log, pointer)),
        )
        encoder = RecordEncoder(
            contract(),
            FRAMINGS["ndjson"],
            codec=CODEC,
            identity=IDENTITY,
            incarnation=1,
            shape=shape,
            stream_url="http://test/v1/streams/s",
        )
        return View(views.log, encoder, selector=chosen)

    return Recipe((rows, shape), make)


class Node:
    """One process: its own interleaving of the topic, its own bounds."""

    def __init__(
        self,
        topic: Topic,
        *,
        start: Vector,
        max_records: int,
        rows: RowMatch | None = None,
        past_bytes: int = PAST_BYTES,
    ) -> None:
        self.topic = topic
        self.log = TopicLog(max_records=max_records, max_bytes=1 << 30, page_records=4)
        self.log.restart(start)
        self.views = Views(self.log)
        self.past = Past(topic, most_bytes=past_bytes, page_records=4, on_fill=lambda: None)
        self.recipe = recipe(rows)
        self.view = self.views.take(self.recipe)

    def fetch(self, partition: int, most: int) -> None:
        start = self.log.head_vector[partition]
        found = self.topic.held(partition, start, self.topic.ends[partition])[:most]
        done = len(found) < most
        position = self.topic.ends[partition] if done else found[-1].next
        self.log.append(partition, found, position)

    def open(
        self,
        vector: Vector,
        *,
        like: Recipe | None = None,
        ahead_records: int = 3,
        replay_records: tuple[int, int] = (2, 5),
    ) -> Reading:
        return Reading(
            self.views,
            like or self.recipe,
            start=vector,
            past=self.past,
            spelling=Teller(),
            on_ready=lambda: None,
            replay_records=replay_records,
            ahead_records=ahead_records,
        )


class Partner:
    """Checks what arrives: order in each partition, no repeat, and that each cursor says where the reader stands."""

    def __init__(self, start: Vector) -> None:
        self.start = start
        self.vector = start
        self.seen: list[tuple[int, int]] = []
        self.gaps: list[tuple[str, Vector, Vector]] = []

    def read(self, body: bytes) -> None:
        for line in body.splitlines():
            message = json.loads(line)
            if message["type"] == "gap":
                start = CODEC.decode(message["from"], stream="s").vector
                resumed = CODEC.decode(message["resumed_at"], stream="s").vector
                self.gaps.append((message["reason"], start, resumed))
                self.vector = resumed
                continue
            place = (message["data"]["p"], message["data"]["o"])
            assert place[1] >= self.vector[place[0]], f"{place} again, or out of order"
            self.seen.append(place)
            self.vector = CODEC.decode(message["id"], stream="s").vector
            assert self.vector[place[0]] == place[1] + 1

    def excused(self, record: Record) -> bool:
        # What follows an undecodable record directly is the same gap, and is not said again.
        told = record.value == b"\xff" and any(reason == "undecodable" for reason, _, _ in self.gaps)
        return told or any(
            start[record.partition] <= record.offset < resumed[record.partition] for _, start, resumed in self.gaps
        )


async def drain(reading: Reading, partner: Partner, *, most: int = SLICE_RECORDS, takes: int = 1_000_000) -> None:
    """Take until the head is reached; a replay gets the loop in between."""
    idle = 0
    while takes and idle < 50:
        piece = reading.take_usual() if most == SLICE_RECORDS else reading.take(max_records=most)
        if piece is None:
            if reading.at_head:
                return
            idle += 1
            await asyncio.sleep(0)
            continue
        idle = 0
        takes -= 1
        partner.read(piece.body)
    assert not takes or reading.at_head, f"stuck in {reading.mode}: {reading.failed!r}"


actions = st.lists(
    st.one_of(
        st.tuples(st.just("produce"), st.integers(0, 2), st.integers(0, 2), st.booleans()),
        st.tuples(st.just("fetch"), st.integers(0, 1), st.integers(0, 2), st.integers(1, 6)),
        st.tuples(st.just("take"), st.integers(1, 5), st.integers(1, 4)),
        st.tuples(st.just("move"), st.integers(0, 1), st.booleans()),
        st.tuples(st.just("trim"), st.integers(0, 2), st.integers(0, 40)),
        st.tuples(st.just("open"), st.integers(0, 1), st.lists(st.integers(0, 30), min_size=3, max_size=3)),
    ),
    min_size=10,
    max_size=120,
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(actions=actions, bounds=st.tuples(st.integers(4, 30), st.integers(4, 30)), filtered=st.booleans())
def test_every_record_comes_once_and_in_order_or_within_a_gap(
    actions: Sequence[tuple], bounds: tuple[int, int], filtered: bool
) -> None:
    asyncio.run(_play(actions, bounds, filtered=filtered))


async def _play(actions: Sequence[tuple], bounds: tuple[int, int], *, filtered: bool) -> None:
    topic = Topic(3)
    rows = RowMatch("/k", frozenset({"a"})) if filtered else None
    nodes = [Node(topic, start=(0, 0, 0), max_records=most, rows=rows) for most in bounds]
    partner = Partner((0, 0, 0))
    at = 0
    reading = nodes[0].open(partner.start)
    for name, *rest in actions:
        if name == "produce":
            # Often several at once, so that there is something to interleave.
            for _ in range(3):
                topic.produce(rest[0], hole=rest[1], bad=rest[2] and rest[1] == 2)
        elif name == "fetch":
            nodes[rest[0]].fetch(rest[1], rest[2])
        elif name == "trim":
            topic.trim(rest[0], rest[1])
        elif name == "take":
            await drain(reading, partner, most=rest[1], takes=rest[0])
        elif name == "move":
            # The client drops and resumes, on this node or the other, from its last cursor or from a checkpoint.
            resume = reading.vector() if rest[1] else partner.vector
            assert all(a >= b for a, b in zip(resume, partner.vector, strict=True))
            partner.vector = resume
            reading.close()
            at = rest[0]
            reading = nodes[at].open(resume)
        elif name == "open":
            # Somebody else opens anywhere, so that views hold blocks that this reader did not ask for.
            other = Partner(tuple(min(v, e) for v, e in zip(rest[1], topic.ends, strict=True)))
            stranger = nodes[rest[0]].open(other.start)
            await drain(stranger, other, takes=4)
            stranger.close()
    for partition in range(3):
        for node in nodes:
            node.fetch(partition, 10_000)
    await drain(reading, partner)
    reading.close()
    wanted = [
        (r.partition, r.offset)
        for records in topic.partitions
        for r in records
        if not partner.excused(r) and not (filtered and (r.value == b"\xff" or r.offset % 3 == 0))
    ]
    assert set(partner.seen) == set(wanted), (set(wanted) - set(partner.seen), partner.gaps)
    assert len(set(partner.seen)) == len(partner.seen)
    assert partner.vector == tuple(min(a, b) for a, b in zip(partner.vector, nodes[at].log.head_vector, strict=True))


@settings(max_examples=300, deadline=None)
@given(data=st.data(), count=st.integers(0, 60), limit=st.integers(4, 40))
def test_floor_and_ceiling_of_a_vector_are_the_indices_that_a_search_of_all_would_find(
    data: st.DataObject, count: int, limit: int
) -> None:
    log = TopicLog(max_records=limit, max_bytes=1 << 30, page_records=4)
    log.restart((0, 0, 0))
    for _ in range(count):
        p = data.draw(st.integers(0, 2))
        offset = log.head_vector[p] + data.draw(st.integers(0, 1))
        extra = data.draw(st.integers(0, 1))
        log.append(p, [Record(p, offset, offset + 1, 0, None, b"{}")], offset + 1 + extra)
    vector = tuple(data.draw(st.integers(0, count)) for _ in range(3))
    indices = range(log.first, log.head + 1)
    at_most = [i for i in indices if all(a <= b for a, b in zip(log.vector_before(i), vector, strict=True))]
    at_least = [i for i in indices if all(a >= b for a, b in zip(log.vector_before(i), vector, strict=True))]
    floor = log.floor_index(vector)
    # Where only the position moved (control records), the log may place a reader further than the vectors alone tell:
    # never behind a record that it has not seen.
    assert (floor is None) == (not at_most)
    if floor is not None:
        assert floor >= at_most[-1]
        for index in range(log.first, floor):
            page = log.page_at(index)
            record = page.records[index - page.first]
            assert record.next <= vector[record.partition]
    assert log.ceil_index(vector) == (at_least[0] if at_least else None)


def test_the_log_keeps_its_bounds_and_forgets_from_the_left() -> None:
    log = TopicLog(max_records=100, max_bytes=1 << 20)
    log.restart((0,))
    for offset in range(1000):
        log.append(0, [Record(0, offset, offset + 1, 0, None, b"x" * 100)], offset + 1)
    kept = log.statistics()
    assert kept.records <= 100
    assert kept.records + kept.evicted == 1000
    assert log.page_at(log.first).records[0].offset == 1000 - kept.records
    for offset in range(1000, 1100):
        log.append(0, [Record(0, offset, offset + 1, 0, None, b"x" * 100_000)], offset + 1)
    assert log.statistics().bytes <= (1 << 20) + 100_300


async def test_undecodable_records_in_a_row_are_one_gap_wherever_a_reader_starts() -> None:
    topic = Topic(1)
    node = Node(topic, start=(0,), max_records=100)
    for number in range(10):
        topic.produce(0, hole=0, bad=2 <= number <= 6)
        node.fetch(0, 100)
        node.view.take(node.log.head - 1)  # encoded one by one, as they arrive live
    for start in range(10):
        partner = Partner((start,))
        await drain(node.open((start,)), partner)
        wanted = [offset for offset in range(start, 10) if not 2 <= offset <= 6]
        assert [offset for _, offset in partner.seen] == wanted
        assert [reason for reason, _, _ in partner.gaps] == (["undecodable"] if start <= 6 else [])


async def test_what_others_take_at_an_index_is_not_for_one_who_merges_or_has_a_gap_to_hear() -> None:
    topic = Topic(2)
    node = Node(topic, start=(0, 0), max_records=100)
    for _ in range(2):
        for partition in range(2):
            topic.produce(partition, hole=0, bad=False)
            node.fetch(partition, 1)
    ahead = node.open((1, 0))
    merging = node.open((2, 0))
    skipped = node.open((1, 0))
    skipped.announce("retention", before=(0, 0), after=(1, 0))
    taken = ahead.take_usual()
    assert taken is node.view.tail

    partner = Partner((0, 0))
    await drain(skipped, partner, takes=1)
    assert [reason for reason, _, _ in partner.gaps] == ["retention"]
    await drain(skipped, partner)
    assert partner.seen == [(1, 0), (0, 1), (1, 1)]

    assert node.view.tail is taken
    partner = Partner((2, 0))
    await drain(merging, partner)
    assert partner.seen == [(1, 0), (1, 1)]
