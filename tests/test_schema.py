"""The schema's versions, on SQLite and Postgres: up and down, adopted, refused, changed under gateways that run."""

from __future__ import annotations

import multiprocessing
import textwrap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from gateway import __version__
from gateway.alerts.store import METADATA as ALERTS
from gateway.auth.ticket_rows import METADATA as TICKETS
from gateway.billing.tables import METADATA
from gateway.catalog.file import load_catalog
from gateway.catalog.store import Store
from gateway.database.database import Bounds, Database
from gateway.database.schema import VERSIONS, Schema, SchemaForeign, SchemaTooNew, SchemaTooOld
from gateway.database.versions import v0001_catalog as first
from gateway.errors import ConfigurationProblems
from gateway.limits.quota_store import METADATA as QUOTAS
from gateway.metering.audit_tables import METADATA as EVIDENCE
from gateway.metering.tables import METADATA as USAGE

EXAMPLE = Path(__file__).parents[1] / "asyncapi" / "catalog.yaml"

ADDS = """
    def upgrade():
        op.add_column("tenants", sa.Column("note", sa.Text))
        op.create_table("notes", sa.Column("id", sa.Integer, primary_key=True))
        op.execute("INSERT INTO notes (id) VALUES (1)")

    def downgrade():
        op.drop_table("notes")
        op.drop_column("tenants", "note")
"""
RENAMES = """
    def upgrade():
        op.alter_column("products", "title", new_column_name="name_for_people")

    def downgrade():
        op.alter_column("products", "name_for_people", new_column_name="title")
"""
BREAKS_OFF = """
    def upgrade():
        op.create_table("half", sa.Column("id", sa.Integer, primary_key=True))
        raise RuntimeError("broken off")
"""


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgres":
        return str(request.getfixturevalue("postgres_url"))
    return f"sqlite:///{tmp_path}/gateway.db"


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    one = Database(url, bounds=Bounds(statement_seconds=30))
    yield one
    one.close()


NOW = Schema(Database("sqlite://")).newest
NEXT, AFTER_NEXT = (f"{int(NOW) + more:04d}" for more in (1, 2))


def later(folder: Path, database: Database, *versions: str, usable_by: str = NOW) -> Schema:
    """What a later gateway knows: our versions and these ways up and down. ``usable_by`` is of the last of them."""
    folder.mkdir(exist_ok=True)
    before = NOW
    for revision, ways in zip((NEXT, AFTER_NEXT), versions, strict=False):
        used_by = usable_by if ways is versions[-1] else NOW
        head = f'revision = "{revision}"\ndown_revision = "{before}"\nusable_by = "{used_by}"\n'
        source = f"import sqlalchemy as sa\nfrom alembic import op\n{head}{textwrap.dedent(ways)}"
        (folder / f"v{revision}_later.py").write_text(source)
        before = revision
    return Schema(database, versions=[VERSIONS, folder])


def tables(database: Database) -> set[str]:
    with database.reading() as connection:
        return set(sa.inspect(connection).get_table_names())


def fill(database: Database) -> None:
    catalog = load_catalog(EXAMPLE, issuers=["builtin"])
    assert Store(database).apply(catalog).applied
    assert Store(database).get_or_create("cursor_key", lambda: "secret") == "secret"
    assert Store(database).incarnation("main", "quakes", topic_id="a") == 1


def assert_filled(database: Database) -> None:
    assert Store(database).load_catalog(["builtin"]) == (1, load_catalog(EXAMPLE, issuers=["builtin"]))
    assert Store(database).get_or_create("cursor_key", lambda: "another") == "secret"
    assert Store(database).incarnation("main", "quakes", topic_id="b") == 2


# ---- up and down ---------------------------------------------------------------------------------------------------


def test_an_empty_database_comes_up_once_and_says_who_made_it(database: Database) -> None:
    schema = Schema(database)
    assert schema.state().standing == "empty"
    assert schema.upgrade() == schema.revisions
    state = schema.state()
    assert (state.standing, state.revision, state.made_by) == ("current", schema.newest, __version__)
    assert state.is_usable
    assert schema.upgrade() == []
    assert schema.require(may_upgrade=False) == state
    assert Store(database).revision() == 0


