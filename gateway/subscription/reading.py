"""One reader's way through history: replay, merge, then the shared view, without a gap and without a repeat.

A reader opens at a vector V that need not fit any index of this process's log: another node interleaved the partitions
in another way. Three modes, each of which ends in the next:

- *replay*: V is older than the log. Records are read from Kafka up to the vector of a chosen index s.
- *merge*: from s (or from the last index at or below V) on, a record is delivered only where it is at or beyond W, the
  vector reached; encoded for this reader alone, since the shared view's cursors would make a resume repeat records.
- *shared*: from the first index whose vector covers W, slices of the shared view and nothing else.

A reader that falls out of the log, or whose log was restarted, opens anew at the vector where it stands.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from typing import Final, Literal, Protocol

from gateway.counters import StreamCounters
from gateway.errors import GatewayError, Internal, Unavailable
from gateway.hub.log import TopicLog, Trail
from gateway.hub.view import SLICE_BYTES, SLICE_RECORDS, Gap, Route, Slice, View
from gateway.kafka.faults import OutOfRange
from gateway.kafka.replay import Replayed
from gateway.model import Record, Vector
from gateway.subscription.runs import Runs
from gateway.tracing import current_span

log = logging.getLogger("gateway.subscription")
Mode = Literal["replay", "merge", "shared"]
_ENCODE_RECORDS: Final = 512
REPLAY_RECORDS: Final = (250, 2000)
"""Records of a replay's first read, and of a later one at most: each takes no more than all before it together.

