"""A plan's prices as typed charges, and what one charge asks for a quantity: exact, before any rounding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final

from gateway.billing.money import ZERO, exactly, round_whole
from gateway.billing.period import Share
from gateway.model import Plan
from gateway.usage import Usage

WHOLE: Final = Share(1, 1)
_HUNDRED: Final = Decimal(100)


@dataclass(frozen=True, slots=True)
class Discount:
    """Taken off a charge: units before the price, then percentage, then amount. Units and amount are per period."""

    units: int = 0
    percent: Decimal = ZERO
    amount: Decimal = ZERO


NO_DISCOUNT: Final = Discount()


@dataclass(frozen=True, slots=True)
class Tax:
    """A tax by name and percentage."""

    name: str
    percent: Decimal


@dataclass(frozen=True, slots=True)
class Tier:
    """Prices up to a quantity, that quantity included; None has no end. ``flat_amount`` is asked once it is entered."""

    up_to: int | None
    unit_price: Decimal
    flat_amount: Decimal = ZERO


@dataclass(frozen=True, slots=True)
class Flat:
    """An amount per period, whatever is used. In advance: on the statement before, for the period to come."""

    name: str
    amount: Decimal
    is_in_advance: bool
    discount: Discount = NO_DISCOUNT


@dataclass(frozen=True, slots=True)
class Unit:
    """One price for each unit beyond those included."""

    name: str
    meter: str
    unit_price: Decimal
    included: int = 0
    discount: Discount = NO_DISCOUNT


@dataclass(frozen=True, slots=True)
class Graduated:
    """Each unit at the price of the tier it falls into."""

    name: str
    meter: str
    tiers: tuple[Tier, ...]
    included: int = 0
    discount: Discount = NO_DISCOUNT


@dataclass(frozen=True, slots=True)
class Volume:
    """All units at the price of the tier that their number reaches."""

    name: str
    meter: str
    tiers: tuple[Tier, ...]
    included: int = 0
    discount: Discount = NO_DISCOUNT


@dataclass(frozen=True, slots=True)
class Package:
    """A price for each begun package of units."""

    name: str
    meter: str
    package_size: int
    price: Decimal
    included: int = 0
    discount: Discount = NO_DISCOUNT


Metered = Unit | Graduated | Volume | Package
Charge = Flat | Metered


@dataclass(frozen=True, slots=True)
class TierPart:
    """What fell into one tier. ``up_to`` is the bound that counted, a share of the plan's where only a share of the
    period did."""

    up_to: int | None
    quantity: int
    unit_price: Decimal
    flat_amount: Decimal
    exact: Decimal


@dataclass(frozen=True, slots=True)
class Priced:
    """What a charge asks for a quantity. ``gross`` is before the charge's discount, ``exact`` after it;
    ``discount_units`` and ``discount_amount`` are what the discount took off.

    ``unit_price`` is the one price that held, per ``per`` units; None where several did or none.
    """

    used: int
    included: int
    discount_units: int
    discount_amount: Decimal
    billable: int
    gross: Decimal
    exact: Decimal
    unit_price: Decimal | None = None
    per: int = 1
    tiers: tuple[TierPart, ...] = ()


@dataclass(frozen=True, slots=True)
class Pricing:
    """All money terms of a plan at a revision. ``discount`` is of the plan's whole; it has no units."""

    charges: tuple[Charge, ...] = ()
    discount: Discount = NO_DISCOUNT
    minimum: Decimal | None = None
    maximum: Decimal | None = None
    taxes: tuple[Tax, ...] = ()
    prices_replay: bool = field(default=False)

    def quantity(self, meter: str, usage: Usage) -> int:
        """Units of a meter. Without any price for replay, replayed records and bytes count as live ones."""
        if not self.prices_replay:
            if meter == "records":
                return usage.records + usage.replayed_records
            if meter == "bytes":
                return usage.bytes + usage.replayed_bytes
        counted: int = getattr(usage, meter)
        return counted


def pricing_of(plan: Plan) -> Pricing:
    """A plan's checked money terms, typed. A flat charge that includes units becomes two: amount, and what is over."""
    terms = plan.pricing
    charges = tuple(charge for item in terms.get("charges", ()) for charge in _charges_of(item))
    tax = terms.get("tax") or ()
    return Pricing(
        charges=charges,
        discount=_discount(terms),
        minimum=_optional(terms.get("minimum")),
        maximum=_optional(terms.get("maximum")),
        taxes=tuple(Tax(one["name"], Decimal(one["percent"])) for one in ((tax,) if isinstance(tax, Mapping) else tax)),
        prices_replay=any(getattr(charge, "meter", "").startswith("replayed_") for charge in charges),
    )


