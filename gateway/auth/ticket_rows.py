"""Tickets in SQL, for as long as Redis is away: each claimed by one statement, whichever node comes first. Blocks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from gateway.auth.tickets import HOLD_SECONDS, RETURN_SECONDS
from gateway.database.database import Database

METADATA = sa.MetaData()
TICKETS = sa.Table(
    "tickets",
    METADATA,
    sa.Column("key", sa.String(80), primary_key=True),
    sa.Column("data", sa.Text, nullable=False),
    sa.Column("claimable_ms", sa.BigInteger, nullable=False),
    sa.Column("until_ms", sa.BigInteger, nullable=False),
    sa.Column("hold", sa.String(32)),
    sa.Column("held_until_ms", sa.BigInteger, nullable=False),
    sa.Column("node", sa.String(32), nullable=False),
    sa.Index("tickets_by_end", "until_ms"),
    sa.Index("tickets_by_node", "node"),
)
_KEYS_AT_ONCE: Final = 500
_HOLD_MS: Final = HOLD_SECONDS * 1000
_RETURN_MS: Final = RETURN_SECONDS * 1000


class Row(NamedTuple):
    """A ticket as it is put here. ``claimable_ms`` and ``until_ms`` are times in epoch milliseconds; ``hold`` names the
    connection that is open by it."""

    key: str
    data: str
    until_ms: int
    claimable_ms: int = 0
    hold: str | None = None


class Claim(NamedTuple):
    """Whether a connection was opened; None: there is no such ticket. ``wait_ms``: ask again after that time."""

    taken: bool | None
    wait_ms: int = 0


class TicketRows:
    """All times are the caller's, in epoch milliseconds. Raises DatabaseUnavailable."""

    def __init__(self, database: Database, *, node: str) -> None:
        """``node``: whose connections are those that are opened through this."""
        self._database = database
        self._node = node

    def add(self, rows: Sequence[Row], *, now_ms: int) -> None:
        """Put them, where they are not there yet; a hold of theirs holds unless another one does."""
        if not rows:
            return
        told = [
            one._asdict() | {"held_until_ms": 0 if one.hold is None else now_ms + _HOLD_MS, "node": self._node}
            for one in rows
        ]
        # In one order, so that two nodes never wait for each other.
        told.sort(key=lambda one: str(one["key"]))
        dialect = postgresql if self._database.dialect == "postgresql" else sqlite
        with self._database.writing() as connection:
            connection.execute(dialect.insert(TICKETS).on_conflict_do_nothing(), told)
            self._stamp(connection, [(one.key, one.hold) for one in rows if one.hold is not None], now_ms)

    def _stamp(self, connection: sa.Connection, holds: Sequence[tuple[str, str]], now_ms: int) -> None:
        if not holds:
            return
        table = TICKETS
        found = table.c.key == sa.bindparam("of")
        nobodys = sa.or_(table.c.hold.is_(None), table.c.hold == sa.bindparam("as"), table.c.held_until_ms <= now_ms)
        connection.execute(
            sa.update(table).where(found, nobodys).values(hold=sa.bindparam("as"), **self._renewed(now_ms)),
            [{"of": key, "as": hold} for key, hold in sorted(holds)],
        )

    def _renewed(self, now_ms: int) -> dict[str, Any]:
        held_until = now_ms + _HOLD_MS
        return {"node": self._node, "held_until_ms": held_until, "until_ms": held_until + _RETURN_MS}

    def look(self, key: str, *, now_ms: int) -> str | None:
        """What was put."""
        with self._database.reading() as connection:
            found = sa.select(TICKETS.c.data).where(TICKETS.c.key == key, TICKETS.c.until_ms > now_ms)
            return connection.execute(found).scalar()

    def look_all(self, keys: Sequence[str], *, now_ms: int) -> dict[str, str]:
        """What was put, by key."""
        found: dict[str, str] = {}
        table = TICKETS
        with self._database.reading() as connection:
            for first in range(0, len(keys), _KEYS_AT_ONCE):
                some = table.c.key.in_(keys[first : first + _KEYS_AT_ONCE])
                asked = sa.select(table.c.key, table.c.data).where(some, table.c.until_ms > now_ms)
                found.update((row.key, row.data) for row in connection.execute(asked))
        return found

    def take(self, key: str, hold: str, *, now_ms: int) -> Claim:
        """Open a connection by it, where none is open: of any number that try, one does."""
        table = TICKETS
        live = sa.and_(table.c.key == key, table.c.until_ms > now_ms)
        free = sa.or_(table.c.hold.is_(None), table.c.held_until_ms <= now_ms)
        claimed = sa.update(table).where(live, free, table.c.claimable_ms <= now_ms)
        with self._database.writing() as connection:
            if connection.execute(claimed.values(hold=hold, **self._renewed(now_ms))).rowcount:
                return Claim(taken=True)
            asked = sa.select(table.c.claimable_ms, free.label("is_free")).where(live)
            row = connection.execute(asked).first()
        if row is None:
            return Claim(taken=None)
        return Claim(taken=False, wait_ms=max(0, row.claimable_ms - now_ms) if row.is_free else 0)

    def keep(self, holds: Sequence[tuple[str, str]], *, now_ms: int) -> list[tuple[str, str]]:
        """All connections that this node has opened, and not released, are still open; so are ``holds``, (key, hold),
        whose tickets somebody else has put here. What is over goes. Returns all connections of this node."""
        mine = sa.and_(TICKETS.c.node == self._node, TICKETS.c.hold.is_not(None))
        with self._database.writing() as connection:
            self._stamp(connection, holds, now_ms)
            connection.execute(sa.update(TICKETS).where(mine).values(**self._renewed(now_ms)))
            connection.execute(sa.delete(TICKETS).where(TICKETS.c.until_ms <= now_ms))
            return [(row.key, row.hold) for row in connection.execute(sa.select(TICKETS).where(mine))]

    def drop(self, holds: Iterable[tuple[str, str]]) -> None:
        """Tickets whose connections, (key, hold), are known elsewhere now."""
        with self._database.writing() as connection:
            for key, hold in sorted(holds):
                connection.execute(sa.delete(TICKETS).where(TICKETS.c.key == key, TICKETS.c.hold == hold))

    def release(self, holds: Iterable[tuple[str, str]], *, now_ms: int) -> None:
        """These connections, (key, hold), are over."""
        with self._database.writing() as connection:
            for key, hold in sorted(holds):
                mine = sa.and_(TICKETS.c.key == key, TICKETS.c.hold == hold)
                connection.execute(sa.update(TICKETS).where(mine).values(hold=None, until_ms=now_ms + _RETURN_MS))

    def keys(self, *, now_ms: int) -> frozenset[str]:
        """All that are here and not over."""
        with self._database.reading() as connection:
            return frozenset(connection.execute(sa.select(TICKETS.c.key).where(TICKETS.c.until_ms > now_ms)).scalars())
