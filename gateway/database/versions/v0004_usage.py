"""0004: the usage ledger."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
usable_by = "0003"

_MEASURES = (
    "records",
    "bytes",
    "units",
    "connection_seconds",
    "requests",
    "replayed_records",
    "replayed_bytes",
    "filtered_records",
    "hidden_records",
)


def _text(length: int) -> sa.types.TypeEngine[str]:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade() -> None:
    """Five tables more. They are filled from the usage topic, so that nothing is lost with them."""
    op.create_table(
        "usage_sources",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("source", sa.String(36), nullable=False, unique=True),
        sa.Column("state", sa.String(8), nullable=False),
        sa.Column("node", sa.String(255), nullable=False),
        sa.Column("started_at", sa.BigInteger, nullable=False),
        sa.Column("complete_through", sa.BigInteger, nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "usage_lines",
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
    op.create_table(
        "usage_cells",
        sa.Column("line", sa.Integer, sa.ForeignKey("usage_lines.id"), primary_key=True, autoincrement=False),
        sa.Column("bucket", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("source", sa.Integer, sa.ForeignKey("usage_sources.id"), primary_key=True, autoincrement=False),
        sa.Column("seconds", sa.Integer, nullable=False),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in _MEASURES),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "usage_offsets",
        sa.Column("topic", sa.String(249), primary_key=True),
        sa.Column("partition", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("topic_id", sa.String(64), nullable=False),
        sa.Column("next", sa.BigInteger, nullable=False),
        sa.Column("target", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "usage_ledger",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("holder", sa.String(64), nullable=False),
        sa.Column("until", sa.Float(53), nullable=False),
        sa.Column("rolled_until", sa.BigInteger, nullable=False),
    )
    op.execute("INSERT INTO usage_ledger (id, holder, until, rolled_until) VALUES (1, '', 0, 0)")


def downgrade() -> None:
    """The ledger is lost; it can be made again from the usage topic, as long as that is there."""
    for name in ("usage_ledger", "usage_offsets", "usage_cells", "usage_lines", "usage_sources"):
        op.drop_table(name)