def price(charge: Metered, used: int, *, share: Share = WHOLE) -> Priced:
    """What a charge asks for a quantity: usage discount, then price, then percentage, then amount off; never below 0.

    ``share`` is how much of a period counts: units included or given, bounds and flat amounts of tiers and the
    discount's amount are that share of what the plan says, quantities rounded half up to whole ones.
    """
    included, given = scaled(charge.included, share), scaled(charge.discount.units, share)
    billable = max(0, used - included - given)
    unit_price: Decimal | None = None
    per = 1
    parts: tuple[TierPart, ...] = ()
    with exactly():
        match charge:
            case Unit():
                unit_price = charge.unit_price
                gross = unit_price * billable
            case Package():
                unit_price, per = charge.price, charge.package_size
                gross = unit_price * -(-billable // per)
            case Graduated():
                parts = _graduated(charge.tiers, billable, share)
            case Volume():
                parts = _volume(charge.tiers, billable, share)
        if isinstance(charge, Graduated | Volume):
            gross = sum((part.exact for part in parts), ZERO)
            unit_price = parts[0].unit_price if len(parts) == 1 else None
        exact = discounted(gross, charge.discount, share=share)
    taken = min(given, max(0, used - included))
    off = amount_off(gross, exact, charge.discount)
    return Priced(used, included, taken, off, billable, gross, exact, unit_price, per, parts)


def price_flat(charge: Flat, *, share: Share) -> Priced:
    """What a flat charge asks for a share of a period."""
    with exactly():
        gross = charge.amount * share.part / share.whole
        exact = discounted(gross, charge.discount, share=share)
        return Priced(0, 0, 0, amount_off(gross, exact, charge.discount), 0, gross, exact)


def discounted(gross: Decimal, discount: Discount, *, share: Share) -> Decimal:
    """An amount less a percentage, then less a share of the discount's amount; never below 0."""
    with exactly():
        less = gross * (_HUNDRED - discount.percent) / _HUNDRED
        return max(ZERO, less - discount.amount * share.part / share.whole)


def amount_off(gross: Decimal, exact: Decimal, discount: Discount) -> Decimal:
    """What of a discount's amount led from an amount to what is left of it."""
    with exactly():
        return gross * (_HUNDRED - discount.percent) / _HUNDRED - exact


def scaled(units: int, share: Share) -> int:
    """A share of units per period, half up to whole ones."""
    if share.is_whole or not units:
        return units
    with exactly():
        return round_whole(Decimal(units) * share.part / share.whole)


def _graduated(tiers: tuple[Tier, ...], billable: int, share: Share) -> tuple[TierPart, ...]:
    parts: list[TierPart] = []
    below = 0
    for tier in tiers:
        bound = None if tier.up_to is None else scaled(tier.up_to, share)
        quantity = (billable if bound is None else min(billable, bound)) - below
        if quantity > 0:
            parts.append(_part(tier, bound, quantity, share))
            below += quantity
    return tuple(parts)


def _volume(tiers: tuple[Tier, ...], billable: int, share: Share) -> tuple[TierPart, ...]:
    if not billable:
        return ()
    for tier in tiers:
        bound = None if tier.up_to is None else scaled(tier.up_to, share)
        if bound is None or billable <= bound:
            return (_part(tier, bound, billable, share),)
    raise ValueError("the last tier has no end")


def _part(tier: Tier, bound: int | None, quantity: int, share: Share) -> TierPart:
    flat = tier.flat_amount * share.part / share.whole
    return TierPart(bound, quantity, tier.unit_price, flat, tier.unit_price * quantity + flat)


def _charges_of(item: Mapping[str, Any]) -> tuple[Charge, ...]:
    name, discount, included = item["name"], _discount(item), item.get("included", 0)
    match item["model"]:
        case "flat":
            flat = Flat(name, Decimal(item["amount"]), item["billed"] == "in_advance", discount)
            if "meter" not in item:
                return (flat,)
            return flat, Unit(f"{name}, over", item["meter"], Decimal(item["overage"]), included)
        case "unit":
            return (Unit(name, item["meter"], Decimal(item["unit_price"]), included, discount),)
        case "graduated":
            return (Graduated(name, item["meter"], _tiers(item), included, discount),)
        case "volume":
            return (Volume(name, item["meter"], _tiers(item), included, discount),)
        case "package":
            size, amount = item["package_size"], Decimal(item["price"])
            return (Package(name, item["meter"], size, amount, included, discount),)
        case model:
            raise ValueError(f"no charge model {model!r}")


def _tiers(item: Mapping[str, Any]) -> tuple[Tier, ...]:
    return tuple(
        Tier(tier.get("up_to"), Decimal(tier["unit_price"]), Decimal(tier.get("flat_amount") or 0))
        for tier in item["tiers"]
    )


def _discount(terms: Mapping[str, Any]) -> Discount:
    said = terms.get("discount") or {}
    if not said:
        return NO_DISCOUNT
    return Discount(said.get("units") or 0, Decimal(said.get("percent") or 0), Decimal(said.get("amount") or 0))


def _optional(text: str | None) -> Decimal | None:
    return None if text is None else Decimal(text)
