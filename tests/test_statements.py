"""Months that close: drafts, final statements in order, corrections, adjustments, credit; on SQLite and Postgres."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from datetime import date
from decimal import Decimal
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa

from gateway.billing.errors import StatementConflict, StatementNotFound
from gateway.billing.period import Period
from gateway.billing.rows import fingerprint
from gateway.billing.schedule import LEASE_SECONDS, Schedule
from gateway.billing.statement import content_digest, lines_of
from gateway.billing.store import Kept
from gateway.billing.tables import STATEMENTS
from tests.parts.billing import AUGUST, BERLIN, HOUR, JULY, SEPTEMBER, Desk, desk, example

Open = Callable[..., AbstractContextManager[Desk]]


@pytest.fixture
def opened(tmp_path: Path) -> Open:
    return partial(desk, f"sqlite:///{tmp_path}/gateway.db", tmp_path)


@pytest.fixture(params=["sqlite", "postgres"])
def opened_anywhere(request: pytest.FixtureRequest, tmp_path: Path, opened: Open) -> Open:
    """For what the database's own ways may matter to."""
    if request.param == "postgres":
        return partial(desk, str(request.getfixturevalue("postgres_url")), tmp_path)
    return opened


@pytest.fixture
def finance(opened: Open) -> Iterator[Desk]:
    with opened() as one:
        yield one


@pytest.fixture
def finance_anywhere(opened_anywhere: Open) -> Iterator[Desk]:
    with opened_anywhere() as one:
        yield one


def amounts(kept: Kept, *kinds: str) -> dict[str, str]:
    return {line.name: str(line.amount) for line in lines_of(kept.body, *kinds)}


# ---- from open to final ---------------------------------------------------------------------------------------------


def test_a_month_is_a_draft_during_the_grace_and_final_after_it(finance: Desk) -> None:
    finance.use(JULY.start + HOUR, records=2_000_000, bytes=1)
    finance.told(JULY.end + 2 * HOUR)
    assert finance.close(JULY.end - 1) == []
    (draft,) = finance.close(JULY.end)
    assert (draft.outcome, draft.statement.status, draft.statement.number) == ("grace", "DRAFT", None)  # type: ignore[union-attr]
    (again,) = finance.close(JULY.end + HOUR - 1)
    assert again.statement is not None
    assert again.statement.id == draft.statement.id  # type: ignore[union-attr]
    (final,) = finance.close(JULY.end + HOUR)
    assert final.statement is not None
    assert (final.outcome, final.statement.status, final.statement.number) == ("final", "FINAL", "ST-000001")
    assert amounts(final.statement, "charge")["Records"] == "10.00"
    assert finance.close(JULY.end + 2 * HOUR) == []
    assert finance.findings() == []


def test_usage_lies_in_the_month_of_the_tenants_zone(finance: Desk) -> None:
    finance.use(JULY.start - 900, records=1_000_000)
    finance.use(JULY.start, records=10)
    finance.use(JULY.end - 900, records=20)
    finance.use(JULY.end, records=1_000_000)
    (july,) = finance.close_all(JULY.end + HOUR)
    assert [line.used for line in lines_of(july.body) if line.meter == "records"] == [30]
    assert july.body["period"] == {
        "label": "2026-07",
        "time_zone": BERLIN,
        "from": "2026-06-30T22:00:00.000Z",
        "to": "2026-07-31T22:00:00.000Z",
    }


def test_lines_add_up_to_what_is_due(finance: Desk) -> None:
    finance.use(JULY.start, records=12_345_678, bytes=20 << 30, replayed_records=3_000_000)
    (july,) = finance.close_all(JULY.end + HOUR)
    body = july.body
    assert sum(line.amount for line in lines_of(body)) == Decimal(body["due"]) == Decimal(body["total"])
    assert Decimal(body["net"]) + Decimal(body["tax"]) == Decimal(body["total"])


def test_what_was_missed_is_closed_later_in_order(finance_anywhere: Desk) -> None:
    made = finance_anywhere.close_all(SEPTEMBER.end + HOUR)
    assert [(one.number, one.body["period"]["label"]) for one in made] == [
        ("ST-000001", "2026-07"),
        ("ST-000002", "2026-08"),
        ("ST-000003", "2026-09"),
    ]
    assert [one.body["previous"] for one in made] == [
        None,
        {"number": "ST-000001", "hash": made[0].hash},
        {"number": "ST-000002", "hash": made[1].hash},
    ]
    assert finance_anywhere.findings() == []


