"""0002: the built-in issuer's signing keys and the secrets of its clients."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
usable_by = "0001"


def upgrade() -> None:
    """Two tables more; whoever does not know them is not disturbed."""
    op.create_table(
        "signing_keys",
        sa.Column("kid", sa.String(64), primary_key=True),
        sa.Column("signs_from", sa.BigInteger, nullable=False),
        sa.Column("sealed", sa.Text, nullable=False),
    )
    op.create_table(
        "client_secrets",
        sa.Column("id", sa.String(16), primary_key=True),
        sa.Column("client_id", sa.String(255), nullable=False),
        sa.Column("made_at", sa.BigInteger, nullable=False),
        sa.Column("hash", sa.String(255), nullable=False),
    )


def downgrade() -> None:
    """Secrets and keys are lost: applications need new ones afterwards."""
    op.drop_table("client_secrets")
    op.drop_table("signing_keys")
