"""A plan's money terms as checked data: the shape of charges, minimum, maximum and tax; nothing is computed here."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from gateway.catalog.section import Section

KEYS = ("charges", "discount", "minimum", "maximum", "tax")

_METERS = ("records", "bytes", "units", "connection_seconds", "requests", "replayed_records", "replayed_bytes")
_KEYS_OF_MODEL: dict[str, tuple[str, ...]] = {
    "flat": ("name", "model", "amount", "billed", "meter", "included", "overage", "discount"),
    "unit": ("name", "model", "meter", "unit_price", "included", "discount"),
    "graduated": ("name", "model", "meter", "tiers", "included", "discount"),
    "volume": ("name", "model", "meter", "tiers", "included", "discount"),
    "package": ("name", "model", "meter", "package_size", "price", "included", "discount"),
}
_ALL_KEYS = tuple(dict.fromkeys(key for keys in _KEYS_OF_MODEL.values() for key in keys))
_OF_OVERAGE = ("meter", "included", "overage")
_MOST = 10**18
_MOST_TAXES = 8


def parse_pricing(plan: Section) -> dict[str, Any]:
    """The money terms of a plan as plain data; what is wrong is added to the plan's problems."""
    names: set[str] = set()
    for item in plan.items("charges", allowed="a list of charges, [] for none", required=True):
        _check_charge(Section(item, plan.path("charges"), plan.problems, keys=_ALL_KEYS), names)
    plan.decimal("minimum")
    plan.decimal("maximum")
    _check_discount(plan, keys=("percent", "amount"))
    _check_taxes(plan)
    return {key: value for key in KEYS if (value := plan.plain(key)) is not None}


def places_of_charges(plan: Section) -> dict[tuple[str, ...], str]:
    """Where a plan's charges and their tiers stand: ``("charges", name)`` and ``("charges", name, "1")``."""
    found: dict[tuple[str, ...], str] = {}
    node = plan.get("charges")
    for item in node.value if node is not None and isinstance(node.value, tuple) else ():
        members = item.value if isinstance(item.value, dict) else {}
        name, tiers = members.get("name"), members.get("tiers")
        if name is None or not isinstance(name.value, str):
            continue
        found["charges", name.value] = item.place
        for number, tier in enumerate(tiers.value if tiers is not None and isinstance(tiers.value, tuple) else (), 1):
            found["charges", name.value, str(number)] = tier.place
    return found


def _check_charge(charge: Section, names: set[str]) -> None:
    if not isinstance(charge.node.value, dict):
        return
    name = charge.text("name")
    if name in names:
        charge.refuse("name", allowed="a name once in a plan")
    names.add(name)
    model = charge.text("model", choices=tuple(_KEYS_OF_MODEL))
    if model not in _KEYS_OF_MODEL:
        return
    keys = _KEYS_OF_MODEL[model]
    for key in charge.node.value:
        if key in _ALL_KEYS and key not in keys:
            what = f"{charge.name}: key does not belong to model {model}"
            charge.problems.add(charge.place(key), what, got=key, allowed=", ".join(keys))
    for key in ("amount", "unit_price", "price"):
        if key in keys:
            charge.decimal(key, required=True)
    if model == "flat":
        charge.text("billed", choices=("in_advance", "in_arrears"))
    over = any(key in charge for key in _OF_OVERAGE)
    if model != "flat" or over:
        charge.text("meter", choices=_METERS)
    if model == "flat" and over:
        charge.decimal("overage", required=True)
        if "included" not in charge:
            charge.refuse("included", allowed="a whole number: the units that the amount includes")
    _check_discount(charge, keys=("percent", "amount") if model == "flat" else ("units", "percent", "amount"))
    if model == "package":
        charge.whole("package_size", low=1, high=_MOST)
    if "included" in charge:
        charge.whole("included", low=0, high=_MOST)
    if "tiers" in keys:
        _check_tiers(charge)


def _check_tiers(charge: Section) -> None:
    allowed = "a list of {up_to, unit_price, flat_amount}, the last without up_to"
    items = charge.items("tiers", allowed=allowed, required=True)
    above = 0
    for number, item in enumerate(items, start=1):
        tier = Section(item, charge.path("tiers"), charge.problems, keys=("up_to", "unit_price", "flat_amount"))
        if not isinstance(item.value, dict):
            continue
        tier.decimal("unit_price", required=True)
        tier.decimal("flat_amount")
        if number == len(items):
            if tier.get("up_to") is not None:
                tier.refuse("up_to", allowed="no up_to in the last tier: it has no end")
        else:
            above = tier.whole("up_to", low=above + 1, high=_MOST)
    if charge.get("tiers") is not None and charge.node.value["tiers"].value == ():
        charge.refuse("tiers", allowed="at least one tier")


def _check_discount(section: Section, *, keys: tuple[str, ...]) -> None:
    discount = section.section("discount", keys=keys)
    if discount is None:
        section.refuse_nulls("discount")
        return
    if isinstance(discount.node.value, dict) and not any(key in discount for key in keys):
        section.refuse("discount", allowed=f"a mapping with at least one of {', '.join(keys)}")
    if "units" in discount:
        discount.whole("units", low=0, high=_MOST)
    percent = discount.decimal("percent")
    if percent is not None and Decimal(percent) > 100:
        discount.refuse("percent", allowed="at most 100")
    discount.decimal("amount")


def _check_taxes(plan: Section) -> None:
    """One tax, or a list of them: each is on the same lines, none on another."""
    node = plan.get("tax")
    if node is None:
        return
    items = node.value if isinstance(node.value, tuple) else (node,)
    if not 1 <= len(items) <= _MOST_TAXES:
        plan.refuse("tax", allowed=f"{{name, percent}}, or a list of 1 to {_MOST_TAXES} of them")
    names: set[str] = set()
    for item in items:
        tax = Section(item, plan.path("tax"), plan.problems, keys=("name", "percent"))
        if not isinstance(item.value, dict):
            continue
        name = tax.text("name")
        if name in names:
            tax.refuse("name", allowed="a name once in a plan")
        names.add(name)
        tax.decimal("percent", required=True)