def test_a_tenant_is_charged_from_the_month_in_which_the_catalog_first_tells_of_it(finance: Desk) -> None:
    """Its entitlements are dated from January, long before anybody knew of them."""
    (july,) = finance.close_all(JULY.end + HOUR)
    assert july.body["period"]["label"] == "2026-07"
    assert amounts(july, "charge")["Base fee"] == "49.00", "the whole month: the file says since when"


def test_a_closed_month_may_be_named_as_the_last(finance: Desk) -> None:
    finance.told(SEPTEMBER.end + HOUR)
    closed = finance.close(SEPTEMBER.end + HOUR, until="2026-08")
    assert [one.period.label for one in closed] == ["2026-07", "2026-08"]


# ---- what stands against ---------------------------------------------------------------------------------------------


def test_a_month_stays_open_until_every_source_has_passed_its_end_or_is_given_up(finance: Desk) -> None:
    finance.told(JULY.end + 9 * HOUR)
    finance.told(JULY.end - 60, source="node-2")
    (held,) = finance.close(JULY.end + HOUR)
    assert held.outcome == "incomplete"
    assert any("node-2" in reason for reason in held.reasons)
    assert not any("node-1" in reason for reason in held.reasons)
    assert finance.ledger.give_up("node-2", by="eve", at="2026-08-01T00:00:00Z")
    (final,) = finance.close(JULY.end + HOUR)
    assert final.outcome == "final"
    assert final.statement is not None
    assert final.statement.body["watermark"]["lost_sources"] == ["node-2"]


def test_a_month_that_is_held_up_holds_up_those_after_it(finance: Desk) -> None:
    finance.told(JULY.end - 60)
    closed = finance.close(SEPTEMBER.end + HOUR)
    assert [(one.period.label, one.outcome) for one in closed] == [("2026-07", "incomplete")]


def test_a_drift_holds_up_the_month_until_it_is_settled(opened: Open) -> None:
    from gateway.metering.drifts import Drifts
    from gateway.metering.reconcile import Drift, Whom

    with opened() as finance:
        finance.told(JULY.end + HOUR)
        whom = Whom("node-1", "acme", "acme-web", "flights", "sse")
        drifts = Drifts(finance.database)
        assert drifts.add([Drift("excess", whom, JULY.start, JULY.start + 24 * HOUR, 9, 1, 2)], now=JULY.end)
        (held,) = finance.close(JULY.end + HOUR)
        assert held.outcome == "drift"
        (number,) = [one.number for one in drifts.standing(tenant="acme", start=JULY.start, end=JULY.end)]
        assert f"--settle {number}" in held.reasons[0]
        assert drifts.settle(number, by="eve", reason="a test", at="2026-08-01T00:00:00Z", now=JULY.end)
        assert [one.outcome for one in finance.close(JULY.end + HOUR)] == ["final"]


def test_usage_that_cannot_be_priced_holds_up_its_tenant_alone_and_says_why(opened: Open) -> None:
    catalog = example()
    other = {**catalog["tenants"][0], "name": "globex", "applications": []}
    with opened(catalog=catalog | {"tenants": [catalog["tenants"][0], other]}) as finance:
        finance.use(JULY.start, tenant="globex", plan="ghost", records=1)
        finance.told(JULY.end + HOUR)
        outcomes = {one.tenant: one for one in finance.close(JULY.end + HOUR)}
        assert outcomes["acme"].outcome == "final"
        assert outcomes["globex"].outcome == "refused"
        assert "ghost" in outcomes["globex"].reasons[0]


def test_where_it_is_asked_for_a_person_approves_what_is_asked_for(opened_anywhere: Open) -> None:
    with opened_anywhere(approval="required") as finance:
        finance.told(JULY.end + 9 * HOUR)
        (waits,) = finance.close(JULY.end + HOUR)
        assert waits.outcome == "approval"
        assert waits.statement is not None
        approved = finance.store.approve(waits.statement.id, by="eve", now=int(JULY.end))
        assert approved.approved_by == "eve"
        finance.store.adjust(tenant="acme", name="Fee", reason="late", amount=Decimal("5"), by="eve", now=int(JULY.end))
        (changed,) = finance.close(JULY.end + 2 * HOUR)
        assert changed.outcome == "approval", "what was approved is not what is asked for now"
        finance.store.approve(waits.statement.id, by="eve", now=int(JULY.end))
        finance.told(JULY.end + 10 * HOUR)
        (final,) = finance.close(JULY.end + 3 * HOUR)
        assert final.outcome == "final", "that usage is complete further on changes nothing that was approved"
        with pytest.raises(StatementConflict, match="FINAL already"):
            finance.store.approve(waits.statement.id, by="eve", now=int(JULY.end))


