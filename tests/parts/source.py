"""Kafka's side of the engine in memory, and an engine around it: the real hub, registry and gate, without a broker.

    kafka = MemoryKafka()
    topic = kafka.create_topic("flights", partitions=2)
    engine = Engine(kafka, ring_records=100)
    topic.produce(0, b'{"n": 1}')

What is produced reaches every feed of the topic at once, in the call; replays give the loop one turn.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

from starlette.types import Scope

from gateway.auth.revocation import Revocations
from gateway.auth.tickets import MemoryTickets, Tickets
from gateway.auth.tokens import TokenVerifier
from gateway.catalog.catalog import Catalog
from gateway.catalog.contracts import Contracts
from gateway.clock import Clock, SystemClock
from gateway.counters import Counters
from gateway.cursor import CursorCodec
from gateway.errors import TokenInvalid, Unavailable
from gateway.hub.feed import TopicFeed
from gateway.hub.hub import Hub, Source
from gateway.hub.pump import Pump
from gateway.kafka.faults import OutOfRange
from gateway.kafka.reader import ReaderStatus
from gateway.kafka.replay import Replayed
from gateway.model import Contract, Grant, Plan, Principal, Record, RowMatch, Transport, Vector
from gateway.subscription.books import Books
from gateway.subscription.encode import FRAMINGS, RecordEncoder
from gateway.subscription.envelope import FramingName
from gateway.subscription.opening import Opening, Openings
from gateway.subscription.outlet import Outlet
from gateway.subscription.registry import Registry
from gateway.subscription.request import ReadRequest, parse_read
from gateway.subscription.sessions import Sessions
from gateway.subscription.shape import Shape, shape_of
from gateway.subscription.subscription import Subscription
from gateway.subscription.watch import Watch
from gateway.subscription.wheel import TimerWheel
from gateway.transport.gate import Gate
from gateway.transport.snapshot import Snapshot
from gateway.uid import RecordIdentity

CLUSTER = "main"
CURSOR_KEY = b"a cursor key of tests"
UID_KEY = b"a uid key of tests"
PUBLIC_URL = "http://gateway.example"
NEVER = Snapshot(Contracts(), Catalog.build(), TokenVerifier([], clock=SystemClock()), Revocations())
"""A moment at which nothing may be read by anybody."""

FAR = 4_000_000_000
"""A moment in epoch seconds at which no test runs."""


class MemoryTopic:
    """A topic: every record it was ever given, and where each partition begins now."""

    def __init__(self, name: str, partitions: int) -> None:
        self.name = name
        self.records: list[list[Record]] = [[] for _ in range(partitions)]
        self.ends = [0] * partitions
        self.earliest = [0] * partitions
        self.feeds: list[TopicFeed] = []
        self.topic_id: str | None = None
        self.kept_ms: float | None = None

    def produce(
        self, partition: int, *values: bytes | None, key: bytes | None = None, millis: int = 1_700_000_000_000
    ) -> None:
        """Append records and hand them to every feed, as one round of a reader does."""
        run = []
        for content in values:
            offset = self.ends[partition]
            run.append(Record(partition, offset, offset + 1, millis, key, content))
            self.ends[partition] += 1
        self.records[partition] += run
        for feed in self.feeds:
            feed.append(partition, run, self.ends[partition])
            feed.flush()

    def move(self, partition: int, count: int) -> None:
        """Offsets without records: what an aborted transaction leaves."""
        self.ends[partition] += count
        for feed in self.feeds:
            feed.append(partition, (), self.ends[partition])
            feed.flush()

    def grow(self) -> None:
        """One partition more."""
        self.records.append([])
        self.ends.append(0)
        self.earliest.append(0)
        for feed in self.feeds:
            feed.append(len(self.ends) - 1, (), 0)
            feed.flush()

    def make_anew(self, *, topic_id: str | None = None) -> None:
        """Deleted and created again, empty; those who read it notice at once."""
        self.records = [[] for _ in self.records]
        self.ends = [0] * len(self.records)
        self.earliest = [0] * len(self.records)
        self.topic_id = topic_id
        for feed in list(self.feeds):
            feed.other_history()

    def trim(self, partition: int, to: int) -> None:
        """Retention: the partition begins at ``to``."""
        self.earliest[partition] = to


class MemoryReader:
    """Feeds one feed from the end of its topic, ``prefill`` records per partition earlier."""

    def __init__(self, topic: MemoryTopic, feed: TopicFeed, *, prefill: int, answering: asyncio.Event) -> None:
        self._topic = topic
        self._feed = feed
        self._prefill = prefill
        self._answering = answering
        self.status = ReaderStatus("starting", "", None, ())
        self.fail = asyncio.Event()

    async def run(self) -> None:
        await self._answering.wait()
        topic, feed = self._topic, self._feed
        feed.start(
            tuple(max(low, end - self._prefill) for low, end in zip(topic.earliest, topic.ends, strict=True)),
            topic_id=topic.topic_id,
        )
        for partition, records in enumerate(topic.records):
            held = [record for record in records if record.offset >= feed.log.head_vector[partition]]
            feed.append(partition, held, topic.ends[partition])
        topic.feeds.append(feed)
        self.status = ReaderStatus("live", "", 0.0, tuple(topic.ends))
        feed.live()
        try:
            await self.fail.wait()
            raise RuntimeError("injected")
        finally:
            topic.feeds.remove(feed)


class MemoryKafka:
    """A cluster. ``away`` makes look-ups and replays fail; ``readers`` are those started so far.

    While ``answering`` is cleared, readers that start do not become live.
    """

    def __init__(self, *, prefill: int = 0) -> None:
        self.topics: dict[str, MemoryTopic] = {}
        self.readers: list[MemoryReader] = []
        self.away = False
        self.answering = asyncio.Event()
        self.answering.set()
        self.replays = 0
        self.looks = 0
        self._prefill = prefill

    def create_topic(self, name: str, *, partitions: int = 1) -> MemoryTopic:
        topic = self.topics[name] = MemoryTopic(name, partitions)
        return topic

    def source(self) -> Source:
        """This cluster as the hub takes it."""

        def reader(feed: TopicFeed) -> MemoryReader:
            made = MemoryReader(self.topics[feed.topic], feed, prefill=self._prefill, answering=self.answering)
            self.readers.append(made)
            return made

        return Source(CLUSTER, self, self, reader)

    def _look(self, topic: str) -> MemoryTopic:
        self.looks += 1
        if self.away:
            raise Unavailable("away")
        return self.topics[topic]

    async def partitions(self, topic: str) -> int:
        return len(self._look(topic).ends)

    async def earliest(self, topic: str) -> Vector:
        return tuple(self._look(topic).earliest)

    async def latest(self, topic: str) -> Vector:
        return tuple(self._look(topic).ends)

    async def retention_ms(self, topic: str) -> float | None:
        return self.topics[topic].kept_ms

    async def at_time(self, topic: str, millis: int) -> Vector:
        found = self._look(topic)
        return tuple(
            next(
                (one.offset for one in records if one.timestamp >= millis and one.offset >= low),
                end,
            )
            for records, low, end in zip(found.records, found.earliest, found.ends, strict=True)
        )

    async def read(
        self, topic: str, start: Vector, until: Vector, *, max_records: int = 2000, max_bytes: int = 1 << 20
    ) -> Replayed:
        await asyncio.sleep(0)
        found = self._look(topic)
        self.replays += 1
        wanted = [p for p, (at, end) in enumerate(zip(start, until, strict=True)) if at < end]
        if any(not found.earliest[p] <= start[p] <= found.ends[p] for p in wanted):
            raise OutOfRange(earliest=tuple(found.earliest), latest=tuple(found.ends))
        records: list[Record] = []
        vector = list(start)
        for p in wanted:
            left = max_records - len(records)
            held = [one for one in found.records[p] if start[p] <= one.offset < until[p]]
            records += held[:left]
            if len(held) <= left:
                vector[p] = until[p]
            elif left:
                vector[p] = held[left - 1].next
        return Replayed(records, tuple(vector))


def contract(stream: str, topic: str, **members: Any) -> Contract:
    """A JSON stream over ``topic``."""
    plain: dict[str, Any] = {
        "id": f"urn:test:{stream}",
        "title": stream,
        "version": "1.0.0",
        "description": "",
        "lifecycle": "published",
        "owner": "tests@example.com",
        "visibility": "public",
        "scopes": (),
        "transports": ("sse", "ws", "pull", "ndjson"),
        "cluster": CLUSTER,
        "content_type": "application/json",
        "message_name": "event",
    }
    return Contract(stream=stream, topic=topic, **(plain | members))


def principal(client_id: str = "acme-app", *, expires_at: int = FAR) -> Principal:
    """Who a token of this application says is calling."""
    return Principal("idp", client_id, "user", frozenset(), "token-1", expires_at)


def grant(given: Contract, *, tenant: str = "acme", rows: RowMatch | None = None, expires_at: int = FAR) -> Grant:
    """What policy would allow ``tenant`` on a stream."""
    plan = Plan("open", 1, "Open", "EUR")
    return Grant(principal(f"{tenant}-app", expires_at=expires_at), tenant, f"{tenant}-app", given, plan, rows)


def encoder(
    given: Contract, framing: FramingName = "ndjson", *, codec: CursorCodec | None = None, shape: Shape | None = None
) -> RecordEncoder:
    """An encoder of one contract's records, for tests of views without an engine."""
    return RecordEncoder(
        given,
        FRAMINGS[framing],
        codec=codec or CursorCodec([CURSOR_KEY]),
        identity=RecordIdentity(UID_KEY, cluster=given.cluster, topic=given.topic, incarnation=1),
        incarnation=1,
        shape=shape or Shape(projection=given.projection),
        stream_url=f"{PUBLIC_URL}/v1/streams/{given.stream}",
    )


