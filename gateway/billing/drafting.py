"""Makes drafts: a tenant's period rated, with what the months before still owe, what was adjusted, what was prepaid."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Final

from gateway.billing.bill import Advance, Line
from gateway.billing.calendar import Known, is_in_force
from gateway.billing.corrections import correction_of_gap, corrections, gaps
from gateway.billing.money import ZERO, exactly, round_money
from gateway.billing.period import Period
from gateway.billing.pricing import Tax, pricing_of
from gateway.billing.rating import Account, rate
from gateway.billing.rows import Ledger, Rows, Watermark, ledger_digest
from gateway.billing.statement import Corrected, Draft, Party, advances_of, lines_of
from gateway.billing.store import Adjustment, Kept, StatementStore
from gateway.billing.terms import Term
from gateway.catalog.catalog import Catalog
from gateway.model import Tenant
from gateway.usage import BUCKET_SECONDS, bucket_of

SOURCES_NAMED: Final = 20


@dataclass(frozen=True, slots=True)
class Rules:
    """How an operator wants statements. ``corrected_periods``: as many closed ones are looked at for late usage."""

    grace_seconds: int = 3600
    needs_approval: bool = False
    number_prefix: str = "ST-"
    corrected_periods: int = 12
    seller: Party | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Standing:
    """What a tenant's next statement stands on: what the one before, which ended at ``ends_at``, asked in advance, what
    was adjusted since, what is left of the credit, and what closed periods still owe."""

    closed: Sequence[Kept]
    advances: tuple[Advance, ...]
    ends_at: int | None
    waiting: Sequence[Adjustment]
    credit: Decimal
    corrections: Sequence[tuple[Corrected, Sequence[Line]]]
    seals: Mapping[str, str]

    def advances_for(self, period: Period) -> tuple[Advance, ...]:
        """What the statement right before asked for this period; one that was credited asked for nothing."""
        return self.advances if self.ends_at == period.start else ()

    def after(self, draft: Draft) -> _Standing:
        """What is left when a draft has become final."""
        with exactly():
            credit = self.credit - draft.bill.credit_used
        return _Standing(
            closed=self.closed,
            advances=draft.bill.advances(),
            ends_at=draft.bill.period.end,
            waiting=(),
            credit=credit,
            corrections=(),
            seals={},
        )


class Drafting:
    """Drafts out of a ledger and what the store and the catalog know. Every method blocks."""

    def __init__(
        self, store: StatementStore, ledger: Ledger, *, catalog: Callable[[], Catalog], rules: Rules | None = None
    ) -> None:
        self.rules = rules or Rules()
        self._store = store
        self._ledger = ledger
        self.catalog = catalog

    def known(self, *, tenant: str | None = None) -> Known:
        """What is known now; with ``tenant``, the history of that one only."""
        revisions, held = self._store.history(tenants=None if tenant is None else [tenant])
        return Known(self.catalog(), revisions, held)

    def complete_until(self, *, now: float) -> int:
        """Epoch seconds: every delivery before it is in the usage."""
        return self._ledger.complete_until(now=now)

    def watermark(self, period: Period, *, now: float) -> Watermark:
        """How far usage is complete, and which sources of the period were given up."""
        lost = [
            one.source
            for one in self._ledger.sources()
            if one.state == "lost" and one.started_at < period.end and one.complete_through < period.end
        ]
        return Watermark(self._ledger.complete_until(now=now), tuple(sorted(lost)))

    def behind(self, period: Period) -> list[str]:
        """Live sources of usage that have not told all of the period."""
        live = [one for one in self._ledger.sources() if one.state == "live" and one.complete_through < period.end]
        return [one.source for one in live][:SOURCES_NAMED]

    def usage(self, tenant: str, *, start: int, end: int) -> Rows:
        """A stretch's usage, one row for each key."""
        return dict(self._ledger.sums(tenant=tenant, start=start, end=end))

    def draft(
        self, tenant: str, period: Period, known: Known, *, now: float, pending: Sequence[Period] = ()
    ) -> Draft | None:
        """The draft of a closed period; None where there is nothing to say: no plan, no usage, nothing owed.

        ``pending`` are those before it that have no final statement yet, in order: what their drafts ask for and use up
        counts as if they were final.
        """
        standing = self._standing(tenant, known, pending, now=now)
        return self._draft(statement_id(tenant, period), tenant, period, known, standing, now=now)

    def preview(
        self, tenant: str, period: Period, known: Known, *, now: float, pending: Sequence[Period] = ()
    ) -> Draft:
        """What a stretch of time would cost, on whole buckets up to now. Of a calendar month it has all that its
        statement will have; another stretch is a period of its own, with its own usage and nothing else.

        ``pending``: as of ``draft``.
        """
        start, end = bucket_of(period.start), _bucket_end(period.end)
        rows = self.usage(tenant, start=start, end=min(end, _bucket_end(now)))
        standing = self._standing(tenant, known, pending, now=now)
        if not period.is_month:
            period = Period.spanning(start, end, zone=period.zone)
            standing = replace(standing, waiting=(), corrections=())
        elif standing.ends_at is not None and period.start < standing.ends_at:
            # It has its statement: what came late to it is in its rows.
            standing = replace(standing, corrections=())
        made = self._rated(
            f"p{secrets.token_hex(12)}",
            tenant,
            period,
            known,
            standing,
            rows={key._replace(bucket=period.start): usage for key, usage in rows.items()},
            now=now,
        )
        return replace(made, is_preview=True)

    def _standing(self, tenant: str, known: Known, pending: Sequence[Period], *, now: float) -> _Standing:
        """What a tenant's next statement stands on; with those of ``pending`` as if they were final."""
        closed = self._store.closed(tenant=tenant)
        seals: dict[str, str] = {}
        standing = _Standing(
            closed=closed,
            advances=advances_of(closed[-1].body) if closed and closed[-1].status == "FINAL" else (),
            ends_at=closed[-1].ends_at if closed else None,
            waiting=self._store.waiting(tenant=tenant),
            credit=_credit_left(known.catalog, tenant, closed),
            corrections=tuple(self._corrections(tenant, closed, known, seals)),
            seals=seals,
        )
        for period in pending:
            made = self._draft("", tenant, period, known, standing, now=now)
            if made is not None:
                standing = standing.after(made)
        return standing

    def _corrections(
        self, tenant: str, closed: Sequence[Kept], known: Known, seals: dict[str, str]
    ) -> Iterator[tuple[Corrected, Sequence[Line]]]:
        """What is looked at leaves its digest in ``seals``."""
        newest, plans = self.rules.corrected_periods, known.revisions.plans

        def usage(kept: Kept) -> Rows:
            rows = self.usage(tenant, start=kept.starts_at, end=kept.ends_at)
            seals[kept.id] = ledger_digest(rows)
            return rows

        yield from corrections(closed, plans=plans, usage=usage, newest=newest)
        for gap in gaps(closed, first_told=known.first_told(tenant), newest=newest):
            rows = self.usage(tenant, start=gap.start, end=gap.end)
            found = correction_of_gap(gap, rows, tenant=tenant, closed=closed, plans=plans)
            if found is not None:
                yield found

    def _draft(
        self, identity: str, tenant: str, period: Period, known: Known, standing: _Standing, *, now: float
    ) -> Draft | None:
        rows = self.usage(tenant, start=period.start, end=period.end)
        in_force = is_in_force(tenant, period, known)
        owed = any(lines for _, lines in standing.corrections)
        if not (in_force or rows or standing.advances_for(period) or standing.waiting or owed):
            return None
        return self._rated(identity, tenant, period, known, standing, rows=rows, now=now)

    def _rated(
        self,
        identity: str,
        tenant: str,
        period: Period,
        known: Known,
        standing: _Standing,
        *,
        rows: Rows,
        now: float,
    ) -> Draft:
        found, terms = known.catalog.tenant(tenant), known.terms(tenant)
        advances = standing.advances_for(period)
        late = [line for _, lines in standing.corrections for line in lines]
        bill = rate(
            rows.items(),
            tenant=tenant,
            period=period,
            terms=terms,
            plans=known.revisions.plans,
            account=Account(credit=standing.credit),
            advances=advances,
            extra=[*late, *_adjustments(standing, terms, period)],
            currency=_currency(standing.closed, terms),
        )
        return Draft(
            id=identity,
            title=tenant if found is None else found.title,
            is_preview=False,
            bill=bill,
            rows=rows,
            watermark=self.watermark(period, now=now),
            terms=terms,
            advances=advances,
            made_at=int(now),
            credit=standing.credit,
            seals=standing.seals,
            corrected=tuple(told for told, _ in standing.corrections),
            adjustments=[one.number for one in standing.waiting],
            seller=self.rules.seller,
            buyer=None if found is None else buyer_of(found),
        )


