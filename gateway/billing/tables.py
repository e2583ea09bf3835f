"""The tables of billing: statements, their numbers, adjustments that wait for one, who leads."""

from __future__ import annotations

import sqlalchemy as sa

# The history's tables belong to every statement; importing them here makes METADATA whole.
from gateway.catalog.chronicle import ENTITLEMENTS, REVISIONS
from gateway.catalog.tables import METADATA

__all__ = ["ADJUSTMENTS", "COUNTERS", "ENTITLEMENTS", "LEADER", "METADATA", "REVISIONS", "STATEMENTS"]

_NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")

STATEMENTS = sa.Table(
    "statements",
    METADATA,
    # The same for the same period of a tenant, however often and by whom it is closed.
    sa.Column("id", sa.String(40), primary_key=True),
    # The order in which they were made, over all tenants: for pages.
    sa.Column("made", _NUMBER, nullable=False, unique=True),
    sa.Column("tenant", sa.String(63), nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("is_preview", sa.Boolean, nullable=False),
    sa.Column("starts_at", sa.BigInteger, nullable=False),
    sa.Column("ends_at", sa.BigInteger, nullable=False),
    # Null until it is final; without gaps over all tenants.
    sa.Column("serial", sa.BigInteger, unique=True),
    sa.Column("number", sa.String(64), unique=True),
    # Canonical JSON: what the hash is of.
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("hash", sa.String(64), nullable=False),
    sa.Column("previous_hash", sa.String(64)),
    # By statement, the digest of all that the ledger held of its period when this one was made, what partners are not
    # told included; JSON.
    sa.Column("ledger_seals", sa.Text),
    sa.Column("approved_by", sa.String(128)),
    sa.Column("approved_at", sa.BigInteger),
    # What was looked at: with another content the approval is none.
    sa.Column("approved_content", sa.String(64)),
    sa.Column("credited_by", sa.String(128)),
    sa.Index("statements_of_tenant", "tenant", "starts_at"),
)
ADJUSTMENTS = sa.Table(
    "statement_adjustments",
    METADATA,
    sa.Column("number", _NUMBER, primary_key=True, autoincrement=True),
    sa.Column("tenant", sa.String(63), nullable=False, index=True),
    sa.Column("made_at", sa.BigInteger, nullable=False),
    sa.Column("made_by", sa.String(128), nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    # Exact decimal text, below 0 for a credit.
    sa.Column("amount", sa.String(48), nullable=False),
    # The number of the statement that it credits whole.
    sa.Column("credits", sa.String(64)),
    # The final statement that holds it.
    sa.Column("statement", sa.String(40)),
)
COUNTERS = sa.Table(
    "billing_counters",
    METADATA,
    sa.Column("name", sa.String(32), primary_key=True),
    sa.Column("last", sa.BigInteger, nullable=False),
)
LEADER = sa.Table(
    "billing_leader",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("holder", sa.String(64), nullable=False),
    sa.Column("until", sa.BigInteger, nullable=False),
)
