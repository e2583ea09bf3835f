"""0006: what each node was given and has used of tenants' quotas, for when Redis has lost it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
usable_by = "0003"


def upgrade() -> None:
    """One table more; whoever does not know it is not disturbed."""
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


def downgrade() -> None:
    """What was used of running quotas is known to Redis alone."""
    op.drop_index("quota_use_by_end", "quota_use")
    op.drop_table("quota_use")
