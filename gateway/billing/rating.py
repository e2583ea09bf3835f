"""Rating: usage rows and the plans in force → a bill. Pure: the same arguments give the same bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from operator import add
from typing import Final

from gateway.billing.adjustments import (
    beyond,
    credit_line,
    credit_used,
    discount_of,
    given_back,
    missing_to,
    tax_lines,
)
from gateway.billing.bill import Advance, Bill, Line, LineKind, Metered, StreamUse
from gateway.billing.money import ZERO, exactly, round_money
from gateway.billing.period import Period
from gateway.billing.pricing import (
    NO_DISCOUNT,
    WHOLE,
    Flat,
    Priced,
    amount_off,
    price,
    price_flat,
    pricing_of,
)
from gateway.billing.pricing import Metered as MeteredCharge
from gateway.billing.terms import Part, Term, parts_in
from gateway.model import Plan
from gateway.usage import Usage, UsageKey

__all__ = [
    "Account",
    "Advance",
    "Bill",
    "Line",
    "LineKind",
    "Metered",
    "MixedCurrencies",
    "RatingRefused",
    "StreamUse",
    "Term",
    "UnknownRevision",
    "rate",
    "spend_so_far",
]

Rows = Iterable[tuple[UsageKey, Usage]]
Plans = Mapping[tuple[str, int], Plan]


class RatingRefused(Exception):
    """Usage that cannot be priced; the message says why and what to do."""


class UnknownRevision(RatingRefused):
    """Usage under a plan's revision that nobody knows."""


class MixedCurrencies(RatingRefused):
    """A tenant whose plans of one period are in different currencies."""


@dataclass(frozen=True, slots=True)
class Account:
    """What a tenant has paid beforehand and not yet used up."""

    credit: Decimal = ZERO


NO_ACCOUNT: Final = Account()


def rate(
    rows: Rows,
    *,
    tenant: str,
    period: Period,
    terms: Sequence[Term],
    plans: Plans | None = None,
    account: Account = NO_ACCOUNT,
    advances: Sequence[Advance] = (),
    extra: Sequence[Line] = (),
    currency: str = "",
) -> Bill:
    """Price a tenant's usage rows of a period, in any order.

    ``terms`` are the plan revisions in force in the period and, for flat amounts in advance, in the one after it;
    ``plans`` finds by (name, revision) those that rows name and no term holds. ``advances`` are those of the bill of
    the period before (``Bill.advances``): without them flat amounts in advance are asked now. ``extra`` lines
    (corrections, adjustments) come before tax and credit. ``currency`` is for a bill that no plan gives one. To rate
    a closed period again, pass what was passed then and the rows of now.

    Each row is priced by exactly the revision it carries. Raises UnknownRevision for a row whose revision nobody
    knows, MixedCurrencies where plans differ in currency, ValueError for a row of another tenant or time and for
    lines without a currency.
    """
    usage = _fold(rows, tenant=tenant, period=period)
    parts = _parts(usage, period=period, terms=terms, plans=plans or {})
    currency = _currency(parts, tenant=tenant) or currency
    following = parts_in(terms, period.next()) if period.is_month else []
    if not currency and following:
        currency = following[0].plan.currency
    asked = {(one.plan, one.revision, one.name): one for one in sorted(advances, key=_advance_order)}
    lines = [line for part in parts for line in _lines(part, usage, period, currency, asked, with_minimum=True)]
    lines += [given_back(one, period) for one in asked.values()]
    for part in following:
        if part.plan.currency == currency:
            lines += _advance_lines(part, currency)
    lines += extra
    if lines and not currency:
        raise ValueError(f"no plan of tenant {tenant} says in which currency {period.label} is")
    return _bill(lines, tenant=tenant, period=period, currency=currency, account=account, usage=usage)


