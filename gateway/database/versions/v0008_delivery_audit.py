"""0008: evidence of deliveries, differences found by reconciliation, and who looks after both."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
usable_by = "0003"

_NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Four tables more. A gateway that does not know them leaves no evidence of what it delivers."""
    op.create_table(
        "delivery_audit",
        sa.Column("number", _NUMBER, primary_key=True, autoincrement=True),
        sa.Column("source", sa.String(64), nullable=False),
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("application", sa.String(255), nullable=False),
        sa.Column("stream", sa.String(255), nullable=False),
        sa.Column("transport", sa.String(16), nullable=False),
        sa.Column("session", sa.String(128), nullable=False),
        sa.Column("began", sa.BigInteger, nullable=False),
        sa.Column("ended", sa.BigInteger, nullable=False),
        sa.Column("records", sa.BigInteger, nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("filtered", sa.BigInteger, nullable=False),
        sa.Column("hidden", sa.BigInteger, nullable=False),
        sa.Column("taken_back", sa.BigInteger, nullable=False),
        sa.Column("span", sa.BigInteger, nullable=False),
        sa.Column("moved", sa.Text, nullable=False),
    )
    op.create_index("delivery_audit_of_stream", "delivery_audit", ["tenant", "stream", "began"])
    op.create_index("delivery_audit_by_age", "delivery_audit", ["began"])
    op.create_table(
        "delivery_sources",
        sa.Column("source", sa.String(64), primary_key=True),
        sa.Column("noted_until", sa.BigInteger, nullable=False),
        sa.Column("is_whole", sa.Boolean, nullable=False),
    )
    op.create_table(
        "usage_drifts",
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
        sa.UniqueConstraint(
            "kind", "source", "tenant", "application", "stream", "transport", "starts_at", "ends_at", name="one_drift"
        ),
    )
    op.create_table(
        "usage_upkeep",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("holder", sa.String(64), nullable=False),
        sa.Column("until", sa.BigInteger, nullable=False),
        sa.Column("reconciled_until", sa.BigInteger, nullable=False),
        sa.Column("hours_until", sa.BigInteger, nullable=False),
        sa.Column("days_until", sa.BigInteger, nullable=False),
    )
    op.execute(
        "INSERT INTO usage_upkeep (id, holder, until, reconciled_until, hours_until, days_until)"
        " VALUES (1, '', 0, 0, 0, 0)"
    )


def downgrade() -> None:
    """The evidence is lost, and with it what differences were found."""
    for name in ("usage_upkeep", "usage_drifts", "delivery_sources"):
        op.drop_table(name)
    for name in ("delivery_audit_by_age", "delivery_audit_of_stream"):
        op.drop_index(name, "delivery_audit")
    op.drop_table("delivery_audit")
