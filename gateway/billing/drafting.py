"""Makes drafts: a tenant's period rated, with what the months before still owe, what was adjusted, what was prepaid."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from gateway.billing.bill import Advance, Line
from gateway.billing.inforce import Revisions, terms_of
from gateway.billing.money import ZERO, exactly, round_money
from gateway.billing.period import Period
from gateway.billing.pricing import Tax, pricing_of
from gateway.billing.rating import Account, rate
from gateway.billing.rows import Ledger, Rows, Watermark, fingerprint, spell_rows
from gateway.billing.statement import Corrected, Draft, Party, advances_in, advances_of, lines_of, period_of, terms_in
from gateway.billing.store import Adjustment, Kept, StatementStore
from gateway.billing.terms import Term
from gateway.catalog.catalog import Catalog
from gateway.catalog.chronicle import Held
from gateway.model import Tenant
from gateway.usage import BUCKET_SECONDS, bucket_of

SOURCES_NAMED: Final = 20
OWN_KINDS: Final = ("charge", "discount", "minimum", "maximum")
"""Lines that a period's usage and plans alone decide."""


@dataclass(frozen=True, slots=True)
class Rules:
    """How an operator wants statements. ``corrected_periods``: as many closed ones are looked at for late usage."""

    grace_seconds: int = 3600
    needs_approval: bool = False
    number_prefix: str = "ST-"
    corrected_periods: int = 12
    seller: Party | None = None


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of plans and tenants at one moment."""

    catalog: Catalog
    revisions: Revisions
    held: Mapping[str, Sequence[Held]]

    def zone(self, tenant: str) -> str:
        """The tenant's time zone; UTC for one that the catalog has no more."""
        found = self.catalog.tenant(tenant)
        return "UTC" if found is None else found.time_zone

    def terms(self, tenant: str) -> tuple[Term, ...]:
        """Which revision of which plan was in force when."""
        return terms_of(self.held.get(tenant, ()), self.revisions, zone=self.zone(tenant))


