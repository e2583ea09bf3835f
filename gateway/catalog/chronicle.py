"""What the catalog said when: each plan's revisions as published, each entitlement from the moment it was known.

Written in the transaction that changes the catalog, never changed afterwards but to say until when it held; bills of
months gone by are made from it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date

import sqlalchemy as sa

from gateway.catalog.catalog import Key
from gateway.catalog.diff import stable_json
from gateway.catalog.objects import Stored
from gateway.catalog.tables import METADATA
from gateway.model import Plan

REVISIONS = sa.Table(
    "plan_history",
    METADATA,
    sa.Column("name", sa.String(63), primary_key=True),
    sa.Column("revision", sa.Integer, primary_key=True, autoincrement=False),
    # Epoch milliseconds: two changes within a second are two.
    sa.Column("published_at", sa.BigInteger, nullable=False),
    sa.Column("title", sa.Text, nullable=False),
    sa.Column("currency", sa.String(3), nullable=False),
    sa.Column("pricing", sa.Text, nullable=False),
)
ENTITLEMENTS = sa.Table(
    "entitlement_history",
    METADATA,
    sa.Column("number", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("tenant", sa.String(63), nullable=False, index=True),
    sa.Column("product", sa.String(63), nullable=False),
    sa.Column("plan", sa.String(63), nullable=False),
    sa.Column("revision", sa.Integer),
    sa.Column("starts_on", sa.String(10), nullable=False),
    sa.Column("ends_on", sa.String(10)),
    # Epoch seconds. The first that is heard of a tenant's product holds for the time before, too: the file says since
    # when, and what it said then nobody knows.
    sa.Column("known_from", sa.BigInteger, nullable=False),
    sa.Column("known_until", sa.BigInteger),
    sa.Column("is_first", sa.Boolean, nullable=False),
)


@dataclass(frozen=True, slots=True)
class Published:
    """A plan's revision and since when it is there, epoch milliseconds. The plan has no limits: bills need none."""

    plan: Plan
    published_ms: int


@dataclass(frozen=True, slots=True)
class Held:
    """An entitlement as the catalog told it for a while. ``revision`` None follows the plan's newest.

    It was told from ``known_from`` to before ``known_until`` (epoch seconds; None: still). ``is_first``: nothing was
    told of this product for the tenant before, so its dates count for the time before ``known_from``, too.
    """

    tenant: str
    product: str
    plan: str
    revision: int | None
    starts_on: date
    ends_on: date | None
    known_from: int
    known_until: int | None
    is_first: bool


def write_down(connection: sa.Connection, after: Mapping[Key, Stored], *, now: float) -> None:
    """Bring the chronicle up to what the catalog says ``now``; nothing happens where it says that already."""
    _write_revisions(connection, after, now_ms=int(now * 1000))
    _write_entitlements(connection, after, now=int(now))


def _write_revisions(connection: sa.Connection, after: Mapping[Key, Stored], *, now_ms: int) -> None:
    query = sa.select(REVISIONS.c.name, REVISIONS.c.revision)
    there = {(row[0], row[1]) for row in connection.execute(query)}
    rows = [
        {
            "name": key[1],
            "revision": int(key[2]),
            "published_at": now_ms,
            "title": one.fields["title"],
            "currency": one.fields["currency"],
            "pricing": stable_json(one.fields["pricing"]),
        }
        for key, one in after.items()
        if key[0] == "plan" and (key[1], int(key[2])) not in there
    ]
    if rows:
        connection.execute(REVISIONS.insert(), rows)


_TOLD = ("tenant", "product", "plan", "revision", "starts_on", "ends_on")


def _write_entitlements(connection: sa.Connection, after: Mapping[Key, Stored], *, now: int) -> None:
    told = {
        (key[1], key[2], one.fields["plan"], one.fields["revision"], key[3], one.fields["to"])
        for key, one in after.items()
        if key[0] == "entitlement"
    }
    table = ENTITLEMENTS
    open_rows = connection.execute(sa.select(table).where(table.c.known_until.is_(None))).mappings().all()
    open_now = {tuple(row[name] for name in _TOLD): row["number"] for row in open_rows}
    for words, number in open_now.items():
        if words not in told:
            connection.execute(table.update().where(table.c.number == number).values(known_until=now))
    news = sorted(told - open_now.keys(), key=repr)
    if not news:
        return
    heard = {(row[0], row[1]) for row in connection.execute(sa.select(table.c.tenant, table.c.product).distinct())}
    rows = [
        dict(zip(_TOLD, words, strict=True))
        | {"known_from": now, "known_until": None, "is_first": (words[0], words[1]) not in heard}
        for words in news
    ]
    connection.execute(table.insert(), rows)


def read_revisions(
    connection: sa.Connection, *, unreadable: Callable[[str, int], None] | None = None
) -> list[Published]:
    """Every revision that was ever published, by name and number.

    One whose prices are no JSON any more is left out and named to ``unreadable``; without it ValueError is raised.
    """
    table = REVISIONS
    found: list[Published] = []
    for row in connection.execute(sa.select(table).order_by(table.c.name, table.c.revision)).mappings():
        try:
            pricing = json.loads(row["pricing"])
        except ValueError:
            if unreadable is None:
                raise
            unreadable(row["name"], row["revision"])
            continue
        plan = Plan(row["name"], row["revision"], row["title"], row["currency"], {}, pricing)
        found.append(Published(plan, row["published_at"]))
    return found


def read_entitlements(connection: sa.Connection, *, tenants: Iterable[str] | None = None) -> list[Held]:
    """What was told of these tenants (None: of all), oldest first."""
    table = ENTITLEMENTS
    query = sa.select(table).order_by(table.c.tenant, table.c.number)
    if tenants is not None:
        query = query.where(table.c.tenant.in_(sorted(set(tenants))))
    return [
        Held(
            tenant=row["tenant"],
            product=row["product"],
            plan=row["plan"],
            revision=row["revision"],
            starts_on=date.fromisoformat(row["starts_on"]),
            ends_on=None if row["ends_on"] is None else date.fromisoformat(row["ends_on"]),
            known_from=row["known_from"],
            known_until=row["known_until"],
            is_first=bool(row["is_first"]),
        )
        for row in connection.execute(query).mappings()
    ]
