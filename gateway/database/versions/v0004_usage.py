"""0004: usage."""

from __future__ import annotations

revision = "0004"
down_revision = "0003"
usable_by = "0003"


def upgrade() -> None:
    """The ledger's tables."""


def downgrade() -> None:
    """The ledger is lost."""
