"""Rating: the worked examples, hundreds of bills against a second opinion, and what holds for every bill."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from decimal import Decimal, getcontext
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.billing.bill import Advance, Bill, Line
from gateway.billing.period import Period
from gateway.billing.pricing import Tax, price, pricing_of
from gateway.billing.rating import Account, MixedCurrencies, Term, UnknownRevision, rate, spend_so_far
from gateway.catalog.file import load_catalog
from gateway.model import Plan
from gateway.usage import Usage, UsageKey
from tests.parts.pricing_reference import amounts, half_up, some_decimal, some_pricing, some_use

EXAMPLE = Path(__file__).parents[1] / "asyncapi" / "catalog.yaml"
JULY = Period.parse("2026-07", zone="Europe/Berlin")
HOUR = 3600


def plan(*charges: dict[str, Any], name: str = "pro", revision: int = 1, currency: str = "EUR", **terms: Any) -> Plan:
    return Plan(name, revision, name, currency, {}, {"charges": list(charges), **terms})


def row(
    *, at: int = JULY.start, stream: str = "flights", of: Plan | None = None, billable: bool = True, **counts: int
) -> tuple[UsageKey, Usage]:
    name, revision = (of.name, of.revision) if of else ("pro", 1)
    return UsageKey("acme", "app", stream, name, revision, "sse", billable, at), Usage(**counts)


def bill(
    plan: Plan, *rows: tuple[UsageKey, Usage], period: Period = JULY, terms: Sequence[Term] | None = None, **rest: Any
) -> Bill:
    terms = [Term(plan, 0)] if terms is None else terms
    return rate(rows, tenant="acme", period=period, terms=terms, **rest)


def shown(found: Bill) -> list[tuple[str, str]]:
    return [(line.name, str(line.amount)) for line in found.lines]


UNIT = {"name": "Records", "model": "unit", "meter": "records"}
BASE = {"name": "Base", "model": "flat", "amount": "31.00", "billed": "in_arrears"}
ADVANCE = {"name": "Base", "model": "flat", "amount": "31.00", "billed": "in_advance"}
TIERS = [
    {"up_to": 1000, "unit_price": "0.10"},
    {"up_to": 10000, "unit_price": "0.05"},
    {"unit_price": "0.01"},
]


def test_a_package_begun_is_a_package_paid() -> None:
    charge = {"name": "P", "model": "package", "meter": "records", "package_size": 100, "price": "5", "included": 100}
    line = bill(plan(charge), row(records=201)).lines[0]
    assert (str(line.amount), line.used, line.included, line.billable, line.per) == ("10.00", 201, 100, 101, 100)
    assert shown(bill(plan(charge), row(records=200)))[0] == ("P", "5.00")
    assert shown(bill(plan(charge), row(records=100)))[0] == ("P", "0.00")


@pytest.mark.parametrize(("model", "amount"), [("graduated", "600.00"), ("volume", "150.00")])
def test_tiers_price_each_unit_or_all_of_them(model: str, amount: str) -> None:
    charge = {"name": "T", "model": model, "meter": "records", "tiers": TIERS}
    line = bill(plan(charge), row(records=15_000)).lines[0]
    assert str(line.amount) == amount
    assert [part.quantity for part in line.tiers] == ([1000, 9000, 5000] if model == "graduated" else [15_000])
    assert line.unit_price == (None if model == "graduated" else Decimal("0.01"))


def test_a_line_is_rounded_half_up_once_and_keeps_what_it_was() -> None:
    line = bill(plan({**UNIT, "unit_price": "0.0005"}), row(records=30)).lines[0]
    assert (line.exact, str(line.amount)) == (Decimal("0.015"), "0.02")
    split = [row(records=1, stream=f"s{n}") for n in range(30)]
    assert str(bill(plan({**UNIT, "unit_price": "0.0005"}), *split).lines[0].amount) == "0.02"


@pytest.mark.parametrize(("currency", "amount"), [("EUR", "0.56"), ("JPY", "1"), ("BHD", "0.556"), ("XQQ", "0.56")])
def test_a_currency_knows_its_smallest_unit(currency: str, amount: str) -> None:
    found = bill(plan({**UNIT, "unit_price": "0.5555"}, currency=currency), row(records=1))
    assert str(found.lines[0].amount) == amount == str(found.due)


def test_the_order_is_units_price_percent_amount_minimum_maximum_tax() -> None:
    discount = {"units": 100, "percent": "10", "amount": "1"}
    charge = {**UNIT, "unit_price": "1", "included": 50, "discount": discount}
    tax = {"name": "VAT", "percent": "19"}
    # (1150 - 50 - 100) x 1 = 1000, less 10 % = 900, less 1 = 899; less 50 % = 449.50; raised to 500; tax on that.
    terms = {"discount": {"percent": "50"}, "minimum": "500", "maximum": "600", "tax": tax}
    assert shown(bill(plan(charge, **terms), row(records=1150))) == [
        ("Records", "899.00"),
        ("Discount", "-449.50"),
        ("Minimum", "50.50"),
        ("VAT", "95.00"),
    ]
    above = bill(plan(charge, **{**terms, "minimum": None}), row(records=2150))
    assert shown(above)[:3] == [("Records", "1799.00"), ("Discount", "-899.50"), ("Maximum", "-299.50")]
    assert (above.net, above.tax, above.total) == (Decimal("600.00"), Decimal("114.00"), Decimal("714.00"))


def test_a_flat_amount_may_include_units_and_price_those_over() -> None:
    found = bill(plan({**BASE, "meter": "records", "included": 100, "overage": "0.5"}), row(records=103))
    assert shown(found) == [("Base", "31.00"), ("Base, over", "1.50")]


def test_tier_amounts_are_asked_once_a_tier_is_entered() -> None:
    tiers = [{"up_to": 10, "unit_price": "1", "flat_amount": "5"}, {"unit_price": "0", "flat_amount": "7"}]
    for model, amounts_by_use in (("graduated", (0, 6, 15, 22)), ("volume", (0, 6, 15, 7))):
        charge = {"name": "T", "model": model, "meter": "records", "tiers": tiers}
        found = [int(bill(plan(charge), row(records=used)).net) for used in (0, 1, 10, 11)]
        assert tuple(found) == amounts_by_use


def test_replay_without_a_price_counts_as_live_and_with_one_apart() -> None:
    used = row(records=10, bytes=1000, replayed_records=5, replayed_bytes=500)
    volume = {"name": "Bytes", "model": "unit", "meter": "bytes", "unit_price": "1"}
    records = {**UNIT, "unit_price": "1"}
    assert shown(bill(plan(records, volume), used)) == [("Records", "15.00"), ("Bytes", "1500.00")]
    replay = {"name": "Replay", "model": "unit", "meter": "replayed_records", "unit_price": "2"}
    assert [amount for _, amount in shown(bill(plan(records, volume, replay), used))] == ["10.00", "1000.00", "10.00"]


def test_what_is_not_billable_is_shown_and_never_priced() -> None:
    found = bill(plan({**UNIT, "unit_price": "1"}), row(records=3), row(records=1000, billable=False))
    assert (found.lines[0].used, found.lines[0].not_billable, str(found.due)) == (3, 1000, "3.00")
    assert [(one.is_billable, one.usage.records) for one in found.metered] == [(False, 1000), (True, 3)]


def test_a_charge_is_of_all_streams_together_and_shows_the_parts() -> None:
    charge = {"name": "T", "model": "graduated", "meter": "records", "tiers": TIERS}
    found = bill(plan(charge), row(records=900), row(records=200, stream="quakes"), row(records=0, stream="idle"))
    line = found.lines[0]
    assert (line.stream, line.used, str(line.amount)) == (None, 1100, "105.00")
    assert line.streams == (("flights", 900), ("quakes", 200))
    assert bill(plan(charge), row(records=900)).lines[0].stream == "flights"


class TestProration:
    """A plan that changes within a period."""

    middle = JULY.start + 10 * 24 * HOUR

    def test_each_revision_prices_its_own_usage_and_counts_its_share(self) -> None:
        first = plan({**UNIT, "unit_price": "1", "included": 310}, BASE)
        second = plan({**UNIT, "unit_price": "2", "included": 310}, BASE, revision=2)
        found = bill(
            second,
            row(records=150, of=first),
            row(records=250, of=second, at=self.middle),
            terms=[Term(first, 0, self.middle), Term(second, self.middle)],
        )
        assert [(line.revision, line.name, line.included, str(line.amount)) for line in found.lines] == [
            (1, "Records", 100, "50.00"),
            (1, "Base", 0, "10.00"),
            (2, "Records", 210, "80.00"),
            (2, "Base", 0, "21.00"),
        ]
        assert found.lines[0].share == (10 * 24 * HOUR, 31 * 24 * HOUR)
        assert (found.lines[2].start, found.lines[2].end) == (self.middle, JULY.end)

    def test_minimum_and_maximum_are_prorated(self) -> None:
        free, paid = plan(name="free"), plan(BASE, minimum="62.00", maximum="15.50")
        terms = [Term(free, 0, self.middle), Term(paid, self.middle)]
        assert shown(bill(paid, terms=terms)) == [("Base", "21.00"), ("Minimum", "21.00"), ("Maximum", "-31.50")]

    def test_it_is_by_the_second(self) -> None:
        paid = plan({**BASE, "amount": "2678400"})
        assert str(bill(paid, terms=[Term(paid, JULY.end - 1)]).due) == "1.00"

    @pytest.mark.parametrize(("month", "hours"), [("2026-03", 743), ("2026-10", 745)])
    def test_a_month_with_a_change_of_clocks_is_its_own_length(self, month: str, hours: int) -> None:
        period = Period.parse(month, zone="Europe/Berlin")
        assert period.seconds == hours * HOUR
        paid = plan({**BASE, "amount": str(hours)})
        assert str(bill(paid, period=period, terms=[Term(paid, period.end - 10 * HOUR)]).due) == "10.00"

    def test_overlapping_entitlements_count_once_and_the_newest_revision_holds(self) -> None:
        first, second = plan(BASE), plan({**BASE, "amount": "62"}, revision=2)
        both = bill(first, terms=[Term(first, 0), Term(first, self.middle), Term(first, 0, self.middle)])
        assert shown(both) == [("Base", "31.00")]
        assert both.lines[0].share is None
        mixed = bill(first, terms=[Term(first, 0), Term(second, self.middle)])
        assert shown(mixed) == [("Base", "10.00"), ("Base", "42.00")]

    def test_usage_under_a_revision_no_longer_in_force_keeps_its_prices_without_fixed_amounts(self) -> None:
        old = plan({**UNIT, "unit_price": "1", "included": 5}, BASE, minimum="900")
        new = plan(revision=2)
        found = bill(new, row(records=7, of=old), plans={("pro", 1): old})
        assert shown(found) == [("Records", "2.00")]
        with pytest.raises(UnknownRevision, match="plan pro revision 1"):
            bill(new, row(records=7, of=old))


class TestAdvance:
    """Flat amounts for the period to come."""

    def test_the_first_bill_asks_for_both_and_the_next_for_one(self) -> None:
        paid = plan(ADVANCE)
        first = bill(paid)
        assert [(line.kind, str(line.amount), line.start) for line in first.lines] == [
            ("charge", "31.00", JULY.start),
            ("advance", "31.00", JULY.end),
        ]
        second = bill(paid, period=JULY.next(), advances=first.advances())
        assert [(line.kind, str(line.amount), str(line.advanced)) for line in second.lines] == [
            ("charge", "0.00", "31.00"),
            ("advance", "31.00", "0"),
        ]

    def test_a_plan_that_ends_early_gives_back_what_was_asked_too_much(self) -> None:
        paid = plan(ADVANCE, minimum="5")
        asked = [Advance("pro", 1, "Base", Decimal("31.00"), (Tax("VAT", Decimal(10)),))]
        early = bill(paid, terms=[Term(paid, 0, JULY.start + 10 * 24 * HOUR)], advances=asked)
        assert shown(early) == [("Base", "-21.00")]
        never = bill(paid, terms=[], advances=asked, currency="EUR")
        assert shown(never) == [("Base", "-31.00"), ("VAT", "-3.10")]
        with pytest.raises(ValueError, match="in which currency"):
            bill(paid, terms=[], advances=asked)

    def test_a_minimum_looks_at_what_a_period_is_worth_not_at_what_its_bill_asks(self) -> None:
        paid = plan(ADVANCE, minimum="40")
        found = bill(paid, terms=[Term(paid, 0, JULY.end)], advances=[Advance("pro", 1, "Base", Decimal(31))])
        assert shown(found) == [("Base", "0.00"), ("Minimum", "9.00")]


def test_credit_is_used_up_first_and_never_more_than_the_total() -> None:
    paid = plan({**UNIT, "unit_price": "1"}, tax={"name": "VAT", "percent": "20"})
    part = bill(paid, row(records=10), account=Account(Decimal("5.559")))
    assert (str(part.total), str(part.credit_used), str(part.due)) == ("12.00", "5.55", "6.45")
    assert shown(part)[-1] == ("Prepaid credit", "-5.55")
    whole = bill(paid, row(records=10), account=Account(Decimal(50)))
    assert (str(whole.credit_used), str(whole.due)) == ("12.00", "0.00")


def test_several_taxes_are_each_on_the_lines_of_the_plans_that_name_them() -> None:
    gst, pst = {"name": "GST", "percent": "5"}, {"name": "PST", "percent": "7.5"}
    one, two = plan(BASE, tax=[gst, pst]), plan(BASE, name="zulu", tax=gst)
    found = bill(one, terms=[Term(one, 0), Term(two, 0)])
    assert shown(found)[2:] == [("GST", "3.10"), ("PST", "2.33")]
    assert [line.gross for line in found.lines[2:]] == [Decimal(62), Decimal(31)]


def test_lines_of_others_come_before_tax_and_credit() -> None:
    paid = plan(BASE, tax={"name": "VAT", "percent": "10"})
    late = Line(
        kind="correction",
        name="June",
        amount=Decimal("-1.00"),
        exact=Decimal(-1),
        start=0,
        end=1,
        taxes=(Tax("VAT", Decimal(10)),),
    )
    found = bill(paid, extra=[late])
    assert shown(found) == [("Base", "31.00"), ("June", "-1.00"), ("VAT", "3.00")]


def test_plans_in_two_currencies_make_no_bill() -> None:
    euros, dollars = plan(BASE), plan(BASE, name="other", currency="USD")
    with pytest.raises(MixedCurrencies, match="EUR and USD"):
        bill(euros, terms=[Term(euros, 0), Term(dollars, 0)])


def test_rows_of_another_tenant_or_time_are_refused() -> None:
    with pytest.raises(ValueError, match="is none of acme"):
        bill(plan(), row(at=JULY.end, records=1))
    key, usage = row(records=1)
    with pytest.raises(ValueError, match="usage of globex"):
        bill(plan(), (key._replace(tenant="globex"), usage))


def test_the_largest_numbers_a_plan_can_hold_stay_exact() -> None:
    charge = {**UNIT, "unit_price": "999999999999.999999999999", "discount": {"percent": "0.000000000001"}}
    found = bill(plan(charge, tax={"name": "VAT", "percent": "19"}), row(records=10**18 + 1))
    exact = Fraction("999999999999.999999999999") * (10**18 + 1) * (1 - Fraction("0.000000000001") / 100)
    net = half_up(exact, 2)
    assert (Fraction(found.net), Fraction(found.tax)) == (net, half_up(net * Fraction(19, 100), 2))


def test_rating_leaves_the_callers_decimal_context_alone() -> None:
    before = getcontext().copy()
    found = rate([row(records=3)], tenant="acme", period=JULY, terms=[Term(plan(BASE, minimum="99"), 0)])
    assert found.due == 99
    assert (getcontext().prec, getcontext().rounding) == (before.prec, before.rounding)


def test_a_bill_without_plans_is_empty() -> None:
    found = bill(plan(), terms=[])
    assert (found.currency, found.lines, found.due) == ("", (), 0)


def test_money_and_quantities_are_text_in_json() -> None:
    found = json.loads(
        bill(plan(BASE, {**UNIT, "unit_price": "0.000000000001", "included": 3}), row(records=10)).encode()
    )
    line = found["lines"][1]
    assert (line["unit_price"], line["exact"], line["amount"]) == ("0.000000000001", "0.000000000007", "0.00")
    assert (line["used"], line["included"], line["billable"]) == ("10", "3", "7")
    assert found["period"] == {
        "label": "2026-07",
        "zone": "Europe/Berlin",
        "from": "2026-06-30T22:00:00.000Z",
        "to": "2026-07-31T22:00:00.000Z",
    }
    assert "hidden_records" not in found["metered"][0]


def test_the_example_catalog_is_rated() -> None:
    pro = load_catalog(EXAMPLE).plan("pro")
    assert pro is not None
    found = bill(
        pro, row(records=15_000_000, bytes=11 * 2**30, replayed_records=1_500_000), terms=[Term(pro, 0, JULY.end)]
    )
    assert shown(found) == [
        ("Base fee", "49.00"),
        ("Records", "115.00"),
        ("Replay", "1.00"),
        ("Volume", "0.10"),
        ("VAT", "31.37"),
    ]


def test_what_was_spent_so_far_is_the_periods_cost_without_true_up_or_the_next_period() -> None:
    paid = plan(ADVANCE, {**UNIT, "unit_price": "1"}, minimum="500", tax={"name": "VAT", "percent": "10"})
    spent = spend_so_far([row(records=9)], tenant="acme", period=JULY, terms=[Term(paid, 0)])
    assert str(spent) == "44.00"


@pytest.mark.parametrize("seed", range(300))
def test_a_bill_is_what_a_second_opinion_says(seed: int) -> None:
    chance = random.Random(seed)
    currency, places = chance.choice((("EUR", 2), ("JPY", 0), ("KWD", 3)))
    period = chance.choice(
        (JULY, Period.parse("2026-02", zone="America/New_York"), Period.parse("2026-10", zone="Asia/Tokyo"))
    )
    first, second = (plan(revision=n, currency=currency) for n in (1, 2))
    first, second = (Plan(one.name, one.revision, "", currency, {}, some_pricing(chance)) for one in (first, second))
    middle = chance.choice(
        (period.start, period.end, chance.randrange(period.start, period.end), period.start + period.seconds // 2)
    )
    used = {1: some_use(chance), 2: some_use(chance)}
    percent = some_decimal(chance)
    for one in (first, second):
        one.pricing["tax"] = {"name": "VAT", "percent": percent}  # type: ignore[index]
    credit = Fraction(chance.randrange(2_000), 100)
    rows = []
    for revision, uses in used.items():
        # The same use cut into rows of several streams and quarters of an hour.
        for meter, count in uses.items():
            cut = chance.randrange(count + 1)
            for quantity, stream in ((cut, "a"), (count - cut, "b")):
                at = period.start + 900 * chance.randrange(period.seconds // 900)
                rows.append(
                    (UsageKey("acme", "app", stream, "pro", revision, "ws", True, at), Usage(**{meter: quantity}))
                )
    chance.shuffle(rows)
    found = rate(
        rows,
        tenant="acme",
        period=period,
        terms=[Term(first, 0, middle), Term(second, middle)],
        account=Account(Decimal(credit.numerator) / credit.denominator),
        plans={("pro", 1): first, ("pro", 2): second},
    )
    expected: list[Fraction] = []
    for one, part in ((first, middle - period.start), (second, period.end - middle)):
        share = Fraction(part, period.seconds) if part else Fraction(1)
        if part or any(used[one.revision].values()) or any(key.revision == one.revision for key, _ in rows):
            lines = amounts(dict(one.pricing), used[one.revision], share=share, places=places, is_in_force=part > 0)
            expected += lines
    tax = half_up(sum(expected, Fraction(0)) * Fraction(percent) / 100, places)
    total = sum(expected, tax)
    credit_left = Fraction(int(credit * 10**places), 10**places)
    due = total - max(Fraction(0), min(total, credit_left))
    charged = [Fraction(line.amount) for line in found.lines if line.kind not in ("tax", "credit")]
    assert charged == expected
    assert (Fraction(found.tax), Fraction(found.total), Fraction(found.due)) == (tax, total, due)


uses = st.integers(min_value=0, max_value=10**12)


@given(seed=st.integers(0, 10**6), lesser=uses, more=uses)
@settings(max_examples=150, deadline=None)
def test_graduated_prices_never_fall(seed: int, lesser: int, more: int) -> None:
    chance = random.Random(seed)
    bounds = sorted(chance.sample(range(1, 10**9), chance.randrange(4)))
    tiers = [{"up_to": bound, "unit_price": some_decimal(chance)} for bound in bounds] + [
        {"unit_price": some_decimal(chance)}
    ]
    charge = {
        "name": "T",
        "model": "graduated",
        "meter": "records",
        "tiers": tiers,
        "included": chance.randrange(10**6),
    }
    typed = pricing_of(plan(charge)).charges[0]
    low, high = sorted((lesser, more))
    assert price(typed, low).exact <= price(typed, high).exact  # type: ignore[arg-type]


@given(seed=st.integers(0, 10**6), data=st.data())
@settings(max_examples=100, deadline=None)
def test_lines_add_up_and_any_order_of_rows_gives_the_same_bytes(seed: int, data: st.DataObject) -> None:
    chance = random.Random(seed)
    paid = Plan("pro", 1, "", "EUR", {}, some_pricing(chance))
    rows = [row(at=JULY.start + 900 * n, stream=f"s{n % 3}", billable=n % 4 > 0, **some_use(chance)) for n in range(8)]
    terms = [Term(paid, JULY.start + chance.randrange(JULY.seconds)), Term(paid, 0, JULY.start + 5)]
    first = rate(rows, tenant="acme", period=JULY, terms=terms, account=Account(Decimal("1.10")))
    again = data.draw(st.permutations(rows))
    second = rate(iter(again), tenant="acme", period=JULY, terms=terms[::-1], account=Account(Decimal("1.10")))
    assert first.encode() == second.encode()
    assert sum(line.amount for line in first.lines) == first.due == first.total - first.credit_used
    assert [Line.from_dict(line.to_dict()).to_dict() for line in first.lines] == [
        line.to_dict() for line in first.lines
    ]
