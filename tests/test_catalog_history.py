"""What changed the catalog stays known; a change made for another state of it is refused; what others own stays."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from gateway.auth.revocation import Revocation
from gateway.auth.store import RevocationStore
from gateway.catalog.catalog import Catalog
from gateway.catalog.diff import Change
from gateway.catalog.history import CatalogChanged, History
from gateway.catalog.store import Store
from gateway.catalog.tables import OBJECTS
from gateway.cli import main
from gateway.database.audit import Entry
from gateway.database.database import Bounds, Database
from gateway.database.schema import Schema
from gateway.errors import ConfigurationProblems
from gateway.model import Application, Entitlement, Plan, Product, Tenant

PATIENT = Bounds(statement_seconds=30)
EXAMPLES = Path(__file__).resolve().parents[1] / "asyncapi"
AUDIT = Entry("2026-11-23T10:00:00.000Z", "token:abc", "tenant.suspend", "acme")


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgres":
        return str(request.getfixturevalue("postgres_url"))
    return f"sqlite:///{tmp_path}/gateway.db"


@contextmanager
def opened(url: str) -> Iterator[Database]:
    database = Database(url, bounds=PATIENT)
    try:
        yield database
    finally:
        database.close()


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    with opened(url) as one:
        Schema(one).upgrade()
        yield one


def shop(*, title: str = "Geo", tenants: tuple[str, ...] = ("acme", "globex"), day: int = 1) -> Catalog:
    def tenant(name: str) -> Tenant:
        start = Entitlement(name, "geo", "free", date(2026, 1, day))
        return Tenant(name, name.title(), "active", "UTC", {}, (Application(f"{name}-app", name, "App"),), (start,))

    return Catalog.build(
        [Product("geo", title, ("quakes",))],
        [Plan("free", 1, "Free", "EUR", {"connections": 2})],
        [tenant(name) for name in tenants],
        issuers=["builtin"],
    )


def test_every_change_is_a_step_with_who_made_it_and_what_it_did(database: Database) -> None:
    store, history = Store(database), History(database)
    assert history.read(limit=10) == []
    made = store.apply(shop(), actor="user:ann")
    store.apply(shop(), actor="user:bob")
    store.apply(shop(title="Earth"), dry_run=True, actor="user:bob")
    store.apply(shop(title="Earth", day=2, tenants=("acme",)), prune=True, actor="user:bob")
    store.suspend("acme", suspended=True, audit=AUDIT)
    store.suspend("acme", suspended=True)
    store.suspend("acme", suspended=False)
    steps = history.read(limit=10)
    assert [(one.revision, one.owner, one.actor, one.action) for one in steps] == [
        (5, "admin", "", "tenant.resume"),
        (3, "admin", "token:abc", "tenant.suspend"),
        (2, "file", "user:bob", "apply --prune"),
        (1, "file", "user:ann", "apply"),
    ], "what changed nothing is no step"
    assert steps[-1].changes == made.changes, "as it was told when it was made"
    assert steps[1].at == AUDIT.at
    assert steps[1].changes == (Change("changed", ("tenant", "acme"), {"suspended_by_admin": (False, True)}),)
    assert steps[2].lines()[1:] == [
        '  ~ product geo: title "Geo" → "Earth"',
        "  - tenant globex",
        "  - application globex-app",
        '  ~ entitlement acme to geo from 2026-01-01: from "2026-01-01" → "2026-01-02"',
        "  - entitlement globex to geo from 2026-01-01",
    ]
    assert [one.revision for one in history.read(limit=2, before=5)] == [3, 2]


def test_a_refused_apply_leaves_no_step(database: Database) -> None:
    store = Store(database)
    store.apply(shop())
    published = replace(shop().plans[0], title="Freer")
    with pytest.raises(ConfigurationProblems, match="is published and cannot change"):
        store.apply(Catalog.build(shop(title="Earth").products, [published], shop().tenants))
    assert [one.revision for one in History(database).read(limit=10)] == [1]
    assert store.load_catalog(["builtin"])[1] == shop()


def test_a_change_made_for_another_state_of_the_catalog_is_refused(database: Database) -> None:
    store = Store(database)
    store.apply(shop(), actor="user:ann")
    looked = store.apply(shop(title="Earth"), dry_run=True).revision
    store.apply(shop(title="Ground"), actor="user:bob")
    for dry_run in (True, False):
        with pytest.raises(CatalogChanged, match=r"changed since revision 1: revision 2 is of .*, apply by user:bob\."):
            store.apply(shop(title="Earth"), since=looked, dry_run=dry_run)
    assert store.load_catalog(["builtin"]) == (2, shop(title="Ground"))
    assert store.apply(shop(title="Earth"), since=2).applied


def test_what_is_no_change_of_the_catalog_stands_in_nobodys_way(database: Database) -> None:
    """Every revocation counts the revision up, so that nodes look; it changes nothing that a file says."""
    store = Store(database)
    store.apply(shop())
    RevocationStore(database).add(Revocation("sub", "x", 4e9), now=0, audit=AUDIT)
    assert store.revision() == 2
    assert store.apply(shop(title="Earth"), since=1).revision == 3


def test_of_many_that_looked_at_the_same_state_one_changes_it_and_the_others_are_told(
    database: Database, url: str
) -> None:
    Store(database).apply(shop())
    barrier = threading.Barrier(6)

    def apply(number: int) -> bool:
        with opened(url) as mine:
            barrier.wait()
            try:
                return Store(mine).apply(shop(title=f"Title {number}"), since=1, actor=f"user:{number}").applied
            except CatalogChanged:
                return False

    with ThreadPoolExecutor(6) as pool:
        won = list(pool.map(apply, range(6)))
    assert won.count(True) == 1
    number = won.index(True)
    assert Store(database).load_catalog(["builtin"]) == (2, shop(title=f"Title {number}")), "whole, and of one alone"
    assert [one.actor for one in History(database).read(limit=10)] == [f"user:{number}", ""]


@pytest.mark.parametrize("owner", ["portal", "admin"])
def test_what_another_owner_made_no_file_changes_and_no_prune_removes(database: Database, owner: str) -> None:
    store = Store(database)
    store.apply(shop())
    with database.writing() as connection:
        for table in OBJECTS.values():
            connection.execute(table.update().values(owner=owner))
    stands = store.load_catalog(["builtin"])
    with pytest.raises(ConfigurationProblems) as caught:
        store.apply(shop(title="Earth"), prune=True)
    lines = caught.value.problems
    assert len(lines) == 8
    assert all(f"is owned by {owner}" in line for line in lines)
    assert not store.apply(Catalog.build(), prune=True), "nothing of it is a file's to prune"
    assert store.load_catalog(["builtin"]) == stands
    with database.reading() as connection:
        owners = {kind: set(connection.execute(sa.select(table.c.owner)).scalars()) for kind, table in OBJECTS.items()}
    assert owners == {kind: {owner} for kind in OBJECTS}


def test_an_admins_suspension_wins_over_files_until_an_admin_lifts_it(database: Database) -> None:
    store = Store(database)

    def status() -> str:
        tenant = store.load_catalog(["builtin"])[1].tenant("acme")
        assert tenant is not None
        return tenant.status

    store.apply(shop())
    store.suspend("acme", suspended=True)
    for catalog in (shop(), shop(title="Earth"), shop(day=2)):
        store.apply(catalog, prune=True)
        assert status() == "suspended"
    with pytest.raises(ConfigurationProblems, match="tenant acme is suspended by an admin and stays"):
        # Removed and made again, it would be active.
        store.apply(shop(tenants=("globex",)), prune=True)
    assert status() == "suspended"
    store.suspend("acme", suspended=False)
    assert status() == "active"


def test_a_gateway_without_history_goes_on_beside_one_that_has_it(database: Database) -> None:
    """Rows are missing for what an older version applied; nothing else is."""
    store = Store(database)
    store.apply(shop())
    with database.writing() as connection:
        connection.execute(sa.text("DELETE FROM catalog_history"))
    assert store.apply(shop(title="Earth"), since=1).applied
    assert [one.revision for one in History(database).read(limit=10)] == [2]


def test_the_command_refuses_names_and_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--set", f"contracts.dir={EXAMPLES}", "--set", "auth.builtin.enabled=true"]

    def run(*arguments: str) -> tuple[int, str, str]:
        done = CliRunner().invoke(main, [*arguments, *options])
        return done.exit_code, done.stdout, done.stderr

    text = (EXAMPLES / "catalog.yaml").read_text(encoding="utf-8")
    Path("catalog.yaml").write_text(text, encoding="utf-8")
    assert run("apply", "catalog.yaml", "--by", "ann")[0] == 0
    Path("mine.yaml").write_text(text.replace("title: Acme", "title: Mine", 1), encoding="utf-8")
    Path("theirs.yaml").write_text(text.replace("title: Acme", "title: Theirs", 1), encoding="utf-8")
    code, said, _ = run("apply", "--dry-run", "mine.yaml")
    assert (code, "--since 1 applies this" in said) == (0, True), said
    assert run("apply", "theirs.yaml")[0] == 0
    code, said, error = run("apply", "--since", "1", "mine.yaml")
    assert (code, said) == (1, "")
    assert error.startswith("gateway: the catalog has changed since revision 1: revision 2 is of 20")
    code, said, _ = run("catalog", "history", "--format", "json", "--limit", "2")
    steps = json.loads(said)
    assert [one["actor"] for one in steps["steps"]][1:] == ["ann"]
    assert steps["next"] == 1
    code, said, _ = run("catalog", "history", "--limit", "1")
    assert said.splitlines()[0].partition(" ")[2].startswith("revision 2: apply by user:")
    assert "Theirs" in said
    assert run("catalog", "history", "--before", "1")[1] == "no change was noted yet\n"
