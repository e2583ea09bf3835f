"""Where a process keeps account of its reads: ports to limits, metering and evidence."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from gateway.limits.allowance import Allowance
from gateway.limits.pace import Hindrance, Waiter
from gateway.model import Grant, Transport, Vector


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

    @property
    def is_due(self) -> bool:
        """Whether it is time to ask for ``quota_news``."""
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
        """One batch of live records, after the transport took it. It is safe from the meter's next ``flush`` on."""
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

    @property
    def stops_reads(self) -> bool:
        """Whether nothing may be delivered now, since it could not be counted."""
        ...

    def begin(self, grant: Grant, *, transport: Transport) -> Count:
        """A read that is open until its ``end``."""
        ...

    def flush(self) -> None:
        """What was counted survives the process from now on."""
        ...


class Allowances(Protocol):
    """What reads under the same limits may send in one round, together."""

    def join(self, grant: Grant) -> Allowance | None:
        """One read more, until it calls ``leave``. None: nothing limits it."""
        ...

    def settle(self) -> None:
        """The round is over."""
        ...


class Evidence(Protocol):
    """Where it is noted which records went to whom, for whoever doubts a statement."""

    def note(
        self,
        grant: Grant,
        *,
        session: str,
        transport: Transport,
        start: Vector,
        end: Vector,
        records: int,
        data_bytes: int,
        began: float,
        ended: float,
        filtered: int = 0,
        hidden: int = 0,
    ) -> None:
        """A stretch of a read: from one vector to the other between these moments, with what it gave and left out."""
        ...

    def take_back(self, grant: Grant, *, session: str, transport: Transport, records: int) -> None:
        """So many of those that were given, or are in the next note less than were, never left this process."""
        ...


class Books(NamedTuple):
    """Where a process keeps account of its reads. ``pace``: what limits a read under a grant; None: nothing does, and
    the same of ``meter`` and ``evidence``. Without ``allowances`` each read asks its limits for itself."""

    pace: Callable[[Grant], Pace | None] = lambda grant: None
    meter: Meter | None = None
    evidence: Evidence | None = None
    allowances: Allowances | None = None

    def settle(self) -> None:
        """Each read has had its turn: write down what they took, all at once. A crash before this loses at most one
        slice of each."""
        try:
            if self.meter is not None:
                self.meter.flush()
        finally:
            if self.allowances is not None:
                self.allowances.settle()
