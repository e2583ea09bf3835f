"""How fast one read may go: what it may send now, and whom to wake when it may send more. Nothing here waits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Protocol

from gateway.limits.lease import Lease
from gateway.limits.line import Line, Needs, Waiter

__all__ = ["PLENTY", "Hindrance", "NarrowPace", "Pace", "Waiter"]

PLENTY: Final = 1 << 60
"""What there is of something that is not limited."""


@dataclass(frozen=True, slots=True)
class Hindrance:
    """Why there was no room: the limit as the catalog names it, its rate a second, what it counts, and for how long.

    ``is_over`` False: the tenant is below its limits, and the answer that brings room is on its way; nothing to tell.
    """

    limit: str
    rate: int | float
    unit: str
    resume_in_ms: int
    is_over: bool = True


class Purse(Protocol):
    """What a tenant's reads of one plan share; ``account.Account`` is one."""

    line: Line

    def room(self, pace: Pace, lease: Lease, turn: int) -> int:
        """What a read may have of a lease, where that takes a second look."""
        ...

    def spend(self, leases: Iterable[Lease], count: int) -> None:
        """Take so many of each, whether they are there or not."""
        ...

    def mark(self) -> None:
        """There is less than there should be."""
        ...

    def enqueue(self, pace: Pace, waiter: Waiter) -> None:
        """Wake it when it is this read's turn."""
        ...

    def hindrance(self, lease: Lease) -> Hindrance:
        """What a read meets that finds no room in this lease."""
        ...

    def leave(self, pace: Pace) -> None:
        """The read is over."""
        ...


class Pace:
    """One open read's, over the buckets that its tenant's reads of one plan share.

    Ask for ``room`` and ``bytes_room`` before a write, ``spend`` after it. Where either is 0, ``wait``. Turns are fair:
    while others of the tenant wait, who comes anew finds no room, and each gets an equal part of what there is.
    """

    __slots__ = (
        "_account",
        "_bytes",
        "_line",
        "_records",
        "_replayed",
        "byte_turn",
        "lacks",
        "place",
        "turn",
        "waiter",
    )

    is_due = False
    """There is no quota here to tell of."""

    def __init__(self, account: Purse, records: Lease, replayed: Lease, data_bytes: Lease) -> None:
        self._account = account
        self._line = account.line
        self._records = records
        self._replayed = replayed
        self._bytes = data_bytes
        self.turn = 0
        self.byte_turn = 0
        self.place = 0
        self.lacks = records
        self.waiter: Waiter | None = None

    def room(self, *, replayed: bool) -> int:
        """Records that may be sent now; 0: ``wait``."""
        lease = self._replayed if replayed else self._records
        left = lease.left
        if left > 0 and not self._line.is_crowded:
            return left
        return self._account.room(self, lease, self.turn)

    def bytes_room(self) -> int:
        """Bytes of data that may be sent now; 0: ``wait``. Of what is above 0 one record may take more: a debt."""
        lease = self._bytes
        left = lease.left
        if left > 0 and not self._line.is_crowded:
            return left
        return self._account.room(self, lease, self.byte_turn)

    def spend(self, records: int, replayed: int, data_bytes: int) -> None:
        """So many live ``records``, ``replayed`` ones beside them and bytes of data of both were sent."""
        if records:
            lease = self._records
            lease.left = left = lease.left - records
            if left < lease.low:
                self._account.mark()
        if replayed:
            lease = self._replayed
            lease.left = left = lease.left - replayed
            if left < lease.low:
                self._account.mark()
        lease = self._bytes
        lease.left = left = lease.left - data_bytes
        if left < lease.low:
            self._account.mark()
        if self.turn:
            self._line.use(self, records + replayed, data_bytes)

    def wait(self, waiter: Waiter) -> None:
        """Call ``waiter.wake`` once when there may be room again, in turn. Again while waiting: nothing changes."""
        if self.waiter is None:
            self._account.enqueue(self, waiter)

    def forget(self, waiter: Waiter) -> None:
        """Wake it no more; its turn, if it has one, goes to others."""
        if self.waiter is waiter or self.turn:
            self._line.forget(self)

    def hindrance(self) -> Hindrance:
        """Why there was no room when it was last asked for."""
        return self._account.hindrance(self.lacks)

    def quota_news(self) -> dict[str, object] | None:
        """None: rates have no period that comes to its end."""
        return None

    def close(self) -> None:
        """The read is over. Idempotent."""
        self._account.leave(self)

    # ---- for the account -----------------------------------------------------------------------------------------

    def needs(self) -> Needs:
        """Leases that must have something for this read to go on: of records, and of bytes."""
        lacks, data_bytes = self.lacks, self._bytes
        return (() if lacks is data_bytes else (lacks,)), (data_bytes,)


class NarrowPace(Pace):
    """The same under further limits: tighter buckets of the application or the stream."""

    __slots__ = ("_more_bytes", "_more_records", "_more_replayed")

    def __init__(
        self,
        account: Purse,
        records: tuple[Lease, ...],
        replayed: tuple[Lease, ...],
        data_bytes: tuple[Lease, ...],
    ) -> None:
        super().__init__(account, records[0], replayed[0], data_bytes[0])
        self._more_records = records[1:]
        self._more_replayed = replayed[1:]
        self._more_bytes = data_bytes[1:]

    def room(self, *, replayed: bool) -> int:
        """See ``Pace``."""
        room = super().room(replayed=replayed)
        for lease in self._more_replayed if replayed else self._more_records:
            if not room:
                return 0
            room = min(room, self._account.room(self, lease, self.turn))
        return room

    def bytes_room(self) -> int:
        """See ``Pace``."""
        room = super().bytes_room()
        for lease in self._more_bytes:
            if not room:
                return 0
            room = min(room, self._account.room(self, lease, self.byte_turn))
        return room

    def spend(self, records: int, replayed: int, data_bytes: int) -> None:
        """See ``Pace``."""
        self._account.spend(self._more_records, records)
        self._account.spend(self._more_replayed, replayed)
        self._account.spend(self._more_bytes, data_bytes)
        super().spend(records, replayed, data_bytes)

    def needs(self) -> Needs:
        """See ``Pace``."""
        several = (
            (self._bytes, *self._more_bytes),
            (self._replayed, *self._more_replayed),
            (self._records, *self._more_records),
        )
        lacking = next(leases for leases in several if self.lacks in leases)
        return (() if lacking is several[0] else lacking), several[0]
