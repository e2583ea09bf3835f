"""One shared replay: a short log of its own, filled from Kafka as its readers ask, with its own encoded views."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple, Protocol

from gateway.errors import GatewayError, Internal, Unavailable
from gateway.hub.log import TopicLog
from gateway.hub.prefill import by_time
from gateway.hub.view import SLICE_BYTES
from gateway.hub.views import Views
from gateway.kafka.faults import OutOfRange
from gateway.kafka.replay import Replayed
from gateway.model import Record, Vector

log = logging.getLogger("gateway.hub")
NEAR_RECORDS: Final = 2000
"""A reader further ahead of a track's end than this would fetch more for others than for itself."""

FETCH_BYTES: Final = 2 * SLICE_BYTES
_RETRY_SECONDS: Final = (0.3, 1.0)
_NO_BOUND: Final = 1 << 62


class History(Protocol):
    """What Kafka still holds of one topic."""

    async def read(self, start: Vector, until: Vector, *, max_records: int, max_bytes: int) -> Replayed:
        """Records from ``start`` to before ``until``, and the vector after them; raises OutOfRange."""
        ...


class Follower(Protocol):
    """A reader of a track. What it is told here it is told once for each time it asked."""

    @property
    def index(self) -> int:
        """Where it stands in the track's log."""
        ...

    def count_fetched(self, records: int) -> None:
        """This reader's wish made the track read so many records from Kafka."""
        ...

    def wake(self) -> None:
        """The track has grown, or is over."""
        ...

    def missing(self, bounds: OutOfRange) -> None:
        """The track, at whose end this reader stands, cannot go on: the topic holds ``bounds`` only."""
        ...

    def broke(self, error: GatewayError) -> None:
        """The track, at whose end this reader stands, cannot go on."""
        ...


class Keeper(Protocol):
    """Whoever has all the tracks of a topic."""

    def woke(self, track: Track) -> None:
        """``track`` has a reader again."""
        ...

    def rest(self, track: Track) -> None:
        """``track`` has no reader any more."""
        ...

    def make_room(self, track: Track, *, fresh: int) -> None:
        """``track`` has grown from the index ``fresh`` on."""
        ...

    def note_earliest(self, earliest: Vector) -> None:
        """What Kafka holds begins there."""
        ...

    def up_to_next(self, start: Vector, until: Vector) -> Vector:
        """``until``, or what comes before it where another track has what follows."""
        ...


class _Wish(NamedTuple):
    until: Vector
    first: int
    most: int


