"""0005: statements with their numbers and adjustments, and what the catalog said when; entitlements may pin a plan."""

from __future__ import annotations

import time

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
# A gateway that does not know pins would give a tenant that has one the newest revision; none has one yet.
usable_by = "0003"

_NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """What the catalog says now is where its history begins."""
    op.add_column("entitlements", sa.Column("revision", sa.Integer))
    op.create_table(
        "plan_history",
        sa.Column("name", sa.String(63), primary_key=True),
        sa.Column("revision", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("published_at", sa.BigInteger, nullable=False),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("currency", sa.String(3), nullable=False),
        sa.Column("pricing", sa.Text, nullable=False),
    )
    op.create_table(
        "entitlement_history",
        sa.Column("number", _NUMBER, primary_key=True, autoincrement=True),
        sa.Column("tenant", sa.String(63), nullable=False, index=True),
        sa.Column("product", sa.String(63), nullable=False),
        sa.Column("plan", sa.String(63), nullable=False),
        sa.Column("revision", sa.Integer),
        sa.Column("starts_on", sa.String(10), nullable=False),
        sa.Column("ends_on", sa.String(10)),
        sa.Column("known_from", sa.BigInteger, nullable=False),
        sa.Column("known_until", sa.BigInteger),
        sa.Column("is_first", sa.Boolean, nullable=False),
    )
    now = int(time.time())
    connection = op.get_bind()
    connection.execute(
        sa.text(
            "INSERT INTO plan_history (name, revision, published_at, title, currency, pricing)"
            " SELECT name, revision, :now_ms, title, currency, pricing FROM plans"
        ),
        {"now_ms": now * 1000},
    )
    connection.execute(
        sa.text(
            "INSERT INTO entitlement_history"
            " (tenant, product, plan, revision, starts_on, ends_on, known_from, known_until, is_first)"
            " SELECT tenant, product, plan, NULL, starts_on, ends_on, :now, NULL, TRUE FROM entitlements"
        ),
        {"now": now},
    )
    _create_statements()


def _create_statements() -> None:
    op.create_table(
        "statements",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("made", _NUMBER, nullable=False, unique=True),
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("is_preview", sa.Boolean, nullable=False),
        sa.Column("starts_at", sa.BigInteger, nullable=False),
        sa.Column("ends_at", sa.BigInteger, nullable=False),
        sa.Column("serial", sa.BigInteger, unique=True),
        sa.Column("number", sa.String(64), unique=True),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.Column("previous_hash", sa.String(64)),
        sa.Column("approved_by", sa.String(128)),
        sa.Column("approved_at", sa.BigInteger),
        sa.Column("approved_content", sa.String(64)),
        sa.Column("credited_by", sa.String(128)),
    )
    op.create_index("statements_of_tenant", "statements", ["tenant", "starts_at"])
    op.create_table(
        "statement_adjustments",
        sa.Column("number", _NUMBER, primary_key=True, autoincrement=True),
        sa.Column("tenant", sa.String(63), nullable=False, index=True),
        sa.Column("made_at", sa.BigInteger, nullable=False),
        sa.Column("made_by", sa.String(128), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("amount", sa.String(48), nullable=False),
        sa.Column("credits", sa.String(64)),
        sa.Column("statement", sa.String(40)),
    )
    op.create_table(
        "billing_counters",
        sa.Column("name", sa.String(32), primary_key=True),
        sa.Column("last", sa.BigInteger, nullable=False),
    )
    op.execute("INSERT INTO billing_counters (name, last) VALUES ('number', 0), ('made', 0)")
    op.create_table(
        "billing_leader",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("holder", sa.String(64), nullable=False),
        sa.Column("until", sa.BigInteger, nullable=False),
    )


def downgrade() -> None:
    """Statements, their numbers and the history are lost: keep the statements elsewhere before."""
    for name in ("billing_leader", "billing_counters", "statement_adjustments"):
        op.drop_table(name)
    op.drop_index("statements_of_tenant", "statements")
    for name in ("statements", "entitlement_history", "plan_history"):
        op.drop_table(name)
    op.drop_column("entitlements", "revision")
