"""One read's budget: what its plan lets it take now, and the account of what it took."""

from __future__ import annotations

import time
from typing import Final, Protocol

from gateway.counters import Tally
from gateway.hub.block import UNBOUNDED, Slice
from gateway.hub.view import SLICE_BYTES, SLICE_RECORDS
from gateway.limits.pace import Hindrance, Waiter
from gateway.model import Grant, Transport
from gateway.subscription.reading import Reading
from gateway.usage import REPLAY_AFTER_SECONDS, Usage

THROTTLED_EVERY_SECONDS: Final = 5.0


class Pace(Protocol):
    """What a plan's limits let one read send now. Nothing here waits."""

    def room(self, *, replayed: bool) -> int:
        """Records; 0 or less: none for now. Raises QuotaExceeded."""
        ...

    def bytes_room(self) -> int:
        """Metered bytes; while there are any a record may pass that is larger."""
        ...

    def spend(self, records: int, replayed: int, data_bytes: int) -> None:
        """So much was sent."""
        ...

    def wait(self, waiter: Waiter) -> None:
        """Wake the waiter, once, when there may be room."""
        ...

    def forget(self, waiter: Waiter) -> None:
        """It waits no more."""
        ...

    def hindrance(self) -> Hindrance | None:
        """What keeps it; None: nothing does."""
        ...

    def quota_news(self) -> dict[str, object] | None:
        """How much of a quota is used, where that is to be told now."""
        ...

    def close(self) -> None:
        """The read is over."""
        ...


class Count(Protocol):
    """The meter of one read: totals that survive the process."""

    def add(self, records: int, data_bytes: int, units: int) -> None:
        """One batch of live records, after the transport took it."""
        ...

    def add_replayed(
        self, records: int, data_bytes: int, units: int, replayed_records: int, replayed_bytes: int
    ) -> None:
        """One batch that holds replayed records; the first two members are its live part, ``units`` is of both."""
        ...

    def add_filtered(self, records: int, hidden: int) -> None:
        """Records that the partner's own filter took away, and those that a row filter hid."""
        ...

    def take_back(self, records: int, data_bytes: int, units: int, replayed_records: int, replayed_bytes: int) -> None:
        """Whole records that never left this process."""
        ...

    def renew(self, grant: Grant) -> None:
        """From now on it counts under this grant."""
        ...

    def request(self) -> None:
        """One request was answered, where each is one."""
        ...

    def end(self) -> None:
        """The read is over."""
        ...


class Meter(Protocol):
    """Where usage is counted."""

    def begin(self, grant: Grant, *, transport: Transport) -> Count:
        """A read that is open until its ``end``."""
        ...


