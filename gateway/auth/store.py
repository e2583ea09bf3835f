"""Revocations in SQL. Every method blocks; callers use threads."""

from __future__ import annotations

import math

import sqlalchemy as sa

from gateway.auth.revocation import Revocation, Revocations
from gateway.catalog.store import bump_revision, lock_revision
from gateway.catalog.tables import REVOCATIONS
from gateway.database.audit import Entry, append
from gateway.database.database import Database


class RevocationStore:
    """What was revoked, by all nodes. A change counts as one of the catalog, so that every node takes it over."""

    def __init__(self, database: Database) -> None:
        self._reading = database.reading
        self._writing = database.writing

    def add(self, revocation: Revocation, *, now: float, audit: Entry) -> None:
        """Hold it, or lengthen the one that there is; what is over by ``now`` is forgotten."""
        table = REVOCATIONS
        key = {"kind": revocation.kind, "value": revocation.value, "issuer": revocation.issuer or ""}
        same = sa.and_(*(table.c[name] == value for name, value in key.items()))
        until = math.ceil(revocation.until)
        with self._writing() as connection:
            lock_revision(connection)
            connection.execute(table.delete().where(table.c.until <= int(now)))
            before = connection.execute(sa.select(table.c.until).where(same)).scalar()
            if before is None:
                connection.execute(table.insert().values(**key, until=until))
            elif before < until:
                connection.execute(table.update().where(same).values(until=until))
            append(connection, audit)
            bump_revision(connection)

    def load(self, *, now: float) -> Revocations:
        """All that still count."""
        with self._reading() as connection:
            rows = connection.execute(sa.select(REVOCATIONS).where(REVOCATIONS.c.until > int(now))).mappings()
            return Revocations(
                Revocation(row["kind"], row["value"], float(row["until"]), row["issuer"] or None) for row in rows
            )
