"""Quotas in SQL: what every node was given and has used, for when Redis has lost it or is away. Every method blocks."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any, Final

import sqlalchemy as sa

from gateway.database.database import Database
from gateway.limits.quota import Ask, Held, QuotaKey, Told, share_out
from gateway.limits.quota_redis import LOOSE_SECONDS

KEPT_SECONDS: Final = 40 * 86_400
"""For so long a period's use is kept after its end."""

METADATA = sa.MetaData()
USE = sa.Table(
    "quota_use",
    METADATA,
    sa.Column("tenant", sa.String(63), primary_key=True),
    sa.Column("plan", sa.String(63), primary_key=True),
    sa.Column("name", sa.String(32), primary_key=True),
    sa.Column("period", sa.String(10), primary_key=True),
    sa.Column("node", sa.String(32), primary_key=True),
    sa.Column("given", sa.BigInteger, nullable=False),
    sa.Column("used", sa.BigInteger, nullable=False),
    sa.Column("told_ms", sa.BigInteger, nullable=False),
    sa.Column("ends_at", sa.BigInteger, nullable=False),
    sa.Index("quota_use_by_end", "ends_at"),
)


class QuotaStore:
    """A row for each node and quota, which that node alone writes. Raises DatabaseUnavailable."""

    def __init__(self, database: Database, *, node: str) -> None:
        self._database = database
        self._node = node

    def tell(self, asks: Sequence[Ask], *, now: float) -> list[Told]:
        """The same rule as in Redis, for as long as that is away: one node at a time, so that none is given twice."""
        answers: list[Told] = []
        with self._database.writing() as connection:
            # In one order, so that two nodes never wait for each other. SQLite has one writer anyway.
            for ask in sorted(asks):
                self._lock(connection, ask.key)
                others = loose = 0
                rows = connection.execute(sa.select(USE).where(_of(ask.key), USE.c.node != self._node)).mappings()
                for row in rows:
                    others += row["given"]
                    if row["told_ms"] > (now - LOOSE_SECONDS) * 1000:
                        loose += max(0, row["given"] - row["used"])
                told = share_out(ask, others=others, loose=loose)
                answers.append(told)
                self._write(connection, ask.key, ask.ends_at, told.given, ask.used, now)
        found = dict(zip([ask.key for ask in sorted(asks)], answers, strict=True))
        return [found[ask.key] for ask in asks]

    def _lock(self, connection: sa.Connection, key: QuotaKey) -> None:
        if self._database.dialect == "postgresql":
            number = zlib.crc32("\0".join(key).encode())
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK_CLASS, number - 2**31)))

    def keep(self, held: Sequence[Held], *, now: float) -> None:
        """This node's own, as they are now; what is long over is forgotten."""
        with self._database.writing() as connection:
            for one in sorted(held):
                self._write(connection, one.key, one.ends_at, one.given, one.used, now)
            connection.execute(sa.delete(USE).where(USE.c.ends_at < int(now - KEPT_SECONDS)))

    def _write(
        self, connection: sa.Connection, key: QuotaKey, ends_at: float, given: int, used: int, now: float
    ) -> None:
        mine = sa.and_(_of(key), USE.c.node == self._node)
        values: dict[str, Any] = {"given": given, "used": used, "told_ms": round(now * 1000), "ends_at": int(ends_at)}
        if not connection.execute(sa.update(USE).where(mine).values(**values)).rowcount:
            connection.execute(sa.insert(USE).values(**key._asdict(), node=self._node, **values))

    def load(self, keys: Sequence[QuotaKey]) -> list[Held]:
        """What all nodes had of these quotas, when they last wrote it down."""
        found: list[Held] = []
        with self._database.reading() as connection:
            for key in keys:
                rows = connection.execute(sa.select(USE).where(_of(key))).mappings()
                found += [Held(key, row["ends_at"], row["node"], row["given"], row["used"]) for row in rows]
        return found


_LOCK_CLASS: Final = int.from_bytes(b"quo", "big")


def _of(key: QuotaKey) -> sa.ColumnElement[bool]:
    return sa.and_(*(USE.c[name] == value for name, value in key._asdict().items()))
