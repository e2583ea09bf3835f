"""The ledger's tables: totals by source and cell, who counts, how far the usage topic was read."""

from __future__ import annotations

import sqlalchemy as sa

from gateway.usage import MEASURES

METADATA = sa.MetaData()


def _text(length: int) -> sa.types.TypeEngine[str]:
    # Sorted by bytes, as everywhere else, whatever the database's locale.
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


SOURCES = sa.Table(
    "usage_sources",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("source", sa.String(36), nullable=False, unique=True),
    # live, ended, lost
    sa.Column("state", sa.String(8), nullable=False),
    sa.Column("node", sa.String(255), nullable=False),
    sa.Column("started_at", sa.BigInteger, nullable=False),
    sa.Column("complete_through", sa.BigInteger, nullable=False),
    sa.Column("sequence", sa.BigInteger, nullable=False),
)
LINES = sa.Table(
    "usage_lines",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("tenant", _text(63), nullable=False),
    sa.Column("application", _text(255), nullable=False),
    sa.Column("stream", _text(255), nullable=False),
    sa.Column("plan", _text(63), nullable=False),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("transport", _text(16), nullable=False),
    sa.Column("is_billable", sa.Boolean, nullable=False),
    sa.UniqueConstraint(
        "tenant", "application", "stream", "plan", "revision", "transport", "is_billable", name="one_usage_line"
    ),
)
CELLS = sa.Table(
    "usage_cells",
    METADATA,
    sa.Column("line", sa.ForeignKey("usage_lines.id"), primary_key=True, autoincrement=False),
    sa.Column("bucket", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("source", sa.ForeignKey("usage_sources.id"), primary_key=True, autoincrement=False),
    # How long the stretch is: older usage is rolled up into longer ones.
    sa.Column("seconds", sa.Integer, nullable=False),
    *(sa.Column(name, sa.BigInteger, nullable=False) for name in MEASURES),
    sqlite_with_rowid=False,
)
OFFSETS = sa.Table(
    "usage_offsets",
    METADATA,
    sa.Column("topic", sa.String(249), primary_key=True),
    sa.Column("partition", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("topic_id", sa.String(64), nullable=False),
    # The next offset to read, and the one that a ledger begun anew has to reach before it is whole.
    sa.Column("next", sa.BigInteger, nullable=False),
    sa.Column("target", sa.BigInteger, nullable=False),
)
STATE = sa.Table(
    "usage_ledger",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    # Who reads the topic into the ledger, and until when nobody else may.
    sa.Column("holder", sa.String(64), nullable=False),
    sa.Column("until", sa.Float(53), nullable=False),
    # Cells that begin before it are rolled up: what the topic says of them again is passed over.
    sa.Column("rolled_until", sa.BigInteger, nullable=False),
)
