"""0007: what changed the catalog, when, by whom."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
usable_by = "0003"


def upgrade() -> None:
    """One table more. A gateway that does not know it changes the catalog without a line in it."""
    op.create_table(
        "catalog_history",
        sa.Column("revision", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("at", sa.String(32), nullable=False),
        sa.Column("owner", sa.String(16), nullable=False),
        sa.Column("actor", sa.String(128), nullable=False),
        sa.Column("action", sa.String(64), nullable=False),
        sa.Column("changes", sa.Text, nullable=False),
    )


def downgrade() -> None:
    """The history is lost; the catalog itself stays as it is."""
    op.drop_table("catalog_history")
