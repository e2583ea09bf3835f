"""The open streams of this process: opened here, found by session, ended together at the drain."""

from __future__ import annotations

import asyncio
import math
import random
import secrets
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Final
from weakref import WeakValueDictionary

from gateway.catalog.listing import visible_filters
from gateway.clock import Clock
from gateway.counters import Counters
from gateway.cursor import CursorCodec, Position
from gateway.errors import Draining, TooManyViews, Unavailable
from gateway.hub.block import Gap
from gateway.hub.feed import TopicFeed
from gateway.hub.hub import Hub
from gateway.hub.pump import Pump
from gateway.hub.view import View
from gateway.hub.views import Recipe, Views
from gateway.model import Contract, Grant, Transport, Vector
from gateway.subscription.books import Books
from gateway.subscription.budget import Budget
from gateway.subscription.encode import Framing, RecordEncoder
from gateway.subscription.opening import Opening
from gateway.subscription.outlet import Outlet
from gateway.subscription.reading import AHEAD_RECORDS, REPLAY_RECORDS, Reading
from gateway.subscription.request import ReadRequest
from gateway.subscription.roster import Roster
from gateway.subscription.selector import FieldIndex, selector
from gateway.subscription.shape import Shape, offered, shape_of
from gateway.subscription.subscription import Subscription
from gateway.subscription.wheel import TimerWheel

DRAIN_PER_SECOND: Final = 250
"""So many goodbyes, and more only where the time would not do."""

DRAIN_SHARE: Final = 0.8
"""The part of the given time that they are spread over; a loop that is busy needs the rest."""

DRAIN_PAUSE_SECONDS: Final = 0.05
METER_SECONDS: Final = 1.0
MAX_VIEWS_PER_TOPIC: Final = 4096
MAX_SHAPES_PER_TENANT: Final = 1024
RETRY_MS: Final = (500, 5000)
"""Bounds of the jitter that spreads reconnects after a drain."""


@dataclass(frozen=True, slots=True)
class _Teller:
    """Spells vectors and gaps for one stream and framing."""

    stream: str
    incarnation: int
    codec: CursorCodec
    framing: Framing
    shard: tuple[int, int]

    def cursor(self, vector: Vector) -> str:
        return self.codec.encode(self.stream, Position(vector, self.incarnation, self.shard))

    def gap(self, gap: Gap) -> bytes:
        return self.framing.event("gap", gap.data(), cursor=gap.resumed_at.decode())


@dataclass(frozen=True, slots=True)
class _Read:
    """What a subscription reads, and what was asked for."""

    shape: Shape
    request: ReadRequest
    framing: Framing