class Track:
    """One shared replay. ``stalled`` is set while Kafka does not answer it; ``is_over`` once it will not grow."""

    def __init__(self, keeper: Keeper, history: History, *, start: Vector, page_records: int) -> None:
        self._keeper = keeper
        self._history = history
        # Trimmed here and not by itself: what was fetched last must stay until those who asked for it have taken it.
        self.log = TopicLog(max_records=_NO_BOUND, max_bytes=_NO_BOUND, page_records=page_records)
        self.log.restart(start)
        self.views = Views(self.log)
        self.stalled: Unavailable | None = None
        self.is_over = False
        self._readers: dict[Follower, None] = {}
        self._asking: dict[Follower, _Wish] = {}
        self._fetched = 0
        self._task: asyncio.Task[None] | None = None

    @property
    def bytes(self) -> int:
        return self.log.bytes + self.views.bytes

    @property
    def first_vector(self) -> Vector:
        """Where what it holds begins."""
        return self.log.first_vector

    def enter(self, reader: Follower) -> None:
        """One reader more; it leaves with ``leave``."""
        self._readers[reader] = None
        self._keeper.woke(self)

    def leave(self, reader: Follower) -> None:
        """One reader less, and what it asked for is not wanted any more."""
        self._readers.pop(reader, None)
        self._asking.pop(reader, None)
        if not self._asking and self._task is not None:
            self._task.cancel()
            self._task = None
        if not self._readers:
            self._keeper.rest(self)

    def ask(self, reader: Follower, until: Vector, *, first: int, most: int) -> None:
        """Fetch what follows, up to ``until``: ``first`` records to begin with, then no more than all before together,
        ``most`` at most. The reader is told when there is more."""
        self._asking[reader] = _Wish(until, first, most)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._fill())

    def worth(self, vector: Vector) -> int | None:
        """How many records more this track has for a reader at ``vector`` than it would have to fetch only to get
        there; None where it does not serve: it begins too late, or has too far to go."""
        head = self.log.head_vector
        if self.is_over or not self.log.reaches_back_to(vector) or beyond(vector, head) > NEAR_RECORDS:
            return None
        return sum(head) - sum(vector)

    # ---- growing -------------------------------------------------------------------------------------------------

    async def _fill(self) -> None:
        """Read once from Kafka, however often it takes. Ended by ``leave`` when nobody waits any more."""
        error: GatewayError
        try:
            while not await self._read():
                continue
            return
        except asyncio.CancelledError:
            raise
        except GatewayError as failure:
            error = failure
        except Exception as failure:
            log.error("a replay failed", exc_info=failure)
            error = Internal("The replay failed.")
        self._end(lambda reader: reader.broke(error))

    async def _read(self) -> bool:
        """False: there was nothing, ``stalled`` says why, and it is time for another try."""
        untils, firsts, mosts = zip(*self._asking.values(), strict=True)
        until = max(untils, key=sum)
        leader = next(iter(self._asking))
        head = self.log.head_vector
        start = tuple(offset_in(head, p) for p in range(len(until)))
        until = self._keeper.up_to_next(start, until)
        most = min(max(mosts), max(*firsts, self._fetched))
        try:
            read = await self._history.read(start, until, max_records=most, max_bytes=FETCH_BYTES)
        except OutOfRange as refusal:
            bounds = refusal
            if not self._is_within(bounds):
                self._keeper.note_earliest(bounds.earliest)
                self._end(lambda reader: reader.missing(bounds))
                return True
            # The topic holds what it says it does not: a stale broker. Ask again in a while.
            return await self._stall(Unavailable("The stream's source contradicts itself."))
        except Unavailable as error:
            return await self._stall(error)
        self.stalled = None
        self._fetched += len(read.records)
        leader.count_fetched(len(read.records))
        fresh = self._append(read)
        self._keeper.make_room(self, fresh=fresh)
        self._tell(lambda reader: reader.wake())
        return True

    def _append(self, read: Replayed) -> int:
        """Returns the index of the first record that is new."""
        fresh = self.log.head
        runs: dict[int, list[Record]] = {}
        for record in read.records:
            runs.setdefault(record.partition, []).append(record)
        self.log.extend(by_time(runs.values()))
        for partition, position in enumerate(read.vector):
            self.log.append(partition, (), position)
        return fresh

    async def _stall(self, error: Unavailable) -> bool:
        """An open stream outlives Kafka's bad days: it waits here, heartbeats go on."""
        self.stalled = error
        await asyncio.sleep(random.uniform(*_RETRY_SECONDS))  # noqa: S311
        return False

    def _is_within(self, bounds: OutOfRange) -> bool:
        """Whether the end of this track lies where the topic has records, in every partition."""
        head = self.log.head_vector
        places = zip(bounds.earliest, bounds.latest, strict=True)
        return all(low <= offset_in(head, p) <= high for p, (low, high) in enumerate(places))

    def _end(self, tell: Callable[[Follower], None]) -> None:
        """No more of this track. Those who still have some of it to take hear of the end when they come to it."""
        self.is_over = True
        head = self.log.head

        def tell_those_at_the_end(reader: Follower) -> None:
            if reader.index == head:
                tell(reader)
            reader.wake()

        self._tell(tell_those_at_the_end)

    def _tell(self, tell: Callable[[Follower], None]) -> None:
        # Done before anybody hears of it: who does may leave, or ask again at once.
        self._task = None
        asking, self._asking = self._asking, {}
        for reader in asking:
            tell(reader)

    # ---- memory --------------------------------------------------------------------------------------------------

    def trim(self, to_bytes: int, *, fresh: int) -> None:
        """Keep to so many bytes of records, but for what lies at or behind the index ``fresh``."""
        if self.log.bytes > to_bytes:
            self.log.shrink(self.log.bytes - to_bytes, before=fresh)

    def give_up(self, by_bytes: int, *, passed_by: Callable[[Iterable[int]], int]) -> int:
        """Drop up to ``by_bytes``, or a page more, of what the last (``min``) or the first reader (``max``) has passed;
        returns what that freed."""
        log = self.log
        here = [reader.index for reader in self._readers if reader.index >= log.first]
        before = self.bytes
        log.shrink(by_bytes, before=passed_by(here) if here else log.head)
        return before - self.bytes


def beyond(one: Vector, other: Vector) -> int:
    """By how many records ``one`` is ahead of ``other``, where it is."""
    return sum(max(0, at - offset_in(other, partition)) for partition, at in enumerate(one))


def offset_in(vector: Vector, partition: int) -> int:
    """A partition that a vector does not hold stands at 0 there."""
    return vector[partition] if partition < len(vector) else 0