def test_an_approval_of_what_an_earlier_release_spelt_otherwise_is_asked_for_again(opened: Open) -> None:
    with opened(approval="required") as finance:
        finance.told(JULY.end + 9 * HOUR)
        (waits,) = finance.close(JULY.end + HOUR)
        assert waits.statement is not None
        draft = waits.statement.id
        finance.store.approve(draft, by="eve", now=int(JULY.end))
        before = content_digest(finance.store.find(draft).body | {"form": 1})
        with finance.database.writing() as connection:
            mine = STATEMENTS.update().where(STATEMENTS.c.id == draft)
            connection.execute(mine.values(approved_content=before))
        (held,) = finance.close(JULY.end + 2 * HOUR)
        assert (held.outcome, held.statement and held.statement.number) == ("approval", None)
        assert draft in held.reasons[0]
        finance.store.approve(draft, by="eve", now=int(JULY.end))
        (final,) = finance.close(JULY.end + 3 * HOUR)
        assert final.outcome == "final"


# ---- previews --------------------------------------------------------------------------------------------------------


def test_a_preview_is_of_whole_buckets_up_to_now_and_never_final(finance: Desk) -> None:
    start = JULY.start + 24 * HOUR
    for quarter in range(5):
        finance.use(start + 900 * quarter, records=10**quarter)
    finance.at(start + 900 * 3 + 1)
    stretch = Period.spanning(start + 901, start + 900 * 9, zone=BERLIN)
    preview = finance.closing.preview("acme", stretch, now=finance.clock.now())
    assert [line.used for line in lines_of(preview.body) if line.meter == "records"] == [10 + 100 + 1000]
    assert (preview.status, preview.number, preview.is_preview) == ("DRAFT", None, True)
    with pytest.raises(StatementConflict, match="preview"):
        finance.store.approve(preview.id, by="eve", now=0)
    finance.close_all(SEPTEMBER.end + HOUR)
    assert finance.store.find(preview.id).status == "DRAFT"
    assert [one.number for one in finance.store.closed(tenant="acme")] == ["ST-000001", "ST-000002", "ST-000003"]


def test_a_preview_of_a_month_that_waits_is_that_months_draft(finance: Desk) -> None:
    finance.told(JULY.end + HOUR)
    made = finance.closing.preview("acme", JULY, now=JULY.end + 1)
    assert not made.is_preview
    (final,) = finance.close(JULY.end + HOUR)
    assert final.statement is not None
    assert final.statement.id == made.id
    after = finance.closing.preview("acme", JULY, now=JULY.end + HOUR)
    assert after.is_preview, "the month has its statement: this is one more look, and nothing else"
    assert after.id != made.id


def asked_for(kept: Kept, name: str) -> Decimal:
    """What a statement asks for a charge, for its own month and for the one to come."""
    return sum((line.amount for line in lines_of(kept.body, "charge", "advance") if line.name == name), Decimal())


def test_what_the_month_before_asks_in_advance_is_not_asked_again_while_that_one_waits(finance_anywhere: Desk) -> None:
    finance, base, fee = finance_anywhere, "Base fee", Decimal("49.00")
    finance.use(AUGUST.start + HOUR, records=2_000_000)
    finance.told(AUGUST.end + 2 * HOUR)
    now = AUGUST.start + 9 * 24 * HOUR
    # July is over, and has no final statement.
    preview = finance.closing.preview("acme", AUGUST, now=now)
    assert preview.is_preview
    assert asked_for(preview, base) == fee, "September in advance: for August it is asked by July"
    assert asked_for(finance.closing.preview("acme", SEPTEMBER.next(), now=now), base) == fee
    drafted = finance.closing.preview("acme", AUGUST, now=AUGUST.end + 1)
    assert not drafted.is_preview
    assert asked_for(drafted, base) == fee
    july, august = finance.close_all(AUGUST.end + HOUR)
    assert asked_for(july, base) == 2 * fee, "July itself, which no statement was before, and August"
    assert august.body["lines"] == drafted.body["lines"]
    assert finance.findings() == []


