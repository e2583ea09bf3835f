"""Plan linter: prices that load and do what they say, and that nobody can have meant."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from itertools import pairwise
from typing import Final

from gateway.billing.money import ZERO, exactly, format_exact
from gateway.billing.pricing import Charge, Discount, Flat, Graduated, Package, Tier, Unit, Volume, pricing_of
from gateway.model import Plan

_QUOTAS: Final = {"records": "records_per_month", "bytes": "bytes_per_month"}


@dataclass(frozen=True, slots=True)
class Doubt:
    """One thing that looks like a mistake. ``charge`` is its name, empty where it is the plan as a whole; ``tier``
    counts from 1."""

    plan: str
    revision: int
    text: str
    charge: str = ""
    tier: int | None = None

    def line(self, places: Mapping[tuple[str, ...], str] | None = None) -> str:
        """``file:line: plan pro revision 2, charge Records: …``; ``places`` as a catalog has them, by key.

        The nearest place that is known leads: of the tier, the charge or the plan.
        """
        keys: list[tuple[str, ...]] = [("plan", self.plan, str(self.revision))]
        if self.charge:
            keys.append((*keys[-1], "charges", self.charge))
        if self.tier is not None:
            keys.append((*keys[-1], str(self.tier)))
        found = [place for key in reversed(keys) if (place := (places or {}).get(key))]
        what = f"plan {self.plan} revision {self.revision}" + (f", charge {self.charge}" if self.charge else "")
        return f"{found[0]}: {what}: {self.text}" if found else f"{what}: {self.text}"


def lint_plans(plans: Iterable[Plan]) -> tuple[Doubt, ...]:
    """The doubts about several plans, in their order."""
    return tuple(doubt for plan in plans for doubt in lint(plan))


def lint(plan: Plan) -> tuple[Doubt, ...]:
    """Everything doubtful in a plan's prices: none of it keeps the plan from being applied."""
    pricing = pricing_of(plan)
    found = [*_of_plan(plan)]
    for charge in pricing.charges:
        quota = plan.limits.get(_QUOTAS.get(getattr(charge, "meter", ""), ""))
        for tier, text in _of_charge(charge, quota if isinstance(quota, int) else None):
            name = charge.name.removesuffix(", over") if isinstance(charge, Unit) else charge.name
            found.append(Doubt(plan.name, plan.revision, text, name, tier))
    return tuple(found)


def _of_plan(plan: Plan) -> Iterator[Doubt]:
    pricing = pricing_of(plan)
    texts = []
    low, high = pricing.minimum, pricing.maximum
    if low is not None and high is not None and low > high:
        texts.append(
            f"minimum {format_exact(low)} is above maximum {format_exact(high)}: every period costs the maximum"
        )
    if high is not None and high == ZERO:
        texts.append("maximum 0: nothing is ever asked; leave it out, or null, for no maximum")
    texts += [f"tax {tax.name} of 0 percent" for tax in pricing.taxes if tax.percent == ZERO]
    texts += _of_discount(pricing.discount)
    first: dict[str, str] = {}
    for charge in pricing.charges:
        if isinstance(charge, Flat):
            continue
        if charge.meter in first:
            texts.append(f"{charge.meter} are priced twice, by {first[charge.meter]} and by {charge.name}")
        first.setdefault(charge.meter, charge.name)
    for text in texts:
        yield Doubt(plan.name, plan.revision, text)


def _of_charge(charge: Charge, quota: int | None) -> Iterator[tuple[int | None, str]]:
    yield from ((None, text) for text in _of_discount(charge.discount))
    match charge:
        case Flat():
            if charge.amount == ZERO:
                yield None, "amount 0: the charge never asks anything"
            return
        case Unit():
            if charge.unit_price == ZERO:
                yield None, "unit price 0: the charge never asks anything"
        case Package():
            if charge.price == ZERO:
                yield None, "price 0: the charge never asks anything"
        case Graduated() | Volume():
            yield from _of_tiers(charge, quota)
    free = charge.included + charge.discount.units
    if quota is not None and free >= quota:
        what = f"{free} units are free and the plan's quota ends at {quota} a month: the charge never asks anything"
        yield None, what


def _of_discount(discount: Discount) -> Iterator[str]:
    if discount.percent == 100:
        yield "discount of 100 percent: nothing is left to ask"


def _of_tiers(charge: Graduated | Volume, quota: int | None) -> Iterator[tuple[int, str]]:
    below = 0
    is_ended = is_paid = False
    free = charge.included + charge.discount.units
    for number, tier in enumerate(charge.tiers, start=1):
        is_last = number == len(charge.tiers)
        if is_ended:
            yield number, f"tier {number} is never reached: the one before has no end"
        elif tier.up_to is not None and tier.up_to <= below:
            yield number, f"tier {number} is never reached: it ends at {tier.up_to}, the one before at {below}"
        elif is_last and tier.up_to is not None:
            yield number, f"nothing says what units above {tier.up_to} cost: the last tier has no up_to"
        elif quota is not None and below + free >= quota:
            quota_text = f"the plan's quota ends at {quota} a month"
            yield number, f"tier {number} is never reached: it begins above {below + free} used, {quota_text}"
        asks = tier.unit_price != ZERO or tier.flat_amount != ZERO
        if is_paid and not asks:
            yield number, f"tier {number} asks nothing, the one before it does"
        is_paid = asks
        is_ended = is_ended or tier.up_to is None
        below = max(below, tier.up_to or 0)
    bound = charge.tiers[0].up_to
    if charge.included and bound is not None and charge.included >= bound:
        yield (
            1,
            (
                f"included {charge.included} is not below the first tier's end at {bound}: tiers count what is beyond "
                f"the units included, so the first tier ends at {charge.included + bound} used"
            ),
        )
    if isinstance(charge, Volume):
        yield from _cliffs(charge)


def _cliffs(charge: Volume) -> Iterator[tuple[int, str]]:
    """Bounds after which the same meter costs less for more."""
    free = charge.included + charge.discount.units
    for number, (tier, following) in enumerate(pairwise(charge.tiers), start=2):
        if tier.up_to is None:
            return
        with exactly():
            at = tier.unit_price * tier.up_to + tier.flat_amount
            after = following.unit_price * (tier.up_to + 1) + following.flat_amount
            if after >= at:
                continue
            what = (
                f"the bill falls as usage grows: {tier.up_to + free} units cost {format_exact(at)}, "
                f"{tier.up_to + free + 1} cost {format_exact(after)}, {format_exact(at - after)} less"
            )
            again = _reaches(following, at)
        if again is not None and (following.up_to is None or again <= following.up_to):
            yield number, f"{what}; as much again is reached at {again + free}"
        else:
            yield number, f"{what}; as much again is not reached within that tier"


def _reaches(tier: Tier, amount: Decimal) -> int | None:
    """The least quantity at which a volume tier asks an amount; None where it never does."""
    if tier.unit_price == ZERO:
        return None
    return int(((amount - tier.flat_amount) / tier.unit_price).to_integral_value(rounding=ROUND_CEILING))
