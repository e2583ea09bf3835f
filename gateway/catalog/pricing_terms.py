"""A plan's money terms as checked data: the shape of charges, minimum, maximum and tax; nothing is computed here."""

from __future__ import annotations

from typing import Any

from gateway.catalog.section import Section

KEYS = ("charges", "minimum", "maximum", "tax")

_METERS = ("records", "bytes", "units", "connection_seconds", "requests", "replayed_records", "replayed_bytes")
_KEYS_OF_MODEL: dict[str, tuple[str, ...]] = {
    "flat": ("name", "model", "amount", "billed"),
    "unit": ("name", "model", "meter", "unit_price", "included"),
    "graduated": ("name", "model", "meter", "tiers", "included"),
    "volume": ("name", "model", "meter", "tiers", "included"),
    "package": ("name", "model", "meter", "package_size", "price", "included"),
}
_ALL_KEYS = tuple(dict.fromkeys(key for keys in _KEYS_OF_MODEL.values() for key in keys))
_MOST = 10**18


def parse_pricing(plan: Section) -> dict[str, Any]:
    """The money terms of a plan as plain data; what is wrong is added to the plan's problems."""
    names: set[str] = set()
    for item in plan.items("charges", allowed="a list of charges, [] for none", required=True):
        _check_charge(Section(item, plan.path("charges"), plan.problems, keys=_ALL_KEYS), names)
    plan.decimal("minimum")
    plan.decimal("maximum")
    tax = plan.section("tax", keys=("name", "percent"))
    if tax is not None:
        tax.text("name")
        tax.decimal("percent", required=True)
    return {key: value for key in KEYS if (value := plan.plain(key)) is not None}


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
    if "meter" in keys:
        charge.text("meter", choices=_METERS)
    for key in ("amount", "unit_price", "price"):
        if key in keys:
            charge.decimal(key, required=True)
    if model == "flat":
        charge.text("billed", choices=("in_advance", "in_arrears"))
    if model == "package":
        charge.whole("package_size", low=1, high=_MOST)
    if "included" in charge:
        charge.whole("included", low=0, high=_MOST)
    if "tiers" in keys:
        _check_tiers(charge)


def _check_tiers(charge: Section) -> None:
    items = charge.items("tiers", allowed="a list of {up_to, unit_price}, the last without up_to", required=True)
    above = 0
    for number, item in enumerate(items, start=1):
        tier = Section(item, charge.path("tiers"), charge.problems, keys=("up_to", "unit_price"))
        if not isinstance(item.value, dict):
            continue
        tier.decimal("unit_price", required=True)
        if number == len(items):
            if tier.get("up_to") is not None:
                tier.refuse("up_to", allowed="no up_to in the last tier: it has no end")
        else:
            above = tier.whole("up_to", low=above + 1, high=_MOST)
    if charge.get("tiers") is not None and charge.node.value["tiers"].value == ():
        charge.refuse("tiers", allowed="at least one tier")
