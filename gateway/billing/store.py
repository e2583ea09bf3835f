"""Statements in SQL: drafts that may be made again, final ones that never change, numbers without gaps, adjustments.

Every method blocks. A statement becomes final in one transaction: its number is taken, its body sealed and its
adjustments marked there, or nothing of it happened.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

import sqlalchemy as sa

from gateway.billing.errors import StatementConflict
from gateway.billing.kept import CLOSED, Adjustment, Kept, KeptStatements, kept_of
from gateway.billing.statement import approval_of, content_digest, encode, finalized
from gateway.billing.tables import ADJUSTMENTS, COUNTERS, LEADER, STATEMENTS
from gateway.database.audit import Entry, append
from gateway.database.database import Database
from gateway.units import format_rfc3339

__all__ = ["KEPT_PREVIEWS", "Adjustment", "Kept", "StatementStore", "too_late"]

KEPT_PREVIEWS: Final = 50
"""Of a tenant; the oldest go."""

_DIGITS: Final = 6


class StatementStore(KeptStatements):
    """One database's statements; safe to use from several threads, and processes, at once."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._writing = database.writing

    # ---- drafts ------------------------------------------------------------------------------------------------------

    def keep(
        self, body: Mapping[str, Any], *, starts_at: int, ends_at: int, seals: Mapping[str, str] | None = None
    ) -> Kept:
        """Write a draft, in the place of the one with its id. Where that is final already, it stays and is returned.

        ``seals``: by id of statements, the digests of what the ledger holds now of their periods.
        """
        table = STATEMENTS
        text = encode(body).decode()
        values = {"body": text, "hash": _hash(text), "ledger_seals": encode(seals or {}).decode()}
        with self._writing() as connection:
            made = _lock(connection, "made") + 1
            row = connection.execute(sa.select(table).where(table.c.id == body["id"])).mappings().first()
            if row is not None and row["status"] != "DRAFT":
                return kept_of(row)
            if row is not None:
                # Somebody may have made it final since it was looked at: then nothing is written.
                draft = sa.and_(table.c.id == body["id"], table.c.status == "DRAFT")
                connection.execute(table.update().where(draft).values(values))
            else:
                fixed = {
                    "id": body["id"],
                    "made": made,
                    "tenant": body["tenant"],
                    "status": "DRAFT",
                    "is_preview": body["is_preview"],
                    "starts_at": starts_at,
                    "ends_at": ends_at,
                }
                connection.execute(table.insert().values(fixed | values))
                connection.execute(COUNTERS.update().where(COUNTERS.c.name == "made").values(last=made))
                if body["is_preview"]:
                    _forget_previews(connection, body["tenant"])
            return _row(connection, body["id"])

    def approve(self, reference: str, *, by: str, now: int) -> Kept:
        """Approve a draft of a closed period as it stands. Raises StatementNotFound, StatementConflict."""
        table = STATEMENTS
        kept = self.find(reference)
        with self._writing() as connection:
            _lock(connection, "number")
            kept = _row(connection, kept.id)
            before = _newest_closed(connection, kept.tenant)
            is_late = kept.status == "DRAFT" and before is not None and kept.starts_at < before.ends_at
            if kept.is_preview:
                more = f" {too_late(before)}" if is_late and before is not None else ""
                raise StatementConflict(
                    f"{reference} is a preview: only the draft of a closed period is approved.{more}"
                )
            if kept.status != "DRAFT":
                raise StatementConflict(f"{reference} is {kept.status} already.")
            if is_late and before is not None:
                raise StatementConflict(too_late(before))
            content = content_digest(kept.body)
            values = {"approved_by": by, "approved_at": now, "approved_content": content}
            connection.execute(table.update().where(table.c.id == kept.id).values(values))
            after = {"tenant": kept.tenant, "content": content}
            append(connection, Entry(_at(now), by, "statement.approve", kept.id, after=after))
            return _row(connection, kept.id)

    def finalize(self, kept: Kept, *, now: int, prefix: str, needs_approval: bool) -> Kept:
        """Give a draft its number and seal it. One that is final already is returned as it is.

        Raises StatementConflict where something it was made from has changed: it has to be made again first. A crash
        before the commit leaves the draft, and the number free.
        """
        table = STATEMENTS
        with self._writing() as connection:
            last = _lock(connection, "number")
            present = _row(connection, kept.id)
            if present.is_closed:
                return present
            if present.hash != kept.hash:
                raise StatementConflict(f"{kept.id} has been made again meanwhile.")
            body = present.body
            if needs_approval and present.approved_content != content_digest(body):
                raise StatementConflict(f"{kept.id} is not approved as it stands.")
            before = _newest_closed(connection, present.tenant)
            if before is not None and before.ends_at > present.starts_at:
                raise StatementConflict(too_late(before))
            serial = last + 1
            previous = None if before is None else {"number": str(before.number), "hash": before.hash}
            number = f"{prefix}{serial:0{_DIGITS}d}"
            approval = approval_of(present.approved_by, present.approved_at, present.approved_content)
            body = finalized(body, number=number, issued_at=now, previous=previous, approval=approval)
            text = encode(body).decode()
            values = {
                "status": "FINAL",
                "serial": serial,
                "number": number,
                "body": text,
                "hash": _hash(text),
                "previous_hash": None if before is None else before.hash,
            }
            connection.execute(table.update().where(table.c.id == kept.id).values(values))
            connection.execute(COUNTERS.update().where(COUNTERS.c.name == "number").values(last=serial))
            _settle(connection, body)
            return _row(connection, kept.id)

    # ---- adjustments -------------------------------------------------------------------------------------------------

    def adjust(self, *, tenant: str, name: str, reason: str, amount: Decimal, by: str, now: int) -> Adjustment:
        """Put a line on the tenant's next statement."""
        with self._writing() as connection:
            return _adjust(connection, tenant=tenant, name=name, reason=reason, amount=amount, by=by, now=now)

    def credit(self, reference: str, *, reason: str, by: str, now: int) -> Adjustment:
        """Take a final statement back whole: the next one credits it. Raises StatementNotFound, StatementConflict."""
        table = STATEMENTS
        found = self.find(reference)
        with self._writing() as connection:
            _lock(connection, "number")
            kept = _row(connection, found.id)
            if kept.status != "FINAL":
                raise StatementConflict(f"{reference} is {kept.status}: only a FINAL statement can be credited.")
            connection.execute(table.update().where(table.c.id == kept.id).values(status="CREDITED", credited_by=by))
            return _adjust(
                connection,
                tenant=kept.tenant,
                name=f"Credit of statement {kept.number}",
                reason=reason,
                amount=Decimal(0),
                by=by,
                now=now,
                credited=kept.number,
            )

    # ---- who leads ---------------------------------------------------------------------------------------------------

    def lead(self, holder: str, *, now: int, seconds: int) -> bool:
        """Whether ``holder`` is who closes periods for the next ``seconds``. Asked again in time, it stays so."""
        table = LEADER
        with self._writing() as connection:
            # The row may not be there yet: what is locked is one that is.
            _lock(connection, "made")
            row = connection.execute(sa.select(table)).mappings().first()
            if row is None:
                connection.execute(table.insert().values(id=1, holder=holder, until=now + seconds))
                return True
            if row["holder"] != holder and row["until"] > now:
                return False
            connection.execute(table.update().values(holder=holder, until=now + seconds))
            return True

    def resign(self, holder: str) -> None:
        """Let the next one lead at once."""
        with self._writing() as connection:
            connection.execute(LEADER.delete().where(LEADER.c.holder == holder))


