"""The catalog in SQL: applied whole or not at all, twice is nothing to do, and what others own stays."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from gateway.catalog.catalog import Catalog, Key
from gateway.catalog.file import load_catalog
from gateway.catalog.store import Store
from gateway.database.database import Bounds, Database
from gateway.database.schema import Schema
from gateway.errors import ConfigurationProblems, Unavailable
from gateway.model import Application, Entitlement, MaskRule, Masks, Plan, Product, Tenant

PATIENT = Bounds(statement_seconds=30)
"""On a busy machine many writers of one file may wait long for each other."""

EXAMPLE = Path(__file__).parents[1] / "asyncapi" / "catalog.yaml"


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgres":
        return str(request.getfixturevalue("postgres_url"))
    return f"sqlite:///{tmp_path}/gateway.db"


@contextmanager
def opened(url: str) -> Iterator[Store]:
    database = Database(url, bounds=PATIENT)
    try:
        yield Store(database)
    finally:
        database.close()


@contextmanager
def made(url: str) -> Iterator[Store]:
    """The same, with its schema."""
    database = Database(url, bounds=PATIENT)
    try:
        Schema(database).upgrade()
        yield Store(database)
    finally:
        database.close()


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with made(url) as one:
        yield one


def shop(
    *,
    connections: int = 2,
    revision: int = 1,
    start: date = date(2026, 1, 1),
    streams: tuple[str, ...] = ("quakes",),
    tenants: tuple[str, ...] = ("acme", "globex"),
    status: str = "active",
) -> Catalog:
    def tenant(name: str) -> Tenant:
        return Tenant(
            name=name,
            title=name.title(),
            status="suspended" if status == "suspended" else "active",
            time_zone="Europe/Berlin",
            attributes={"regions": ["eu", "us"], "weight": 1.5},
            applications=(Application(f"{name}-app", name, "App", None, ("https://a.example",)),),
            entitlements=(Entitlement(name, "geo", "free", start),),
        )

    return Catalog.build(
        [Product("geo", "Geo", streams)],
        [Plan("free", revision, "Free", "EUR", {"connections": connections}, {"charges": [{"amount": "49.00"}]})],
        [tenant(name) for name in tenants],
        accounts={"acme": {"credit": "0"}} if "acme" in tenants else {},
        issuers=["builtin"],
    )


def test_what_was_applied_comes_back_equal(store: Store) -> None:
    catalog = load_catalog(EXAMPLE, issuers=["builtin"])
    assert store.revision() == 0
    diff = store.apply(catalog)
    assert diff.applied
    assert {change.action for change in diff.changes} == {"created"}
    assert len(diff.changes) == 13
    assert store.load_catalog(["builtin"]) == (1, catalog)


def test_a_second_apply_finds_nothing_to_do(store: Store) -> None:
    store.apply(shop())
    diff = store.apply(shop())
    assert not diff
    assert not diff.applied
    assert diff.lines() == ["nothing to do"]
    assert store.revision() == 1


def test_a_dry_run_tells_and_changes_nothing(store: Store) -> None:
    diff = store.apply(shop(), dry_run=True)
    assert diff
    assert not diff.applied
    assert store.load_catalog([]) == (0, Catalog.build())
    assert store.apply(shop()).changes == diff.changes


def test_a_change_is_told_with_before_and_after(store: Store) -> None:
    store.apply(shop())
    diff = store.apply(shop(streams=("quakes", "flights")))
    assert diff.lines() == ['~ product geo: streams ["quakes"] → ["quakes","flights"]']
    told = json.loads(json.dumps(diff.to_dict()))
    assert told == {
        "applied": True,
        "revision": 2,
        "changes": [
            {
                "action": "changed",
                "kind": "product",
                "name": "geo",
                "fields": {"streams": {"before": ["quakes"], "after": ["quakes", "flights"]}},
            }
        ],
        "kept": [],
    }


def test_masks_are_kept_compared_and_taken_away(store: Store) -> None:
    def masked(**rules: MaskRule) -> Catalog:
        plain = shop()
        masks: dict[str, Masks] = {"quakes": tuple((f"/{name}", rule) for name, rule in rules.items())} if rules else {}
        return replace_products(plain, [Product("geo", "Geo", ("quakes",), masks)])

    assert '+ product geo: title "Geo", streams ["quakes"], masks {"quakes":{"/a":"drop"}}' in [
        *store.apply(masked(a="drop")).lines()
    ]
    assert store.load_catalog(["builtin"])[1] == masked(a="drop")
    told = store.apply(masked(a="null", b="drop")).lines()
    assert told == ['~ product geo: masks.quakes {"/a":"drop"} → {"/a":"null","/b":"drop"}']
    assert store.apply(masked()).lines() == ['~ product geo: masks.quakes {"/a":"null","/b":"drop"} → null']
    assert store.load_catalog(["builtin"])[1] == shop()


def test_different_masks_of_one_stream_are_refused_also_beside_what_stands_already(store: Store) -> None:
    store.apply(shop())
    more = Product("more", "More", ("quakes",), {"quakes": (("/a", "drop"),)})
    plain = shop()
    acme = plain.tenant("acme")
    assert acme is not None
    both = replace(acme, entitlements=(*acme.entitlements, Entitlement("acme", "more", "free", date(2026, 3, 1))))
    catalog = Catalog.build([more], plain.plans, [both], issuers=["builtin"])
    with pytest.raises(ConfigurationProblems) as caught:
        store.apply(catalog)
    assert any(
        "stream quakes under two different masks, none by geo and /a drop by more" in p for p in caught.value.problems
    )
    # The same masks, or dates apart, are no contradiction.
    apart = replace(
        acme,
        entitlements=(
            Entitlement("acme", "geo", "free", date(2026, 1, 1), date(2026, 3, 1)),
            Entitlement("acme", "more", "free", date(2026, 3, 1)),
        ),
    )
    assert store.apply(Catalog.build([more], plain.plans, [apart], issuers=["builtin"])).applied


def replace_products(catalog: Catalog, products: list[Product]) -> Catalog:
    return Catalog.build(products, catalog.plans, catalog.tenants, accounts=catalog.accounts, issuers=catalog.issuers)


def test_absent_objects_stay_and_are_named_until_pruned(store: Store) -> None:
    store.apply(shop())
    diff = store.apply(shop(tenants=("acme",)))
    assert diff.lines() == [
        "nothing to do",
        "= tenant globex is not in the file and stays; --prune removes it",
        "= application globex-app is not in the file and stays; --prune removes it",
        "= entitlement globex to geo from 2026-01-01 is not in the file and stays; --prune removes it",
    ]
    assert store.load_catalog([])[1].tenant("globex") is not None
    diff = store.apply(shop(tenants=("acme",)), prune=True)
    assert [change.action for change in diff.changes] == ["removed"] * 3
    assert store.load_catalog(["builtin"])[1] == shop(tenants=("acme",))
    assert store.apply(Catalog.build(), prune=True)
    assert store.load_catalog(["builtin"])[1] == Catalog.build(issuers=["builtin"])


def test_a_published_plan_revision_never_changes(store: Store) -> None:
    store.apply(shop())
    places: dict[Key, str] = {("plan", "free", "1"): "catalog.yaml:9"}
    with pytest.raises(ConfigurationProblems) as caught:
        store.apply(replace(shop(connections=3), places=places))
    assert caught.value.problems == [
        "catalog.yaml:9: plan free revision 1 is published and cannot change (limits.connections 2 → 3), got 1;"
        " allowed: a new revision with the change"
    ]
    assert store.apply(shop(connections=3, revision=2))
    plan = store.load_catalog([])[1].plan("free")
    assert plan is not None
    assert (plan.revision, plan.limits) == (2, {"connections": 3})


def test_an_older_plan_revision_stays_as_history_and_is_not_gone_back_to(store: Store) -> None:
    store.apply(shop())
    diff = store.apply(shop(revision=2), prune=True)
    assert [change.action for change in diff.changes] == ["created"]
    assert [plan.revision for plan in store.load_catalog([])[1].plans] == [1, 2]
    with pytest.raises(ConfigurationProblems) as caught:
        store.apply(shop())
    assert "plan free: revision 2 is published already, got 1; allowed: revision 2 or a later" in str(caught.value)


def test_a_first_day_that_was_edited_is_a_change(store: Store) -> None:
    store.apply(shop(tenants=("acme",)))
    diff = store.apply(shop(tenants=("acme",), start=date(2026, 2, 1)))
    assert diff.lines() == ['~ entitlement acme to geo from 2026-01-01: from "2026-01-01" → "2026-02-01"']
    assert store.load_catalog(["builtin"])[1] == shop(tenants=("acme",), start=date(2026, 2, 1))


def test_an_application_can_move_to_a_new_tenant(store: Store) -> None:
    store.apply(shop(tenants=("acme",)))
    new = Tenant("new", "New", "active", "UTC", {}, (Application("acme-app", "new", "App"),))
    catalog = Catalog.build(tenants=[new], issuers=["builtin"])
    assert '~ application acme-app: tenant "acme" → "new"' in ", ".join(store.apply(catalog, prune=True).lines())
    assert store.load_catalog(["builtin"])[1] == catalog


def test_what_would_break_a_rule_changes_nothing_at_all(store: Store) -> None:
    store.apply(shop(tenants=("acme",)))
    other = Catalog.build(
        [Product("more", "More", ("quakes",))],
        [Plan("pro", 1, "Pro", "EUR")],
        [replace(shop().tenants[0], entitlements=(Entitlement("acme", "more", "pro", date(2026, 3, 1)),))],
    )
    with pytest.raises(ConfigurationProblems) as caught:
        store.apply(other)
    assert caught.value.problems == [
        "catalog: tenant acme: stream quakes through two plans, geo at free and more at pro, got 'pro';"
        " allowed: one plan a stream, here free"
    ]
    assert store.load_catalog(["builtin"]) == (1, shop(tenants=("acme",)))
    assert store.apply(other, prune=True)


def test_an_admins_suspension_outlives_every_apply(store: Store) -> None:
    store.apply(shop())
    assert store.suspend("acme", suspended=True)
    assert store.revision() == 2
    assert not store.apply(shop())
    store.apply(shop(streams=("quakes", "flights")))
    moved = replace(shop().tenants[0], title="Acme & Co")
    store.apply(Catalog.build(shop().products, shop().plans, [moved]))
    tenant = store.load_catalog([])[1].tenant("acme")
    assert tenant is not None
    assert (tenant.title, tenant.status) == ("Acme & Co", "suspended")
    store.suspend("acme", suspended=False)
    tenant = store.load_catalog([])[1].tenant("acme")
    assert tenant is not None
    assert tenant.status == "active"
    assert not store.suspend("nobody", suspended=True)


def test_a_file_may_create_a_tenant_suspended(store: Store) -> None:
    store.apply(shop(status="suspended"))
    tenant = store.load_catalog([])[1].tenant("acme")
    assert tenant is not None
    assert tenant.status == "suspended"


def test_what_another_owner_made_is_neither_changed_nor_pruned(tmp_path: Path) -> None:
    with made(f"sqlite:///{tmp_path}/gateway.db") as store:
        neither_changed_nor_pruned(store, tmp_path)


def neither_changed_nor_pruned(store: Store, tmp_path: Path) -> None:
    store.apply(shop(tenants=("acme",)))
    with sqlite3.connect(tmp_path / "gateway.db") as connection:
        connection.execute("UPDATE applications SET owner = 'portal'")
    connection.close()
    changed = replace(shop().tenants[0], applications=(Application("acme-app", "acme", "Renamed"),))
    with pytest.raises(ConfigurationProblems) as caught:
        store.apply(Catalog.build(shop().products, shop().plans, [changed]))
    assert "application acme-app is owned by portal; allowed: objects that files own" in str(caught.value)
    without = replace(shop().tenants[0], applications=())
    assert not store.apply(
        Catalog.build(shop().products, shop().plans, [without], accounts=shop().accounts), prune=True
    )
    with pytest.raises(ConfigurationProblems) as caught:
        store.apply(Catalog.build(), prune=True)
    assert "tenant acme has objects owned by portal and cannot be removed" in str(caught.value)


def test_a_setting_is_made_once_however_many_ask(store: Store, url: str) -> None:
    def ask(number: int) -> str:
        with opened(url) as mine:
            barrier.wait()
            return mine.get_or_create("cursor.key", lambda: f"secret-{number}")

    barrier = threading.Barrier(8)
    with ThreadPoolExecutor(8) as pool:
        values = set(pool.map(ask, range(8)))
    assert len(values) == 1
    assert store.get_or_create("cursor.key", lambda: "late") in values
    assert store.get_or_create("uid.key", lambda: "another") == "another"


def test_evidence_of_a_new_topic_counts_once_however_many_saw_it(store: Store) -> None:
    assert store.incarnation("main", "quakes") == 1
    with ThreadPoolExecutor(4) as pool:
        seen = list(pool.map(lambda _: store.bump_incarnation("main", "quakes", seen=1), range(4)))
    assert seen == [2, 2, 2, 2]
    assert store.bump_incarnation("main", "quakes", seen=2) == 3
    assert store.incarnation("main", "quakes") == 3
    assert store.incarnation("other", "quakes") == 1


def test_the_first_id_of_a_topic_belongs_to_the_life_it_is_in(store: Store) -> None:
    assert store.incarnation("main", "quakes", topic_id="a") == 1
    store.bump_incarnation("main", "flights", seen=1)
    assert store.incarnation("main", "flights", topic_id="a") == 2


def test_another_id_begins_the_next_life_once_however_many_saw_it(url: str, store: Store) -> None:
    def tell(number: int) -> int:
        with opened(url) as mine:
            barrier.wait()
            return mine.incarnation("main", "quakes", topic_id="b")

    assert store.incarnation("main", "quakes", topic_id="a") == 1
    barrier = threading.Barrier(8)
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(tell, range(8))) == {2}
    assert store.incarnation("main", "quakes", topic_id="c") == 3
    assert store.incarnation("other", "quakes", topic_id="c") == 1


def test_an_id_keeps_its_life_though_a_broker_that_is_behind_names_the_one_before(store: Store) -> None:
    assert [store.incarnation("main", "quakes", topic_id=name) for name in "abaab"] == [1, 2, 1, 1, 2]


def test_without_an_id_the_present_life_stays(store: Store) -> None:
    assert [store.incarnation("main", "quakes", topic_id=name) for name in ("a", None, "b", None)] == [1, 1, 2, 2]


def test_evidence_moves_the_present_id_to_the_next_life(store: Store) -> None:
    assert store.incarnation("main", "quakes", topic_id="a") == 1
    assert store.incarnation("main", "quakes", topic_id="b") == 2
    assert store.bump_incarnation("main", "quakes", seen=1) == 2, "that life was over already"
    assert store.bump_incarnation("main", "quakes", seen=2) == 3
    assert [store.incarnation("main", "quakes", topic_id=name) for name in "ab"] == [1, 3]


def test_applies_at_once_come_one_after_the_other(store: Store, url: str) -> None:
    catalogs = [shop(streams=(f"stream-{number}",)) for number in range(6)]

    def apply(catalog: Catalog) -> bool:
        with opened(url) as mine:
            return mine.apply(catalog).applied

    with ThreadPoolExecutor(6) as pool:
        applied = list(pool.map(apply, catalogs))
    assert all(applied)
    revision, catalog = store.load_catalog(["builtin"])
    assert revision == 6
    assert catalog in catalogs


def test_sqlite_keeps_a_rollback_journal_and_full_synchronisation(tmp_path: Path) -> None:
    with made(f"sqlite:///{tmp_path}/gateway.db") as store:
        store.apply(shop())
        assert not (tmp_path / "gateway.db-wal").exists()
        with sqlite3.connect(tmp_path / "gateway.db") as connection:
            assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
        connection.close()


def test_limits_and_prices_are_stored_as_the_same_bytes_every_time(tmp_path: Path) -> None:
    def bytes_of(name: str, limits: dict[str, object]) -> tuple[str, str]:
        with made(f"sqlite:///{tmp_path}/{name}.db") as store:
            store.apply(Catalog.build(plans=[Plan("free", 1, "Free", "EUR", limits, {"charges": []})]))
        connection = sqlite3.connect(tmp_path / f"{name}.db")
        row: tuple[str, str] = connection.execute("SELECT limits, pricing FROM plans").fetchone()
        connection.close()
        return row

    assert (
        bytes_of("a", {"x": 1, "y": "ü"}) == bytes_of("b", {"y": "ü", "x": 1}) == ('{"x":1,"y":"ü"}', '{"charges":[]}')
    )


@pytest.mark.parametrize(
    "call", [Store.revision, lambda store: store.load_catalog([]), lambda store: store.apply(shop())]
)
def test_a_database_that_is_away_is_said_to_be_unavailable(tmp_path: Path, call: Callable[[Store], object]) -> None:
    with opened(f"sqlite:///{tmp_path}/missing/gateway.db") as store, pytest.raises(Unavailable):
        call(store)


def test_a_database_without_tables_says_what_to_do(url: str) -> None:
    with opened(url) as store:
        for call in (store.revision, lambda: store.load_catalog([]), lambda: store.apply(shop())):
            with pytest.raises(Unavailable, match="lacks the gateway's tables; run `gateway db upgrade`"):
                call()
