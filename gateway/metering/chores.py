"""What one process does for all: cells put together, evidence forgotten, days reconciled. Every method blocks."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

import sqlalchemy as sa

from gateway.database.database import Database
from gateway.metering.audit_store import AuditStore
from gateway.metering.audit_tables import UPKEEP
from gateway.metering.drifts import Drifts
from gateway.metering.ledger import Ledger
from gateway.metering.ledger_rows import halves, joined
from gateway.metering.reconcile import SLACK_SECONDS, Drift, Metered, Whom, compare
from gateway.metering.rollup import DAY, RollUp, ZoneOf
from gateway.metering.tables import CELLS, LINES, SOURCES
from gateway.model import Transport

SETTLE_SECONDS: Final = 300
"""A day is looked at so long after its end: processes write their notes down every few seconds."""

LIVE: Final = "live"
_RECORDS: Final = ("records", "replayed_records", "filtered_records", "hidden_records")
"""Those that were delivered, and then those that were not."""


class UsageChores:
    """See ``upkeep.Chores``, the port that this serves."""

    def __init__(
        self, database: Database, *, zone: ZoneOf, hours_after_days: int, days_after_days: int, audit_days: int
    ) -> None:
        """``audit_days`` 0: no evidence is kept, and there is nothing to reconcile with."""
        self._reading = database.reading
        self._writing = database.writing
        self._ledger = Ledger(database)
        self._evidence = AuditStore(database)
        self._drifts = Drifts(database)
        self._audit_days = audit_days
        self._hours_after_days = hours_after_days
        self.rolling = RollUp(database, zone=zone, hours_after_days=hours_after_days, days_after_days=days_after_days)

    def take(self, holder: str, *, now: float, seconds: int) -> bool:
        """Be the one who does it for so long, if nobody else is."""
        free = sa.or_(UPKEEP.c.holder == holder, UPKEEP.c.holder == "", UPKEEP.c.until < int(now))
        with self._writing() as connection:
            mine = UPKEEP.update().where(UPKEEP.c.id == 1, free)
            return bool(connection.execute(mine.values(holder=holder, until=int(now) + seconds)).rowcount)

    def release(self, holder: str) -> None:
        """Let another one do it at once."""
        with self._writing() as connection:
            mine = sa.and_(UPKEEP.c.id == 1, UPKEEP.c.holder == holder)
            connection.execute(UPKEEP.update().where(mine).values(holder="", until=0))

    def roll_up(self, *, now: float) -> bool:
        """A step; False: nothing was left."""
        return self.rolling.step(now=now, complete_until=self._ledger.complete_until(now=now))

    def purge(self, *, now: float) -> bool:
        """Some of the old evidence; False: nothing was left."""
        return self._evidence.purge(before=int(now) - self._audit_days * DAY) > 0

    def reconcile(self, *, now: float) -> list[Drift] | None:
        """The next day of UTC that is over and complete; None: there is none."""
        if not self._audit_days:
            return None
        over = min(int(now) - SETTLE_SECONDS, self._ledger.complete_until(now=now)) // DAY * DAY
        with self._reading() as connection:
            until = int(connection.execute(sa.select(UPKEEP.c.reconciled_until)).scalar_one())
        oldest = self._evidence.oldest()
        if oldest is None:
            return None
        # From the first whole day that there is evidence of, and not where cells are longer than a quarter of an hour.
        start = max(until, -(-oldest // DAY) * DAY, (int(now) - self._hours_after_days * DAY) // DAY * DAY + DAY)
        if start >= over or self._is_awaited(start + DAY):
            return None
        found = self.reconcile_period(start=start, end=start + DAY, now=now)
        with self._writing() as connection:
            connection.execute(UPKEEP.update().where(UPKEEP.c.id == 1).values(reconciled_until=start + DAY))
        return found

    def _is_awaited(self, end: int) -> bool:
        """Whether a process that lives is still to write down what it delivered before."""
        noted = self._evidence.noted()
        return any(
            noted.get(one.source, math.inf) < end + SLACK_SECONDS for one in self._ledger.sources() if one.state == LIVE
        )

    def reconcile_period(self, *, start: int, end: int, now: float, tenant: str | None = None) -> list[Drift]:
        """Compare these epoch seconds, of one tenant or of all; what is new is written down and returned."""
        noted = self._evidence.noted()
        # Who was killed has ended, and is written down up to some time before that; who lost notes is not there.
        unproved = {
            one.source
            for one in self._ledger.sources()
            if noted.get(one.source, 0) < (end + SLACK_SECONDS if one.state == LIVE else math.inf)
        }
        found: list[Drift] = []
        for name in [tenant] if tenant is not None else self._ledger.tenants():
            audited = self._evidence.sums(tenant=name, start=start, end=end)
            found += compare(self.metered(name, start, end), audited, start=start, end=end, unproved=unproved)
        return self._drifts.add(found, now=now)

    def metered(self, tenant: str, start: int, end: int) -> dict[Whom, Metered]:
        """What the ledger holds of a tenant, apart for each process."""
        names = (SOURCES.c.source, LINES.c.tenant, LINES.c.application, LINES.c.stream, LINES.c.transport)
        wanted = (
            sa.select(
                *names,
                *(half for name in _RECORDS for half in halves(CELLS.c[name])),
            )
            .join_from(LINES, CELLS, CELLS.c.line == LINES.c.id)
            .join(SOURCES, CELLS.c.source == SOURCES.c.id)
            .where(LINES.c.tenant == tenant, CELLS.c.bucket >= start, CELLS.c.bucket < end)
            .group_by(*names)
        )
        with self._reading() as connection:
            found = ((row, tuple(joined(row[5:]))) for row in connection.execute(wanted))
            return {Whom(*row[:5]): Metered(sum(counts[:2]), sum(counts[2:])) for row, counts in found}

    def of_process(self, source: str, *, start: int, end: int) -> dict[tuple[str, Transport], int] | None:
        """Records of one process within these epoch seconds, by stream and protocol; None: it has not told all yet."""
        known = {one.source: one for one in self._ledger.sources()}.get(source)
        if known is None or known.complete_through < end:
            return None
        names = (LINES.c.stream, LINES.c.transport)
        wanted = (
            sa.select(*names, *(half for name in _RECORDS[:2] for half in halves(CELLS.c[name])))
            .join_from(LINES, CELLS, CELLS.c.line == LINES.c.id)
            .join(SOURCES, CELLS.c.source == SOURCES.c.id)
            .where(SOURCES.c.source == source, CELLS.c.bucket >= start, CELLS.c.bucket < end)
            .group_by(*names)
        )
        with self._reading() as connection:
            return {(row[0], row[1]): sum(joined(row[2:])) for row in connection.execute(wanted)}

    def note(self, drifts: Iterable[Drift], *, now: float) -> list[Drift]:
        """What was found elsewhere."""
        found = list(drifts)
        return self._drifts.add(found, now=now) if found else []

    def standing(self) -> int:
        """How many drifts stand."""
        return self._drifts.count_standing()