def spend_so_far(
    rows: Rows, *, tenant: str, period: Period, terms: Sequence[Term], plans: Plans | None = None
) -> Decimal:
    """What a period costs a tenant up to now, for its ``spend_limit``: charges, flat amounts of the whole period,
    discounts, maximum and tax; neither the true-up to a minimum nor credit, nor amounts for the next period.

    It never falls while usage grows, but where a plan's volume tiers do (see ``linter``). Raises as ``rate`` does.
    """
    usage = _fold(rows, tenant=tenant, period=period)
    parts = _parts(usage, period=period, terms=terms, plans=plans or {})
    currency = _currency(parts, tenant=tenant)
    lines = [line for part in parts for line in _lines(part, usage, period, currency, {}, with_minimum=False)]
    taxes = tax_lines(lines, currency=currency, start=period.start, end=period.end)
    with exactly():
        return sum((line.amount for line in (*lines, *taxes)), ZERO)


_Totals = dict[tuple[str, int], dict[tuple[str, bool], Usage]]


def _fold(rows: Rows, *, tenant: str, period: Period) -> _Totals:
    """Sums by (plan, revision), then (stream, billable)."""
    sums: dict[tuple[str, int, str, bool], tuple[int, ...]] = {}
    start, end = period.start, period.end
    for key, usage in rows:
        owner, _, stream, plan, revision, _, is_billable, bucket = key
        if owner != tenant or not start <= bucket < end:
            raise ValueError(f"usage of {owner} at {bucket} is none of {tenant} in {period.label}")
        cell = (plan, revision, stream, is_billable)
        known = sums.get(cell)
        sums[cell] = usage if known is None else tuple(map(add, known, usage))
    totals: _Totals = {}
    for (plan, revision, stream, is_billable), counts in sorted(sums.items()):
        totals.setdefault((plan, revision), {})[stream, is_billable] = Usage(*counts)
    return totals


def _parts(usage: _Totals, *, period: Period, terms: Sequence[Term], plans: Plans) -> list[Part]:
    parts = parts_in(terms, period)
    known = {(part.plan.name, part.plan.revision) for part in parts}
    found = {(term.plan.name, term.plan.revision): term.plan for term in terms} | dict(plans)
    for key in usage.keys() - known:
        plan = found.get(key)
        if plan is None:
            raise UnknownRevision(f"usage under plan {key[0]} revision {key[1]}, which is not in the catalog's history")
        parts.append(Part(plan, pricing_of(plan), (), WHOLE))
    return sorted(parts, key=lambda part: (part.plan.name, part.plan.revision))


def _currency(parts: Sequence[Part], *, tenant: str) -> str:
    currencies = sorted({part.plan.currency for part in parts})
    if len(currencies) > 1:
        raise MixedCurrencies(
            f"tenant {tenant} has plans in {' and '.join(currencies)} in one period; a statement has one currency"
        )
    return currencies[0] if currencies else ""


def _lines(
    part: Part,
    usage: _Totals,
    period: Period,
    currency: str,
    asked: dict[tuple[str, int, str], Advance],
    *,
    with_minimum: bool,
) -> list[Line]:
    """A revision's charges, then its discount, minimum and maximum over them. Advances it settles leave ``asked``."""
    blank = _blank(part, period)
    # A list and no generator: one that waits within the block would lend its decimal context to whoever asked.
    with exactly():
        lines = [
            line
            for charge in part.pricing.charges
            for line in _charge_lines(charge, part, usage, period, currency, asked)
        ]
        subtotal = sum((line.value for line in lines), ZERO)
        if part.pricing.discount != NO_DISCOUNT and subtotal:
            off = discount_of(subtotal, part.pricing.discount, share=part.share)
            line = replace(
                blank,
                kind="discount",
                name="Discount",
                exact=-off,
                amount=-round_money(off, currency),
                discount=part.pricing.discount,
                discount_amount=amount_off(subtotal, subtotal - off, part.pricing.discount),
                gross=subtotal,
            )
            subtotal += line.amount
            lines.append(line)
        if with_minimum and part.spans:
            more = missing_to(part.pricing.minimum, subtotal, share=part.share)
            if more:
                line = replace(blank, kind="minimum", name="Minimum", exact=more, amount=round_money(more, currency))
                subtotal += line.amount
                lines.append(line)
        less = beyond(part.pricing.maximum, subtotal, share=part.share)
        if less:
            amount = -round_money(less, currency)
            lines.append(replace(blank, kind="maximum", name="Maximum", exact=-less, amount=amount))
    return lines


