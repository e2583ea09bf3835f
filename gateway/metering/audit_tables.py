"""The tables of evidence and of what reconciliation found."""

from __future__ import annotations

import sqlalchemy as sa

METADATA = sa.MetaData()
_NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")

DELIVERIES = sa.Table(
    "delivery_audit",
    METADATA,
    sa.Column("number", _NUMBER, primary_key=True, autoincrement=True),
    sa.Column("source", sa.String(64), nullable=False),
    sa.Column("tenant", sa.String(63), nullable=False),
    sa.Column("application", sa.String(255), nullable=False),
    sa.Column("stream", sa.String(255), nullable=False),
    sa.Column("transport", sa.String(16), nullable=False),
    sa.Column("session", sa.String(128), nullable=False),
    # Epoch milliseconds, both of them.
    sa.Column("began", sa.BigInteger, nullable=False),
    sa.Column("ended", sa.BigInteger, nullable=False),
    sa.Column("records", sa.BigInteger, nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("filtered", sa.BigInteger, nullable=False),
    sa.Column("hidden", sa.BigInteger, nullable=False),
    sa.Column("taken_back", sa.BigInteger, nullable=False),
    sa.Column("span", sa.BigInteger, nullable=False),
    sa.Column("moved", sa.Text, nullable=False),
    sa.Index("delivery_audit_of_stream", "tenant", "stream", "began"),
    sa.Index("delivery_audit_by_age", "began"),
)
NOTED = sa.Table(
    "delivery_sources",
    METADATA,
    sa.Column("source", sa.String(64), primary_key=True),
    # Up to when all that it began to deliver is written down, epoch seconds.
    sa.Column("noted_until", sa.BigInteger, nullable=False),
    # It ended, and all its notes are there. A process that was killed stays without.
    sa.Column("is_whole", sa.Boolean, nullable=False),
)
DRIFTS = sa.Table(
    "usage_drifts",
    METADATA,
    sa.Column("number", _NUMBER, primary_key=True, autoincrement=True),
    sa.Column("found_at", sa.BigInteger, nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("source", sa.String(64), nullable=False),
    sa.Column("tenant", sa.String(63), nullable=False),
    sa.Column("application", sa.String(255), nullable=False),
    sa.Column("stream", sa.String(255), nullable=False),
    sa.Column("transport", sa.String(16), nullable=False),
    sa.Column("starts_at", sa.BigInteger, nullable=False),
    sa.Column("ends_at", sa.BigInteger, nullable=False),
    sa.Column("metered", sa.BigInteger, nullable=False),
    sa.Column("least", sa.BigInteger, nullable=False),
    sa.Column("most", sa.BigInteger, nullable=False),
    sa.Column("settled_at", sa.BigInteger),
    sa.Column("settled_by", sa.String(128)),
    sa.Column("reason", sa.Text),
    # Found again it is the same one.
    sa.UniqueConstraint(
        "kind", "source", "tenant", "application", "stream", "transport", "starts_at", "ends_at", name="one_drift"
    ),
)
UPKEEP = sa.Table(
    "usage_upkeep",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("holder", sa.String(64), nullable=False),
    sa.Column("until", sa.BigInteger, nullable=False),
    # Up to when days were looked at, and cells put together into hours and days.
    sa.Column("reconciled_until", sa.BigInteger, nullable=False),
    sa.Column("hours_until", sa.BigInteger, nullable=False),
    sa.Column("days_until", sa.BigInteger, nullable=False),
)
