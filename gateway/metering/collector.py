"""The collector: reads the usage topic into the ledger. One process of a deployment does, while it has the lease."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, Final, NamedTuple, Protocol

from gateway.clock import Clock
from gateway.errors import Unavailable
from gateway.metering.ledger import LeaseLost, Ledger, Place
from gateway.metering.totals import FromTheFuture, Message, Undecodable, decode

LEASE_SECONDS: Final = 6.0
RENEW_SECONDS: Final = 1.5
ASK_SECONDS: Final = 1.5
"""The lease outlives three renewals that failed; another process has it within 10 seconds after a crash."""

GATHER_SECONDS: Final = 1.0
"""What comes within it is one transaction."""

PATIENCE_SECONDS: Final = 10.0
MESSAGES_AT_ONCE: Final = 2000
LOOK_SECONDS: Final = 10.0
_READ_MS: Final = 500
_log = logging.getLogger("gateway.metering")

Run = Callable[..., Awaitable[Any]]


class Extent(Protocol):
    """The topic as it is."""

    @property
    def topic_id(self) -> str: ...
    @property
    def earliest(self) -> Mapping[int, int]: ...
    @property
    def latest(self) -> Mapping[int, int]: ...


class Follower(Protocol):
    """Reads the usage topic."""

    async def extent(self) -> Extent:
        """How the topic is now. Raises Unavailable."""
        ...

    async def open(self, positions: Mapping[int, int]) -> None:
        """Stand at these positions. Raises Unavailable."""
        ...

    async def read(self, *, timeout_ms: int, max_records: int) -> tuple[list[bytes | None], dict[int, int]]:
        """Values and the positions after them. Raises Unavailable."""
        ...

    async def close(self) -> None:
        """Close what ``open`` opened, in whatever state it is."""
        ...


class CollectorStatus(NamedTuple):
    """``lag``: messages between the ledger and the topic's end, as last seen; None: another process knows. ``trouble``
    is what has kept it from reading for a while."""

    is_leader: bool
    merged: int
    refused: int
    lag: int | None
    trouble: str | None


class Collector:
    """``run`` until cancelled, then ``close``."""

    def __init__(self, follower: Follower, ledger: Ledger, *, topic: str, run: Run, clock: Clock, holder: str) -> None:
        """``run`` has blocking work done in a thread."""
        self._follower = follower
        self._ledger = ledger
        self._topic = topic
        self._run = run
        self._clock = clock
        self._holder = holder
        self._is_leader = False
        self._merged = 0
        self._refused = 0
        self._lag: int | None = None
        self._trouble: str | None = None
        self._is_held_up = False
        self._said: str | None = None
        self._well_at = clock.monotonic()

    def status(self) -> CollectorStatus:
        """For health and metrics."""
        # What a start or a change of leaders brings passes by itself.
        is_told = self._clock.monotonic() - self._well_at > PATIENCE_SECONDS
        trouble = self._trouble if is_told else None
        return CollectorStatus(self._is_leader, self._merged, self._refused, self._lag, trouble)

    async def run(self) -> None:
        """Take the lease whenever it is free, and read on from where the ledger is; until cancelled."""
        while True:
            try:
                self._is_leader = await self._run(self._ledger.take_lease, self._holder, seconds=LEASE_SECONDS)
                if self._is_leader:
                    await self._follow()
                self._is_held_up = False
                self._be_well()
            except LeaseLost:
                self._is_leader = False
            except FromTheFuture as fault:
                # Another process, which knows it, takes over; until then nothing is passed over.
                self._trouble = f"a newer gateway wrote into topic {self._topic}: {fault}"
                self._is_held_up = True
                self._say(f"usage is not taken into the ledger: {self._trouble}")
                await self._let_go()
                await asyncio.sleep(2 * ASK_SECONDS)
            except Unavailable as fault:
                self._trouble = str(fault)
            except Exception as fault:  # noqa: BLE001 - the next try may go well; a dead reader would say nothing
                self._trouble = f"{type(fault).__name__}: {fault}"
                self._say("usage could not be taken into the ledger; it is tried again", fault=fault)
            await asyncio.sleep(ASK_SECONDS)

    def _be_well(self) -> None:
        self._trouble, self._said, self._well_at = None, None, self._clock.monotonic()

    def _say(self, text: str, *, fault: Exception | None = None) -> None:
        """Once for each trouble, not each time that it is met again."""
        if self._said != self._trouble:
            self._said = self._trouble
            _log.error(text, exc_info=fault)

    async def close(self) -> None:
        """Let another process do it at once."""
        await self._follower.close()
        await self._let_go()

    async def _let_go(self) -> None:
        if self._is_leader:
            self._is_leader = False
            with suppress(Unavailable):
                await self._run(self._ledger.release_lease, self._holder)

    async def _follow(self) -> None:
        extent = await self._follower.extent()
        place = await self._place(extent)
        await self._follower.open(place.positions)
        looked_at = renewed_at = self._clock.monotonic()
        positions = dict(place.positions)
        try:
            while True:
                values, after = await self._follower.read(timeout_ms=_READ_MS, max_records=MESSAGES_AT_ONCE)
                now = self._clock.monotonic()
                if values:
                    positions |= after
                    self._is_held_up = True
                    self._merged += await self._run(self._take_in, values, place._replace(positions=after))
                    self._is_held_up = False
                    renewed_at = now
                if not self._is_held_up:
                    # To have read nothing says nothing where the same messages were in the way a moment ago.
                    self._be_well()
                if now - renewed_at >= RENEW_SECONDS:
                    renewed_at = now
                    if not await self._run(self._ledger.take_lease, self._holder, seconds=LEASE_SECONDS):
                        raise LeaseLost(self._holder)
                if now - looked_at >= LOOK_SECONDS:
                    looked_at = now
                    extent = await self._follower.extent()
                    if extent.topic_id != place.topic_id or extent.latest.keys() != positions.keys():
                        return
                self._lag = sum(max(0, end - positions.get(one, 0)) for one, end in extent.latest.items())
                if len(values) < MESSAGES_AT_ONCE:
                    await asyncio.sleep(GATHER_SECONDS)
        finally:
            await self._follower.close()

    async def _place(self, extent: Extent) -> Place:
        """Where the ledger is in the topic; from the beginning where it knows nothing of it, or of this life of it."""
        known: Place = await self._run(self._ledger.place, self._topic)
        positions = dict(known.positions) if known.topic_id == extent.topic_id else {}
        anew = {
            partition: first
            for partition, first in extent.earliest.items()
            if not first <= positions.get(partition, -1) <= extent.latest[partition]
        }
        if anew:
            _log.info("the ledger reads %d partitions of topic %s from their beginning", len(anew), self._topic)
            place = Place(self._topic, extent.topic_id, anew)
            await self._run(self._ledger.start_over, place, extent.latest, holder=self._holder)
        return Place(self._topic, extent.topic_id, {one: positions.get(one, 0) for one in extent.latest} | anew)

    def _take_in(self, values: list[bytes | None], place: Place) -> int:
        messages: list[Message] = []
        for value in values:
            try:
                messages.append(decode(value))
            except Undecodable as fault:
                if not self._refused:
                    _log.warning("topic %s holds what is no usage, and it is passed over: %s", self._topic, fault)
                self._refused += 1
        self._ledger.merge(messages, place, holder=self._holder, lease_seconds=LEASE_SECONDS)
        return len(messages)
