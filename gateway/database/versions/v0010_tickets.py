"""0010: tickets, for as long as Redis is away."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
usable_by = "0003"


def upgrade() -> None:
    """One table more; whoever does not know it issues no tickets while Redis is away."""
    op.create_table(
        "tickets",
        sa.Column("key", sa.String(80), primary_key=True),
        sa.Column("data", sa.Text, nullable=False),
        sa.Column("claimable_ms", sa.BigInteger, nullable=False),
        sa.Column("until_ms", sa.BigInteger, nullable=False),
        sa.Column("hold", sa.String(32)),
        sa.Column("held_until_ms", sa.BigInteger, nullable=False),
        sa.Column("node", sa.String(32), nullable=False),
    )
    op.create_index("tickets_by_end", "tickets", ["until_ms"])
    op.create_index("tickets_by_node", "tickets", ["node"])


def downgrade() -> None:
    """Tickets live for minutes: pages fetch new ones."""
    op.drop_index("tickets_by_node", "tickets")
    op.drop_index("tickets_by_end", "tickets")
    op.drop_table("tickets")