def test_the_versions_together_make_the_tables_that_the_stores_use(database: Database) -> None:
    Schema(database).upgrade()
    with database.reading() as connection:
        known = {"compare_type": True, "include_object": lambda _o, name, *_: name not in ("schema_versions",)}
        ours = [METADATA, EVIDENCE, USAGE, QUOTAS, ALERTS, TICKETS]
        assert compare_metadata(MigrationContext.configure(connection, opts=known), ours) == []  # type: ignore[arg-type]


def test_down_leaves_nothing_and_up_again_is_whole(database: Database) -> None:
    schema = Schema(database)
    schema.upgrade()
    fill(database)
    assert schema.downgrade("base") == schema.revisions[::-1]
    assert tables(database) == {"alembic_version"}
    assert schema.state().standing == "empty"
    assert schema.downgrade("base") == []
    schema.upgrade()
    fill(database)
    assert_filled(database)


def test_every_version_goes_up_and_down_by_itself(database: Database) -> None:
    schema = Schema(database)
    for revision in schema.revisions:
        before = tables(database)
        assert schema.upgrade(revision) == [revision]
        under = schema.revisions[: schema.revisions.index(revision)]
        assert schema.downgrade(under[-1] if under else "base") == [revision]
        assert tables(database) - {"alembic_version"} == before - {"alembic_version"}
        assert schema.upgrade(revision) == [revision]


def test_versions_are_one_line_and_never_less_usable_than_the_one_before(tmp_path: Path) -> None:
    schema = Schema(Database(f"sqlite:///{tmp_path}/never.db"))
    users = [schema._line[revision].module.usable_by for revision in schema.revisions]
    assert users == sorted(users)
    assert all(
        one in schema.revisions and one <= revision for one, revision in zip(users, schema.revisions, strict=True)
    )
    assert schema.revisions == [f"{number:04d}" for number in range(1, len(users) + 1)]


def test_a_version_that_is_not_known_is_refused_with_those_that_are(database: Database) -> None:
    for move in (Schema(database).upgrade, Schema(database).downgrade):
        with pytest.raises(ConfigurationProblems, match=r"schema version '9999' is not known; allowed: one of 0001.*"):
            move("9999")


def test_a_change_that_breaks_off_leaves_everything_as_it_was(database: Database, tmp_path: Path) -> None:
    Schema(database).upgrade()
    fill(database)
    before = tables(database)
    with pytest.raises(RuntimeError, match="broken off"):
        later(tmp_path / "later", database, ADDS, BREAKS_OFF).upgrade()
    assert tables(database) == before
    assert Schema(database).state().standing == "current"
    assert_filled(database)


# ---- several at once -----------------------------------------------------------------------------------------------