class Registry:
    """Makes subscriptions and knows them all."""

    def __init__(
        self,
        hub: Hub,
        *,
        codec: CursorCodec,
        pump: Pump,
        wheel: TimerWheel,
        clock: Clock,
        counters: Counters,
        heartbeat_seconds: float,
        public_url: Callable[[], str],
        books: Books | None = None,
    ) -> None:
        self._books = books or Books()
        self._public_url = public_url
        self._hub = hub
        self._codec = codec
        self._pump = pump
        self._wheel = wheel
        self._clock = clock
        self._counters = counters
        self.roster = Roster()
        self._reads: dict[str, _Read] = {}
        self._encoders: WeakValueDictionary[Hashable, RecordEncoder] = WeakValueDictionary()
        self._shapes: dict[str, Counter[tuple[str, Shape]]] = {}
        self.heartbeat_seconds = heartbeat_seconds
        self.draining = asyncio.Event()
        self.on_drain: dict[Callable[[], None], None] = {}
        hub.on_feed_over.append(self._end_all_of)
        pump.after_round.append(self._books.settle)

    def __len__(self) -> int:
        return len(self.roster)

    def refuse_while_draining(self) -> None:
        """Raises Draining once the drain has begun."""
        if self.draining.is_set():
            raise _draining()

    def new_session(self) -> str:
        """A name for a read: unguessable, and not a secret."""
        return secrets.token_urlsafe(12)

    def teller(self, feed: TopicFeed, grant: Grant, shape: Shape, framing: Framing) -> _Teller:
        return _Teller(grant.contract.stream, feed.incarnation, self._codec, framing, shape.shard)

    def recipe(self, feed: TopicFeed, grant: Grant, shape: Shape, framing: Framing) -> Recipe:
        """The view for this grant and shape, of the feed's log and of what is read of its past."""
        contract = grant.contract
        # The contract itself is part of the key: after a reload, readers of the old one keep their view.
        key = (contract.stream, id(contract), shape, grant.rows, framing.name)

        def make(views: Views) -> View:
            encoder = self._encoder(feed, contract, shape, framing)
            chosen = selector(
                rows=grant.rows,
                terms=shape.terms,
                shard=shape.shard,
                index=lambda pointer: views.shared(("field", pointer), lambda: FieldIndex(views.log, pointer)),
            )
            return View(views.log, encoder, selector=chosen)

        return Recipe(key, make)

    def _encoder(self, feed: TopicFeed, contract: Contract, shape: Shape, framing: Framing) -> RecordEncoder:
        """One for all views that differ only in what they choose; it is gone with the last of them."""
        # Who is found holds both objects, so that their ids are nobody else's.
        what = (shape.projection, shape.masks, shape.envelope, shape.shard)
        key = (id(contract), id(feed.identity), what, framing.name)
        found = self._encoders.get(key)
        if found is None:
            found = self._encoders[key] = RecordEncoder(
                contract,
                framing,
                codec=self._codec,
                identity=feed.identity,
                incarnation=feed.incarnation,
                shape=shape,
                stream_url=f"{self._public_url()}/v1/streams/{contract.stream}",
            )
        return found

    def admit(self, opening: Opening, grant: Grant, shape: Shape) -> None:
        """Raises TooManyViews where one more shape of its own is more than this tenant or stream may have here.

        What the contract offers is one view for everybody; filters, fields and other envelopes make views that cost
        memory and work of their own.
        """
        if shape == offered(grant.contract, grant.masks, shard=shape.shard):
            return
        if opening.feed.view_count() >= MAX_VIEWS_PER_TOPIC:
            raise TooManyViews(f"This stream is read in {MAX_VIEWS_PER_TOPIC} different shapes here already.")
        shapes = self._shapes.get(grant.tenant, ())
        if (grant.contract.stream, shape) not in shapes and len(shapes) >= MAX_SHAPES_PER_TENANT:
            raise TooManyViews(f"Your open reads have {MAX_SHAPES_PER_TENANT} different filters and fields already.")

    def reading(
        self,
        opening: Opening,
        grant: Grant,
        shape: Shape,
        teller: _Teller,
        *,
        on_ready: Callable[[], None],
        replay_records: tuple[int, int] = REPLAY_RECORDS,
        ahead_records: int = AHEAD_RECORDS,
    ) -> Reading:
        """A reading at the opening's vector, with its gap to tell first."""
        feed = opening.feed
        reading = Reading(
            feed.views,
            self.recipe(feed, grant, shape, teller.framing),
            start=opening.vector,
            past=feed.past,
            spelling=teller,
            on_ready=on_ready,
            replay_records=replay_records,
            ahead_records=ahead_records,
            counters=self._counters.stream(grant.contract.stream),
        )
        if opening.skipped is not None:
            skipped = opening.skipped
            reading.announce(skipped.reason, before=skipped.before, after=skipped.after, start=skipped.cursor)
        return reading

    def subscribe(
        self, opening: Opening, grant: Grant, shape: Shape, *, session: str, transport: Transport, outlet: Outlet
    ) -> Subscription:
        """An open stream over ``outlet``; delivers from now on, and gives everything back when it ends."""
        teller = self.teller(opening.feed, grant, shape, outlet.framing)
        subscription = Subscription(
            session=session,
            grant=grant,
            transport=transport,
            feed=opening.feed,
            outlet=outlet,
            cursor=teller.cursor,
            pump=self._pump,
            wheel=self._wheel,
            clock=self._clock,
            counters=self._counters,
            budget=self.budget(grant, session=session, transport=transport),
            heartbeat_seconds=self.heartbeat_seconds,
            on_end=self._forget,
        )
        self.roster.add(subscription)
        self._count_shape(grant, shape, 1)
        self._reads[session] = _Read(shape, opening.request, outlet.framing)
        reading = self.reading(opening, grant, shape, teller, on_ready=subscription.wake)
        subscription.start(reading)
        # What happened between the opening and now was told to those who were open then.
        if self.draining.is_set():
            subscription.end(_draining())
        elif opening.feed.over_reason is not None:
            subscription.end(_over(opening.feed.over_reason))
        return subscription

    def budget(self, grant: Grant, *, session: str, transport: Transport) -> Budget:
        """For one read under this grant; whoever has it ends it, and its tally. Raises Unavailable."""
        if self._books.meter is not None and self._books.meter.stops_reads:
            raise _unmetered()
        tally = self._counters.begin_read(
            grant.contract.stream, protocol=transport, plan=grant.plan.name, tenant=grant.tenant
        )
        return Budget(tally, self._books, grant, session=session, began=self._clock.now())

    def _forget(self, subscription: Subscription) -> None:
        self.roster.remove(subscription)
        read = self._reads.pop(subscription.session)
        self._count_shape(subscription.grant, read.shape, -1)

    def _count_shape(self, grant: Grant, shape: Shape, change: int) -> None:
        shapes = self._shapes.setdefault(grant.tenant, Counter())
        shapes[grant.contract.stream, shape] += change
        if not shapes[grant.contract.stream, shape]:
            del shapes[grant.contract.stream, shape]

    def session(self, session: str) -> Subscription | None:
        """The open stream of this name; None where this process has none."""
        return self.roster.get(session)

    def subscriptions(self) -> list[Subscription]:
        """All that are open now."""
        return list(self.roster)

    def renew(self, subscription: Subscription, grant: Grant) -> None:
        """Go on under ``grant`` from the next record on, with the parameters that the read was opened with.

        Raises the GatewayError that a new open with them would meet, and then nothing has changed.
        """
        contract, read, feed = grant.contract, self._reads[subscription.session], subscription.feed
        before = subscription.grant
        if contract is not before.contract or grant.tenant != before.tenant or grant.masks != before.masks:
            if (contract.cluster, contract.topic) != (before.contract.cluster, before.contract.topic):
                raise Unavailable("The stream's source has changed.", retry_after_ms=_retry_ms())
            shape = shape_of(
                contract,
                read.request,
                transport=subscription.transport,
                filters=visible_filters(contract, grant.masks),
                masks=grant.masks,
            )
        else:
            shape = read.shape
        self.roster.move(subscription, tenant=grant.tenant)
        self._count_shape(before, read.shape, -1)
        self._count_shape(grant, shape, 1)
        if contract is before.contract and (shape, grant.rows) == (read.shape, before.rows):
            subscription.renew(grant)
            return
        teller = self.teller(feed, grant, shape, read.framing)
        self._reads[subscription.session] = _Read(shape, read.request, read.framing)
        subscription.renew(grant)
        subscription.go_on_with(
            lambda vector: self.reading(Opening(feed, vector), grant, shape, teller, on_ready=subscription.wake)
        )

    def release(self, opening: Opening) -> None:
        """Give back the feed that the opening took."""
        self._hub.release(opening.feed)

    def start_cursor(self, opening: Opening, grant: Grant, shape: Shape) -> str:
        """The cursor where the read starts."""
        position = Position(opening.vector, opening.feed.incarnation, shape.shard)
        return self._codec.encode(grant.contract.stream, position)

    def _end_all_of(self, feed: TopicFeed, reason: str) -> None:
        """The feed is over: its readers come back with their cursors, and are told of a gap then if there is one."""
        for subscription in [one for one in self.roster if one.feed is feed]:
            subscription.end(_over(reason))

    async def follow_meter(self) -> None:
        """End all reads once nothing may be delivered because it could not be counted, until cancelled."""
        meter = self._books.meter
        while meter is not None:
            if meter.stops_reads:
                for subscription in self.subscriptions():
                    subscription.end(_unmetered())
            await asyncio.sleep(METER_SECONDS)

    async def drain(self, *, within_seconds: float = 10.0) -> None:
        """Say goodbye to every stream, evenly over the time that so many need; no new ones are let in from now on.

        The nodes that they go to get them at that pace, and not all at once.
        """
        self.draining.set()
        for tell in list(self.on_drain):
            tell()
        needed_seconds = len(self.roster) / DRAIN_PER_SECOND
        until = self._clock.monotonic() + min(needed_seconds, within_seconds * DRAIN_SHARE)
        while self.roster:
            # By the clock: on a busy loop turns come late, and then more have to leave in each.
            turns = (until - self._clock.monotonic()) / DRAIN_PAUSE_SECONDS
            batch = math.ceil(len(self.roster) / max(1, turns))
            for subscription in list(self.roster)[:batch]:
                subscription.end(_draining())
            await asyncio.sleep(DRAIN_PAUSE_SECONDS)


def _draining() -> Draining:
    return Draining("This node is being stopped.", retry_after_ms=_retry_ms())


def _unmetered() -> Unavailable:
    return Unavailable("Usage cannot be counted at the moment.", retry_after_ms=_retry_ms())


def _over(reason: str) -> Unavailable:
    return Unavailable(reason, retry_after_ms=_retry_ms())


def _retry_ms() -> int:
    return random.randint(*RETRY_MS)  # noqa: S311 - jitter, not a secret
