"""0006: what each node was given and has used of tenants' quotas, and the alerts that were made of it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
usable_by = "0003"


def upgrade() -> None:
    """Two tables more; whoever does not know them is not disturbed."""
    op.create_table(
        "quota_use",
        sa.Column("tenant", sa.String(63), primary_key=True),
        sa.Column("plan", sa.String(63), primary_key=True),
        sa.Column("name", sa.String(32), primary_key=True),
        sa.Column("period", sa.String(10), primary_key=True),
        sa.Column("node", sa.String(32), primary_key=True),
        sa.Column("given", sa.BigInteger, nullable=False),
        sa.Column("used", sa.BigInteger, nullable=False),
        sa.Column("told_ms", sa.BigInteger, nullable=False),
        sa.Column("ends_at", sa.BigInteger, nullable=False),
    )
    op.create_index("quota_use_by_end", "quota_use", ["ends_at"])
    op.create_table(
        "quota_alerts",
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
    )
    op.create_index("quota_alerts_by_time", "quota_alerts", ["found_at"])


def downgrade() -> None:
    """What was used of running quotas is known to Redis alone, and which alerts were sent to nobody."""
    op.drop_index("quota_alerts_by_time", "quota_alerts")
    op.drop_table("quota_alerts")
    op.drop_index("quota_use_by_end", "quota_use")
    op.drop_table("quota_use")