def _charge_lines(
    charge: Flat | MeteredCharge,
    part: Part,
    usage: _Totals,
    period: Period,
    currency: str,
    asked: dict[tuple[str, int, str], Advance],
) -> Iterator[Line]:
    blank = _blank(part, period)
    if isinstance(charge, Flat):
        if part.spans:
            priced = price_flat(charge, share=part.share)
            before = asked.pop((part.plan.name, part.plan.revision, charge.name), None)
            advanced = before.amount if before is not None else ZERO
            line = _charged(blank, charge, priced, currency)
            yield replace(line, advanced=advanced, amount=line.amount - advanced)
        return
    uses = usage.get((part.plan.name, part.plan.revision), {})
    streams: list[StreamUse] = []
    not_billable = 0
    for (stream, is_billable), counts in uses.items():
        quantity = part.pricing.quantity(charge.meter, counts)
        if not is_billable:
            not_billable += quantity
        elif quantity:
            streams.append(StreamUse(stream, quantity))
    priced = price(charge, sum(one.used for one in streams), share=part.share)
    yield replace(
        _charged(blank, charge, priced, currency),
        meter=charge.meter,
        stream=streams[0].stream if len(streams) == 1 else None,
        used=priced.used,
        included=priced.included,
        discount_units=priced.discount_units,
        billable=priced.billable,
        not_billable=not_billable,
        unit_price=priced.unit_price,
        per=priced.per,
        tiers=priced.tiers,
        streams=tuple(streams),
    )


def _charged(blank: Line, charge: Flat | MeteredCharge, priced: Priced, currency: str) -> Line:
    amount = round_money(priced.exact, currency)
    return replace(
        blank,
        name=charge.name,
        exact=priced.exact,
        amount=amount,
        gross=priced.gross,
        discount=charge.discount,
        discount_amount=priced.discount_amount,
    )


def _advance_lines(part: Part, currency: str) -> Iterator[Line]:
    for charge in part.pricing.charges:
        if isinstance(charge, Flat) and charge.is_in_advance:
            priced = price_flat(charge, share=part.share)
            blank = _blank(part, None)
            yield replace(_charged(blank, charge, priced, currency), kind="advance")


def _blank(part: Part, period: Period | None) -> Line:
    if part.spans:
        start, end = part.spans[0][0], part.spans[-1][1]
    else:
        assert period is not None
        start, end = period.start, period.end
    return Line(
        kind="charge",
        name="",
        amount=ZERO,
        exact=ZERO,
        start=start,
        end=end,
        plan=part.plan.name,
        revision=part.plan.revision,
        share=part.shown_share,
        taxes=part.pricing.taxes,
    )


def _bill(lines: list[Line], *, tenant: str, period: Period, currency: str, account: Account, usage: _Totals) -> Bill:
    """Tax over the lines, credit over all, and the sums."""
    metered = tuple(
        Metered(plan, revision, stream, is_billable, counts)
        for (plan, revision), uses in usage.items()
        for (stream, is_billable), counts in uses.items()
    )
    if not currency and not lines:
        return Bill(tenant, period, currency, metered=metered)
    taxes = tax_lines(lines, currency=currency, start=period.start, end=period.end)
    zero = round_money(ZERO, currency)
    with exactly():
        net = sum((line.amount for line in lines), zero)
        tax = sum((line.amount for line in taxes), zero)
        total = net + tax
        used = credit_used(total, account.credit, currency=currency)
        lines = [*lines, *taxes, *([credit_line(used, period)] if used else [])]
        return Bill(
            tenant=tenant,
            period=period,
            currency=currency,
            lines=tuple(lines),
            net=net,
            tax=tax,
            total=total,
            credit_used=zero + used,
            due=total - used,
            metered=metered,
        )


def _advance_order(advance: Advance) -> tuple[str, int, str]:
    return advance.plan, advance.revision, advance.name
