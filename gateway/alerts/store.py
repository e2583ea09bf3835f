"""Alerts in SQL: each made once by whichever node finds it, tried until it is taken, and kept as a log. Blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from gateway.alerts.alert import Alert, QuotaAlert, SpendAlert
from gateway.database.database import Database
from gateway.units import format_rfc3339

KEPT_SECONDS: Final = 400 * 86_400
METADATA = sa.MetaData()


def _log_of(name: str, *about: sa.Column[Any]) -> sa.Table:
    """A table of alerts: what they are about, and how far it has come with telling them."""
    return sa.Table(
        name,
        METADATA,
        *about,
        sa.Column("resets_at", sa.BigInteger, nullable=False),
        sa.Column("found_at", sa.BigInteger, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("next_at", sa.BigInteger),
        sa.Column("sent_at", sa.BigInteger),
        sa.Column("failure", sa.Text, nullable=False),
        sa.Index(f"{name}_by_time", "found_at"),
    )


QUOTA_ALERTS = _log_of(
    "quota_alerts",
    sa.Column("tenant", sa.String(63), primary_key=True),
    sa.Column("plan", sa.String(63), primary_key=True),
    sa.Column("quota", sa.String(32), primary_key=True),
    sa.Column("period", sa.String(10), primary_key=True),
    sa.Column("percent", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("limit", sa.BigInteger, nullable=False),
    sa.Column("used", sa.BigInteger, nullable=False),
)
SPEND_ALERTS = _log_of(
    "spend_alerts",
    sa.Column("tenant", sa.String(63), primary_key=True),
    sa.Column("period", sa.String(10), primary_key=True),
    sa.Column("percent", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("limit", sa.String(64), primary_key=True),
    sa.Column("spent", sa.String(64), nullable=False),
    sa.Column("currency", sa.String(3), nullable=False),
)
_TABLES: Final[tuple[tuple[sa.Table, type[QuotaAlert] | type[SpendAlert]], ...]] = (
    (QUOTA_ALERTS, QuotaAlert),
    (SPEND_ALERTS, SpendAlert),
)


class Due(NamedTuple):
    """An alert to send, and how often that was tried."""

    alert: Alert
    attempts: int


class AlertStore:
    """Raises DatabaseUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def note(self, alerts: Sequence[Alert]) -> None:
        """Keep those that nobody has kept, for sending at once."""
        for alert in alerts:
            values = alert._asdict() | {"resets_at": int(alert.resets_at), "found_at": int(alert.found_at)}
            values |= {"attempts": 0, "next_at": int(alert.found_at), "sent_at": None, "failure": ""}
            table, named = _place(alert)
            with self._database.writing() as connection:
                if connection.execute(sa.select(table.c.percent).where(named)).first() is None:
                    try:
                        with connection.begin_nested():
                            connection.execute(sa.insert(table).values(**values))
                    except IntegrityError:
                        # Another node found it at the same moment.
                        continue

    def claim(self, *, now: float, seconds: float, most: int = 20) -> list[Due]:
        """Those that are due, for this node alone until ``seconds`` from now: if it dies, others go on then."""
        found: list[Due] = []
        with self._database.writing() as connection:
            for table, kind in _TABLES:
                due = sa.select(table).where(table.c.next_at <= int(now)).order_by(table.c.next_at).limit(most)
                rows = connection.execute(due.with_for_update(skip_locked=True)).mappings().all()
                found += [Due(kind(*(row[name] for name in kind._fields)), row["attempts"]) for row in rows]
                connection.execute(sa.delete(table).where(table.c.found_at < int(now - KEPT_SECONDS)))
            for one in found:
                table, named = _place(one.alert)
                connection.execute(sa.update(table).where(named).values(next_at=int(now + seconds)))
        return found

    def tried(self, alert: Alert, *, attempts: int, now: float, next_at: float | None, failure: str) -> None:
        """It was sent (``failure`` empty), or will be tried again at ``next_at``, or never (None)."""
        values: dict[str, Any] = {"attempts": attempts, "failure": failure}
        values["next_at"] = None if next_at is None or not failure else int(next_at)
        if not failure:
            values["sent_at"] = int(now)
        table, named = _place(alert)
        with self._database.writing() as connection:
            connection.execute(sa.update(table).where(named).values(**values))

    def read(self, *, limit: int) -> list[dict[str, Any]]:
        """The newest first, as an operator reads them."""
        found: list[tuple[int, int, dict[str, Any]]] = []
        with self._database.reading() as connection:
            for table, kind in _TABLES:
                newest = sa.select(table).order_by(table.c.found_at.desc(), table.c.percent.desc()).limit(limit)
                for row in connection.execute(newest).mappings():
                    alert = kind(*(row[name] for name in kind._fields))
                    found.append((row["found_at"], row["percent"], _spelt(alert, dict(row))))
        return [told for *_, told in sorted(found, key=lambda one: one[:2], reverse=True)[:limit]]


def _place(alert: Alert) -> tuple[sa.Table, sa.ColumnElement[bool]]:
    """Where an alert is kept, and what finds it there."""
    table = QUOTA_ALERTS if isinstance(alert, QuotaAlert) else SPEND_ALERTS
    return table, sa.and_(*(column == getattr(alert, column.name) for column in table.primary_key.columns))


def _spelt(alert: Alert, row: dict[str, Any]) -> dict[str, Any]:
    told = {"type": alert.type, **{name: row[name] for name in (*alert._fields[:-2], "attempts")}}
    for name in ("found_at", "sent_at", "next_at", "resets_at"):
        told[name] = None if row[name] is None else format_rfc3339(row[name] * 1000)
    return told | {"failure": row["failure"]}
