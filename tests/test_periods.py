"""Billing periods and money: calendar months in zones, shares in seconds, rounding and spelling."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal

import pytest

from gateway.billing.money import (
    exactly,
    exponent_of,
    floor_money,
    format_amount,
    format_exact,
    round_money,
    round_whole,
)
from gateway.billing.period import Period, Share, midnight
from gateway.billing.pricing import scaled
from gateway.usage import BUCKET_SECONDS

BERLIN = "Europe/Berlin"


@pytest.mark.parametrize("zone", [BERLIN, "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe", "Pacific/Apia"])
def test_months_follow_each_other_without_gap_on_whole_quarters_of_an_hour(zone: str) -> None:
    month = Period.parse("2024-12", zone=zone)
    for _ in range(40):
        assert month.is_month
        assert month.start % BUCKET_SECONDS == month.end % BUCKET_SECONDS == 0
        following = month.next()
        assert following.start == month.end
        assert following.previous() == month
        assert Period.holding(month.start, zone=zone) == Period.holding(month.end - 1, zone=zone) == month
        assert Period.holding(month.end, zone=zone) == following
        month = following
    assert month.label == "2028-04"


def test_a_month_ends_where_the_next_begins_and_holds_its_first_second_only() -> None:
    july = Period.parse("2026-07", zone=BERLIN)
    assert july.holds(july.start)
    assert july.holds(july.end - 0.001)
    assert not july.holds(july.end)


def test_months_have_the_length_that_the_clocks_give_them() -> None:
    assert Period.month(2026, 3, zone=BERLIN).seconds == (31 * 24 - 1) * 3600
    assert Period.month(2026, 10, zone=BERLIN).seconds == (31 * 24 + 1) * 3600
    assert Period.month(2026, 11, zone="America/New_York").seconds == (30 * 24 + 1) * 3600


def test_a_day_without_midnight_begins_where_the_clocks_skip() -> None:
    # Chile put its clocks forward at midnight of 2026-09-06: the day begins at 01:00, 04:00 UTC.
    began = datetime.fromtimestamp(midnight(date(2026, 9, 6), "America/Santiago"), UTC)
    assert (began.day, began.hour) == (6, 4)


def test_from_and_to_may_be_months_days_or_times() -> None:
    july = Period.parse("2026-07", zone=BERLIN)
    assert Period.between("2026-07", "2026-08", zone=BERLIN) == july
    assert Period.between("2026-07-01", "2026-08-01", zone=BERLIN) == july
    assert Period.between("2026-06-30T22:00:00Z", "2026-08-01T00:00:00+02:00", zone=BERLIN) == july
    part = Period.between("2026-07-10", "2026-07-12", zone=BERLIN)
    assert (part.label, part.seconds, part.is_month) == ("2026-07-10/2026-07-12", 2 * 86_400, False)
    with pytest.raises(ValueError, match="not a calendar month"):
        part.next()


@pytest.mark.parametrize(
    "text", ["2026-13", "2026-00", "2026", "July", "0001-01", "9999-12", "2026-7", "", "2026-07-01"]
)
def test_what_is_no_month_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a month such as 2026-07"):
        Period.parse(text, zone=BERLIN)


@pytest.mark.parametrize(("start", "end"), [("2026-07", "2026-07"), ("2026-08", "2026-07"), ("2026-02-30", "2026-03")])
def test_a_stretch_that_is_none_is_refused(start: str, end: str) -> None:
    with pytest.raises(ValueError, match=r"end must lie after|day"):
        Period.between(start, end, zone=BERLIN)


def test_a_share_is_of_the_months_it_lies_in() -> None:
    july = Period.parse("2026-07", zone=BERLIN)
    assert july.share(((july.start, july.end),)).is_whole
    assert july.share(((july.start, july.start + 60), (july.end - 40, july.end))) == Share(100, 31 * 86_400)
    both = Period.between("2026-07", "2026-09", zone=BERLIN)
    part, whole = both.share(((both.start, both.end),))
    assert part == 2 * whole
    across = Period.between("2026-06-16", "2026-07-01", zone=BERLIN)
    part, whole = across.share(((across.start, across.end),))
    assert 2 * part == whole


def test_shares_of_units_are_whole_and_half_up() -> None:
    assert [scaled(units, Share(1, 2)) for units in (0, 1, 2, 3)] == [0, 1, 1, 2]
    assert scaled(10**18, Share(2_678_399, 2_678_400)) == 10**18 - 373357228196


@pytest.mark.parametrize(
    ("exact", "rounded"),
    [("0.005", "0.01"), ("-0.005", "-0.01"), ("0.0049999999999", "0.00"), ("-0.001", "0.00"), ("1E+3", "1000.00")],
)
def test_halves_go_away_from_zero(exact: str, rounded: str) -> None:
    assert format_amount(round_money(Decimal(exact), "EUR")) == rounded


def test_a_half_that_was_divided_and_put_together_again_is_still_a_half() -> None:
    with exactly():
        again = [Decimal("0.005") / divisor * divisor for divisor in range(2, 100)]
    assert min(again) < Decimal("0.005")
    assert {round_money(half_a_cent, "EUR") for half_a_cent in again} == {Decimal("0.01")}


def test_quantities_round_half_up_and_credit_rounds_down() -> None:
    assert [round_whole(Decimal(text)) for text in ("2.5", "2.4999", "0.5")] == [3, 2, 1]
    assert floor_money(Decimal("1.999"), "EUR") == Decimal("1.99")


def test_exact_amounts_are_spelled_without_exponent_and_without_end_are_cut() -> None:
    assert format_exact(Decimal("0.000000000001")) == "0.000000000001"
    assert format_exact(Decimal("1E+2")) == "100"
    assert format_exact(Decimal("-0")) == "0"
    assert format_exact(Decimal(1) / 3) == "0.3333333333333333333333333333"[:26]


def test_currencies_have_their_places() -> None:
    assert [exponent_of(code) for code in ("EUR", "JPY", "KWD", "XQQ")] == [2, 0, 3, 2]