def test_credit_and_adjustments_that_a_waiting_month_takes_are_not_in_the_next_preview(opened: Open) -> None:
    catalog = example()
    catalog["tenants"][0]["credit"] = "100.00"
    with opened(catalog=catalog) as finance:
        finance.store.adjust(
            tenant="acme", name="Line", reason="outage", amount=Decimal(-1), by="eve", now=int(JULY.start)
        )
        july = finance.closing.preview("acme", JULY, now=JULY.end - 1)
        used = Decimal(july.body["credit"]["used"])
        assert used > 0
        assert amounts(july, "adjustment") == {"Line": "-1.00"}
        august = finance.closing.preview("acme", AUGUST, now=JULY.end + 1)
        assert Decimal(august.body["credit"]["before"]) == 100 - used
        assert amounts(august, "adjustment") == {}


def test_a_preview_of_the_next_statement_has_the_corrections_of_closed_months(finance: Desk) -> None:
    finance.close_all(JULY.end + HOUR)
    finance.use(JULY.start + HOUR, source="node-3", records=2_000_000)
    preview = finance.closing.preview("acme", AUGUST, now=AUGUST.start + HOUR)
    assert amounts(preview, "correction") == {"Records, correction of 2026-07 (ST-000001)": "10.00"}
    assert amounts(finance.closing.preview("acme", JULY, now=AUGUST.start + HOUR), "correction") == {}


def test_only_so_many_previews_of_a_tenant_are_kept(finance: Desk) -> None:
    from gateway.billing.store import KEPT_PREVIEWS

    for quarter in range(KEPT_PREVIEWS + 3):
        stretch = Period.spanning(JULY.start + 900 * quarter, JULY.start + 900 * (quarter + 1), zone=BERLIN)
        finance.closing.preview("acme", stretch, now=JULY.end - 1)
    kept = finance.store.page(tenant="acme", limit=1000)
    assert len(kept) == KEPT_PREVIEWS
    assert kept[0].starts_at == JULY.start + 900 * (KEPT_PREVIEWS + 2)


# ---- what came late, was adjusted, was prepaid -----------------------------------------------------------------------


def test_usage_told_after_the_close_is_charged_in_the_next_month_by_a_line_that_names_it(
    finance_anywhere: Desk,
) -> None:
    finance_anywhere.use(JULY.start, records=1_900_000)
    (july,) = finance_anywhere.close_all(JULY.end + HOUR)
    finance_anywhere.use(JULY.start + HOUR, source="node-3", records=200_000)
    finance_anywhere.told(AUGUST.end, source="node-3", state="ended")
    assert finance_anywhere.findings() == [("ST-000001", "usage")]
    (august,) = finance_anywhere.close_all(AUGUST.end + HOUR)
    assert amounts(august, "correction") == {"Records, correction of 2026-07 (ST-000001)": "2.00"}
    (told,) = august.body["corrections"]
    assert (told["number"], told["period"], told["difference"]) == ("ST-000001", "2026-07", "2.00")
    assert finance_anywhere.findings() == []
    assert finance_anywhere.store.find("ST-000001") == july, "what is final never changes"
    (september,) = finance_anywhere.close_all(SEPTEMBER.end + HOUR)
    assert amounts(september, "correction") == {}
    finance_anywhere.use(JULY.start + HOUR, source="node-4", records=300_000)
    finance_anywhere.told(AUGUST.end, source="node-4", state="ended")
    (october,) = finance_anywhere.close_all(SEPTEMBER.next().end + HOUR)
    assert amounts(october, "correction") == {"Records, correction of 2026-07 (ST-000001)": "3.00"}, "twice late"
    assert finance_anywhere.findings() == []


def left(finance: Desk) -> float:
    """The tenant has its July closed and no plan since; when August is over, too, with nothing in it."""
    catalog = example()
    for entitlement in catalog["tenants"][0]["entitlements"]:
        entitlement["to"] = date(2026, 8, 1)
    finance.apply(catalog)
    finance.told(SEPTEMBER.end, state="ended")
    finance.close_all(JULY.end + HOUR)
    now = AUGUST.end + HOUR
    # Looked at again and again, and nothing is there.
    for _ in range(4):
        now += 600
        assert {one.outcome for one in finance.close(now)} <= {"empty"}
    assert finance.close(now + 60) == [], "what is known to be empty is not looked at each time"
    return now


