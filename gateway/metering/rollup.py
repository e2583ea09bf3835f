"""Old usage in longer stretches: by the hour, later by the day, of each tenant's zone; no total changes.

Only what is complete for good is put together. What the usage topic says again of such cells is passed over by the
ledger from the moment they are marked, and they are marked before the first of them is touched. A crash between two
transactions leaves some stretches for the next time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final, Literal

import sqlalchemy as sa

from gateway.database.database import Database
from gateway.metering.audit_tables import UPKEEP
from gateway.metering.grain import Grain
from gateway.metering.tables import CELLS, LINES, STATE
from gateway.usage import MEASURES

DAY: Final = 86_400
STEP_SECONDS: Final = 0.5
"""A step ends after so long: others wait for the same lock."""

_POINTERS: Final = {"hour": "hours_until", "day": "days_until"}
_VALUES: Final = tuple(CELLS.c[name] for name in MEASURES)

Target = Literal["hour", "day"]
ZoneOf = Callable[[str], Any]
"""The zone of a tenant, by its name."""


@dataclass(frozen=True, slots=True)
class _Pass:
    """One way from a pointer to an end, for all tenants; ``left`` are those still to do."""

    target: Target
    start: int
    end: int
    left: list[str]


class RollUp:
    """Puts the ledger's old cells together, a step at a time. Every method blocks."""

    def __init__(self, database: Database, *, zone: ZoneOf, hours_after_days: int, days_after_days: int) -> None:
        self._reading = database.reading
        self._writing = database.writing
        self._is_postgres = database.dialect == "postgresql"
        self._zone = zone
        self._after: dict[Target, int] = {"hour": hours_after_days * DAY, "day": days_after_days * DAY}
        self._pass: _Pass | None = None
        self.removed = 0
        """Cells that there are fewer since this began."""

    def step(self, *, now: float, complete_until: int) -> bool:
        """Put some cells together; False: nothing is left to do. ``complete_until`` is the ledger's own word."""
        ends = monotonic() + STEP_SECONDS
        while monotonic() < ends:
            if self._pass is None:
                self._pass = self._next_pass(now=now, complete_until=complete_until)
                if self._pass is None:
                    return False
            running = self._pass
            if running.left:
                self._put_together(running, running.left[-1])
                running.left.pop()
            if not running.left:
                self._point(running.target, running.end)
                self._pass = None
        return True

    def _next_pass(self, *, now: float, complete_until: int) -> _Pass | None:
        """The oldest day that is to be done, for hours first."""
        for target, after in self._after.items():
            # A stretch of a zone may reach into the day after the last one.
            until = (min(int(now) - after, complete_until) - DAY) // DAY * DAY
            start = self._pointer(target)
            if start < until:
                if until - start > DAY:
                    # Much is to be done, or nothing ever was: days without usage are passed over.
                    start = self._oldest(start, until - DAY) // DAY * DAY
                end = min(start + DAY, until)
                self._mark(end + DAY)
                return _Pass(target, start, end, self._tenants())
        return None

    def _pointer(self, target: Target) -> int:
        with self._reading() as connection:
            row = connection.execute(sa.select(UPKEEP).where(UPKEEP.c.id == 1)).mappings().one()
            marked = connection.execute(sa.select(STATE.c.rolled_until).where(STATE.c.id == 1)).scalar_one()
            # A ledger that was made anew begins anew.
            return min(int(row[_POINTERS[target]]), int(marked))

    def _oldest(self, start: int, until: int) -> int:
        """When the first cell from ``start`` on begins, at most ``until``."""
        with self._reading() as connection:
            found = connection.execute(sa.select(sa.func.min(CELLS.c.bucket)).where(CELLS.c.bucket >= start)).scalar()
            return until if found is None else min(int(found), until)

    def _tenants(self) -> list[str]:
        wanted = sa.select(LINES.c.tenant).distinct().order_by(LINES.c.tenant.desc())
        with self._reading() as connection:
            return [row[0] for row in connection.execute(wanted)]

    def _mark(self, until: int) -> None:
        """From here on the ledger takes in nothing more of what is older."""
        with self._writing() as connection:
            further = sa.and_(STATE.c.id == 1, STATE.c.rolled_until < until)
            connection.execute(STATE.update().where(further).values(rolled_until=until))

    def _point(self, target: Target, until: int) -> None:
        with self._writing() as connection:
            connection.execute(UPKEEP.update().where(UPKEEP.c.id == 1).values({_POINTERS[target]: until}))

    def _put_together(self, running: _Pass, tenant: str) -> None:
        grain = Grain(running.target, self._zone(tenant))
        # Whole stretches of the zone, those that the ends cut too.
        start, end = grain.start(running.start), grain.ceil(running.end)
        with self._writing() as connection:
            if self._is_postgres:
                # Behind a merge that is under way and has not seen the mark yet.
                connection.execute(sa.select(STATE.c.id).where(STATE.c.id == 1).with_for_update())
            lines = [row[0] for row in connection.execute(sa.select(LINES.c.id).where(LINES.c.tenant == tenant))]
            for line in lines:
                self._put_line_together(connection, line, grain, start, end)

    def _put_line_together(self, connection: sa.Connection, line: int, grain: Grain, start: int, end: int) -> None:
        within = sa.and_(CELLS.c.line == line, CELLS.c.bucket >= start, CELLS.c.bucket < end)
        wanted = sa.select(CELLS.c.bucket, CELLS.c.source, CELLS.c.seconds, *_VALUES).where(within)
        found = [tuple(row) for row in connection.execute(wanted)]
        made = list(together(found, grain))
        if sorted(found) == sorted(made):
            return
        connection.execute(CELLS.delete().where(within))
        names = ("bucket", "source", "seconds", *MEASURES)
        connection.execute(CELLS.insert(), [{"line": line, **dict(zip(names, row, strict=True))} for row in made])
        self.removed += len(found) - len(made)


def together(cells: Iterable[tuple[int, ...]], grain: Grain) -> Iterator[tuple[int, ...]]:
    """Cells of one line, each (bucket, source, seconds, *measures), as those of whole stretches, in their order.

    One that is longer than the stretch it begins in stays as it is.
    """
    sums: dict[tuple[int, int], list[int]] = {}
    for bucket, source, seconds, *values in cells:
        start = grain.start(bucket)
        length = grain.end(start) - start
        if seconds > length:
            start, length = bucket, seconds
        known = sums.get((start, source))
        if known is None:
            sums[start, source] = [length, *values]
        else:
            known[0] = max(known[0], length)
            known[1:] = map(int.__add__, known[1:], values)
    for (start, source), row in sorted(sums.items()):
        yield (start, source, *row)
