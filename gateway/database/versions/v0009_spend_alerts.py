"""0009: the alerts that were made of tenants' spend limits."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
usable_by = "0003"


def upgrade() -> None:
    """One table more; whoever does not know it tells of quotas alone."""
    op.create_table(
        "spend_alerts",
        sa.Column("tenant", sa.String(63), primary_key=True),
        sa.Column("period", sa.String(10), primary_key=True),
        sa.Column("percent", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("limit", sa.String(64), primary_key=True),
        sa.Column("spent", sa.String(64), nullable=False),
        sa.Column("currency", sa.String(3), nullable=False),
        sa.Column("resets_at", sa.BigInteger, nullable=False),
        sa.Column("found_at", sa.BigInteger, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("next_at", sa.BigInteger),
        sa.Column("sent_at", sa.BigInteger),
        sa.Column("failure", sa.Text, nullable=False),
    )
    op.create_index("spend_alerts_by_time", "spend_alerts", ["found_at"])


def downgrade() -> None:
    """Which alerts were sent is known to nobody: after another upgrade they are sent again."""
    op.drop_index("spend_alerts_by_time", "spend_alerts")
    op.drop_table("spend_alerts")