def test_processes_that_start_together_make_one_schema(url: str, database: Database) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=start_and_stop, args=(url,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 3
    assert Store(database).revision() == 0


def start_and_stop(url: str) -> None:
    database = Database(url, bounds=Bounds(statement_seconds=30))
    assert Schema(database).require(may_upgrade=True).standing == "current"
    database.ping()
    database.close()


def test_a_change_is_made_once_however_many_begin_it(url: str, database: Database, tmp_path: Path) -> None:
    Schema(database).upgrade()
    later(tmp_path / "later", database, ADDS)

    def change(_: int) -> list[str]:
        mine = Database(url, bounds=Bounds(statement_seconds=30))
        try:
            return Schema(mine, versions=[VERSIONS, tmp_path / "later"]).upgrade()
        finally:
            mine.close()

    with ThreadPoolExecutor(4) as pool:
        passed = list(pool.map(change, range(4)))
    assert sorted(map(len, passed)) == [0, 0, 0, 1]


# ---- what is found there -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lacks", [(), ("topic_lives",)], ids=["whole", "older"])
def test_a_database_from_before_versions_is_taken_over_without_loss(database: Database, lacks: tuple[str, ...]) -> None:
    Schema(database).upgrade()
    fill(database)
    Schema(database).downgrade("0001")
    for name in ("schema_versions", "alembic_version"):
        with database.writing() as connection:
            connection.exec_driver_sql(f"DROP TABLE {name}")
    for name in lacks:
        with database.writing() as connection:
            first.TABLES.tables[name].drop(connection)
    schema = Schema(database)
    assert schema.state().standing == "unversioned"
    with pytest.raises(SchemaTooOld, match="before schema versions were kept; run `gateway db upgrade`"):
        schema.require(may_upgrade=False)
    assert schema.require(may_upgrade=True).standing == "current"
    if not lacks:
        assert_filled(database)
    assert Store(database).load_catalog(["builtin"])[1] == load_catalog(EXAMPLE, issuers=["builtin"])


def test_another_programs_tables_are_left_alone(database: Database) -> None:
    with database.writing() as connection:
        connection.exec_driver_sql("CREATE TABLE products (id INTEGER, price INTEGER)")
    for act in (lambda: Schema(database).require(may_upgrade=True), lambda: Schema(database).downgrade("base")):
        with pytest.raises(SchemaForeign, match="not the gateway's; name a database of the gateway's own"):
            act()
    assert tables(database) == {"products"}


def test_tables_of_other_names_do_not_disturb(database: Database) -> None:
    with database.writing() as connection:
        connection.exec_driver_sql("CREATE TABLE elsewhere (id INTEGER)")
    assert Schema(database).require(may_upgrade=True).standing == "current"
    assert Schema(database).downgrade("base")
    assert "elsewhere" in tables(database)


def test_a_schema_that_is_behind_waits_for_the_operator_where_nobody_else_may(
    database: Database, tmp_path: Path
) -> None:
    Schema(database).upgrade()
    newer = later(tmp_path / "later", database, ADDS)
    with pytest.raises(
        SchemaTooOld, match=f"has schema {NOW}, and this version needs {NEXT}; run `gateway db upgrade`"
    ):
        newer.require(may_upgrade=False)
    assert newer.require(may_upgrade=True).revision == NEXT


# ---- a rolling upgrade: gateways of two versions on one database ----------------------------------------------------


def test_gateways_of_the_version_before_go_on_under_an_upgrade_that_adds(
    url: str, database: Database, tmp_path: Path
) -> None:
    Schema(database).upgrade()
    runs = Store(database)
    assert runs.revision() == 0
    mine = Database(url)
    newer = later(tmp_path / "later", mine, ADDS)
    assert newer.upgrade() == [NEXT]
    mine.close()
    fill(database)
    assert_filled(database)
    # One of the old ones starts again amid the upgrade.
    again = Schema(database).require(may_upgrade=True)
    assert (again.standing, again.revision, again.is_usable) == ("newer", NEXT, True)
    assert Schema(database).upgrade() == [], "an older gateway changes nothing"
    with pytest.raises(SchemaTooNew, match=f"go back with it: `gateway db downgrade {NOW}`"):
        Schema(database).downgrade(NOW)
    # The upgrade is given up: the newer version takes its own back, and nothing of the old one is lost.
    assert newer.downgrade(NOW) == [NEXT]
    assert Schema(database).state().standing == "current"
    assert "notes" not in tables(database)
    assert_filled(database)


def test_an_upgrade_that_takes_something_away_keeps_older_gateways_out(database: Database, tmp_path: Path) -> None:
    newer = later(tmp_path / "later", database, ADDS, RENAMES, usable_by=AFTER_NEXT)
    assert newer.upgrade() == [*Schema(database).revisions, NEXT, AFTER_NEXT]
    with pytest.raises(SchemaTooNew) as caught:
        Schema(database).require(may_upgrade=True)
    (problem,) = caught.value.problems
    assert problem.startswith(f"database.url: {database.place} has schema {AFTER_NEXT} (made by gateway {__version__})")
    assert problem.endswith(f"run that version or a newer one, or go back with it: `gateway db downgrade {NOW}`")
    assert newer.downgrade(NEXT) == [AFTER_NEXT]
    assert Schema(database).state().standing == "newer"


def test_a_version_that_nobody_wrote_down_is_no_version_to_work_with(database: Database) -> None:
    Schema(database).upgrade()
    with database.writing() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = 'beef'")
    assert Schema(database).state().standing == "too_new"
    with pytest.raises(SchemaTooNew, match="has schema beef, which this version"):
        Schema(database).require(may_upgrade=True)
