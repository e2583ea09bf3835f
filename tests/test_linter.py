"""The plan linter: prices that load and that nobody can have meant are named, with their place in the file."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from gateway.billing.linter import lint, lint_plans
from gateway.billing.pricing import Volume, price, pricing_of
from gateway.catalog.file import load_catalog
from gateway.model import Plan

EXAMPLE = Path(__file__).parents[1] / "asyncapi" / "catalog.yaml"


def plan(*charges: dict[str, Any], limits: dict[str, Any] | None = None, **terms: Any) -> Plan:
    return Plan("pro", 2, "Pro", "EUR", limits or {}, {"charges": list(charges), **terms})


def tiered(model: str, *tiers: tuple[int | None, str] | tuple[int | None, str, str], **rest: Any) -> dict[str, Any]:
    listed = []
    for bound, unit_price, *flat in tiers:
        tier: dict[str, Any] = {"unit_price": unit_price}
        if bound is not None:
            tier["up_to"] = bound
        if flat:
            tier["flat_amount"] = flat[0]
        listed.append(tier)
    return {"name": "Records", "model": model, "meter": "records", "tiers": listed, **rest}


UNIT = {"name": "Records", "model": "unit", "meter": "records", "unit_price": "0.01"}


def test_the_example_and_ordinary_prices_raise_no_doubt() -> None:
    assert lint_plans(load_catalog(EXAMPLE).plans) == ()
    stairs = tiered("volume", (10, "0", "5"), (20, "0", "9"), (None, "0", "12"))
    assert lint(plan(UNIT, minimum="5", maximum="5")) == lint(plan(stairs)) == ()
    assert lint(plan(tiered("graduated", (10, "0"), (20, "2"), (None, "1")))) == ()


def test_a_volume_cliff_is_named_with_quantity_and_amount() -> None:
    cliff = tiered("volume", (1000, "0.10"), (10000, "0.05"), (None, "0.01"))
    first, second = lint(plan(cliff))
    assert (first.charge, first.tier) == ("Records", 2)
    assert "1000 units cost 100, 1001 cost 50.05, 49.95 less; as much again is reached at 2000" in first.text
    assert "10000 units cost 500, 10001 cost 100.01, 399.99 less; as much again is reached at 50000" in second.text
    assert lint(plan(cliff | {"model": "graduated"})) == ()


def test_a_cliff_is_told_in_used_units_and_may_never_be_made_good_within_its_tier() -> None:
    (doubt,) = lint(plan(tiered("volume", (100, "1"), (110, "0.5"), (None, "2"), included=50, discount={"units": 7})))
    assert "157 units cost 100, 158 cost 50.5, 49.5 less; as much again is not reached within that tier" in doubt.text


def test_what_the_linter_says_of_a_cliff_is_what_is_charged() -> None:
    charge = pricing_of(plan(tiered("volume", (1000, "0.10"), (None, "0.03", "20")))).charges[0]
    assert isinstance(charge, Volume)
    (doubt,) = lint(plan(tiered("volume", (1000, "0.10"), (None, "0.03", "20"))))
    asked = [price(charge, used).exact for used in (1000, 1001, 2666, 2667)]
    assert asked == [Decimal("100"), Decimal("50.03"), Decimal("99.98"), Decimal("100.01")]
    assert "reached at 2667" in doubt.text


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (plan(UNIT | {"unit_price": "0"}), "unit price 0: the charge never asks anything"),
        (plan({"name": "B", "model": "flat", "amount": "0", "billed": "in_advance"}), "amount 0"),
        (
            plan({"name": "P", "model": "package", "meter": "bytes", "package_size": 5, "price": "0.00"}),
            "price 0: the charge never asks anything",
        ),
        (plan(tiered("graduated", (10, "1"), (None, "0"))), "tier 2 asks nothing, the one before it does"),
        (plan(tiered("graduated", (10, "1"), (5, "2"), (None, "3"))), "tier 2 is never reached: it ends at 5"),
        (plan(tiered("graduated", (10, "1"), (None, "2"), (None, "3"))), "tier 3 is never reached: the one before has"),
        (plan(tiered("volume", (10, "1"), (20, "2"))), "nothing says what units above 20 cost"),
        (
            plan(tiered("graduated", (100, "1"), (None, "2"), included=100)),
            "so the first tier ends at 200 used",
        ),
        (
            plan(tiered("graduated", (100, "1"), (None, "2")), limits={"records_per_month": 90}),
            "tier 2 is never reached: it begins above 100 used, the plan's quota ends at 90 a month",
        ),
        (
            plan(UNIT | {"included": 500}, limits={"records_per_month": 500}),
            "500 units are free and the plan's quota ends at 500 a month",
        ),
        (plan(UNIT, minimum="10", maximum="9.5"), "minimum 10 is above maximum 9.5: every period costs the maximum"),
        (plan(UNIT, maximum="0.00"), "maximum 0: nothing is ever asked"),
        (plan(UNIT, tax={"name": "VAT", "percent": "0"}), "tax VAT of 0 percent"),
        (plan(UNIT, discount={"percent": "100"}), "discount of 100 percent"),
        (plan(UNIT | {"discount": {"percent": "100"}}), "discount of 100 percent"),
        (plan(UNIT, UNIT | {"name": "Again"}), "records are priced twice, by Records and by Again"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_likely_mistake_is_named(made: Plan, text: str) -> None:
    found = lint(made)
    assert [doubt for doubt in found if text in doubt.text], [doubt.text for doubt in found]


def test_a_doubt_leads_to_its_line(tmp_path: Path) -> None:
    path = tmp_path / "plans.yaml"
    limits = "{requests_per_second: 1, connections: 1, records_per_second: 1, bytes_per_second: 1, "
    path.write_text(
        "plans:\n"
        "  - name: pro\n"
        "    revision: 1\n"
        "    title: Pro\n"
        "    currency: EUR\n"
        f"    limits: {limits}replay_records_per_second: 1}}\n"
        "    maximum: '0'\n"
        "    charges:\n"
        "      - {name: Free, model: unit, meter: bytes, unit_price: '0'}\n"
        "      - name: Records\n"
        "        model: volume\n"
        "        meter: records\n"
        "        tiers:\n"
        "          - {up_to: 10, unit_price: '2'}\n"
        "          - {unit_price: '1'}\n"
    )
    catalog = load_catalog(path)
    lines = [doubt.line(catalog.places) for doubt in lint_plans(catalog.plans)]
    assert [line.split(": ")[0] for line in lines] == [f"{path}:2", f"{path}:9", f"{path}:15"]
    assert lines[1].endswith("plan pro revision 1, charge Free: unit price 0: the charge never asks anything")
    assert lint(catalog.plans[0])[0].line() == "plan pro revision 1: " + lint(catalog.plans[0])[0].text
