"""A second opinion on bills: fractions instead of decimals, formulas over raw plan data instead of typed charges."""

from __future__ import annotations

import math
import random
from fractions import Fraction
from typing import Any

F = Fraction


def half_up(value: Fraction, places: int) -> Fraction:
    """Rounded to so many places, halves away from zero."""
    scale = 10**places
    size = F(math.floor(abs(value) * scale + F(1, 2)), scale)
    return size if value >= 0 else -size


def whole(value: Fraction) -> int:
    return int(half_up(value, 0))


def cost(charge: dict[str, Any], quantity: int, share: Fraction) -> Fraction:
    """What a charge asks for a quantity, before percentage and amount come off."""
    said = charge.get("discount", {})
    free = whole(charge.get("included", 0) * share) + whole(said.get("units", 0) * share)
    n = max(quantity - free, 0)
    if charge["model"] == "flat":
        return F(charge["amount"]) * share
    if charge["model"] == "unit":
        return n * F(charge["unit_price"])
    if charge["model"] == "package":
        return math.ceil(F(n, charge["package_size"])) * F(charge["price"])
    # Tiers as half-open stretches (low, high] of the number line; high is infinite in the last.
    stretches = []
    low = 0
    for tier in charge["tiers"]:
        high = whole(tier["up_to"] * share) if "up_to" in tier else math.inf
        stretches.append((low, high, F(tier["unit_price"]), F(tier.get("flat_amount", "0")) * share))
        low = max(low, high)
    if charge["model"] == "graduated":
        return sum(
            ((min(n, high) - low) * unit + flat for low, high, unit, flat in stretches if n > low and high > low), F(0)
        )
    return sum((n * unit + flat for low, high, unit, flat in stretches if low < n <= high), F(0))


def less(value: Fraction, discount: dict[str, Any], share: Fraction) -> Fraction:
    after = value * (1 - F(discount.get("percent", "0")) / 100) - F(discount.get("amount", "0")) * share
    return max(after, F(0))


def amounts(
    pricing: dict[str, Any], used: dict[str, int], *, share: Fraction, places: int, is_in_force: bool = True
) -> list[Fraction]:
    """The rounded amounts of all lines of one revision, before tax."""
    found: list[Fraction] = []
    for charge in pricing["charges"]:
        is_flat = charge["model"] == "flat"
        if not is_flat or is_in_force:
            quantity = 0 if is_flat else measured(pricing, charge["meter"], used)
            found.append(half_up(less(cost(charge, quantity, share), charge.get("discount", {}), share), places))
        if is_flat and "overage" in charge:
            over = {"model": "unit", "unit_price": charge["overage"], "included": charge["included"]}
            found.append(half_up(cost(over, measured(pricing, charge["meter"], used), share), places))
    subtotal = sum(found, F(0))
    if subtotal and any(F(value) for value in pricing.get("discount", {}).values()):
        off = half_up(subtotal - less(subtotal, pricing["discount"], share), places)
        found.append(-off)
        subtotal -= off
    if is_in_force and pricing.get("minimum") is not None and subtotal < F(pricing["minimum"]) * share:
        more = half_up(F(pricing["minimum"]) * share - subtotal, places)
        found.append(more)
        subtotal += more
    if pricing.get("maximum") is not None and subtotal > F(pricing["maximum"]) * share:
        found.append(-half_up(subtotal - F(pricing["maximum"]) * share, places))
    return found


def measured(pricing: dict[str, Any], meter: str, used: dict[str, int]) -> int:
    priced = {charge.get("meter") for charge in pricing["charges"]}
    if meter in ("records", "bytes") and not priced & {"replayed_records", "replayed_bytes"}:
        return used.get(meter, 0) + used.get(f"replayed_{meter}", 0)
    return used.get(meter, 0)


METERS = ("records", "bytes", "units", "connection_seconds", "requests", "replayed_records", "replayed_bytes")


def some_decimal(chance: random.Random, *, most: int = 100) -> str:
    """An amount with 0 to 12 places, halves of cents often."""
    places = chance.choice((0, 1, 2, 3, 3, 5, 12))
    return str(chance.randrange(most)) if places == 0 else _with_places(chance, most, places)


def _with_places(chance: random.Random, most: int, places: int) -> str:
    number = chance.randrange(most * 10**places)
    if chance.random() < 0.4:
        number -= number % 5
    head, tail = divmod(number, 10**places)
    return f"{head}.{tail:0{places}d}"


def some_discount(chance: random.Random, *, units: bool) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if units and chance.random() < 0.5:
        found["units"] = chance.randrange(500)
    if chance.random() < 0.6:
        found["percent"] = some_decimal(chance)
    if not found or chance.random() < 0.3:
        found["amount"] = some_decimal(chance, most=10)
    return found


def some_charge(chance: random.Random, name: str) -> dict[str, Any]:
    model = chance.choice(("flat", "unit", "graduated", "volume", "package"))
    charge: dict[str, Any] = {"name": name, "model": model}
    if model == "flat":
        charge |= {"amount": some_decimal(chance), "billed": "in_arrears"}
        if chance.random() < 0.4:
            charge |= {
                "meter": chance.choice(METERS),
                "included": chance.randrange(900),
                "overage": some_decimal(chance, most=1),
            }
    else:
        charge["meter"] = chance.choice(METERS)
        if chance.random() < 0.5:
            charge["included"] = chance.randrange(900)
    if model == "unit":
        charge["unit_price"] = some_decimal(chance, most=1)
    if model == "package":
        charge |= {"package_size": chance.randrange(1, 300), "price": some_decimal(chance, most=10)}
    if model in ("graduated", "volume"):
        bounds = sorted(chance.sample(range(1, 4000), chance.randrange(4)))
        charge["tiers"] = [{"up_to": bound} for bound in bounds] + [{}]
        for tier in charge["tiers"]:
            tier["unit_price"] = some_decimal(chance, most=1)
            if chance.random() < 0.4:
                tier["flat_amount"] = some_decimal(chance, most=10)
    if chance.random() < 0.4:
        charge["discount"] = some_discount(chance, units=model != "flat")
    return charge


def some_pricing(chance: random.Random) -> dict[str, Any]:
    """Money terms as a catalog file may hold them."""
    pricing: dict[str, Any] = {"charges": [some_charge(chance, f"c{n}") for n in range(chance.randrange(1, 6))]}
    if chance.random() < 0.4:
        pricing["discount"] = some_discount(chance, units=False)
    if chance.random() < 0.4:
        pricing["minimum"] = some_decimal(chance, most=300)
    if chance.random() < 0.4:
        pricing["maximum"] = some_decimal(chance, most=300)
    return pricing


def some_use(chance: random.Random) -> dict[str, int]:
    return {meter: chance.choice((0, chance.randrange(10), chance.randrange(6000))) for meter in METERS}
