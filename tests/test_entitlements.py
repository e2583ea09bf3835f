"""Entitlements in time: what follows without a break is one stretch of reading, and each beginning is known before."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime

import pytest

from gateway.catalog.catalog import Catalog
from gateway.model import Entitlement, Plan, Product, Tenant

PRODUCTS = [Product("geo", "Geo", ("s",)), Product("all", "All", ("s", "other")), Product("rest", "Rest", ("other",))]
PLANS = [Plan("free", 1, "Free", "EUR"), Plan("pro", 1, "Pro", "EUR")]


def day(month: int, of: int = 1) -> date:
    return date(2026, month, of)


def at(moment: date) -> float:
    return datetime(moment.year, moment.month, moment.day, tzinfo=UTC).timestamp()


def catalog_of(*entitlements: tuple[str, str, date, date | None], zone: str = "UTC") -> Catalog:
    held = tuple(Entitlement("acme", product, plan, start, end) for product, plan, start, end in entitlements)
    return Catalog.build(PRODUCTS, PLANS, [Tenant("acme", "Acme", "active", zone, {}, (), held)])


FIRST = ("geo", "free", day(1), day(3))
FIRST_STRETCH = (at(day(1)), at(day(3)))


@pytest.mark.parametrize(
    ("others", "end"),
    [
        ([], day(3)),
        ([("geo", "free", day(3), day(5))], day(5)),
        ([("geo", "pro", day(3), None)], None),
        ([("all", "pro", day(3), day(4)), ("geo", "free", day(4), day(6))], day(6)),
        ([("geo", "free", day(4), day(6)), ("all", "pro", day(3), day(4))], day(6)),
        ([("all", "free", day(2), day(4))], day(4)),
        ([("all", "free", day(1), day(2))], day(3)),
        ([("geo", "free", day(3, 2), None)], day(3)),
        ([("rest", "free", day(3), None)], day(3)),
        ([("geo", "free", date(2025, 1, 1), day(1))], day(3)),
    ],
    ids=[
        "alone", "the next", "under another plan, without end", "a chain of three", "in any order", "overlapping",
        "within it", "a day late", "of another stream", "before it",
    ],
)  # fmt: skip
def test_reading_goes_on_as_far_as_entitlements_follow_each_other(
    others: list[tuple[str, str, date, date | None]], end: date | None
) -> None:
    catalog = catalog_of(FIRST, *others)
    (right,) = [one for one in catalog.entitlements_for("acme", "s") if (one.starts_at, one.ends_at) == FIRST_STRETCH]
    assert catalog.unbroken_until("acme", "s", right) == (math.inf if end is None else at(end))


def test_every_beginning_is_a_turn_in_the_tenants_own_zone() -> None:
    catalog = catalog_of(FIRST, ("geo", "pro", day(7), None), zone="Europe/Berlin")
    turn = at(day(7)) - 2 * 3600
    assert catalog.next_turn(after=at(day(2))) == turn
    assert catalog.turning(after=turn - 1, until=turn) == {"acme"}
    assert catalog.turning(after=turn, until=turn + 1) == frozenset()
    assert catalog.next_turn(after=turn) == math.inf
    assert catalog_of().next_turn(after=0) == math.inf
