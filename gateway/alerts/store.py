"""Alerts in SQL: each made once by whichever node finds it, tried until it is taken, and kept as a log. Blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from gateway.alerts.alert import Alert
from gateway.database.database import Database
from gateway.units import format_rfc3339

KEPT_SECONDS: Final = 400 * 86_400
METADATA = sa.MetaData()
ALERTS = sa.Table(
    "quota_alerts",
    METADATA,
    sa.Column("tenant", sa.String(63), primary_key=True),
    sa.Column("plan", sa.String(63), primary_key=True),
    sa.Column("quota", sa.String(32), primary_key=True),
    sa.Column("period", sa.String(10), primary_key=True),
    sa.Column("percent", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("limit", sa.BigInteger, nullable=False),
    sa.Column("used", sa.BigInteger, nullable=False),
    sa.Column("resets_at", sa.BigInteger, nullable=False),
    sa.Column("found_at", sa.BigInteger, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("next_at", sa.BigInteger),
    sa.Column("sent_at", sa.BigInteger),
    sa.Column("failure", sa.Text, nullable=False),
    sa.Index("quota_alerts_by_time", "found_at"),
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
            with self._database.writing() as connection:
                if connection.execute(sa.select(ALERTS.c.percent).where(_of(alert))).first() is None:
                    try:
                        with connection.begin_nested():
                            connection.execute(sa.insert(ALERTS).values(**values))
                    except IntegrityError:
                        # Another node found it at the same moment.
                        continue

    def claim(self, *, now: float, seconds: float, most: int = 20) -> list[Due]:
        """Those that are due, for this node alone until ``seconds`` from now: if it dies, others go on then."""
        with self._database.writing() as connection:
            due = sa.select(ALERTS).where(ALERTS.c.next_at <= int(now)).order_by(ALERTS.c.next_at).limit(most)
            rows = connection.execute(due.with_for_update(skip_locked=True)).mappings().all()
            found = [Due(Alert(*(row[name] for name in Alert._fields)), row["attempts"]) for row in rows]
            for one in found:
                connection.execute(sa.update(ALERTS).where(_of(one.alert)).values(next_at=int(now + seconds)))
            connection.execute(sa.delete(ALERTS).where(ALERTS.c.found_at < int(now - KEPT_SECONDS)))
        return found

    def tried(self, alert: Alert, *, attempts: int, now: float, next_at: float | None, failure: str) -> None:
        """It was sent (``failure`` empty), or will be tried again at ``next_at``, or never (None)."""
        values: dict[str, Any] = {"attempts": attempts, "failure": failure}
        values["next_at"] = None if next_at is None or not failure else int(next_at)
        if not failure:
            values["sent_at"] = int(now)
        with self._database.writing() as connection:
            connection.execute(sa.update(ALERTS).where(_of(alert)).values(**values))

    def read(self, *, limit: int) -> list[dict[str, Any]]:
        """The newest first, as an operator reads them."""
        with self._database.reading() as connection:
            newest = sa.select(ALERTS).order_by(ALERTS.c.found_at.desc(), ALERTS.c.percent.desc()).limit(limit)
            return [_spelt(dict(row)) for row in connection.execute(newest).mappings()]


def _of(alert: Alert) -> sa.ColumnElement[bool]:
    named = ("tenant", "plan", "quota", "period", "percent")
    return sa.and_(*(ALERTS.c[name] == getattr(alert, name) for name in named))


def _spelt(row: dict[str, Any]) -> dict[str, Any]:
    told = {name: row[name] for name in ("tenant", "plan", "quota", "period", "percent", "limit", "used", "attempts")}
    for name in ("found_at", "sent_at", "next_at", "resets_at"):
        told[name] = None if row[name] is None else format_rfc3339(row[name] * 1000)
    return told | {"failure": row["failure"]}
