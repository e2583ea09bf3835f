"""One currency a statement: rules about the currencies of plans and of those who are entitled to them."""

from __future__ import annotations

import re
from datetime import date, timedelta
from functools import cache

from gateway.catalog.catalog import Catalog
from gateway.catalog.problems import Problems
from gateway.catalog.section import Section
from gateway.model import Entitlement

_CODE = re.compile(r"[A-Z]{3}")


@cache
def known_currencies() -> frozenset[str]:
    """Codes of ISO 4217, of today and of before, as CLDR has them: where the places of their amounts come from, too."""
    # Here and not above: the import costs what only those need who read a catalog's file.
    from babel.numbers import list_currencies

    return frozenset(list_currencies())


def read_currency(section: Section) -> str:
    """A plan's currency; one that is not known is refused with its line."""
    found = section.text("currency", pattern=_CODE, allowed="three capital letters (ISO 4217)")
    if _CODE.fullmatch(found) and found not in known_currencies():
        section.refuse("currency", allowed="a code of ISO 4217 such as EUR or JPY")
    return found


def check_currencies(catalog: Catalog, problems: Problems) -> None:
    """A plan keeps its currency over all revisions; a tenant's plans of one calendar month share theirs."""
    currencies: dict[str, str] = {}
    for plan in catalog.plans:
        first = currencies.setdefault(plan.name, plan.currency)
        if plan.currency != first:
            place = catalog.places.get(("plan", plan.name, str(plan.revision)), "catalog")
            what = f"plan {plan.name} revision {plan.revision}: currency"
            problems.add(place, what, got=plan.currency, allowed=f"{first} as before; another currency is another plan")
    for tenant in catalog.tenants:
        if len({currencies.get(entitlement.plan) for entitlement in tenant.entitlements}) < 2:
            continue
        in_time = sorted(tenant.entitlements, key=lambda entitlement: entitlement.start)
        for number, later in enumerate(in_time):
            for earlier in in_time[:number]:
                mine, theirs = currencies.get(later.plan), currencies.get(earlier.plan)
                if mine and theirs and mine != theirs and _share_a_month(earlier, later):
                    key = ("entitlement", tenant.name, later.product, later.start.isoformat())
                    place = catalog.places.get((*key, "plan")) or catalog.places.get(key, "catalog")
                    what = f"tenant {tenant.name}: plan {later.plan} is in {mine}, plan {earlier.plan} in {theirs}"
                    allowed = "plans of one currency within a calendar month: a statement has one"
                    problems.add(place, what, got=later.plan, allowed=allowed)


def _share_a_month(earlier: Entitlement, later: Entitlement) -> bool:
    if earlier.end is None:
        return True
    return _month(earlier.end - timedelta(days=1)) >= _month(later.start)


def _month(day: date) -> tuple[int, int]:
    return day.year, day.month