class Budget:
    """Stands between a read and its plan. Everything is synchronous and cheap: a few integers a slice.

    ``pace`` is None where the plan limits neither records nor bytes, ``count`` None where nothing is metered.
    A record is replayed where Kafka's time of it lies more than a quarter of an hour before the read began.
    """

    __slots__ = ("_count", "_is_behind", "_is_held", "_is_told", "_live_from_ms", "_pace", "_told_at", "tally")

    def __init__(self, tally: Tally, *, pace: Pace | None, count: Count | None, began: float) -> None:
        """``began``: epoch seconds."""
        self.tally = tally
        self._pace = pace
        self._count = count
        self._live_from_ms = int((began - REPLAY_AFTER_SECONDS) * 1000)
        self._is_behind = True
        self._is_held = False
        self._is_told = False
        self._told_at = 0.0

    # ---- before --------------------------------------------------------------------------------------------------

    def take(self, reading: Reading) -> Slice | None:
        """The reading's next slice within what may be sent now. None: there is nothing, or ``is_held`` says that the
        plan's rates hold it. Raises QuotaExceeded."""
        pace = self._pace
        if pace is None:
            return reading.take_usual()
        records, data_bytes = self._room(reading, pace)
        self._is_held = not records
        if not records:
            return reading.take(max_records=0, at_least_one=False)
        return reading.take_usual(min(records, SLICE_RECORDS), data_bytes)

    def take_page(self, reading: Reading, *, max_records: int, max_bytes: int, at_least_one: bool) -> Slice | None:
        """The same within a page's bounds."""
        data_bytes = UNBOUNDED
        if self._pace is not None:
            records, data_bytes = self._room(reading, self._pace)
            self._is_held = not records
            max_records = min(max_records, records)
        return reading.take(
            max_records=max_records,
            max_bytes=max_bytes,
            max_data_bytes=data_bytes,
            at_least_one=at_least_one and max_records > 0,
        )

    def _room(self, reading: Reading, pace: Pace) -> tuple[int, int]:
        records = pace.room(replayed=self._is_behind and self._is_replay(reading))
        data_bytes = pace.bytes_room()
        if records <= 0 or data_bytes <= 0:
            return 0, UNBOUNDED
        # A slice is bounded anyway: what is wider than it is no bound, and slices without one are shared.
        return records, UNBOUNDED if data_bytes >= SLICE_BYTES else data_bytes

    def _is_replay(self, reading: Reading) -> bool:
        if reading.at_head:
            self._is_behind = False
            return False
        following = reading.next_time()
        return following is not None and following < self._live_from_ms

    def is_held(self, reading: Reading) -> bool:
        """After a take that gave nothing: whether a record is there and only the plan's rates hold it."""
        if self._is_held and reading.more:
            return True
        # Whoever has all that there is, is slowed down by nothing.
        self._is_told = False
        return False

    def wait(self, waiter: Waiter) -> None:
        """Have the waiter woken when there may be room."""
        if self._pace is not None:
            self._pace.wait(waiter)

    def forget(self, waiter: Waiter) -> None:
        """Nobody waits any more."""
        if self._pace is not None:
            self._pace.forget(waiter)

    def hindrance(self) -> Hindrance | None:
        """Which rate holds the read; None where none does, or where it only waits for its first share."""
        found = None if self._pace is None else self._pace.hindrance()
        return found if found is not None and found.is_over else None

    def news(self) -> Hindrance | None:
        """``hindrance``, where the partner is to be told of it: once until it has caught up, and not too often."""
        found = self.hindrance()
        now = time.monotonic()
        if found is None or self._is_told or now - self._told_at < THROTTLED_EVERY_SECONDS:
            return None
        self._is_told, self._told_at = True, now
        return found

    def quota_news(self) -> dict[str, object] | None:
        """How much of a quota is used, where that is to be told now."""
        return None if self._pace is None else self._pace.quota_news()

    # ---- after ---------------------------------------------------------------------------------------------------

    def took(self, piece: Slice) -> None:
        """The transport has taken the slice.

        A crash between the two loses at most this slice's count, and never counts what was not sent.
        """
        tally, count, pace = self.tally, self._count, self._pace
        records, data_bytes = piece.records, piece.data_bytes
        tally.records += records
        tally.bytes += data_bytes
        if piece.oldest >= self._live_from_ms:
            if count is not None:
                count.add(records, data_bytes, piece.units)
            if pace is not None:
                pace.spend(records, 0, data_bytes)
            return
        old, old_bytes = piece.older_than(self._live_from_ms)
        if count is not None:
            count.add_replayed(records - old, data_bytes - old_bytes, piece.units, old, old_bytes)
        if pace is not None:
            pace.spend(records - old, old, data_bytes)

    def reserve(self, piece: Slice) -> Usage:
        """For what is sent later: spend now, so that nobody else does, and ``deliver`` what this returned then."""
        old, old_bytes = piece.older_than(self._live_from_ms)
        live, live_bytes = piece.records - old, piece.data_bytes - old_bytes
        if self._pace is not None and piece.records:
            self._pace.spend(live, old, piece.data_bytes)
        return Usage(records=live, bytes=live_bytes, units=piece.units, replayed_records=old, replayed_bytes=old_bytes)

    def deliver(self, usage: Usage) -> None:
        """What was reserved has been sent, as the answer to one request."""
        self.tally.records += usage.records + usage.replayed_records
        self.tally.bytes += usage.bytes + usage.replayed_bytes
        if self._count is not None:
            self._count.add_replayed(
                usage.records, usage.bytes, usage.units, usage.replayed_records, usage.replayed_bytes
            )
            self._count.request()

    def settle(self, reading: Reading) -> None:
        """Account for what the read passed and did not give."""
        filtered, hidden = reading.settle()
        if self._count is not None and (filtered or hidden):
            self._count.add_filtered(filtered, hidden)

    def take_back(self, reading: Reading, wire_bytes: int) -> None:
        """The connection was lost with so many bytes still in this process: their records were not delivered."""
        if self._count is None or wire_bytes <= 0:
            return
        lost = Usage()
        for block, a, b in reading.unsent(wire_bytes):
            gaps = {gap.entry for gap in block.gaps}
            for k in range(a, b):
                if k in gaps:
                    continue
                size, units = block.data_bytes(k, k + 1), block.units(k, k + 1)
                if block.times[k] < self._live_from_ms:
                    lost += Usage(units=units, replayed_records=1, replayed_bytes=size)
                else:
                    lost += Usage(records=1, bytes=size, units=units)
        tally = self.tally
        if lost.records + lost.replayed_records <= tally.records:
            tally.records -= lost.records + lost.replayed_records
            tally.bytes -= lost.bytes + lost.replayed_bytes
            self._count.take_back(lost.records, lost.bytes, lost.units, lost.replayed_records, lost.replayed_bytes)

    def renew(self, grant: Grant, pace: Pace | None) -> None:
        """Go on under another grant."""
        if self._pace is not None:
            self._pace.close()
        self._pace = pace
        if self._count is not None:
            self._count.renew(grant)

    def end(self) -> None:
        """The read is over. Idempotent is not needed: a read ends once."""
        if self._pace is not None:
            self._pace.close()
        if self._count is not None:
            self._count.end()
