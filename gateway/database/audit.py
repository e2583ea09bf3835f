"""The audit log: who changed what through the management port, when, from what to what. Appended to, never changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from gateway.catalog.tables import AUDIT
from gateway.database.database import Database


@dataclass(frozen=True, slots=True)
class Entry:
    """One change. ``at`` is RFC 3339; ``before`` and ``after`` are plain data, None where there is nothing to say."""

    at: str
    actor: str
    action: str
    target: str
    before: Any = None
    after: Any = None


def append(connection: sa.Connection, entry: Entry) -> None:
    """Write the entry in the transaction of the change itself: either both are there, or neither."""
    connection.execute(
        AUDIT.insert().values(
            at=entry.at,
            actor=entry.actor,
            action=entry.action,
            target=entry.target,
            before=entry.before,
            after=entry.after,
        )
    )


class AuditLog:
    """Changes that are none of the database's own, and reading them. Every method blocks."""

    def __init__(self, database: Database) -> None:
        self._reading = database.reading
        self._writing = database.writing

    def append(self, entry: Entry) -> None:
        """Write one entry."""
        with self._writing() as connection:
            append(connection, entry)

    def read(self, *, limit: int, before: int | None = None) -> list[dict[str, Any]]:
        """The newest entries first, ``limit`` of them, older than the one with the number ``before``."""
        wanted = sa.select(AUDIT).order_by(AUDIT.c.number.desc()).limit(limit)
        if before is not None:
            wanted = wanted.where(AUDIT.c.number < before)
        with self._reading() as connection:
            return [dict(row) for row in connection.execute(wanted).mappings()]