def statement_id(tenant: str, period: Period) -> str:
    """The id of the statement of a tenant's closed period: the same for whoever closes it."""
    named = f"{tenant}\n{period.start}\n{period.end}".encode()
    return f"s{hashlib.sha256(named).hexdigest()[:24]}"


def buyer_of(tenant: Tenant) -> Party | None:
    """Whom a statement is for, where the tenant's attributes say an address."""
    said = tenant.attributes
    address = said.get("billing_address", ())
    lines = (address,) if isinstance(address, str) else tuple(address)
    if not lines or not all(isinstance(line, str) for line in lines):
        return None
    name, vat_id = said.get("billing_name", tenant.title), said.get("vat_id", "")
    return Party(str(name), lines, str(vat_id))


def _adjusted(name: str, amount: Decimal, exact: Decimal, period: Period, taxes: tuple[Tax, ...], reason: str) -> Line:
    return Line(
        kind="adjustment",
        name=name,
        amount=amount,
        exact=exact,
        start=period.start,
        end=period.end,
        taxes=taxes,
        reason=reason,
    )


def _adjustments(standing: _Standing, terms: Sequence[Term], period: Period) -> list[Line]:
    currency = _currency(standing.closed, terms)
    taxes = _taxes(terms, period)
    lines: list[Line] = []
    for one in standing.waiting:
        reason = f"{one.reason} ({one.made_by})"
        if one.credited is None:
            lines.append(_adjusted(one.name, round_money(one.amount, currency), one.amount, period, taxes, reason))
            continue
        credited = next(kept for kept in standing.closed if kept.number == one.credited)
        for on, amount in by_taxes(credited.body).items():
            lines.append(_adjusted(one.name, -amount, -amount, period, on, reason))
    return lines


