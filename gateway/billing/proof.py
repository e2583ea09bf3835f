"""Recomputes statements from what they were made of, and says what does not add up."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from gateway.billing.calendar import Known
from gateway.billing.corrections import billed_so_far
from gateway.billing.drafting import Drafting
from gateway.billing.period import Period
from gateway.billing.rating import Account, RatingRefused, rate
from gateway.billing.rows import fingerprint, read_rows, spell_rows
from gateway.billing.statement import advances_in, encode, lines_of, period_of, terms_in
from gateway.billing.store import Kept, StatementStore

_BROKEN = (ValueError, KeyError, TypeError, AttributeError, ArithmeticError)
"""What reading a body raises that is none of ours any more."""

_SUMS = ("lines", "net", "tax", "total", "credit_used", "due")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that does not add up. ``kind``: ``hash`` (the body is not what was sealed), ``chain`` (the statement
    before is another one), ``number`` (a gap or double), ``usage`` (the ledger holds other usage than was billed),
    ``amounts`` (rating gives other lines), ``unreadable``."""

    statement: str
    kind: str
    told: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """How many statements were looked at, and all that was found."""

    checked: int
    findings: tuple[Finding, ...]


class Proof:
    """Every method blocks."""

    def __init__(self, store: StatementStore, drafting: Drafting) -> None:
        self._store = store
        self._drafting = drafting

    def verify(self, *, tenant: str | None = None) -> Verdict:
        """Look at every final statement of a tenant, or of all, and at the numbers of all."""
        findings = list(self._numbers())
        known = self._drafting.known(tenant=tenant)
        tenants = [tenant] if tenant is not None else sorted({one for _, _, one in self._store.serials()})
        checked = 0
        for name in tenants:
            chain = self._store.closed(tenant=name)
            checked += len(chain)
            findings += self._chain(chain, known)
        return Verdict(checked, tuple(findings))

    def _numbers(self) -> Iterator[Finding]:
        given = self._store.serials()
        for expected, (serial, number, _) in enumerate(given, start=1):
            if serial != expected:
                yield Finding(number, "number", f"it is the {expected}. statement and has serial {serial}")
                return
        last = self._store.last_serial()
        if last != len(given):
            yield Finding("-", "number", f"{last} numbers were given, and {len(given)} statements have one")

    def _chain(self, chain: Sequence[Kept], known: Known) -> Iterator[Finding]:
        intact: list[Kept] = []
        for place, kept in enumerate(chain):
            found = list(_sealed(kept, chain[place - 1] if place else None))
            yield from found
            if not any(one.kind in ("hash", "unreadable") for one in found):
                intact.append(kept)
        # What is not as it was sealed says nothing more; the others are looked into.
        for place, kept in enumerate(intact):
            try:
                body = kept.body
                found = [*self._usage(kept, body, intact[place + 1 :]), *_amounts(kept, body, known)]
            except _BROKEN as error:
                found = [_unreadable(kept, error)]
            yield from found

    def _usage(self, kept: Kept, body: Mapping[str, Any], later: Sequence[Kept]) -> Iterator[Finding]:
        number = str(kept.number)
        if fingerprint(body["usage"]) != body["usage_hash"]:
            yield Finding(number, "usage", "the usage it tells is not the one its usage hash is of")
        if kept.status != "FINAL":
            return
        billed, _ = billed_so_far(kept, body, later)
        now = self._drafting.usage(kept.tenant, start=kept.starts_at, end=kept.ends_at)
        if fingerprint(spell_rows(now)) == billed:
            return
        then = read_rows(body["usage"], tenant=kept.tenant, start=kept.starts_at)
        less = [key for key, usage in then.items() if key not in now or any(map(int.__lt__, now[key], usage))]
        if less:
            told = f"the ledger holds less than was billed, for {len(less)} of {len(then)} kinds of usage"
        else:
            told = "the ledger holds more than was billed: told late, the next statement corrects it; or changed"
        yield Finding(number, "usage", told)


def _sealed(kept: Kept, before: Kept | None) -> Iterator[Finding]:
    """Whether it is what was sealed, and stands on the one before."""
    number = str(kept.number)
    if hashlib.sha256(kept.text.encode()).hexdigest() != kept.hash:
        yield Finding(number, "hash", "its body is not the one that was sealed")
    try:
        body = kept.body
        if encode(body).decode() != kept.text:
            yield Finding(number, "hash", "its body is not in its canonical form")
        yield from _linked(kept, body, before)
    except _BROKEN as error:
        yield _unreadable(kept, error)


def _unreadable(kept: Kept, error: Exception) -> Finding:
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


def _amounts(kept: Kept, body: Mapping[str, Any], known: Known) -> Iterator[Finding]:
    number = str(kept.number)
    period: Period = period_of(body)
    try:
        bill = rate(
            read_rows(body["usage"], tenant=kept.tenant, start=period.start).items(),
            tenant=kept.tenant,
            period=period,
            terms=terms_in(body, known.revisions.plans),
            plans=known.revisions.plans,
            account=Account(credit=Decimal(body["credit"]["before"])),
            advances=advances_in(body),
            extra=lines_of(body, "correction", "adjustment"),
            currency=body["currency"],
        )
    except (RatingRefused, KeyError, ValueError) as error:
        yield Finding(number, "amounts", f"it cannot be rated again: {error}")
        return
    again = bill.to_dict()
    differing = [name for name in _SUMS if again[name] != body[name]]
    if differing:
        yield Finding(number, "amounts", f"rating it again gives other {', '.join(differing)}")