@pytest.mark.parametrize("month", [JULY, AUGUST])
def test_usage_that_comes_late_after_months_with_nothing_is_billed_without_a_restart(
    finance: Desk, month: Period
) -> None:
    now = left(finance)
    finance.use(month.start + HOUR, source="node-3", records=3_000_000)
    finance.told(SEPTEMBER.end, source="node-3", state="ended")
    (august,) = finance.close(now + 600)
    assert (august.outcome, august.period) == ("final", AUGUST)
    assert august.statement is not None
    assert Decimal(august.statement.body["net"]) == 20
    assert finance.findings() == []


def test_an_adjustment_after_months_with_nothing_is_billed_at_the_next_look(finance: Desk) -> None:
    now = left(finance)
    finance.store.adjust(tenant="acme", name="Line", reason="r", amount=Decimal(4), by="eve", now=int(now))
    (august,) = finance.close(now + 61)
    assert august.outcome == "final"


def test_late_usage_that_costs_nothing_more_is_settled_without_a_line(finance: Desk) -> None:
    finance.close_all(JULY.end + HOUR)
    finance.use(JULY.start + HOUR, records=5)
    (august,) = finance.close_all(AUGUST.end + HOUR)
    assert amounts(august, "correction") == {}
    assert [one["number"] for one in august.body["corrections"]] == ["ST-000001"]
    assert finance.findings() == []


def test_adjustments_go_on_the_next_statement_once_and_bear_tax(finance_anywhere: Desk) -> None:
    for amount in ("-10.00", "4.005"):
        finance_anywhere.store.adjust(
            tenant="acme", name=f"Line {amount}", reason="outage", amount=Decimal(amount), by="eve", now=int(JULY.start)
        )
    plain = Decimal(finance_anywhere.closing.preview("acme", JULY, now=JULY.end - 1).body["total"])
    (july,) = finance_anywhere.close_all(JULY.end + HOUR)
    assert amounts(july, "adjustment") == {"Line -10.00": "-10.00", "Line 4.005": "4.01"}
    assert {line.reason for line in lines_of(july.body, "adjustment")} == {"outage (eve)"}
    assert Decimal(july.body["total"]) == plain
    (august,) = finance_anywhere.close_all(AUGUST.end + HOUR)
    assert amounts(august, "adjustment") == {}
    assert finance_anywhere.findings() == []


def test_a_statement_that_is_credited_is_taken_back_whole_by_the_next_one(finance_anywhere: Desk) -> None:
    finance_anywhere.use(JULY.start, records=3_000_000)
    (july,) = finance_anywhere.close_all(JULY.end + HOUR)
    finance_anywhere.store.credit("ST-000001", reason="wrong tenant", by="eve", now=int(JULY.end))
    credited = finance_anywhere.store.find("ST-000001")
    assert (credited.status, credited.text, credited.hash) == ("CREDITED", july.text, july.hash)
    with pytest.raises(StatementConflict, match="CREDITED"):
        finance_anywhere.store.credit("ST-000001", reason="again", by="eve", now=int(JULY.end))
    (august,) = finance_anywhere.close_all(AUGUST.end + HOUR)
    taken = lines_of(august.body, "adjustment")
    assert sum(line.amount for line in taken) == -Decimal(july.body["net"])
    assert finance_anywhere.findings() == []


def test_prepaid_credit_is_used_up_first_and_carried_to_the_next_month(opened: Open) -> None:
    catalog = example()
    catalog["tenants"][0]["credit"] = "150.00"
    with opened(catalog=catalog) as finance:
        july, august, september = finance.close_all(SEPTEMBER.end + HOUR)
    assert july.body["credit"] == {"before": "150.00", "used": "116.62", "left": "33.38"}
    assert july.body["due"] == "0.00"
    assert august.body["credit"] == {"before": "33.38", "used": "33.38", "left": "0.00"}
    assert Decimal(august.body["due"]) == Decimal(august.body["total"]) - Decimal("33.38")
    assert Decimal(september.body["credit_used"]) == 0