class WatchedRegistry(Registry):
    """A registry that remembers every subscription it made, with its outlet."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.made: list[tuple[Subscription, Outlet]] = []

    def subscribe(
        self, opening: Opening, grant: Grant, shape: Shape, *, session: str, transport: Transport, outlet: Outlet
    ) -> Subscription:
        subscription = super().subscribe(opening, grant, shape, session=session, transport=transport, outlet=outlet)
        self.made.append((subscription, outlet))
        return subscription


class TrustingGate(Gate):
    """Lets in whoever names a grant in the header ``tenant``; everything behind that is real."""

    grants: dict[str, Grant]

    async def admit(self, scope: Scope, *, transport: Transport) -> tuple[Grant, ReadRequest, Shape]:
        # What the middleware would have put there.
        scope.setdefault("state", {}).setdefault("access_fields", {})
        scope["state"].setdefault("correlation_id", "tests")
        headers = dict(scope["headers"])
        granted = self.grants.get(headers.get(b"tenant", b"").decode())
        if granted is None:
            raise TokenInvalid("no_such_tenant")
        request = parse_read(scope["query_string"], transport=transport)
        return (
            granted,
            request,
            shape_of(granted.contract, request, transport=transport, filters=(), masks=granted.masks),
        )

    def grant(self, principal: Principal, stream: str, transport: Transport) -> Grant:
        return next(one for one in self.grants.values() if one.principal is principal)


class Engine:
    """One process's engine over a MemoryKafka."""

    def __init__(
        self,
        kafka: MemoryKafka,
        *,
        clock: Clock | None = None,
        ring_records: int = 1000,
        ring_bytes: int = 64 << 20,
        memory_bytes: int = 1 << 30,
        linger_seconds: float = 30.0,
        heartbeat_seconds: float = 15.0,
        books: Books | None = None,
    ) -> None:
        self.kafka = kafka
        self.lives: dict[tuple[str, str], int] = {}
        self.lives_by_id: dict[tuple[str, str], dict[str, int]] = {}
        self.clock = clock or SystemClock()
        self.pump = Pump()
        self.wheel = TimerWheel(self.clock)
        self.codec = CursorCodec([CURSOR_KEY])
        self.counters = Counters()

        async def life(cluster: str, topic: str, topic_id: str | None) -> int:
            await asyncio.sleep(0)
            present = self.lives.setdefault((cluster, topic), 1)
            if topic_id is None:
                return present
            known = self.lives_by_id.setdefault((cluster, topic), {})
            if known and topic_id not in known:
                self.lives[cluster, topic] = present = present + 1
            return known.setdefault(topic_id, present)

        async def next_life(cluster: str, topic: str, seen: int) -> int:
            await asyncio.sleep(0)
            self.lives[cluster, topic] = max(self.lives.get((cluster, topic), 1), seen + 1)
            return self.lives[cluster, topic]

        self.hub = Hub(
            {CLUSTER: kafka.source()},
            pump=self.pump,
            clock=self.clock,
            ring_records=ring_records,
            ring_bytes=ring_bytes,
            memory_bytes=memory_bytes,
            linger_seconds=linger_seconds,
            uid_key=UID_KEY,
            incarnation=life,
            next_incarnation=next_life,
        )
        self.registry = WatchedRegistry(
            self.hub,
            codec=self.codec,
            pump=self.pump,
            wheel=self.wheel,
            clock=self.clock,
            counters=self.counters,
            heartbeat_seconds=heartbeat_seconds,
            public_url=lambda: PUBLIC_URL,
            books=books,
        )
        self.openings = Openings(self.hub, self.codec, self.clock)

    def gate(self, grants: dict[str, Grant]) -> TrustingGate:
        """A gate for the transports, with these grants by tenant."""

        def none() -> Snapshot:
            raise AssertionError("a trusting gate asks no catalog")

        def granted(principal: Principal, stream: str, transport: Transport) -> Grant:
            return next(one for one in grants.values() if one.principal is principal)

        watch = Watch(self.registry, granted, moment=lambda: NEVER, clock=self.clock, wheel=self.wheel)
        gate = TrustingGate(
            snapshot=none,
            sessions=Sessions(self.registry, watch, others=None),
            tickets=Tickets(MemoryTickets(self.clock), self.clock),
            openings=self.openings,
            registry=self.registry,
            counters=self.counters,
            clock=self.clock,
            public_url=lambda: PUBLIC_URL,
        )
        gate.grants = grants
        return gate


def numbers(bodies: Sequence[bytes], member: str = "n") -> list[Any]:
    """One member of each NDJSON record in ``bodies``."""
    said = [json.loads(line) for body in bodies for line in body.splitlines()]
    return [message["data"][member] for message in said if message["type"] == "record"]
