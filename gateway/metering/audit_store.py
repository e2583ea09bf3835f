"""Evidence of deliveries in SQL. Every method blocks; callers use threads."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final

import sqlalchemy as sa

from gateway.database.database import Database
from gateway.metering.audit import Delivery
from gateway.metering.audit_tables import DELIVERIES, NOTED
from gateway.metering.reconcile import SLACK_SECONDS, Audited, Whom

LONGEST_SECONDS: Final = 86_400
"""No stretch is longer: it is noted at least once a minute, and what is put together is bounded."""

_PURGED_AT_ONCE: Final = 5_000
_FIELDS: Final = tuple(DELIVERIES.c[name] for name in Delivery._fields)


class AuditStore:
    """What was delivered to whom, as the processes noted it."""

    def __init__(self, database: Database) -> None:
        self._reading = database.reading
        self._writing = database.writing

    def append(self, deliveries: Sequence[Delivery], *, source: str) -> None:
        """Keep what a process noted: all of it, or nothing."""
        with self._writing() as connection:
            connection.execute(DELIVERIES.insert(), [{"source": source, **one._asdict()} for one in deliveries])

    def begin(self, source: str) -> None:
        """A process keeps notes from here on."""
        with self._writing() as connection:
            known = sa.select(NOTED.c.source).where(NOTED.c.source == source)
            if connection.execute(known).first() is None:
                connection.execute(NOTED.insert().values(source=source, noted_until=0, is_whole=False))

    def mark(self, source: str, until: int) -> None:
        """Everything that the process began to deliver before this epoch second is written down."""
        with self._writing() as connection:
            connection.execute(NOTED.update().where(NOTED.c.source == source).values(noted_until=until))

    def close(self, source: str) -> None:
        """The process has ended, and every note of it was written down."""
        with self._writing() as connection:
            connection.execute(NOTED.update().where(NOTED.c.source == source).values(is_whole=True))

    def lose(self, source: str) -> None:
        """Some of the process's notes were lost: it proves nothing any more."""
        with self._writing() as connection:
            connection.execute(NOTED.delete().where(NOTED.c.source == source))

    def noted(self) -> dict[str, float]:
        """The processes that keep notes and lost none, and up to when all is written down (epoch seconds): for ever
        for those that ended so."""
        with self._reading() as connection:
            rows = connection.execute(sa.select(NOTED))
            return {row.source: math.inf if row.is_whole else float(row.noted_until) for row in rows}

    def read(self, *, tenant: str, stream: str, start: int, end: int) -> Iterator[Delivery]:
        """What went to a tenant from a stream in these epoch seconds, begun before the end and ended after the start,
        in the order of their beginnings. Read as it is asked for: memory stays as it is."""
        table = DELIVERIES
        wanted = (
            sa.select(*_FIELDS)
            .where(table.c.tenant == tenant, table.c.stream == stream)
            .where(table.c.began >= (start - LONGEST_SECONDS) * 1000, table.c.began < end * 1000)
            .where(table.c.ended >= start * 1000)
            .order_by(table.c.began, table.c.number)
        )
        with self._reading() as connection:
            for row in connection.execution_options(yield_per=1000).execute(wanted):
                yield Delivery(*row)

    def is_known(self, *, tenant: str, stream: str) -> bool:
        """Whether there is any evidence of a stream that went to a tenant."""
        wanted = sa.select(DELIVERIES.c.number).where(DELIVERIES.c.tenant == tenant, DELIVERIES.c.stream == stream)
        with self._reading() as connection:
            return connection.execute(wanted.limit(1)).first() is not None

    def sums(self, *, tenant: str, start: int, end: int) -> dict[Whom, Audited]:
        """What is proved for a tenant in these epoch seconds, by whom it went through and to."""
        table, slack = DELIVERIES, SLACK_SECONDS
        within = sa.and_(table.c.began >= (start + slack) * 1000, table.c.ended <= (end - slack) * 1000)

        def inside(column: sa.ColumnElement[int]) -> sa.ColumnElement[int]:
            return sa.func.coalesce(sa.func.sum(sa.case((within, column), else_=0)), 0)

        # A stretch across the edge that took back what one before it gave lowers nothing for sure.
        most = sa.case((within, table.c.records), (table.c.records > 0, table.c.records), else_=0) + table.c.taken_back
        names = (table.c.source, table.c.application, table.c.stream, table.c.transport)
        wanted = (
            sa.select(*names, inside(table.c.records), sa.func.sum(most), sa.func.sum(table.c.span))
            .where(table.c.tenant == tenant)
            .where(table.c.began >= (start - LONGEST_SECONDS) * 1000, table.c.began < (end + slack) * 1000)
            .where(table.c.ended >= (start - slack) * 1000)
            .group_by(*names)
        )
        with self._reading() as connection:
            return {
                Whom(source, tenant, application, stream, transport): Audited(int(least), int(most), int(span))
                for source, application, stream, transport, least, most, span in connection.execute(wanted)
            }

    def purge(self, *, before: int) -> int:
        """Forget what began before this epoch second, as much as one short transaction takes; how many it was."""
        table = DELIVERIES
        old = sa.select(table.c.number).where(table.c.began < before * 1000).order_by(table.c.began)
        with self._writing() as connection:
            done = connection.execute(table.delete().where(table.c.number.in_(old.limit(_PURGED_AT_ONCE))))
            return done.rowcount

    def oldest(self) -> int | None:
        """When the oldest that is kept began, in epoch seconds; None: nothing is kept."""
        with self._reading() as connection:
            found = connection.execute(sa.select(sa.func.min(DELIVERIES.c.began))).scalar()
            return None if found is None else int(found) // 1000