@pytest.mark.parametrize(
    ("currency", "credit", "before", "left"),
    [
        ("EUR", None, "0.00", "0.00"),
        ("JPY", "7", "7", "0"),
        ("KWD", "1.5", "1.500", "0.000"),
        ("EUR", "0.005", "0.005", "0.005"),
    ],
)
def test_credit_is_told_in_the_places_of_its_currency(
    currency: str, credit: str | None, before: str, left: str, opened: Open
) -> None:
    catalog = example()
    catalog["plans"] = [{**one, "currency": currency} for one in catalog["plans"]]
    if credit is not None:
        catalog["tenants"][0]["credit"] = credit
    with opened(catalog=catalog) as finance:
        (july,) = finance.close_all(JULY.end + HOUR)
        assert (july.body["credit"]["before"], july.body["credit"]["left"]) == (before, left)
        assert finance.findings() == []


# ---- plans that change -----------------------------------------------------------------------------------------------


def test_a_plan_that_changes_within_a_month_is_charged_by_the_second(finance_anywhere: Desk) -> None:
    middle = JULY.start + JULY.seconds // 2
    catalog = example()
    pro = next(one for one in catalog["plans"] if one["name"] == "pro")
    second = json.loads(json.dumps(pro)) | {"revision": 2, "minimum": None}
    second["charges"] = [{"name": "Base fee", "model": "flat", "amount": "99.00", "billed": "in_arrears"}]
    finance_anywhere.at(middle)
    finance_anywhere.apply(catalog | {"plans": [*catalog["plans"], second]})
    (july,) = finance_anywhere.close_all(JULY.end + HOUR)
    charges = {(line.revision, line.name): line for line in lines_of(july.body, "charge")}
    assert str(charges[1, "Base fee"].amount) == "24.50"
    assert str(charges[2, "Base fee"].amount) == "49.50"
    assert charges[2, "Base fee"].share is not None
    assert (charges[2, "Base fee"].start, charges[2, "Base fee"].end) == (middle, JULY.end)
    assert finance_anywhere.findings() == []


def test_an_entitlement_that_pins_a_revision_keeps_its_prices(finance: Desk) -> None:
    catalog = example()
    for one in catalog["tenants"][0]["entitlements"]:
        one["revision"] = 1
    finance.at(finance.clock.now() + 1)
    pro = next(one for one in catalog["plans"] if one["name"] == "pro")
    finance.apply(catalog | {"plans": [*catalog["plans"], {**pro, "revision": 2, "minimum": "900.00"}]})
    (july,) = finance.close_all(JULY.end + HOUR)
    assert {one["revision"] for one in july.body["plans"]} == {1}
    assert Decimal(july.body["total"]) < 200


def test_what_the_catalog_says_later_changes_no_closed_month(finance: Desk) -> None:
    finance.close_all(JULY.end + HOUR)
    catalog = example()
    for one in catalog["tenants"][0]["entitlements"]:
        one["plan"] = "free"
    finance.apply(catalog)
    assert finance.findings() == []
    (august,) = finance.close_all(AUGUST.end + HOUR)
    assert amounts(august, "correction") == {}


def test_a_tenant_without_plan_and_usage_has_no_more_statements(finance: Desk) -> None:
    finance.close_all(JULY.end + HOUR)
    catalog = example()
    for one in catalog["tenants"][0]["entitlements"]:
        one["to"] = date(2026, 8, 1)
    finance.apply(catalog)
    finance.close_all(AUGUST.end + HOUR)
    finance.close_all(SEPTEMBER.end + HOUR)
    labels = [one.body["period"]["label"] for one in finance.store.closed(tenant="acme")]
    assert labels == ["2026-07", "2026-08"], "August gives the base fee back that July asked in advance"


# ---- numbers, proof, leaders -----------------------------------------------------------------------------------------


def test_two_who_close_at_once_leave_no_gap_and_no_double(opened_anywhere: Open) -> None:
    catalog = example()
    acme = catalog["tenants"][0]
    tenants = [{**acme, "name": f"tenant-{number}", "applications": []} for number in range(6)]
    with (
        opened_anywhere(catalog=catalog | {"tenants": tenants}) as one,
        opened_anywhere(catalog=catalog | {"tenants": tenants}) as other,
    ):
        one.told(SEPTEMBER.end + HOUR)
        both = threading.Barrier(2)

        def close(finance: Desk) -> None:
            both.wait(30)
            while any(done.outcome == "conflict" for done in finance.close(SEPTEMBER.end + HOUR)):
                pass

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(close, (one, other)))
        assert [serial for serial, _, _ in one.store.serials()] == list(range(1, 6 * 3 + 1))
        assert one.findings() == []


