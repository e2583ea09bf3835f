"""Differences that reconciliation found, in SQL, until somebody settles them. Every method blocks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from gateway.database.audit import Entry, append
from gateway.database.database import Database
from gateway.metering.audit_tables import DRIFTS
from gateway.metering.reconcile import Drift, Whom

EVERYBODY: Final = ""
"""The tenant of a drift that could not be laid at one tenant's door: it concerns all of them."""


@dataclass(frozen=True, slots=True)
class FoundDrift:
    """A drift as it was written down; ``settled_at`` None: it stands, and no statement over its time becomes final."""

    number: int
    found_at: int
    drift: Drift
    settled_at: int | None = None
    settled_by: str | None = None
    reason: str | None = None


class Drifts:
    """What was found; nothing is ever deleted here."""

    def __init__(self, database: Database) -> None:
        self._reading = database.reading
        self._writing = database.writing
        self._insert: Any = postgresql.insert if database.dialect == "postgresql" else sqlite.insert

    def add(self, drifts: Iterable[Drift], *, now: float) -> list[Drift]:
        """Write down what is new, and return that: the same difference of the same time is one."""
        news = []
        with self._writing() as connection:
            for one in drifts:
                row = {
                    "found_at": int(now),
                    "kind": one.kind,
                    **one.whom._asdict(),
                    "starts_at": one.start,
                    "ends_at": one.end,
                    "metered": one.metered,
                    "least": one.least,
                    "most": one.most,
                }
                adding = self._insert(DRIFTS).values(row).on_conflict_do_nothing().returning(DRIFTS.c.number)
                if connection.execute(adding).first() is not None:
                    news.append(one)
        return news

    def standing(self, *, tenant: str | None, start: int, end: int) -> list[FoundDrift]:
        """Those that stand for a tenant (None: for anybody) within these epoch seconds, in the order of their numbers;
        what concerns everybody among them."""
        return self._read(tenant, start, end, DRIFTS.c.settled_at.is_(None))

    def all(self, *, tenant: str | None, start: int, end: int) -> list[FoundDrift]:
        """The same, the settled ones too."""
        return self._read(tenant, start, end, sa.true())

    def _read(self, tenant: str | None, start: int, end: int, which: sa.ColumnElement[bool]) -> list[FoundDrift]:
        wanted = sa.select(DRIFTS).where(which, DRIFTS.c.starts_at < end, DRIFTS.c.ends_at > start)
        if tenant is not None:
            wanted = wanted.where(DRIFTS.c.tenant.in_((tenant, EVERYBODY)))
        with self._reading() as connection:
            return [_found(row) for row in connection.execute(wanted.order_by(DRIFTS.c.number)).mappings()]

    def count_standing(self) -> int:
        """How many stand."""
        with self._reading() as connection:
            wanted = sa.select(sa.func.count()).select_from(DRIFTS).where(DRIFTS.c.settled_at.is_(None))
            return int(connection.execute(wanted).scalar_one())

    def settle(self, number: int, *, by: str, reason: str, at: str, now: float) -> bool:
        """Somebody looked into it and lets it pass; the audit log gets it too. False: none of this number stands."""
        table = DRIFTS
        with self._writing() as connection:
            done = connection.execute(
                table.update()
                .where(table.c.number == number, table.c.settled_at.is_(None))
                .values(settled_at=int(now), settled_by=by, reason=reason)
            )
            if not done.rowcount:
                return False
            append(connection, Entry(at, by, "drift.settle", str(number), None, {"reason": reason}))
            return True


def _found(row: Any) -> FoundDrift:
    whom = Whom(row["source"], row["tenant"], row["application"], row["stream"], row["transport"])
    drift = Drift(row["kind"], whom, row["starts_at"], row["ends_at"], row["metered"], row["least"], row["most"])
    return FoundDrift(row["number"], row["found_at"], drift, row["settled_at"], row["settled_by"], row["reason"])
