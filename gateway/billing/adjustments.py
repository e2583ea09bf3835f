"""What is put on top of priced charges: discount, minimum and maximum, tax, prepaid credit, amounts given back."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal

from gateway.billing.bill import Advance, Line
from gateway.billing.money import ZERO, exactly, floor_money, round_money
from gateway.billing.period import Period, Share
from gateway.billing.pricing import Discount, Tax, discounted

_HUNDRED = Decimal(100)


def discount_of(subtotal: Decimal, discount: Discount, *, share: Share) -> Decimal:
    """What a plan's discount takes off a subtotal, exact; at most all of it."""
    with exactly():
        return subtotal - discounted(subtotal, discount, share=share)


def missing_to(minimum: Decimal | None, subtotal: Decimal, *, share: Share) -> Decimal:
    """What lacks to a share of a period's minimum, exact; 0 where it is reached."""
    if minimum is None:
        return ZERO
    with exactly():
        return max(ZERO, minimum * share.part / share.whole - subtotal)


def beyond(maximum: Decimal | None, subtotal: Decimal, *, share: Share) -> Decimal:
    """What a subtotal has beyond a share of a period's maximum, exact; 0 where it stays below."""
    if maximum is None:
        return ZERO
    with exactly():
        return max(ZERO, subtotal - maximum * share.part / share.whole)


def tax_bases(lines: Iterable[Line]) -> dict[Tax, Decimal]:
    """The sum of the rounded lines that each tax is on, in the order in which taxes appear."""
    bases: dict[Tax, Decimal] = {}
    with exactly():
        for line in lines:
            for tax in line.taxes:
                bases[tax] = bases.get(tax, ZERO) + line.amount
    return bases


def tax_lines(lines: Iterable[Line], *, currency: str, start: int, end: int) -> tuple[Line, ...]:
    """One line for each tax, rounded once over all it is on."""
    found = []
    for tax, base in tax_bases(lines).items():
        with exactly():
            exact = base * tax.percent / _HUNDRED
        found.append(
            Line(
                kind="tax",
                name=tax.name,
                amount=round_money(exact, currency),
                exact=exact,
                start=start,
                end=end,
                gross=base,
                percent=tax.percent,
            )
        )
    return tuple(found)


def credit_used(total: Decimal, credit: Decimal, *, currency: str) -> Decimal:
    """How much of a prepaid credit a total takes: all that is there and needed, in whole smallest units."""
    return max(ZERO, min(total, floor_money(credit, currency)))


def given_back(advance: Advance, period: Period) -> Line:
    """An amount asked in advance for a charge that did not come into force."""
    return Line(
        kind="charge",
        name=advance.name,
        amount=-advance.amount,
        exact=ZERO,
        start=period.start,
        end=period.end,
        plan=advance.plan,
        revision=advance.revision,
        advanced=advance.amount,
        taxes=advance.taxes,
    )


def credit_line(used: Decimal, period: Period) -> Line:
    """What a prepaid credit pays."""
    return Line(kind="credit", name="Prepaid credit", amount=-used, exact=-used, start=period.start, end=period.end)
