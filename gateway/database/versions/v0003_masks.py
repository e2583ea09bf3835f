"""0003: what products hide of their streams' payloads."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
# A gateway that does not know masks would go on, and deliver what they hide.
usable_by = "0003"


def upgrade() -> None:
    """A product hides nothing until a catalog that says so is applied."""
    op.add_column("products", sa.Column("masks", sa.Text, nullable=False, server_default="{}"))


def downgrade() -> None:
    """The masks are lost, and what they hid is delivered by the version before."""
    op.drop_column("products", "masks")
