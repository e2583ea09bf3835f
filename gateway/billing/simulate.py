"""Simulation: what recorded usage would have cost under a plan that is not published."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from gateway.billing.bill import Bill
from gateway.billing.money import ZERO, exactly, format_amount, round_money
from gateway.billing.period import Period
from gateway.billing.rating import rate
from gateway.billing.terms import Term
from gateway.model import Plan
from gateway.usage import Usage, UsageKey


@dataclass(frozen=True, slots=True)
class Outcome:
    """One calendar month, or the part of it that was asked for, under the plans that held and under the new ones."""

    period: Period
    before: Bill
    after: Bill


@dataclass(frozen=True, slots=True)
class Comparison:
    """A tenant's bills under both, month by month. Totals are with tax and before credit."""

    tenant: str
    outcomes: tuple[Outcome, ...]

    @property
    def currencies(self) -> tuple[str, str]:
        """Before and after; several, where the tenant moved from one to another, with a slash; empty without plans."""
        both = ([one.before for one in self.outcomes], [one.after for one in self.outcomes])
        before, after = ("/".join(sorted({bill.currency for bill in bills} - {""})) for bills in both)
        return before, after

    @property
    def before(self) -> Decimal:
        """All of it as it was."""
        with exactly():
            return sum((one.before.total for one in self.outcomes), ZERO)

    @property
    def after(self) -> Decimal:
        """All of it under the new plans."""
        with exactly():
            return sum((one.after.total for one in self.outcomes), ZERO)

    @property
    def difference(self) -> Decimal | None:
        """What the new plans ask more; below 0 where less; None between currencies."""
        before, after = self.currencies
        return self.after - self.before if before == after and "/" not in before else None

    def to_dict(self) -> dict[str, Any]:
        """Plain data, money as text."""
        before, after = self.currencies
        return {
            "tenant": self.tenant,
            "before": {"currency": before, "total": _spell(self.before, before)},
            "after": {"currency": after, "total": _spell(self.after, after)},
            "difference": None if self.difference is None else _spell(self.difference, after),
            "periods": [
                {"label": one.period.label, "before": one.before.to_dict(), "after": one.after.to_dict()}
                for one in self.outcomes
            ],
        }


def simulate(
    rows: Iterable[tuple[UsageKey, Usage]],
    *,
    tenant: str,
    period: Period,
    terms: Sequence[Term],
    published: Mapping[tuple[str, int], Plan] | None = None,
    replacing: Mapping[str, Plan],
) -> Comparison:
    """Rate a tenant's rows of any stretch twice, month by month: as ``rate`` would, and with the plans in ``replacing``
    in the place of every revision of the plans of those names, whatever they are called themselves.

    Flat amounts count for the stretch itself, whenever they would be billed; of a month of which only a part is asked
    for they count in part. Raises as ``rate`` does.
    """
    months = list(period.months())
    starts = [month.start for month in months]
    recorded: list[list[tuple[UsageKey, Usage]]] = [[] for _ in months]
    for key, usage in rows:
        if period.holds(key.bucket):
            recorded[bisect_right(starts, key.bucket) - 1].append((key, usage))
    outcomes = []
    for month, held in zip(months, recorded, strict=True):
        inside = Period.spanning(max(month.start, period.start), min(month.end, period.end), zone=period.zone)
        cut = _cut(terms, inside)
        before = rate(held, tenant=tenant, period=inside, terms=cut, plans=published)
        after = rate(
            [(_moved(key, replacing), usage) for key, usage in held],
            tenant=tenant,
            period=inside,
            terms=[replace(term, plan=replacing.get(term.plan.name, term.plan)) for term in cut],
            plans={**(published or {}), **{(plan.name, plan.revision): plan for plan in replacing.values()}},
        )
        outcomes.append(Outcome(inside, before, after))
    return Comparison(tenant, tuple(outcomes))


def _cut(terms: Sequence[Term], period: Period) -> list[Term]:
    """Terms without what lies behind the period: amounts in advance would count twice."""
    ends = [(term, period.end if term.end is None else min(term.end, period.end)) for term in terms]
    return [replace(term, end=end) for term, end in ends if term.start < end]


def _moved(key: UsageKey, replacing: Mapping[str, Plan]) -> UsageKey:
    plan = replacing.get(key.plan)
    return key if plan is None else key._replace(plan=plan.name, revision=plan.revision)


def _spell(amount: Decimal, currency: str) -> str:
    return format_amount(round_money(amount, currency) if len(currency) == 3 else amount)