class Drafting:
    """Drafts out of a ledger and what the store and the catalog know. Every method blocks."""

    def __init__(
        self, store: StatementStore, ledger: Ledger, *, catalog: Callable[[], Catalog], rules: Rules | None = None
    ) -> None:
        self.rules = rules or Rules()
        self._store = store
        self._ledger = ledger
        self._catalog = catalog

    def known(self, *, tenant: str | None = None) -> Known:
        """What is known now; with ``tenant``, the history of that one only."""
        revisions, held = self._store.history(tenants=None if tenant is None else [tenant])
        return Known(self._catalog(), revisions, held)

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

    def periods(self, tenant: str, known: Known, *, last_end: int | None, now: float) -> Iterator[Period]:
        """The tenant's periods that are over and have no final statement, oldest first.

        The first one is that in which the catalog first told of the tenant. After a change of its zone a period reaches
        from where the last ended to the end of the month.
        """
        zone = known.zone(tenant)
        if last_end is None:
            told = [one.known_from for one in known.held.get(tenant, ())]
            if not told:
                return
            start = Period.holding(min(told), zone=zone).start
        else:
            start = last_end
        while True:
            month = Period.holding(start, zone=zone)
            if month.end > now:
                return
            yield Period.spanning(start, month.end, zone=zone)
            start = month.end

    def draft(self, tenant: str, period: Period, known: Known, *, now: float) -> Draft | None:
        """The draft of a closed period; None where there is nothing to say: no plan, no usage, nothing owed."""
        closed = self._store.closed(tenant=tenant)
        rows = self.usage(tenant, start=period.start, end=period.end)
        terms = known.terms(tenant)
        advances = _advances(closed, period)
        waiting = self._store.waiting(tenant=tenant)
        in_force = any(term.start < period.end and (term.end is None or period.start < term.end) for term in terms)
        corrections, corrected = self._corrections(tenant, closed, known)
        if not (in_force or rows or advances or waiting or corrections):
            return None
        extra = [*corrections, *self._adjustments(waiting, terms, period, closed)]
        return self._draft(
            statement_id(tenant, period),
            tenant,
            period,
            known,
            rows=rows,
            terms=terms,
            advances=advances,
            extra=extra,
            corrected=corrected,
            adjustments=[one.number for one in waiting],
            closed=closed,
            now=now,
        )

    def preview(self, tenant: str, period: Period, known: Known, *, now: float) -> Draft:
        """What a stretch of time would cost, on whole buckets up to now. Of a calendar month it has all that its
        statement will have; another stretch is a period of its own, with its own usage and nothing else."""
        start, end = bucket_of(period.start), _bucket_end(period.end)
        rows = self.usage(tenant, start=start, end=min(end, _bucket_end(now)))
        if not period.is_month:
            period = Period.spanning(start, end, zone=period.zone)
        closed = self._store.closed(tenant=tenant)
        terms = known.terms(tenant)
        waiting = self._store.waiting(tenant=tenant) if period.is_month else []
        return self._draft(
            f"p{secrets.token_hex(12)}",
            tenant,
            period,
            known,
            rows={key._replace(bucket=period.start): usage for key, usage in rows.items()},
            terms=terms,
            advances=_advances(closed, period),
            extra=self._adjustments(waiting, terms, period, closed),
            adjustments=[one.number for one in waiting],
            closed=closed,
            now=now,
            is_preview=True,
        )

    def _draft(
        self,
        identity: str,
        tenant: str,
        period: Period,
        known: Known,
        *,
        rows: Rows,
        terms: Sequence[Term],
        advances: Sequence[Advance],
        extra: Sequence[Line],
        adjustments: Sequence[int],
        closed: Sequence[Kept],
        now: float,
        corrected: Sequence[Corrected] = (),
        is_preview: bool = False,
    ) -> Draft:
        found = known.catalog.tenant(tenant)
        credit = _credit_left(known.catalog, tenant, closed)
        bill = rate(
            rows.items(),
            tenant=tenant,
            period=period,
            terms=terms,
            plans=known.revisions.plans,
            account=Account(credit=credit),
            advances=advances,
            extra=extra,
            currency=_currency(closed, terms),
        )
        return Draft(
            id=identity,
            title=tenant if found is None else found.title,
            is_preview=is_preview,
            bill=bill,
            rows=rows,
            watermark=self.watermark(period, now=now),
            terms=terms,
            advances=advances,
            made_at=int(now),
            credit=credit,
            corrected=corrected,
            adjustments=adjustments,
            seller=self.rules.seller,
            buyer=None if found is None else buyer_of(found),
        )

    # ---- what closed periods still owe -------------------------------------------------------------------------------

    def _corrections(
        self, tenant: str, closed: Sequence[Kept], known: Known
    ) -> tuple[list[Line], tuple[Corrected, ...]]:
        """Closed periods whose usage has changed since, rated again: the differences as lines."""
        lines: list[Line] = []
        corrected: list[Corrected] = []
        for number, kept in enumerate(closed):
            if kept.status != "FINAL" or number < len(closed) - self.rules.corrected_periods:
                continue
            body = kept.body
            billed_hash, billed = billed_so_far(kept, body, closed[number + 1 :])
            rows = self.usage(tenant, start=kept.starts_at, end=kept.ends_at)
            usage_hash = fingerprint(spell_rows(rows))
            if usage_hash == billed_hash:
                continue
            again = rated_again(body, rows, known=known)
            amounts = {key: format(line.amount, "f") for key, line in again.items()}
            found = _differences(again, billed, body, currency=body["currency"])
            with exactly():
                difference = sum((line.amount for line in found), ZERO)
            lines += found
            label = body["period"]["label"]
            corrected.append(Corrected(str(kept.number), label, usage_hash, amounts, difference))
        return lines, tuple(corrected)

    def _adjustments(
        self, waiting: Sequence[Adjustment], terms: Sequence[Term], period: Period, closed: Sequence[Kept]
    ) -> list[Line]:
        currency = _currency(closed, terms)
        taxes = _taxes(terms, period)
        lines: list[Line] = []
        for one in waiting:
            reason = f"{one.reason} ({one.made_by})"
            if one.credited is None:
                amount = round_money(one.amount, currency)
                lines.append(_extra("adjustment", one.name, amount, one.amount, period, taxes, reason))
                continue
            credited = next(kept for kept in closed if kept.number == one.credited)
            for on, amount in _by_taxes(credited.body).items():
                lines.append(_extra("adjustment", one.name, -amount, -amount, period, on, reason))
        return lines


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


