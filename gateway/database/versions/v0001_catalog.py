"""0001: the catalog's objects, secrets, lives of topics, revocations, the audit log, the list of versions itself."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
usable_by = "0001"

TABLES = sa.MetaData()
sa.Table(
    "products",
    TABLES,
    sa.Column("name", sa.String(63), primary_key=True),
    sa.Column("title", sa.Text, nullable=False),
    sa.Column("streams", sa.Text, nullable=False),
    sa.Column("owner", sa.String(16), nullable=False),
)
sa.Table(
    "plans",
    TABLES,
    sa.Column("name", sa.String(63), primary_key=True),
    sa.Column("revision", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("title", sa.Text, nullable=False),
    sa.Column("currency", sa.String(3), nullable=False),
    sa.Column("limits", sa.Text, nullable=False),
    sa.Column("pricing", sa.Text, nullable=False),
    sa.Column("owner", sa.String(16), nullable=False),
)
sa.Table(
    "tenants",
    TABLES,
    sa.Column("name", sa.String(63), primary_key=True),
    sa.Column("title", sa.Text, nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("time_zone", sa.String(64), nullable=False),
    sa.Column("attributes", sa.Text, nullable=False),
    sa.Column("account", sa.Text, nullable=False),
    sa.Column("suspended_by_admin", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("owner", sa.String(16), nullable=False),
)
sa.Table(
    "applications",
    TABLES,
    sa.Column("issuer", sa.Text, primary_key=True),
    sa.Column("client_id", sa.String(255), primary_key=True),
    sa.Column("tenant", sa.ForeignKey("tenants.name"), nullable=False),
    sa.Column("title", sa.Text, nullable=False),
    sa.Column("origins", sa.Text, nullable=False),
    sa.Column("billable", sa.Boolean, nullable=False),
    sa.Column("owner", sa.String(16), nullable=False),
)
sa.Table(
    "entitlements",
    TABLES,
    sa.Column("tenant", sa.ForeignKey("tenants.name"), primary_key=True),
    sa.Column("product", sa.ForeignKey("products.name"), primary_key=True),
    sa.Column("starts_on", sa.String(10), primary_key=True),
    sa.Column("plan", sa.String(63), nullable=False),
    sa.Column("ends_on", sa.String(10)),
    sa.Column("owner", sa.String(16), nullable=False),
)
sa.Table(
    "settings",
    TABLES,
    sa.Column("name", sa.String(128), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)
sa.Table(
    "topics",
    TABLES,
    sa.Column("cluster", sa.Text, primary_key=True),
    sa.Column("topic", sa.String(249), primary_key=True),
    sa.Column("incarnation", sa.Integer, nullable=False),
)
sa.Table(
    "topic_lives",
    TABLES,
    sa.Column("cluster", sa.Text, primary_key=True),
    sa.Column("topic", sa.String(249), primary_key=True),
    sa.Column("topic_id", sa.String(64), primary_key=True),
    sa.Column("incarnation", sa.Integer, nullable=False),
)
STATE = sa.Table(
    "catalog_state",
    TABLES,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("revision", sa.BigInteger, nullable=False),
)
sa.Table(
    "revocations",
    TABLES,
    sa.Column("kind", sa.String(16), primary_key=True),
    sa.Column("value", sa.String(512), primary_key=True),
    sa.Column("issuer", sa.String(255), primary_key=True),
    sa.Column("until", sa.BigInteger, nullable=False),
)
sa.Table(
    "audit_log",
    TABLES,
    sa.Column("number", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("at", sa.String(32), nullable=False),
    sa.Column("actor", sa.String(128), nullable=False),
    sa.Column("action", sa.String(64), nullable=False),
    sa.Column("target", sa.Text, nullable=False),
    sa.Column("before", sa.Text, nullable=False),
    sa.Column("after", sa.Text, nullable=False),
)
sa.Table(
    "schema_versions",
    TABLES,
    sa.Column("revision", sa.String(32), primary_key=True),
    sa.Column("usable_by", sa.String(32), nullable=False),
    sa.Column("made_by", sa.String(64), nullable=False),
    sa.Column("made_at", sa.String(32), nullable=False),
)


def upgrade() -> None:
    """Make what is missing: a database from before versions were kept has these tables, and keeps what is in them."""
    connection = op.get_bind()
    TABLES.create_all(connection)
    if connection.execute(sa.select(STATE.c.id)).first() is None:
        connection.execute(STATE.insert().values(id=1, revision=0))


def downgrade() -> None:
    """Nothing stays."""
    TABLES.drop_all(op.get_bind())
