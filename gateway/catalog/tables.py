"""The tables of the database: the catalog's objects with their owner and their history, secrets made once, the lives of
topics, what was revoked, and what operators did."""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa

from gateway.catalog.diff import stable_json


class _Json(sa.types.TypeDecorator[Any]):
    """Plain data as text with stable bytes, the same on every database."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> str:
        return stable_json(value)

    def process_result_value(self, value: str | None, dialect: sa.Dialect) -> Any:
        return None if value is None else json.loads(value)


METADATA = sa.MetaData()


def _table(name: str, *columns: sa.schema.SchemaItem) -> sa.Table:
    return sa.Table(name, METADATA, *columns, sa.Column("owner", sa.String(16), nullable=False))


OBJECTS: dict[str, sa.Table] = {
    "product": _table(
        "products",
        sa.Column("name", sa.String(63), primary_key=True),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("streams", _Json, nullable=False),
        sa.Column("masks", _Json, nullable=False, server_default="{}"),
    ),
    "plan": _table(
        "plans",
        sa.Column("name", sa.String(63), primary_key=True),
        sa.Column("revision", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("currency", sa.String(3), nullable=False),
        sa.Column("limits", _Json, nullable=False),
        sa.Column("pricing", _Json, nullable=False),
    ),
    "tenant": _table(
        "tenants",
        sa.Column("name", sa.String(63), primary_key=True),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("time_zone", sa.String(64), nullable=False),
        sa.Column("attributes", _Json, nullable=False),
        sa.Column("account", _Json, nullable=False),
        sa.Column("suspended_by_admin", sa.Boolean, nullable=False, server_default=sa.false()),
    ),
    "application": _table(
        "applications",
        sa.Column("issuer", sa.Text, primary_key=True),
        sa.Column("client_id", sa.String(255), primary_key=True),
        sa.Column("tenant", sa.ForeignKey("tenants.name"), nullable=False),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("origins", _Json, nullable=False),
        sa.Column("billable", sa.Boolean, nullable=False),
    ),
    "entitlement": _table(
        "entitlements",
        sa.Column("tenant", sa.ForeignKey("tenants.name"), primary_key=True),
        sa.Column("product", sa.ForeignKey("products.name"), primary_key=True),
        sa.Column("starts_on", sa.String(10), primary_key=True),
        sa.Column("plan", sa.String(63), nullable=False),
        # Of the plan; null follows the newest one.
        sa.Column("revision", sa.Integer),
        sa.Column("ends_on", sa.String(10), key="to"),
    ),
}
SETTINGS = sa.Table(
    "settings",
    METADATA,
    sa.Column("name", sa.String(128), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)
TOPICS = sa.Table(
    "topics",
    METADATA,
    sa.Column("cluster", sa.Text, primary_key=True),
    sa.Column("topic", sa.String(249), primary_key=True),
    sa.Column("incarnation", sa.Integer, nullable=False),
)
LIVES = sa.Table(
    "topic_lives",
    METADATA,
    sa.Column("cluster", sa.Text, primary_key=True),
    sa.Column("topic", sa.String(249), primary_key=True),
    sa.Column("topic_id", sa.String(64), primary_key=True),
    sa.Column("incarnation", sa.Integer, nullable=False),
)
STATE = sa.Table(
    "catalog_state",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("revision", sa.BigInteger, nullable=False),
)
HISTORY = sa.Table(
    "catalog_history",
    METADATA,
    # The revision of the catalog that the change led to.
    sa.Column("revision", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("at", sa.String(32), nullable=False),
    sa.Column("owner", sa.String(16), nullable=False),
    sa.Column("actor", sa.String(128), nullable=False),
    sa.Column("action", sa.String(64), nullable=False),
    sa.Column("changes", _Json, nullable=False),
)
REVOCATIONS = sa.Table(
    "revocations",
    METADATA,
    sa.Column("kind", sa.String(16), primary_key=True),
    sa.Column("value", sa.String(512), primary_key=True),
    # Empty where it is no matter who issued the token: no part of a key may be null.
    sa.Column("issuer", sa.String(255), primary_key=True),
    sa.Column("until", sa.BigInteger, nullable=False),
)
AUDIT = sa.Table(
    "audit_log",
    METADATA,
    sa.Column("number", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("at", sa.String(32), nullable=False),
    sa.Column("actor", sa.String(128), nullable=False),
    sa.Column("action", sa.String(64), nullable=False),
    sa.Column("target", sa.Text, nullable=False),
    sa.Column("before", _Json, nullable=False),
    sa.Column("after", _Json, nullable=False),
)
SIGNING_KEYS = sa.Table(
    "signing_keys",
    METADATA,
    sa.Column("kid", sa.String(64), primary_key=True),
    sa.Column("signs_from", sa.BigInteger, nullable=False),
    sa.Column("sealed", sa.Text, nullable=False),
)
CLIENT_SECRETS = sa.Table(
    "client_secrets",
    METADATA,
    sa.Column("id", sa.String(16), primary_key=True),
    sa.Column("client_id", sa.String(255), nullable=False),
    sa.Column("made_at", sa.BigInteger, nullable=False),
    sa.Column("hash", sa.String(255), nullable=False),
)