def _credit_left(catalog: Catalog, tenant: str, closed: Sequence[Kept]) -> Decimal:
    """What was ever prepaid, as the catalog says, less what statements took of it."""
    paid = Decimal(catalog.accounts.get(tenant, {}).get("credit", "0"))
    with exactly():
        used = sum((Decimal(kept.body["credit"]["used"]) for kept in closed), ZERO)
        return max(ZERO, paid - used)


def _currency(closed: Sequence[Kept], terms: Sequence[Term]) -> str:
    if closed:
        return str(closed[-1].body["currency"])
    return terms[-1].plan.currency if terms else ""


def _taxes(terms: Sequence[Term], period: Period) -> tuple[Tax, ...]:
    """The taxes of the plan in force at the end of the period; of several plans, the first by name."""
    held = [term for term in terms if term.start < period.end and (term.end is None or period.start < term.end)]
    held.sort(key=lambda term: (-(period.end if term.end is None else min(term.end, period.end)), term.plan.name))
    return pricing_of(held[0].plan).taxes if held else ()


def by_taxes(body: Mapping[str, Any]) -> dict[tuple[Tax, ...], Decimal]:
    """What a statement's lines before tax come to, by the taxes that they bear: what takes it back whole."""
    found: dict[tuple[Tax, ...], Decimal] = {}
    for line in lines_of(body):
        if line.kind not in ("tax", "credit"):
            with exactly():
                found[line.taxes] = found.get(line.taxes, ZERO) + line.amount
    return found


def _bucket_end(moment: float) -> int:
    return -(-int(-(-moment // 1)) // BUCKET_SECONDS) * BUCKET_SECONDS
