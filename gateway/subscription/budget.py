"""One read's budget: what its plan lets it take now, and the account of what it took."""

from __future__ import annotations

import time
from typing import Final, NamedTuple

from gateway.counters import Tally
from gateway.hub.block import UNBOUNDED, Slice
from gateway.hub.view import SLICE_BYTES
from gateway.limits.allowance import Allowance
from gateway.limits.pace import Hindrance, Waiter
from gateway.model import Grant, Vector
from gateway.subscription.books import Books, Pace
from gateway.subscription.reading import Reading
from gateway.usage import REPLAY_AFTER_SECONDS, Usage

THROTTLED_EVERY_SECONDS: Final = 5.0


class _Noted(NamedTuple):
    """Up to where, when and with how much given a read is accounted for."""

    vector: Vector
    at: float
    records: int = 0
    bytes: int = 0


class Budget:
    """Stands between a read and its plan. Everything is synchronous and cheap: a few integers a slice.

    Where there is plenty a stream takes out of what all reads under the same limits have together for this round, and
    where it has to wait, or replays, by its own pace. A record is replayed where Kafka's time of it lies more than a
    quarter of an hour before the read began.
    """

    __slots__ = (
        "_allowance",
        "_books",
        "_count",
        "_grant",
        "_is_behind",
        "_is_held",
        "_is_told",
        "_live_from_ms",
        "_news",
        "_noted",
        "_pace",
        "_session",
        "_told_at",
        "tally",
    )

    def __init__(self, tally: Tally, books: Books, grant: Grant, *, session: str, began: float) -> None:
        """``began``: epoch seconds."""
        self.tally = tally
        self._books = books
        self._grant = grant
        self._session = session
        self._pace = books.pace(grant)
        self._allowance: Allowance | None = None
        self._news = 0
        self._count = None if books.meter is None else books.meter.begin(grant, transport=tally.kind.protocol)
        self._noted = _Noted((), began)
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
        allowance = self._allowance
        if allowance is None or allowance.records <= 0 or allowance.bytes <= 0 or self._is_behind:
            return self._take_looking(reading, pace)
        self._is_held = False
        return reading.take_usual(allowance.records, allowance.bytes)

    def _take_looking(self, reading: Reading, pace: Pace) -> Slice | None:
        replayed = self._is_behind and self._is_replay(reading)
        allowance = self._allowance
        if allowance is None and self._books.allowances is not None:
            allowance = self._allowance = self._books.allowances.join(self._grant)
            self._news = 0 if allowance is None else allowance.news
        if allowance is not None:
            if not replayed and allowance.open():
                self._is_held = False
                return reading.take_usual(allowance.records, allowance.bytes)
            allowance.step_aside()
        records, data_bytes = _room(pace, replayed=replayed)
        self._is_held = not records
        if not records:
            return reading.take(max_records=0, at_least_one=False)
        return reading.take_usual(records, data_bytes)

    def take_page(self, reading: Reading, *, max_records: int, max_bytes: int, at_least_one: bool) -> Slice | None:
        """The same within a page's bounds."""
        data_bytes = UNBOUNDED
        if self._pace is not None:
            records, room_bytes = _room(self._pace, replayed=self._is_behind and self._is_replay(reading))
            self._is_held = not records
            max_records = min(max_records, records)
            # A slice is bounded anyway: what is wider than it is no bound, and slices without one are shared.
            data_bytes = UNBOUNDED if room_bytes >= SLICE_BYTES else room_bytes
        return reading.take(
            max_records=max_records,
            max_bytes=max_bytes,
            max_data_bytes=data_bytes,
            at_least_one=at_least_one and max_records > 0,
        )

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

    @property
    def is_told(self) -> bool:
        """Whether the partner knows already that it is held, since it last had all that there was."""
        return self._is_told

    @property
    def was_held(self) -> bool:
        """Whether the last take gave nothing since the plan's rates allowed none."""
        return self._is_held

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

    def took(self, piece: Slice) -> bool:
        """The transport has taken the slice. True: look whether there are news of a quota.

        A crash before the ``Books.settle`` that follows loses at most this slice's count, and never counts what was not
        sent.
        """
        tally, count, pace = self.tally, self._count, self._pace
        records, data_bytes = piece.records, piece.data_bytes
        tally.records += records
        tally.bytes += data_bytes
        if piece.oldest >= self._live_from_ms:
            if count is not None:
                count.add(records, data_bytes, piece.units)
            if pace is None:
                return False
            allowance = self._allowance
            if allowance is None or allowance.records <= 0:
                pace.spend(records, 0, data_bytes)
                return pace.is_due
            allowance.records -= records
            allowance.bytes -= data_bytes
            if allowance.news == self._news:
                return False
            self._news = allowance.news
            return True
        old, old_bytes = piece.older_than(self._live_from_ms)
        if count is not None:
            count.add_replayed(records - old, data_bytes - old_bytes, piece.units, old, old_bytes)
        if pace is None:
            return False
        if self._allowance is not None:
            self._allowance.step_aside()
        pace.spend(records - old, old, data_bytes)
        return pace.is_due

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

    def begin(self, start: Vector) -> None:
        """The read starts here."""
        self._noted = _Noted(start, self._noted.at)

    def settle(self, reading: Reading, *, now: float) -> None:
        """Account for what the read passed since the last call, given or not; ``now`` in epoch seconds."""
        filtered, hidden = reading.settle()
        if self._count is not None and (filtered or hidden):
            self._count.add_filtered(filtered, hidden)
        evidence, before, tally = self._books.evidence, self._noted, self.tally
        if evidence is None:
            return
        end = reading.vector()
        evidence.note(
            self._grant,
            session=self._session,
            transport=tally.kind.protocol,
            start=before.vector,
            end=end,
            records=tally.records - before.records,
            data_bytes=tally.bytes - before.bytes,
            began=before.at,
            ended=now,
            filtered=filtered,
            hidden=hidden,
        )
        self._noted = _Noted(end, now, tally.records, tally.bytes)

    def take_back(self, reading: Reading, wire_bytes: int) -> None:
        """The connection was lost with so many bytes still in this process: their records were not delivered. Never
        more is taken back than was taken."""
        if self._count is None or wire_bytes <= 0:
            return
        lost, most = Usage(), self.tally.records
        for block, a, b in reading.unsent(wire_bytes):
            gaps = {gap.entry for gap in block.gaps}
            for k in range(b - 1, a - 1, -1):
                if k in gaps:
                    continue
                if lost.records + lost.replayed_records == most:
                    break
                size, units = block.data_bytes(k, k + 1), block.units(k, k + 1)
                if block.times[k] < self._live_from_ms:
                    lost += Usage(units=units, replayed_records=1, replayed_bytes=size)
                else:
                    lost += Usage(records=1, bytes=size, units=units)
        tally = self.tally
        tally.records -= lost.records + lost.replayed_records
        tally.bytes -= lost.bytes + lost.replayed_bytes
        self._count.take_back(lost.records, lost.bytes, lost.units, lost.replayed_records, lost.replayed_bytes)
        if self._books.evidence is not None:
            self._books.evidence.take_back(
                self._grant,
                session=self._session,
                transport=tally.kind.protocol,
                records=lost.records + lost.replayed_records,
            )

    def renew(self, grant: Grant, reading: Reading | None, *, now: float) -> None:
        """From now on the read goes on under another grant."""
        if _accounted(grant) == _accounted(self._grant):
            self._grant = grant
            return
        if reading is not None:
            self.settle(reading, now=now)
        self._grant = grant
        self._end_limits()
        self._pace = self._books.pace(grant)
        if self._count is not None:
            self._count.renew(grant)

    def end(self) -> None:
        """The read is over. Idempotent is not needed: a read ends once."""
        self._end_limits()
        if self._count is not None:
            self._count.end()

    def _end_limits(self) -> None:
        allowance, self._allowance = self._allowance, None
        if allowance is not None:
            allowance.leave()
        if self._pace is not None:
            self._pace.close()


def _room(pace: Pace, *, replayed: bool) -> tuple[int, int]:
    """Records and bytes of data that may be sent now; of neither where there is nothing of one."""
    records = pace.room(replayed=replayed)
    data_bytes = pace.bytes_room()
    return (records, data_bytes) if records > 0 and data_bytes > 0 else (0, 0)


def _accounted(grant: Grant) -> tuple[object, ...]:
    """What it is accounted for under."""
    return grant.tenant, grant.application, grant.plan, grant.billable
