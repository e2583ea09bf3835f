"""Statements as the database keeps them, read: by number, by page, by tenant, with what waits for the next one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from gateway.billing.errors import StatementNotFound
from gateway.billing.inforce import Plans, Revisions
from gateway.billing.statement import Status, shown
from gateway.billing.tables import ADJUSTMENTS, COUNTERS, ENTITLEMENTS, STATEMENTS
from gateway.catalog.chronicle import Held, read_entitlements, read_revisions
from gateway.database.database import Database
from gateway.units import parse_rfc3339

CLOSED: Final = ("FINAL", "CREDITED")
"""States of a statement that has its number."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A statement as the database has it. ``text`` is the body's canonical JSON, as it was written."""

    id: str
    made: int
    tenant: str
    status: Status
    is_preview: bool
    starts_at: int
    ends_at: int
    serial: int | None
    number: str | None
    text: str
    hash: str
    previous_hash: str | None
    approved_by: str | None
    approved_at: int | None
    approved_content: str | None
    credited_by: str | None
    ledger_seals: str | None

    @property
    def body(self) -> dict[str, Any]:
        """Raises ValueError where the text is no JSON any more."""
        found: dict[str, Any] = msgspec.json.decode(self.text)
        return found

    @property
    def made_at(self) -> float:
        """When the body was made, epoch seconds."""
        return parse_rfc3339(self.body["made_at"]) / 1000

    @property
    def is_closed(self) -> bool:
        """Whether it has its number."""
        return self.status in CLOSED

    def shown(self) -> dict[str, Any]:
        """As everybody sees it."""
        return shown(self.body, status=self.status, fingerprint_hex=self.hash, approved_by=self.approved_by)


@dataclass(frozen=True, slots=True)
class Adjustment:
    """A credit (below 0) or debit on the next statement, before tax; ``credited``: one that it takes back whole."""

    number: int
    tenant: str
    name: str
    reason: str
    made_by: str
    amount: Decimal
    credited: str | None = None


@dataclass(frozen=True, slots=True)
class Settled:
    """An adjustment as its row tells it, unread: it may be another than it was. ``statement`` is the id of the one that
    holds it."""

    number: int
    tenant: str
    name: str
    reason: str
    made_by: str
    amount: str
    credited: str | None
    statement: str | None


@dataclass(frozen=True, slots=True)
class Counted:
    """What the counters say was given last, and what is there: how many numbers, and the newest place in the order in
    which statements were made."""

    last_number: int
    numbers: int
    last_made: int
    newest_made: int


