"""Compares what stands beside the sealed bodies, column by column, with what they say: rows and adjustments."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from gateway.billing.drafting import by_taxes
from gateway.billing.kept import Kept, Settled
from gateway.billing.money import format_exact
from gateway.billing.statement import approval_of, encode, lines_of, period_of

BROKEN: Final = (ValueError, KeyError, TypeError, AttributeError, ArithmeticError)
"""What reading a body raises that is none of ours any more."""

_APPROVED_SINCE: Final = 2
"""The form of the body that tells who approved it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that does not add up. ``kind``: ``hash`` (the body is not what was sealed), ``chain`` (the statement
    before is another one), ``number`` (a gap, a double, or a counter that says otherwise), ``row`` (a column of the
    database says otherwise than the sealed body), ``adjustment`` (one is not as it was billed), ``usage`` (the ledger
    holds other usage than was billed), ``cell`` (the ledger holds what nobody can have counted), ``plan`` (the history
    of a plan is not what it was), ``amounts`` (rating gives other lines), ``unreadable``."""

    statement: str
    kind: str
    told: str


def sealed(kept: Kept, before: Kept | None) -> Iterator[Finding]:
    """Whether a statement is what was sealed, and stands on the one before."""
    number = str(kept.number)
    if hashlib.sha256(kept.text.encode()).hexdigest() != kept.hash:
        yield Finding(number, "hash", "its body is not the one that was sealed")
    try:
        body = kept.body
        if encode(body).decode() != kept.text:
            yield Finding(number, "hash", "its body is not in its canonical form")
        yield from _linked(kept, body, before)
        yield from _columns(kept, body)
    except BROKEN as error:
        yield unreadable(kept, error)


def unreadable(kept: Kept, error: Exception) -> Finding:
    """What is said of a body that is none."""
    return Finding(str(kept.number), "unreadable", f"its body cannot be read ({type(error).__name__})")


def _linked(kept: Kept, body: Mapping[str, Any], before: Kept | None) -> Iterator[Finding]:
    number = str(kept.number)
    expected = None if before is None else {"number": before.number, "hash": before.hash}
    if body["previous"] != expected or kept.previous_hash != (None if before is None else before.hash):
        told = "nothing" if before is None else str(before.number)
        yield Finding(number, "chain", f"it does not stand on {told} as that is now")
    head = (body["tenant"], body["number"], body["id"])
    if head != (kept.tenant, kept.number, kept.id):
        yield Finding(number, "chain", "its body is another statement's")


def _columns(kept: Kept, body: Mapping[str, Any]) -> Iterator[Finding]:
    period = period_of(body)
    pairs: dict[str, tuple[object, object]] = {
        "is_preview": (kept.is_preview, body["is_preview"]),
        "starts_at": (kept.starts_at, period.start),
        "ends_at": (kept.ends_at, period.end),
    }
    if body["form"] >= _APPROVED_SINCE:
        columns = (kept.approved_by, kept.approved_at, kept.approved_content)
        is_whole = None not in columns or columns == (None, None, None)
        pairs["approved_by, approved_at, approved_content"] = (
            is_whole and approval_of(*columns),
            body["approval"],
        )
    for name, (column, told) in pairs.items():
        if column != told:
            yield Finding(str(kept.number), "row", f"{name} in its row is not what its body says")


class Adjusted:
    """Every adjustment there is, against the statements that hold them."""

    def __init__(self, rows: Sequence[Settled]) -> None:
        self._rows = {one.number: one for one in rows}

    def look(self, chain: Sequence[Kept], tenant: str) -> Iterator[Finding]:
        """All of one tenant's final statements, in order."""
        held: dict[int, str] = {}
        by_number = {kept.number: kept for kept in chain}
        for kept in chain:
            try:
                numbers = [int(number) for number in kept.body["adjustments"]]
                held |= dict.fromkeys(numbers, kept.id)
                yield from self._held(kept, numbers, by_number)
            except BROKEN as error:
                told = f"what it holds of adjustments cannot be read ({type(error).__name__})"
                yield Finding(str(kept.number), "adjustment", told)
        for one in self._rows.values():
            if one.tenant == tenant and one.statement is not None and held.get(one.number) != one.statement:
                told = f"adjustment {one.number} says that it is on a statement that does not hold it"
                yield Finding("-", "adjustment", told)
        yield from self._credited(chain)

    def _held(self, kept: Kept, numbers: Sequence[int], by_number: Mapping[str | None, Kept]) -> Iterator[Finding]:
        number = str(kept.number)
        expected: Counter[tuple[str, str, str]] = Counter()
        for one in (self._rows.get(wanted) for wanted in numbers):
            if one is None or one.statement != kept.id or one.tenant != kept.tenant:
                yield Finding(number, "adjustment", "an adjustment that it holds is gone, or says that it is elsewhere")
                return
            reason = f"{one.reason} ({one.made_by})"
            if one.credited is None:
                expected[one.name, reason, format_exact(Decimal(one.amount))] += 1
            else:
                for amount in by_taxes(by_number[one.credited].body).values():
                    expected[one.name, reason, format_exact(-amount)] += 1
        lines = lines_of(kept.body, "adjustment")
        if Counter((line.name, line.reason, format_exact(line.exact)) for line in lines) != expected:
            yield Finding(number, "adjustment", "its adjustments have other names, reasons or amounts than its lines")

    def _credited(self, chain: Sequence[Kept]) -> Iterator[Finding]:
        by: dict[str | None, str] = {
            one.credited: one.made_by for one in self._rows.values() if one.credited is not None
        }
        for kept in chain:
            if (kept.status == "CREDITED", kept.credited_by) != (kept.number in by, by.get(kept.number)):
                told = "whether it is credited, and by whom, its row and the adjustments say differently"
                yield Finding(str(kept.number), "row", told)
