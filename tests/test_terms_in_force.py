"""Which revision of which plan was in force when, out of what the catalog said when."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
import sqlalchemy as sa

from gateway.billing.inforce import Revisions, terms_of
from gateway.billing.period import midnight
from gateway.billing.store import StatementStore
from gateway.billing.terms import Term
from gateway.catalog.catalog import Catalog
from gateway.catalog.chronicle import Held, Published
from gateway.catalog.file import load_catalog
from gateway.catalog.store import Store
from gateway.clock import ManualClock
from gateway.database.database import Bounds, Database
from gateway.database.schema import Schema
from gateway.errors import ConfigurationProblems
from gateway.model import Application, Entitlement, Plan, Product, Tenant

BERLIN = "Europe/Berlin"
JULY, AUGUST = (midnight(date(2026, month, 1), BERLIN) for month in (7, 8))
DAY = 86_400


def plan(revision: int, name: str = "pro") -> Plan:
    return Plan(name, revision, name.title(), "EUR")


def published(*when: tuple[int, int]) -> Revisions:
    """Revisions of one plan with the second each was published."""
    return Revisions(Published(plan(revision), second * 1000) for revision, second in when)


def held(
    starts_on: date = date(2026, 7, 1),
    ends_on: date | None = None,
    *,
    known: tuple[int, int | None] = (JULY, None),
    is_first: bool = True,
    revision: int | None = None,
    product: str = "geo",
) -> Held:
    return Held("acme", product, "pro", revision, starts_on, ends_on, *known, is_first)


def spans(*entitlements: Held, revisions: Revisions | None = None) -> list[tuple[int, int, int | None]]:
    found: tuple[Term, ...] = terms_of(entitlements, revisions or published((1, JULY)), zone=BERLIN)
    return [(one.plan.revision, one.start, one.end) for one in found]


def test_what_was_heard_first_counts_from_the_day_it_names() -> None:
    assert spans(held(known=(JULY + 9 * DAY, None))) == [(1, JULY, None)]


def test_dates_are_days_of_the_tenants_zone_half_open() -> None:
    assert spans(held(ends_on=date(2026, 8, 1))) == [(1, JULY, AUGUST)]


def test_what_was_changed_later_counts_from_the_change() -> None:
    """Whichever day it names: for until then another one let the partner in."""
    changed = JULY + 9 * DAY + 7
    before = held(known=(JULY, changed))
    after = held(known=(changed, None), is_first=False, ends_on=date(2026, 8, 1))
    assert spans(before, after) == [(1, JULY, changed), (1, changed, AUGUST)]


def test_what_was_taken_away_before_its_day_never_counted() -> None:
    assert spans(held(date(2026, 8, 1), known=(JULY, JULY + DAY))) == []


def test_a_new_revision_holds_from_its_second_and_the_first_for_all_time_before() -> None:
    revisions = published((1, JULY + 5), (2, JULY + 10 * DAY), (3, JULY + 20 * DAY))
    assert spans(held(), revisions=revisions) == [
        (1, JULY, JULY + 10 * DAY),
        (2, JULY + 10 * DAY, JULY + 20 * DAY),
        (3, JULY + 20 * DAY, None),
    ]


def test_of_revisions_published_together_the_newest_holds() -> None:
    assert spans(held(), revisions=published((1, JULY), (2, JULY))) == [(2, JULY, None)]


def test_of_revisions_published_within_a_second_each_is_one() -> None:
    revisions = Revisions([Published(plan(1), JULY * 1000 + 100), Published(plan(2), JULY * 1000 + 900)])
    assert spans(held(date(2026, 6, 1)), revisions=revisions) == [
        (1, midnight(date(2026, 6, 1), BERLIN), JULY),
        (2, JULY, None),
    ]


def test_an_older_revision_that_comes_late_never_holds() -> None:
    assert spans(held(), revisions=published((2, JULY), (1, JULY + DAY))) == [(2, JULY, None)]


def test_a_pin_holds_whatever_is_published() -> None:
    assert spans(held(revision=1), revisions=published((1, JULY), (2, JULY + DAY))) == [(1, JULY, None)]
    assert spans(held(revision=7)) == [], "a revision that nobody published"


# ---- written down by the store ---------------------------------------------------------------------------------------


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    url = f"sqlite:///{tmp_path}/gateway.db"
    if request.param == "postgres":
        url = str(request.getfixturevalue("postgres_url"))
    one = Database(url, bounds=Bounds(statement_seconds=30))
    Schema(one).upgrade()
    yield one
    one.close()


def shop(*entitlements: Entitlement, revisions: int = 1) -> Catalog:
    tenant = Tenant(
        "acme",
        "Acme",
        "active",
        BERLIN,
        applications=(Application("web", "acme", "Web"),),
        entitlements=entitlements,
    )
    plans = [plan(number) for number in range(1, revisions + 1)]
    return Catalog.build([Product("geo", "Geo", ("s",))], plans, [tenant], issuers=["builtin"])


GEO = Entitlement("acme", "geo", "pro", date(2026, 7, 1))


def told(database: Database) -> list[tuple[int | None, int, int | None, bool]]:
    _, known = StatementStore(database).history()
    return [(one.revision, one.known_from, one.known_until, one.is_first) for one in known.get("acme", [])]


def test_each_apply_writes_down_what_changed_and_when(database: Database) -> None:
    clock = ManualClock(now=1000.5)
    store = Store(database, clock=clock)
    store.apply(shop(GEO))
    clock.advance(10)
    store.apply(shop(GEO))
    assert told(database) == [(None, 1000, None, True)], "applying the same again changes nothing"
    store.apply(shop(replace(GEO, revision=2), revisions=2))
    clock.advance(10)
    store.apply(shop(revisions=2), prune=True)
    clock.advance(10)
    store.apply(shop(GEO, revisions=2))
    assert told(database) == [(None, 1000, 1010, True), (2, 1010, 1020, False), (None, 1030, None, False)]
    revisions, _ = StatementStore(database).history()
    assert sorted(revisions.plans) == [("pro", 1), ("pro", 2)]


def test_what_an_older_gateway_changed_is_written_down_when_it_is_seen(database: Database) -> None:
    clock = ManualClock(now=1000)
    store = Store(database, clock=clock)
    store.apply(shop(GEO))
    with database.writing() as connection:
        connection.execute(sa.text("UPDATE entitlements SET ends_on = '2026-08-01'"))
    clock.advance(60)
    store.catch_up_history()
    store.catch_up_history()
    assert told(database) == [(None, 1000, 1060, True), (None, 1060, None, False)]


def test_a_catalog_from_before_the_history_is_where_it_begins(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/old.db")
    try:
        schema = Schema(database)
        schema.upgrade()
        Store(database).apply(shop(GEO, revisions=2))
        schema.downgrade("0004")
        schema.upgrade()
        ((revision, known_from, known_until, is_first),) = told(database)
        assert (revision, known_until, is_first) == (None, None, True)
        assert known_from > 1_700_000_000
        revisions, _ = StatementStore(database).history()
        assert [one.revision for one, _, _ in revisions.stretches("pro")] == [2]
        assert Store(database).load_catalog(["builtin"])[1] == shop(GEO, revisions=2)
    finally:
        database.close()


# ---- pins in the catalog ---------------------------------------------------------------------------------------------


def test_a_pinned_revision_is_what_lets_in(database: Database) -> None:
    store = Store(database)
    store.apply(shop(replace(GEO, revision=1), revisions=2))
    _, catalog = store.load_catalog(["builtin"])
    right = catalog.right("acme", "s", now=midnight(date(2026, 9, 1), BERLIN))
    assert right is not None
    assert right.plan.revision == 1
    store.apply(shop(GEO, revisions=2))
    right = store.load_catalog(["builtin"])[1].right("acme", "s", now=midnight(date(2026, 9, 1), BERLIN))
    assert right is not None
    assert right.plan.revision == 2


def test_a_pin_on_a_revision_that_is_not_published_is_refused(database: Database) -> None:
    with pytest.raises(ConfigurationProblems, match=r"tenant acme: revision of plan pro, got 9; allowed: 1, 2"):
        Store(database).apply(shop(replace(GEO, revision=9), revisions=2))


PINNED = """
products: [{name: a, title: A, streams: [s]}, {name: b, title: B, streams: [t]}]
plans:
  - &plan {name: p, revision: 2, title: P, currency: EUR, charges: [], limits: {requests_per_second: 1,
      connections: 1, records_per_second: 1, bytes_per_second: 1, replay_records_per_second: 1}}
tenants:
  - {name: acme, title: Acme, time_zone: UTC, entitlements: [
      {product: a, plan: p, from: 2026-01-01, revision: 1}, {product: b, plan: p, from: 2026-01-01, PIN}]}
"""


@pytest.mark.parametrize(
    ("pin", "said"),
    [
        ("revision: 2", "plan p at two revisions, for a and b"),
        ("to: 2026-06-01", "plan p at two revisions, for a and b"),
        ("revision: 0", "a whole number from 1 to"),
        ("revision: newest", "a whole number from 1 to"),
    ],
)
def test_a_pin_that_cannot_be_is_named_with_its_line(pin: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "catalog.yaml"
    path.write_text(PINNED.replace("PIN", pin))
    with pytest.raises(ConfigurationProblems) as caught:
        load_catalog(path)
    assert any(said in line and "catalog.yaml:" in line for line in caught.value.problems), caught.value.problems