def line_key(line: Line) -> str:
    """What names a line of a statement among the others of its kind."""
    return "/".join((line.kind, line.plan, str(line.revision), line.name, line.meter or ""))


def billed_so_far(kept: Kept, body: Mapping[str, Any], later: Sequence[Kept]) -> tuple[str, dict[str, str]]:
    """The usage hash and the amounts by line that a closed period was billed with, later corrections included."""
    found: tuple[str, dict[str, str]] = (
        body["usage_hash"],
        {line_key(line): format(line.amount, "f") for line in lines_of(body, *OWN_KINDS)},
    )
    for other in later:
        for one in other.body["corrections"]:
            if one["number"] == kept.number:
                found = (one["usage_hash"], dict(one["amounts"]))
    return found


def rated_again(body: Mapping[str, Any], rows: Rows, *, known: Known) -> dict[str, Line]:
    """The lines of a closed period's own, on these rows, with the terms and advances it was made with; by their key."""
    period = period_of(body)
    bill = rate(
        rows.items(),
        tenant=body["tenant"],
        period=period,
        terms=terms_in(body, known.revisions.plans),
        plans=known.revisions.plans,
        advances=advances_in(body),
        currency=body["currency"],
    )
    return {line_key(line): line for line in bill.lines if line.kind in OWN_KINDS}


def _differences(
    again: Mapping[str, Line], billed: Mapping[str, str], body: Mapping[str, Any], *, currency: str
) -> list[Line]:
    before = {line_key(line): line for line in lines_of(body, *OWN_KINDS)}
    period = period_of(body)
    lines: list[Line] = []
    for key in sorted(again.keys() | billed.keys()):
        now, was = again.get(key), Decimal(billed.get(key, "0"))
        with exactly():
            difference = (ZERO if now is None else now.amount) - was
        if not difference:
            continue
        like = now or before[key]
        lines.append(
            Line(
                kind="correction",
                name=f"{like.name}, correction of {period.label} ({body['number']})",
                amount=round_money(difference, currency),
                exact=difference,
                start=period.start,
                end=period.end,
                plan=like.plan,
                revision=like.revision,
                meter=like.meter,
                stream=like.stream,
                used=0 if now is None else now.used - (before[key].used if key in before else 0),
                billable=0 if now is None else now.billable - (before[key].billable if key in before else 0),
                taxes=like.taxes,
                reason="usage that was told after the statement was final",
            )
        )
    return lines


def _extra(
    kind: Any, name: str, amount: Decimal, exact: Decimal, period: Period, taxes: tuple[Tax, ...], reason: str
) -> Line:
    return Line(
        kind=kind,
        name=name,
        amount=amount,
        exact=exact,
        start=period.start,
        end=period.end,
        taxes=taxes,
        reason=reason,
    )


def _advances(closed: Sequence[Kept], period: Period) -> tuple[Advance, ...]:
    """What the statement right before asked for this period; one that was credited asked for nothing."""
    if not closed or closed[-1].ends_at != period.start or closed[-1].status != "FINAL":
        return ()
    return advances_of(closed[-1].body)


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


def _by_taxes(body: Mapping[str, Any]) -> dict[tuple[Tax, ...], Decimal]:
    found: dict[tuple[Tax, ...], Decimal] = {}
    for line in lines_of(body):
        if line.kind not in ("tax", "credit"):
            with exactly():
                found[line.taxes] = found.get(line.taxes, ZERO) + line.amount
    return found


def _bucket_end(moment: float) -> int:
    return -(-int(-(-moment // 1)) // BUCKET_SECONDS) * BUCKET_SECONDS
