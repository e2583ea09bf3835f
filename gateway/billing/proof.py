"""Recomputes statements from what they were made of, and says what does not add up."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import msgspec

from gateway.billing.corrections import billed_so_far, gap_so_far, gaps
from gateway.billing.drafting import Drafting
from gateway.billing.inforce import Plans
from gateway.billing.period import Period
from gateway.billing.rating import Account, RatingRefused, rate
from gateway.billing.rows import Rows, fingerprint, ledger_digest, read_rows, spell_rows
from gateway.billing.sealed import BROKEN, Adjusted, Finding, sealed, unreadable
from gateway.billing.statement import advances_in, lines_of, period_of, terms_in
from gateway.billing.store import Kept, StatementStore

__all__ = ["Finding", "Proof", "Verdict"]

_SUMS = ("currency", "lines", "net", "tax", "total", "credit_used", "due")

_DISCOUNTS_TOLD_SINCE = 2
"""The form of the body whose lines tell what a discount took off."""

Misfits = Callable[[str | None], Iterable[str]]
"""What the ledger holds of a tenant (None: of all) that nobody can have counted, in words."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """How many statements were looked at, and all that was found."""

    checked: int
    findings: tuple[Finding, ...]


class Proof:
    """Every method blocks. It goes on after each finding, whatever it is."""

    def __init__(self, store: StatementStore, drafting: Drafting, *, misfits: Misfits = lambda _: ()) -> None:
        self._store = store
        self._drafting = drafting
        self._misfits = misfits

    def verify(self, *, tenant: str | None = None) -> Verdict:
        """Look at every final statement of a tenant, or of all; at the numbers of all; and at what they stand on."""
        findings = list(self._numbers())
        plans, broken = self._store.readable_revisions()
        findings += [
            Finding("-", "plan", f"the prices of {name} revision {revision} in the plans' history cannot be read")
            for name, revision in broken
        ]
        tenants = [tenant] if tenant is not None else sorted({one for _, _, one in self._store.serials()})
        adjusted = Adjusted(self._store.settled())
        checked = 0
        for name in tenants:
            chain = self._store.closed(tenant=name)
            checked += len(chain)
            findings += self._chain(name, chain, plans)
            findings += adjusted.look(chain, name)
        findings += [Finding("-", "cell", told) for told in self._misfits(tenant)]
        return Verdict(checked, tuple(findings))

    def _numbers(self) -> Iterator[Finding]:
        for expected, (serial, number, _) in enumerate(self._store.serials(), start=1):
            if serial != expected:
                yield Finding(number, "number", f"it is the {expected}. statement and has serial {serial}")
                break
        counted = self._store.counted()
        if counted.last_number != counted.numbers:
            told = f"{counted.last_number} numbers were given, and {counted.numbers} statements have one"
            yield Finding("-", "number", told)
        # Ahead proves nothing: a process of a release before this one counts a draft each time that it makes it again.
        if counted.last_made < counted.newest_made:
            told = f"{counted.last_made} statements were made, and the newest is the {counted.newest_made}."
            yield Finding("-", "number", told)

    def _chain(self, tenant: str, chain: Sequence[Kept], plans: Plans) -> Iterator[Finding]:
        intact: list[Kept] = []
        for place, kept in enumerate(chain):
            found = list(sealed(kept, chain[place - 1] if place else None))
            yield from found
            if not any(one.kind in ("hash", "unreadable") for one in found):
                intact.append(kept)
        # What is not as it was sealed says nothing more; the others are looked into.
        for place, kept in enumerate(intact):
            try:
                body = kept.body
                found = [*self._usage(kept, body, intact[place + 1 :]), *_amounts(kept, body, plans)]
            except BROKEN as error:
                found = [unreadable(kept, error)]
            yield from found
        if len(intact) == len(chain):
            try:
                found = list(self._gaps(tenant, chain))
            except BROKEN as error:
                found = [Finding("-", "unreadable", f"the months of {tenant} cannot be told ({type(error).__name__})")]
            yield from found

    def _usage(self, kept: Kept, body: Mapping[str, Any], later: Sequence[Kept]) -> Iterator[Finding]:
        number = str(kept.number)
        if fingerprint(body["usage"]) != body["usage_hash"]:
            yield Finding(number, "usage", "the usage it tells is not the one its usage hash is of")
        if kept.status != "FINAL":
            return
        period = period_of(body)
        billed, _ = billed_so_far(kept, body, later)
        now = self._drafting.usage(kept.tenant, start=period.start, end=period.end)
        if fingerprint(spell_rows(now)) == billed:
            yield from _hidden(kept, [kept, *later], now)
            return
        then = read_rows(body["usage"], tenant=kept.tenant, start=period.start)
        less = [key for key, usage in then.items() if key not in now or any(map(int.__lt__, now[key], usage))]
        if less:
            told = f"the ledger holds less than was billed, for {len(less)} of {len(then)} kinds of usage"
        else:
            told = "the ledger holds more than was billed: told late, the next statement corrects it; or changed"
        yield Finding(number, "usage", told)

    def _gaps(self, tenant: str, chain: Sequence[Kept]) -> Iterator[Finding]:
        """Months between statements have none because nothing was known of them."""
        first_told = self._store.first_told(tenant)
        for gap in gaps(chain, first_told=first_told, newest=self._drafting.rules.corrected_periods):
            now = self._drafting.usage(tenant, start=gap.start, end=gap.end)
            if fingerprint(spell_rows(now)) != gap_so_far(gap, chain)[0]:
                told = (
                    f"the ledger holds other usage of {tenant} in {gap.label}, which has no statement, than was billed"
                )
                yield Finding("-", "usage", f"{told}: told late, the next statement corrects it; or changed")


def _hidden(kept: Kept, seals: Sequence[Kept], now: Rows) -> Iterator[Finding]:
    """What partners are not told is in no body; its digest stands beside the newest statement that looked at it."""
    known: str | None = None
    for one in seals:
        try:
            told = msgspec.json.decode(one.ledger_seals or "{}", type=dict[str, str])
        except msgspec.MsgspecError:
            yield Finding(str(one.number), "row", "the seals of its usage cannot be read")
            continue
        known = told.get(kept.id, known)
    if known is not None and known != ledger_digest(now):
        told_late = "told late, the next statement takes note of it; or changed, there or in the seal"
        yield Finding(
            str(kept.number), "usage", f"the ledger holds other counts of what was not delivered: {told_late}"
        )


def _amounts(kept: Kept, body: Mapping[str, Any], plans: Plans) -> Iterator[Finding]:
    number = str(kept.number)
    period: Period = period_of(body)
    try:
        bill = rate(
            read_rows(body["usage"], tenant=kept.tenant, start=period.start).items(),
            tenant=kept.tenant,
            period=period,
            terms=terms_in(body, plans),
            plans=plans,
            account=Account(credit=Decimal(body["credit"]["before"])),
            advances=advances_in(body),
            extra=lines_of(body, "correction", "adjustment"),
            currency=body["currency"],
        )
    except (RatingRefused, *BROKEN) as error:
        yield Finding(number, "amounts", f"it cannot be rated again: {type(error).__name__} {error}")
        return
    again = bill.to_dict()
    if body["form"] < _DISCOUNTS_TOLD_SINCE:
        for line in (*again["lines"], *body["lines"]):
            line.pop("discount", None)
    differing = [name for name in _SUMS if again[name] != body[name]]
    if differing:
        yield Finding(number, "amounts", f"rating it again gives other {', '.join(differing)}")
    for one in body["plans"]:
        if plans[one["plan"], one["revision"]].title != one["title"]:
            told = f"{one['plan']} revision {one['revision']} has another title in the plans' history"
            yield Finding(number, "plan", told)
