"""Whether a process's share of the ledger agrees with its own counters, hour by hour.

The counters behind ``gateway_delivered_records_total`` are looked at a little before and a little after each full hour.
What was metered in the hour must lie between what the looks inside it and the looks around it say. Records that were
taken back after an unclean end are in the counters no more, and may be in the ledger: they widen the bounds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final, NamedTuple

from gateway.counters import Counters
from gateway.metering.reconcile import Drift, Whom
from gateway.model import Transport
from gateway.usage import bucket_of

HOUR: Final = 3600
NEAR_SECONDS: Final = 25
"""How long before the hour looking begins; longer than the time between two looks."""

MAX_WAITING: Final = 48
"""Hours that wait for the ledger to be complete; the oldest go unchecked."""

Place = tuple[str, Transport]
Counted = Mapping[Place, int]


class Look(NamedTuple):
    """What the counters say at one moment: delivered records, and those taken back ever since."""

    delivered: Counted
    taken_back: Counted

    def gross(self, place: Place) -> int:
        """With those taken back: this never falls."""
        return self.delivered.get(place, 0) + self.taken_back.get(place, 0)


class Edge(NamedTuple):
    """A full hour, with the last look before it and the first one after it."""

    at: int
    before: Look
    after: Look


class Hour(NamedTuple):
    """What lies between two edges."""

    start: Edge
    end: Edge


class ProcessCheck:
    """Call ``look`` every few seconds on the event loop's thread, and ``compare`` for each hour that ``due`` gives."""

    def __init__(
        self, counters: Counters, taken_back: Callable[[], Counted], *, source: str, started_at: float
    ) -> None:
        """``taken_back``: records that never left the process, by stream and protocol."""
        self._counters = counters
        self._taken_back = taken_back
        self.source = source
        nothing = Look({}, {})
        self._edge = Edge(bucket_of(started_at), nothing, nothing)
        self._next = int(started_at) // HOUR * HOUR + HOUR
        self._before = nothing
        self._waiting: list[Hour] = []

    def look(self, now: float) -> None:
        """Note how the counters stand, where an hour ends about now."""
        if now < self._next - NEAR_SECONDS:
            return
        seen = self._seen()
        if now < self._next:
            self._before = seen
            return
        # After a pause over several hours the one that this is the end of is longer.
        edge = Edge(int(now) // HOUR * HOUR, self._before, seen)
        self._waiting = [*self._waiting, Hour(self._edge, edge)][-MAX_WAITING:]
        self._edge, self._before, self._next = edge, seen, edge.at + HOUR

    def _seen(self) -> Look:
        delivered: dict[Place, int] = {}
        for kind, total in self._counters.census().by_kind.items():
            place = (kind.stream, kind.protocol)
            delivered[place] = delivered.get(place, 0) + total.records
        return Look(delivered, dict(self._taken_back()))

    def due(self) -> Iterator[Hour]:
        """The hours that were not compared yet, the oldest first; ``compare`` takes them away."""
        yield from list(self._waiting)

    def compare(self, hour: Hour, metered: Counted) -> list[Drift]:
        """The differences. ``metered`` is what the ledger has of this process in that hour, complete."""
        self._waiting.remove(hour)
        start, end = hour
        found = []
        for place in sorted({*metered, *end.after.delivered}):
            returned = end.after.taken_back.get(place, 0) - start.before.taken_back.get(place, 0)
            least = max(0, end.before.gross(place) - start.after.gross(place) - returned)
            most = end.after.gross(place) - start.before.gross(place)
            records = metered.get(place, 0)
            if not least <= records <= most:
                whom = Whom(self.source, "", "", *place)
                found.append(Drift("process", whom, start.at, end.at, records, least, most))
        return found