class KeptStatements:
    """One database's statements, to look at. Every method blocks."""

    def __init__(self, database: Database) -> None:
        self._reading = database.reading

    # ---- what the catalog said ---------------------------------------------------------------------------------------

    def history(self, *, tenants: Iterable[str] | None = None) -> tuple[Revisions, dict[str, list[Held]]]:
        """Every published revision, and what was told of these tenants' entitlements (None: of all)."""
        with self._reading() as connection:
            revisions = Revisions(read_revisions(connection))
            held: dict[str, list[Held]] = {}
            for one in read_entitlements(connection, tenants=tenants):
                held.setdefault(one.tenant, []).append(one)
            return revisions, held

    def readable_revisions(self) -> tuple[Plans, list[tuple[str, int]]]:
        """Every published revision that can be read, and those that cannot."""
        broken: list[tuple[str, int]] = []
        with self._reading() as connection:
            found = read_revisions(connection, unreadable=lambda name, revision: broken.append((name, revision)))
        return Revisions(found).plans, broken

    def has_heard_of(self, tenant: str) -> bool:
        """Whether the catalog ever told of the tenant's entitlements."""
        with self._reading() as connection:
            query = sa.select(ENTITLEMENTS.c.number).where(ENTITLEMENTS.c.tenant == tenant).limit(1)
            return connection.execute(query).first() is not None

    # ---- reading -----------------------------------------------------------------------------------------------------

    def find(self, reference: str, *, tenant: str | None = None) -> Kept:
        """By number or id, of this tenant (None: of any). Raises StatementNotFound."""
        table = STATEMENTS
        named = sa.or_(table.c.number == reference, table.c.id == reference)
        query = sa.select(table).where(named)
        if tenant is not None:
            query = query.where(table.c.tenant == tenant)
        with self._reading() as connection:
            row = connection.execute(query).mappings().first()
        if row is None:
            raise StatementNotFound("There is no statement of this number or id that you may know of.")
        return kept_of(row)

    def peek(self, statement: str) -> Kept | None:
        """By id; None where there is none."""
        with self._reading() as connection:
            row = connection.execute(sa.select(STATEMENTS).where(STATEMENTS.c.id == statement)).mappings().first()
        return None if row is None else kept_of(row)

    def page(self, *, tenant: str | None, limit: int, before: int | None = None) -> list[Kept]:
        """The newest first; those made before the one with ``made`` == ``before``."""
        table = STATEMENTS
        query = sa.select(table).order_by(table.c.made.desc()).limit(limit)
        if tenant is not None:
            query = query.where(table.c.tenant == tenant)
        if before is not None:
            query = query.where(table.c.made < before)
        with self._reading() as connection:
            return [kept_of(row) for row in connection.execute(query).mappings()]

    def closed(self, *, tenant: str, newest: int | None = None) -> list[Kept]:
        """A tenant's final statements in the order of their numbers; only the newest so many."""
        table = STATEMENTS
        query = sa.select(table).where(table.c.tenant == tenant, table.c.status.in_(CLOSED))
        query = query.order_by(table.c.serial.desc())
        if newest is not None:
            query = query.limit(newest)
        with self._reading() as connection:
            return [kept_of(row) for row in connection.execute(query).mappings()][::-1]

    def serials(self) -> list[tuple[int, str, str]]:
        """Serial, number and tenant of every final statement, in order."""
        table = STATEMENTS
        query = sa.select(table.c.serial, table.c.number, table.c.tenant).where(table.c.status.in_(CLOSED))
        with self._reading() as connection:
            return [(row[0], row[1], row[2]) for row in connection.execute(query.order_by(table.c.serial))]

    def counted(self) -> Counted:
        """The counters beside what they count, as of one moment whatever is written meanwhile."""
        table = STATEMENTS
        final = sa.select(sa.func.count()).select_from(table).where(table.c.status.in_(CLOSED))
        # One query: between two there may be a preview, or a number that is given.
        query = sa.select(
            _counter("number"),
            final.scalar_subquery(),
            _counter("made"),
            sa.select(sa.func.max(table.c.made)).scalar_subquery(),
        )
        with self._reading() as connection:
            return Counted(*(int(one or 0) for one in connection.execute(query).one()))

    def settled(self) -> list[Settled]:
        """Every adjustment as its row tells it, of whoever and wherever it is."""
        table = ADJUSTMENTS.c
        names = (table.number, table.tenant, table.name, table.reason, table.made_by, table.amount, table.credits)
        with self._reading() as connection:
            return [Settled(*row) for row in connection.execute(sa.select(*names, table.statement))]

    def first_told(self, tenant: str) -> int | None:
        """When the catalog first told of the tenant's entitlements, epoch seconds."""
        query = sa.select(sa.func.min(ENTITLEMENTS.c.known_from)).where(ENTITLEMENTS.c.tenant == tenant)
        with self._reading() as connection:
            found = connection.execute(query).scalar()
            return None if found is None else int(found)

    def last_ends(self) -> dict[str, int]:
        """By tenant, up to when it has final statements."""
        table = STATEMENTS
        query = sa.select(table.c.tenant, sa.func.max(table.c.ends_at)).where(table.c.status.in_(CLOSED))
        with self._reading() as connection:
            return {row[0]: int(row[1]) for row in connection.execute(query.group_by(table.c.tenant))}

    def approved_drafts(self, *, tenant: str | None = None) -> dict[str, list[tuple[int, int]]]:
        """By tenant, beginning and end of the drafts that an operator has approved and that are not final yet."""
        table = STATEMENTS
        query = sa.select(table.c.tenant, table.c.starts_at, table.c.ends_at).order_by(table.c.starts_at)
        query = query.where(
            table.c.status == "DRAFT", table.c.is_preview.is_(sa.false()), table.c.approved_by.is_not(None)
        )
        if tenant is not None:
            query = query.where(table.c.tenant == tenant)
        found: dict[str, list[tuple[int, int]]] = {}
        with self._reading() as connection:
            for name, start, end in connection.execute(query):
                found.setdefault(name, []).append((int(start), int(end)))
        return found

    def waiting(self, *, tenant: str) -> list[Adjustment]:
        """Adjustments that no final statement holds, oldest first."""
        table = ADJUSTMENTS
        query = sa.select(table).where(table.c.tenant == tenant, table.c.statement.is_(None))
        with self._reading() as connection:
            rows = connection.execute(query.order_by(table.c.number)).mappings()
            return [
                Adjustment(
                    row["number"],
                    row["tenant"],
                    row["name"],
                    row["reason"],
                    row["made_by"],
                    Decimal(row["amount"]),
                    row["credits"],
                )
                for row in rows
            ]

    def tenants_with_adjustments(self) -> set[str]:
        """Whose next statement is to hold some."""
        query = sa.select(ADJUSTMENTS.c.tenant).where(ADJUSTMENTS.c.statement.is_(None)).distinct()
        with self._reading() as connection:
            return {row[0] for row in connection.execute(query)}


def _counter(name: str) -> sa.ScalarSelect[Any]:
    return sa.select(COUNTERS.c.last).where(COUNTERS.c.name == name).scalar_subquery()


def kept_of(row: Mapping[str, Any] | sa.RowMapping) -> Kept:
    """A row of the statements' table."""
    return Kept(
        id=row["id"],
        made=row["made"],
        tenant=row["tenant"],
        status=row["status"],
        is_preview=bool(row["is_preview"]),
        starts_at=row["starts_at"],
        ends_at=row["ends_at"],
        serial=row["serial"],
        number=row["number"],
        text=row["body"],
        hash=row["hash"],
        previous_hash=row["previous_hash"],
        approved_by=row["approved_by"],
        approved_at=row["approved_at"],
        approved_content=row["approved_content"],
        credited_by=row["credited_by"],
        ledger_seals=row["ledger_seals"],
    )
