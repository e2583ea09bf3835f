"""From a request to the vector where its read starts, and what must be said about the way there."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import Final

from gateway.clock import Clock
from gateway.cursor import REFUSED as OTHER_CURSOR
from gateway.cursor import CursorCodec, Position
from gateway.errors import CursorExpired, InvalidCursor, ReplayNotAllowed, Unavailable
from gateway.hub.feed import TopicFeed
from gateway.hub.hub import OPEN_SECONDS, Hub
from gateway.model import ABSENT, Contract, Vector
from gateway.subscription.floors import Floor, Floors
from gateway.subscription.request import ReadRequest

HISTORY_LOOKS: Final = 3
HISTORY_PAUSE_SECONDS: Final = 0.5
"""How often Kafka is asked, and with what pause, before a cursor beyond the topic's end counts as another history's:
one stale reply after a leader's move must not send a reader back to the beginning."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """A gap at the very start of a read. ``cursor`` is its beginning where ``before`` lies in an earlier life."""

    reason: str
    before: Vector
    after: Vector
    cursor: str | None = None


@dataclass(frozen=True, slots=True)
class Opening:
    """Where a read starts. ``skipped`` is what it has to be told first, if anything; ``request`` is what was asked."""

    feed: TopicFeed
    vector: Vector
    skipped: Skipped | None = None
    request: ReadRequest = field(default_factory=ReadRequest)


class Openings:
    """Finds starting points."""

    def __init__(self, hub: Hub, codec: CursorCodec, clock: Clock) -> None:
        self._hub = hub
        self._codec = codec
        self._clock = clock
        self._floors = Floors(hub, clock)

    async def open(self, contract: Contract, request: ReadRequest) -> Opening:
        """Resolve the start and take the feed; the caller gives the feed back to the hub.

        Raises InvalidCursor, ReplayNotAllowed, CursorExpired (``on_gap=error``), Unavailable.
        """
        start = request.start
        position = self._codec.decode(start.cursor, stream=contract.stream) if start.at == "cursor" else None
        if position is not None and position.shard != request.shard:
            # A shard's cursor knows its own partitions only: read in another split it would skip.
            raise InvalidCursor(OTHER_CURSOR)
        _check_replay(contract, start.at)
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                return await self._open(contract, request, position)
        except TimeoutError:
            raise Unavailable("The stream's source does not answer.", retry_after_ms=2_000) from None

    async def _open(self, contract: Contract, request: ReadRequest, position: Position | None) -> Opening:
        feed = await self._hub.acquire(contract.cluster, contract.topic)
        try:
            opening = await self._resolve(contract, request, position, feed)
            if self._hub.is_over_memory() and feed.log.floor_index(opening.vector) is None:
                raise Unavailable("This node has no memory left for reads of the past.", retry_after_ms=2_000)
        except BaseException:
            self._hub.release(feed)
            raise
        return replace(opening, request=request)

    async def _resolve(
        self, contract: Contract, request: ReadRequest, position: Position | None, feed: TopicFeed
    ) -> Opening:
        if request.start.at == "latest":
            return Opening(feed, feed.log.head_vector)
        known = len(feed.log.head_vector)
        floor = await self._floors.floor(
            contract,
            feed,
            partitions=max(known, len(position.vector) if position else 0),
            # Who would rather be refused than miss a record must not be told by an old answer.
            is_fresh=request.on_gap == "error",
        )
        opening = await self._from_the_past(contract, request, position, feed, floor)
        shard, shards = request.shard
        if shards == 1:
            return opening
        # Of other shards' partitions nothing is wanted: they stand at the head, so that nobody replays them.
        head = feed.log.head_vector
        vector = tuple(at if p % shards == shard or p >= len(head) else head[p] for p, at in enumerate(opening.vector))
        return replace(opening, vector=vector)

    async def _from_the_past(
        self, contract: Contract, request: ReadRequest, position: Position | None, feed: TopicFeed, floor: Floor
    ) -> Opening:
        if request.start.at == "earliest":
            return Opening(feed, floor.vector)
        if position is not None:
            opening = await self._at_cursor(contract, position, feed, floor.vector)
        else:
            opening = await self._at_time(contract, request, feed, floor)
        if opening.skipped is not None and request.on_gap == "error":
            earliest = self._codec.encode(contract.stream, Position(opening.vector, feed.incarnation, request.shard))
            raise CursorExpired(
                "Records after the given start are gone.",
                extensions={"earliest": earliest, "reason": opening.skipped.reason},
            )
        return opening

    async def _at_cursor(self, contract: Contract, position: Position, feed: TopicFeed, floor: Vector) -> Opening:
        asked = position.vector
        changed = position.incarnation != feed.incarnation or len(asked) > len(floor)
        if not changed and any(at > head for at, head in zip(asked, feed.log.head_vector, strict=False)):
            # Beyond what this process has seen: either it lags, or those offsets are no more.
            changed = await self._is_beyond_the_end(contract, asked)
        if changed:
            given = self._codec.encode(contract.stream, position)
            return Opening(feed, floor, Skipped("history_changed", asked, floor, given))
        # A partition that the cursor does not hold starts at its earliest record.
        full = tuple(low if p >= len(asked) or asked[p] == ABSENT else asked[p] for p, low in enumerate(floor))
        vector = tuple(map(max, full, floor))
        return Opening(feed, vector, Skipped("retention", full, vector) if vector != full else None)

    async def _is_beyond_the_end(self, contract: Contract, asked: Vector) -> bool:
        offsets = self._hub.source(contract.cluster).offsets
        for look in range(HISTORY_LOOKS):
            if look:
                await asyncio.sleep(HISTORY_PAUSE_SECONDS)
            latest = await offsets.latest(contract.topic)
            if all(at <= end for at, end in zip(asked, latest, strict=False)):
                return False
        return True

    async def _at_time(self, contract: Contract, request: ReadRequest, feed: TopicFeed, floor: Floor) -> Opening:
        millis = request.start.millis
        asked = await self._hub.source(contract.cluster).offsets.at_time(contract.topic, millis)
        if len(asked) > len(floor.vector):
            floor = await self._floors.floor(contract, feed, partitions=len(asked))
        latest = feed.log.head_vector
        vector = tuple(map(max, asked, floor.vector))
        limit = contract.replay.max_age_seconds
        too_old = limit is not None and millis < (self._clock.now() - limit) * 1000
        index, count = request.shard
        # Retention took a partition's beginning, and the time asked for lies before what is left of it. Of a partition
        # that is empty now nothing is left to lie behind: whether records of that time were there, nobody can say.
        cut = floor.retained and any(
            at <= low < end and low > 0
            for p, (at, low, end) in enumerate(zip(asked, floor.vector, latest, strict=False))
            if p % count == index
        )
        if too_old or vector != asked or cut:
            return Opening(feed, vector, Skipped("retention", asked, vector))
        return Opening(feed, vector)


def _check_replay(contract: Contract, at: str) -> None:
    if at == "earliest" and not contract.replay.earliest:
        raise ReplayNotAllowed("This stream cannot be read from its earliest record.")
    if at == "time" and not contract.replay.time:
        raise ReplayNotAllowed("This stream cannot be read from a time.")