def too_late(later: Kept) -> str:
    """Why a month before a final statement's has none of its own any more."""
    label = later.body["period"]["label"]
    return f"{later.number} of {label} is final, and months become final in order: none up to its end can any more."


def _lock(connection: sa.Connection, name: str) -> int:
    """The counter, held until the transaction ends: those who need it come one after the other."""
    query = sa.select(COUNTERS.c.last).where(COUNTERS.c.name == name).with_for_update()
    return int(connection.execute(query).scalar_one())


def _row(connection: sa.Connection, statement: str) -> Kept:
    return kept_of(connection.execute(sa.select(STATEMENTS).where(STATEMENTS.c.id == statement)).mappings().one())


def _newest_closed(connection: sa.Connection, tenant: str) -> Kept | None:
    table = STATEMENTS
    query = sa.select(table).where(table.c.tenant == tenant, table.c.status.in_(CLOSED))
    row = connection.execute(query.order_by(table.c.serial.desc()).limit(1)).mappings().first()
    return None if row is None else kept_of(row)


def _settle(connection: sa.Connection, body: Mapping[str, Any]) -> None:
    """Mark the body's adjustments as billed. Raises StatementConflict where another statement has one already."""
    table = ADJUSTMENTS
    numbers = [int(number) for number in body["adjustments"]]
    if not numbers:
        return
    free = sa.and_(table.c.number.in_(numbers), table.c.statement.is_(None))
    if connection.execute(table.update().where(free).values(statement=body["id"])).rowcount != len(numbers):
        raise StatementConflict(f"an adjustment of {body['id']} is on another statement already.")


def _adjust(
    connection: sa.Connection,
    *,
    tenant: str,
    name: str,
    reason: str,
    amount: Decimal,
    by: str,
    now: int,
    credited: str | None = None,
) -> Adjustment:
    values = {
        "tenant": tenant,
        "made_at": now,
        "made_by": by,
        "name": name,
        "reason": reason,
        "amount": format(amount, "f"),
        "credits": credited,
    }
    made = connection.execute(ADJUSTMENTS.insert().values(values)).inserted_primary_key
    assert made is not None
    after = {"name": name, "reason": reason, "amount": values["amount"], "credits": credited}
    action = "statement.adjust" if credited is None else "statement.credit"
    append(connection, Entry(_at(now), by, action, tenant, after=after))
    return Adjustment(int(made[0]), tenant, name, reason, by, amount, credited)


def _forget_previews(connection: sa.Connection, tenant: str) -> None:
    table = STATEMENTS
    mine = sa.and_(table.c.tenant == tenant, table.c.is_preview.is_(sa.true()))
    query = sa.select(table.c.id).where(mine).order_by(table.c.made.desc()).offset(KEPT_PREVIEWS).limit(KEPT_PREVIEWS)
    old = [row[0] for row in connection.execute(query)]
    if old:
        connection.execute(table.delete().where(table.c.id.in_(old)))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _at(now: int) -> str:
    return format_rfc3339(now * 1000)