@pytest.mark.parametrize(
    ("column", "kind"),
    [("body", "hash"), ("hash", "hash"), ("previous_hash", "chain"), ("serial", "number")],
)
def test_a_flipped_byte_is_found(column: str, kind: str, finance_anywhere: Desk) -> None:
    finance_anywhere.use(JULY.start, records=1_234_567)
    finance_anywhere.close_all(SEPTEMBER.end + HOUR)
    assert finance_anywhere.findings() == []
    with finance_anywhere.database.writing() as connection:
        table = STATEMENTS
        where = table.c.number == "ST-000002"
        value = connection.execute(sa.select(table.c[column]).where(where)).scalar_one()
        changed = value + 7 if isinstance(value, int) else flipped(value)
        connection.execute(table.update().where(where).values({column: changed}))
    assert ("ST-000002" if column != "serial" else "ST-000003", kind) in finance_anywhere.findings()


def test_every_byte_of_a_body_counts(finance: Desk) -> None:
    finance.use(JULY.start, records=1_234_567)
    (july,) = finance.close_all(JULY.end + HOUR)
    for place in range(0, len(july.text), 97):
        text = july.text[:place] + chr(ord(july.text[place]) ^ 1) + july.text[place + 1 :]
        with finance.database.writing() as connection:
            connection.execute(STATEMENTS.update().values(body=text))
        assert finance.findings(), place


def test_a_ledger_with_another_number_in_it_is_found(finance: Desk) -> None:
    finance.use(JULY.start, records=1_234_567)
    finance.close_all(JULY.end + HOUR)
    with finance.database.writing() as connection:
        connection.exec_driver_sql("UPDATE usage_cells SET records = records - 4096")
    (found,) = finance.statements.proof.verify().findings
    assert (found.kind, "less than was billed" in found.told) == ("usage", True)


def test_the_usage_hash_is_of_what_the_statement_tells(finance: Desk) -> None:
    """So that a tenant can compute it."""
    finance.use(JULY.start, records=5, hidden_records=7)
    (july,) = finance.close_all(JULY.end + HOUR)
    body = july.body
    assert body["usage_hash"] == fingerprint(body["usage"])
    assert "hidden_records" not in july.text, "what a row filter hid is others' volume"


def test_one_process_leads_at_a_time_and_another_follows(opened_anywhere: Open) -> None:
    with opened_anywhere() as finance:
        finance.told(JULY.end + 9 * HOUR)
        finance.at(JULY.end + HOUR)

        def schedule(name: str) -> Schedule:
            return Schedule(finance.closing, finance.store, clock=finance.clock, holder=name, interval_seconds=1)

        first, second = schedule("first"), schedule("second")
        assert first.look() == ["final"]
        finance.told(AUGUST.end + 9 * HOUR)
        assert not finance.store.lead("second", now=int(finance.clock.now()), seconds=LEASE_SECONDS)
        assert second.look() == []
        finance.at(AUGUST.end + HOUR)
        assert second.look() == ["final"], "the lease of the first is over"
        assert first.look() == []
        second.resign()
        assert finance.store.lead("first", now=int(finance.clock.now()), seconds=LEASE_SECONDS)


# ---- looking up ------------------------------------------------------------------------------------------------------


def test_a_tenant_finds_its_own_by_number_and_id_and_no_other(finance: Desk) -> None:
    (july,) = finance.close_all(JULY.end + HOUR)
    assert finance.store.find("ST-000001", tenant="acme") == july == finance.store.find(july.id, tenant="acme")
    for reference in ("ST-000001", july.id):
        with pytest.raises(StatementNotFound):
            finance.store.find(reference, tenant="globex")


def test_pages_go_from_the_newest_to_the_oldest(finance_anywhere: Desk) -> None:
    finance_anywhere.close_all(SEPTEMBER.end + HOUR)
    first = finance_anywhere.store.page(tenant="acme", limit=2)
    rest = finance_anywhere.store.page(tenant="acme", limit=2, before=first[-1].made)
    assert [one.number for one in (*first, *rest)] == ["ST-000003", "ST-000002", "ST-000001"]


def flipped(text: str) -> str:
    middle = len(text) // 2
    return text[:middle] + chr(ord(text[middle]) ^ 1) + text[middle + 1 :]