The first record is there soon, and a reader that leaves early has cost little.
"""
_RETRY_SECONDS: Final = (0.3, 1.0)


class History(Protocol):
    """What Kafka still holds of one topic."""

    async def read(self, start: Vector, until: Vector, *, max_records: int, max_bytes: int) -> Replayed:
        """Records from ``start`` to before ``until``, and the vector after them; raises OutOfRange."""
        ...


class Spelling(Protocol):
    """How vectors and gaps are told to this reader."""

    def cursor(self, vector: Vector) -> str: ...

    def gap(self, gap: Gap) -> bytes: ...


class Reading:
    """Where one read stands, and the next bytes for it.

    ``take`` is synchronous and does a bounded amount of work. When it returns None, ``on_ready`` is called as soon as
    another call may give more, for what this object learns by itself (replay); the log's news come by the hub.
    ``failed`` is set where the read cannot go on, ``stalled`` while Kafka does not answer the replay.
    """

    __slots__ = (
        "_after_gap",
        "_counters",
        "_history",
        "_index",
        "_log",
        "_on_ready",
        "_origin",
        "_reached",
        "_replay_records",
        "_runs",
        "_runs_ahead",
        "_spelling",
        "_task",
        "_trail",
        "_view",
        "failed",
        "is_routed",
        "mode",
        "replayed",
        "stalled",
    )

    def __init__(
        self,
        log: TopicLog,
        view: View,
        *,
        start: Vector,
        history: History,
        spelling: Spelling,
        on_ready: Callable[[], None],
        replay_records: tuple[int, int] = REPLAY_RECORDS,
        runs_ahead: int = 2,
        counters: StreamCounters | None = None,
    ) -> None:
        self._log = log
        self._view = view
        self._history = history
        self._spelling = spelling
        self._on_ready = on_ready
        self._replay_records = replay_records
        self._runs_ahead = runs_ahead
        self._counters = counters or StreamCounters("")
        # Kept, since a replay may also begin later, under whoever happens to be running then.
        self._origin = current_span.get()
        self._runs = Runs(view)
        self._task: asyncio.Task[None] | None = None
        self._reached = list(start)
        self._index = -1
        self._trail: Trail | None = None
        self._after_gap = False
        self.mode: Mode = "shared"
        self.failed: GatewayError | None = None
        self.stalled: Unavailable | None = None
        self.replayed = 0
        self.is_routed = view.selector is not None and view.selector.route is not None
        self._place()

    # ---- what a reader asks --------------------------------------------------------------------------------------

    def take(
        self, *, max_records: int = SLICE_RECORDS, max_bytes: int = SLICE_BYTES, at_least_one: bool = True
    ) -> Slice | None:
        """The next slice, or None where there is none now. A slice without body moved over what is not for us.

        ``at_least_one=False``: None also where the next record is larger than ``max_bytes``.
        """
        if self.mode == "shared" and not self._runs:
            if self._index < self._log.first:
                self._place()
                return self.take(max_records=max_records, max_bytes=max_bytes, at_least_one=at_least_one)
            piece = self._view.take(
                self._index,
                max_records=max_records,
                max_bytes=max_bytes,
                after_gap=self._after_gap,
                at_least_one=at_least_one,
            )
            if piece is not None:
                self._index = piece.stop
                self._trail = piece.trail
                self._note(piece)
            return piece
        if not self._runs and self.mode == "merge":
            self._merge()
        if not self._runs:
            # Nothing of the merge zone was for this reader, or the replay has not come that far.
            return _NOTHING_YET if self.mode != "replay" and self._index < self._log.head else None
        piece = self._runs.take(
            max_records=max_records, max_bytes=max_bytes, after_gap=self._after_gap, at_least_one=at_least_one
        )
        if piece is not None:
            self._note(piece)
        return piece

    def take_usual(self) -> Slice | None:
        """``take`` within the usual bounds, for streams: what all readers at the head take is found by one look."""
        view = self._view
        piece = view.tail
        if piece is None or view.tail_index != self._index or self.mode != "shared" or self._runs or self._after_gap:
            return self.take()
        self._index = piece.stop
        self._trail = piece.trail
        return piece

    @property
    def more(self) -> bool:
        """Whether another ``take`` would give something at once."""
        if self._runs:
            return True
        return self.mode != "replay" and self._index < self._log.head

    @property
    def at_head(self) -> bool:
        """Whether everything the process has seen is taken."""
        return self.mode != "replay" and not self._runs and self._index >= self._log.head

    @property
    def route(self) -> Route | None:
        """What news this reader can wait for while it is at the head; None: for any."""
        selector = self._view.selector
        return selector.route if selector is not None and self.mode == "shared" else None

    def skip_to(self, index: int) -> None:
        """Stand at ``index``: nothing before it is for this reader. Only where it stands in the shared view."""
        log = self._log
        if self.mode != "shared" or self._runs or not max(self._index, log.first) <= index <= log.head:
            return
        if log.first == log.head:
            self._trail, self._reached = None, list(log.head_vector)
        else:
            self._trail = log.page_at(min(index, log.head - 1)).trail
        self._index = index

    def vector(self) -> Vector:
        """The vector before the next record that was not taken."""
        queued = self._runs.vector()
        if queued is not None:
            return queued
        if self.mode == "shared":
            if self._index == self._log.head:
                return self._log.head_vector
            if self._trail is not None:
                return self._trail.vector_before(self._index)
        return tuple(self._reached)

    def next_time(self) -> int | None:
        """Kafka's time of the next record not taken, in epoch milliseconds; None at the head.

        In the middle of a replay, where the next record is not fetched yet, the time of the last one stands in for it.
        """
        if self._runs:
            return self._runs.next_time()
        if self.mode != "replay" and self._log.first <= self._index < self._log.head:
            page = self._log.page_at(self._index)
            return page.records[self._index - page.first].timestamp
        return self._runs.last_time if self.mode == "replay" else None

    def remaining(self, shard: tuple[int, int] = (0, 1)) -> int:
        """Records between here and the head: exact in the log, by offsets before it and for a shard."""
        index, count = shard
        if count == 1 and self.mode == "shared" and not self._runs and self._index >= self._log.first:
            return self._log.head - self._index
        here = self.vector()
        return sum(
            max(0, head - here[p])
            for p, head in enumerate(self._log.head_vector)
            if p < len(here) and p % count == index
        )

    def take_news(self) -> Slice | None:
        """What comes next where it is no record, but something to be told: a gap."""
        return self._runs.take_news()

    def close(self) -> None:
        """Stop the replay, if one is running. Nothing that was taken is affected."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    # ---- how it finds its way ------------------------------------------------------------------------------------

    def _place(self) -> None:
        """Choose the mode for the vector where this reader stands."""
        if self._index >= 0:
            self._reached = list(self.vector())
        here = tuple(self._reached)
        index = self._log.floor_index(here)
        self._trail = None
        if index is None:
            self.mode = "replay"
            self._task = asyncio.get_running_loop().create_task(self._replay())
            return
        self._index = index
        self.mode = "shared" if self._log.ceil_index(here) == index else "merge"

    def _note(self, piece: Slice) -> None:
        """Remember whether the last thing told was an undecodable stretch: what follows directly belongs to it."""
        if piece.records or piece.gap is not None:
            self._after_gap = piece.gap is not None and piece.gap.reason == "undecodable"

    def _merge(self) -> None:
        """Encode a bounded part of the merge zone; leave it where the shared view serves from here on."""
        log = self._log
        if self._index < log.first:
            self._index = -1
            self._place()
            return
        end = log.ceil_index(tuple(self._reached))
        if end is not None and end <= self._index:
            self._enter_shared()
            return
        stop = log.head if end is None else end
        if self._index >= stop:
            return
        page = log.page_at(self._index)
        stop = min(stop, page.end)
        zone = page.records[self._index - page.first : stop - page.first]
        self._index = stop
        fresh = [record for record in zone if record.offset >= self._at(record.partition)]
        self._push(fresh)
        end = log.ceil_index(tuple(self._reached))
        if end is not None and end <= self._index:
            self._enter_shared()

    def _enter_shared(self) -> None:
        self.mode = "shared"
        self._trail = None

    def _at(self, partition: int) -> int:
        return self._reached[partition] if partition < len(self._reached) else 0

    def _push(self, records: Sequence[Record]) -> None:
        """Queue ``records`` as a run encoded from the vector reached, and move that vector behind them."""
        self._runs.push(records, start=tuple(self._reached))
        for record in records:
            self._move(record.partition, record.next)

    def _move(self, partition: int, to: int) -> None:
        if partition >= len(self._reached):
            self._reached.extend([0] * (partition + 1 - len(self._reached)))
        self._reached[partition] = max(self._reached[partition], to)

    # ---- replay --------------------------------------------------------------------------------------------------

    async def _replay(self) -> None:
        """Read from Kafka up to an index of the log. Cancelled by ``close``; what was queued until then stays."""
        counters, before = self._counters, self.replayed
        span = None if self._origin is None else self._origin.child("replay")
        counters.replays += 1
        counters.replaying += 1
        code = ""
        try:
            await self._read_up_to_log()
        except asyncio.CancelledError:
            code = "closed"
            raise
        except GatewayError as error:
            self.failed = error
            code = error.code
        except Exception as error:
            log.error("a replay failed", exc_info=error)
            self.failed = Internal("The replay failed.")
            code = self.failed.code
        finally:
            counters.replaying -= 1
            if span is not None:
                span.note("records", self.replayed - before)
                span.end(code)
        self._task = None
        self._on_ready()

    async def _read_up_to_log(self) -> None:
        log = self._log
        target = -1
        until: Vector = ()
        while True:
            if target < log.first:
                # The middle of the log: near enough to be reached, far enough from eviction.
                target = (log.first + log.head) // 2
                until = log.vector_before(target)
            if all(self._at(partition) >= end for partition, end in enumerate(until)):
                break
            await self._runs.wait_for_room(self._runs_ahead)
            await self._read_some(until)
            self._on_ready()
        self._index = target
        self.mode = "merge"

    async def _read_some(self, until: Vector) -> None:
        start = tuple(self._at(partition) for partition in range(len(until)))
        first, most = self._replay_records
        most = min(most, max(first, self.replayed))
        try:
            read = await self._history.read(start, until, max_records=most, max_bytes=2 * SLICE_BYTES)
        except OutOfRange as error:
            if self._skip(error):
                return
            # The topic holds what it says it does not: a stale broker. Ask again in a while.
            await self._stall(Unavailable("The stream's source contradicts itself."))
            return
        except Unavailable as error:
            await self._stall(error)
            return
        self.stalled = None
        self.replayed += len(read.records)
        self._counters.replayed_records += len(read.records)
        for at in range(0, len(read.records), _ENCODE_RECORDS):
            if at:
                # Encoding is cut like a broadcast is: others get their turn.
                self._on_ready()
                await asyncio.sleep(0)
            self._push(read.records[at : at + _ENCODE_RECORDS])
        for partition, position in enumerate(read.vector):
            self._move(partition, position)

    async def _stall(self, error: Unavailable) -> None:
        """An open stream outlives Kafka's bad days: it waits here, heartbeats go on."""
        self.stalled = error
        await asyncio.sleep(random.uniform(*_RETRY_SECONDS))  # noqa: S311

    def _skip(self, bounds: OutOfRange) -> bool:
        """The topic does not hold what comes next: say so at this place, and go on where it begins.

        False: it does hold it, by these very bounds.
        """
        before = tuple(self._reached)
        reason = "retention"
        for partition, (earliest, latest) in enumerate(zip(bounds.earliest, bounds.latest, strict=True)):
            position = self._at(partition)
            if position > latest:
                # Offsets that were given out do not exist any more: this is another history, read from its start.
                reason = "history_changed"
            if not earliest <= position <= latest:
                self._move(partition, earliest)
                self._reached[partition] = earliest
        if tuple(self._reached) == before:
            return False
        self.announce(reason, before=before, after=tuple(self._reached))
        return True

    def announce(self, reason: str, *, before: Vector, after: Vector, start: str | None = None) -> None:
        """Queue a gap as the next thing this reader gets. ``start`` is the cursor of its beginning where ``before`` is
        a vector of an earlier life, which would name other records in this one."""
        cursor = self._spelling.cursor
        gap = Gap(entry=0, reason=reason, start=(start or cursor(before)).encode(), resumed_at=cursor(after).encode())
        here = Trail(0, before if start is None else after)
        self._runs.tell(Slice(body=self._spelling.gap(gap), records=0, data_bytes=0, gap=gap, stop=0, trail=here))


_NOTHING_YET: Final = Slice(body=b"", records=0, data_bytes=0, gap=None, stop=0, trail=None)
