"""0011: what the ledger held when a statement became final, for the operator's eyes alone."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
usable_by = "0003"


def upgrade() -> None:
    """Statements from before have none; whoever does not know it writes none."""
    op.add_column("statements", sa.Column("ledger_seals", sa.Text))
    # Drafts that were made again took a place each time; from now on the newest statement has the last that was given.
    op.execute("UPDATE billing_counters SET last = (SELECT COALESCE(MAX(made), 0) FROM statements) WHERE name = 'made'")


def downgrade() -> None:
    """Numbers that partners are not told are not watched any more."""
    op.drop_column("statements", "ledger_seals")
