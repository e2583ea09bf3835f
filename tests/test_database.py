"""One database: its faults in words that say what to do, its waits that all end, its threads that are few."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from gateway.cli import main
from gateway.database.database import Bounds, Database
from gateway.database.faults import DatabaseUnavailable
from gateway.database.schema import Schema
from gateway.database.workers import Workers
from gateway.errors import ConfigurationProblems
from tests.parts.kafka import eventually
from tests.parts.ports import free_port
from tests.parts.postgres import PostgresServer

QUICK = Bounds(pool_size=2, pool_seconds=0.2, connect_seconds=2, statement_seconds=0.3)
GENEROUS_SECONDS = 30
EXAMPLES = Path(__file__).parents[1] / "asyncapi"


def fault_kind(url: str, *, bounds: Bounds = QUICK) -> str:
    """What a ping finds; its words hold no password."""
    database = Database(url, bounds=bounds)
    try:
        with pytest.raises(DatabaseUnavailable) as caught:
            database.ping()
    finally:
        database.close()
    assert str(caught.value).startswith("database.url: ")
    assert "hunter2" not in str(caught.value)
    assert caught.value.detail == "The catalog database does not answer.", "partners are told no more"
    return caught.value.fault.kind


# ---- addresses -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["nonsense", "oracle9://u:hunter2@h/d", "", "mysql+nosuchdriver://u:hunter2@h/d"])
def test_a_url_that_names_no_database_is_a_setting_to_correct(url: str) -> None:
    with pytest.raises(ConfigurationProblems) as caught:
        Database(url)
    assert caught.value.problems[0].startswith("database.url: cannot be used")
    assert "sqlite:///" in caught.value.problems[0]
    assert "hunter2" not in caught.value.problems[0]


@pytest.mark.parametrize("begins", ["postgres://", "postgresql://", "postgresql+psycopg2://", "postgresql+asyncpg://"])
def test_another_driver_for_postgres_is_named_with_the_right_one(begins: str) -> None:
    result = CliRunner().invoke(main, ["check", "--set", f"database.url={begins}u:hunter2@h/d"])
    assert result.exit_code == 2
    assert "names another driver for Postgres: begin it with postgresql+psycopg://" in result.output
    assert "hunter2" not in result.output


# ---- faults --------------------------------------------------------------------------------------------------------


def test_a_port_and_a_socket_where_nobody_listens() -> None:
    assert fault_kind(f"postgresql+psycopg://u:hunter2@127.0.0.1:{free_port()}/d") == "refused"
    assert fault_kind("postgresql+psycopg://u:hunter2@/d?host=/nowhere") == "no_socket"


def test_a_server_that_takes_connections_and_says_nothing() -> None:
    with socket_that_accepts() as port:
        began = time.monotonic()
        assert fault_kind(f"postgresql+psycopg://u:hunter2@127.0.0.1:{port}/d") == "silent"
        assert time.monotonic() - began < GENEROUS_SECONDS


def test_names_and_passwords_that_the_server_does_not_know(own_postgres: PostgresServer) -> None:
    url = sa.make_url(own_postgres.create_database())
    own_postgres.run_sql("CREATE ROLE with_password LOGIN PASSWORD 'right'; CREATE ROLE shut_out LOGIN;")
    rules = own_postgres.rules_file
    rules.write_text(
        "local all with_password scram-sha-256\nlocal all shut_out reject\n" + rules.read_text(encoding="utf-8")
    )
    own_postgres.run_sql("SELECT pg_reload_conf();")

    def kind(**parts: str) -> str:
        return fault_kind(url.set(**parts).render_as_string(hide_password=False))

    assert kind(database="nowhere") == "unknown_database"
    assert kind(username="nobody") == "password"
    assert kind(username="with_password", password="hunter2") == "password"
    assert kind(username="with_password") == "password"
    assert kind(username="shut_out") == "not_admitted"


def test_tls_is_asked_for_by_the_address() -> None:
    with socket_that_answers(b"N") as port:
        assert fault_kind(f"postgresql+psycopg://u:hunter2@127.0.0.1:{port}/d?sslmode=require") == "tls"


def test_a_user_without_rights_is_told_which_way_out_there_is(postgres_server: PostgresServer) -> None:
    url = sa.make_url(postgres_server.create_database())
    postgres_server.run_sql("DROP ROLE IF EXISTS reader; CREATE ROLE reader LOGIN;")
    database = Database(url.set(username="reader").render_as_string())
    with pytest.raises(DatabaseUnavailable, match="grant the rights") as caught:
        Schema(database).upgrade()
    assert caught.value.fault.kind == "rights"
    assert not caught.value.fault.passes
    database.close()


def test_a_database_that_may_only_be_read(postgres_url: str) -> None:
    database = Database(f"{postgres_url}&options=-cdefault_transaction_read_only%3Don")
    with pytest.raises(DatabaseUnavailable) as caught, database.writing() as connection:
        connection.exec_driver_sql("CREATE TABLE one (id INTEGER)")
    assert caught.value.fault.kind == "read_only"
    database.close()


def test_files_that_are_none_of_ours(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("not a database, but long enough to be looked at as one" * 10)
    assert fault_kind(f"sqlite:///{tmp_path}/text.db") == "not_a_database"
    assert fault_kind(f"sqlite:///{tmp_path}/missing/gateway.db") == "cannot_open"


def test_a_lock_that_is_held_too_long_is_a_fault_that_passes(tmp_path: Path) -> None:
    held, waits = (Database(f"sqlite:///{tmp_path}/gateway.db", bounds=QUICK) for _ in range(2))
    with held.writing():
        with pytest.raises(DatabaseUnavailable) as caught, waits.writing():
            pass
        assert (caught.value.fault.kind, caught.value.fault.passes) == ("locked", True)
    with waits.writing():
        pass
    held.close()
    waits.close()


def test_a_mistake_of_our_own_is_no_fault_of_the_database(postgres_url: str, tmp_path: Path) -> None:
    for url in (postgres_url, f"sqlite:///{tmp_path}/gateway.db"):
        database = Database(url)
        with pytest.raises((sa.exc.ProgrammingError, sa.exc.OperationalError)), database.reading() as connection:
            connection.exec_driver_sql("SELEKT 1")
        database.close()


# ---- waits that end ------------------------------------------------------------------------------------------------


def test_a_statement_that_takes_too_long_is_ended_by_the_server(postgres_url: str) -> None:
    database = Database(postgres_url, bounds=QUICK)
    with pytest.raises(DatabaseUnavailable) as caught, database.reading() as connection:
        connection.exec_driver_sql(f"SELECT pg_sleep({GENEROUS_SECONDS})")
    assert caught.value.fault.kind == "silent"
    assert "statement timeout" in str(caught.value.__cause__)
    database.ping()
    database.close()


def test_no_free_connection_is_waited_for_without_end(postgres_url: str) -> None:
    database = Database(postgres_url, bounds=Bounds(pool_size=1, pool_seconds=0.2))
    with database.reading():
        with pytest.raises(DatabaseUnavailable) as caught:
            database.ping()
        assert caught.value.fault.kind == "busy"
    database.ping()
    database.close()


def test_a_frozen_server_ends_every_wait_and_is_used_again_when_it_thaws(own_postgres: PostgresServer) -> None:
    database = Database(own_postgres.create_database(), bounds=QUICK)
    database.ping()
    own_postgres.freeze()
    try:
        with pytest.raises(DatabaseUnavailable) as caught:
            database.ping()
        assert (caught.value.fault.kind, caught.value.fault.passes) == ("silent", True)
    finally:
        own_postgres.thaw()
    assert answers(database)
    database.close()


def test_a_wait_ends_at_once_when_the_database_is_closed(own_postgres: PostgresServer) -> None:
    database = Database(own_postgres.create_database(), bounds=Bounds(statement_seconds=600))
    raised: list[BaseException] = []

    def work() -> None:
        try:
            with database.reading() as connection:
                begun.set()
                connection.exec_driver_sql("SELECT pg_sleep(600)")
        except DatabaseUnavailable as error:
            raised.append(error)

    begun = threading.Event()
    thread = threading.Thread(target=work)
    thread.start()
    assert begun.wait(GENEROUS_SECONDS)
    own_postgres.freeze()
    try:
        database.close()
        thread.join(GENEROUS_SECONDS)
        assert not thread.is_alive()
        assert len(raised) == 1
    finally:
        own_postgres.thaw()


def test_a_server_that_was_killed_is_used_again_when_it_is_back(own_postgres: PostgresServer) -> None:
    database = Database(own_postgres.create_database(), bounds=QUICK)
    Schema(database).upgrade()
    own_postgres.kill()
    with pytest.raises(DatabaseUnavailable) as caught:
        database.ping()
    assert caught.value.fault.passes
    own_postgres.start()
    assert answers(database)
    assert Schema(database).state().standing == "current"
    database.close()


def answers(database: Database) -> bool:
    """Whether it does within the time that a busy machine may take."""
    ends_at = time.monotonic() + GENEROUS_SECONDS
    while time.monotonic() < ends_at:
        try:
            database.ping()
        except DatabaseUnavailable:
            time.sleep(0.05)
        else:
            return True
    return False


# ---- threads -------------------------------------------------------------------------------------------------------


async def test_work_has_as_many_threads_as_connections_and_leaves_the_others_alone(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/gateway.db", bounds=Bounds(pool_size=2))
    workers = Workers(database)
    at_work: set[str] = set()
    over = threading.Event()

    def block() -> None:
        at_work.add(threading.current_thread().name)
        over.wait(GENEROUS_SECONDS)

    tasks = [asyncio.create_task(workers.run(block)) for _ in range(40)]
    try:
        await eventually(lambda: len(at_work) == 2)
        assert await asyncio.to_thread(lambda: "free") == "free"
        tasks[-1].cancel()
        over.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert len(at_work) == 2
    finally:
        over.set()
        await workers.close()


async def test_work_that_gets_no_turn_in_time_is_refused(tmp_path: Path) -> None:
    bounds = Bounds(pool_size=1, pool_seconds=0.1, connect_seconds=0, statement_seconds=0.1)
    workers = Workers(Database(f"sqlite:///{tmp_path}/gateway.db", bounds=bounds))
    begun, over = threading.Event(), threading.Event()

    def block() -> None:
        begun.set()
        over.wait(GENEROUS_SECONDS)

    long = asyncio.create_task(workers.run(block))
    try:
        await eventually(begun.is_set)
        with pytest.raises(DatabaseUnavailable, match=r"raise database\.pool_size"):
            await workers.run(lambda: None)
    finally:
        over.set()
        await asyncio.gather(long, return_exceptions=True)
        await workers.close()


# ---- commands ------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str]]:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")

    def one(url: str, *arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(main, [*arguments, "--set", f"database.url={url}"])
        return result.exit_code, result.output

    return one


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgres":
        return str(request.getfixturevalue("postgres_url"))
    return f"sqlite:///{tmp_path}/gateway.db"


def test_the_schema_is_looked_at_and_moved_by_commands(run: Callable[..., tuple[int, str]], url: str) -> None:
    code, said = run(url, "db", "current")
    assert code == 1
    assert said.endswith("has no tables yet\n")
    revisions = Schema(Database("sqlite://")).revisions
    assert run(url, "db", "upgrade") == (0, "".join(f"upgraded to {one}\n" for one in revisions))
    assert run(url, "db", "upgrade") == (0, "nothing to do\n")
    code, said = run(url, "db", "current", "--format", "json")
    assert code == 0
    assert json.loads(said)["standing"] == "current"
    assert json.loads(said)["usable"] is True
    code, said = run(url, "db", "downgrade", "base")
    assert code == 1, "nobody said yes"
    assert run(url, "db", "current")[0] == 0
    assert run(url, "db", "downgrade", "base", "--yes") == (
        0,
        "".join(f"took back {one}\n" for one in reversed(revisions)),
    )
    assert run(url, "db", "current")[0] == 1
    code, said = run(url, "db", "upgrade", "0000")
    assert code == 2
    assert said == f"gateway: schema version '0000' is not known; allowed: one of {', '.join(revisions)}\n"


def database_line(said: str) -> str:
    (line,) = (line for line in said.splitlines() if " database: " in line)
    return line


def test_check_tells_how_the_schema_stands(run: Callable[..., tuple[int, str]], url: str) -> None:
    newest = Schema(Database("sqlite://")).newest
    assert "`gateway apply FILE` makes" in database_line(run(url, "check")[1])
    run(url, "db", "upgrade")
    assert database_line(run(url, "check")[1]) == f"ok     database: catalog revision 0, schema {newest}"
    database = Database(url)
    with database.writing() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '7777'")
    line = database_line(run(url, "check")[1])
    assert line.startswith("FAILED database: database.url: ")
    assert "has schema 7777" in line
    assert f"run that version or a newer one, or go back with it: `gateway db downgrade {newest}`" in line
    with database.writing() as connection:
        connection.exec_driver_sql(f"UPDATE alembic_version SET version_num = '{newest}'")
    # A database from before versions were kept has the tables of the first one.
    run(url, "db", "downgrade", "0001", "--yes")
    with database.writing() as connection:
        connection.exec_driver_sql("DROP TABLE alembic_version")
        connection.exec_driver_sql("DROP TABLE schema_versions")
    line = database_line(run(url, "check")[1])
    assert line.startswith("ok     database: ")
    assert "before schema versions were kept; serve and apply upgrade it" in line
    line = database_line(run(url, "check", "--set", "database.auto_upgrade=false")[1])
    assert line.startswith("FAILED database: ")
    assert line.endswith("run `gateway db upgrade`")
    database.close()


def test_check_says_what_to_do_about_a_database_it_cannot_enter(
    run: Callable[..., tuple[int, str]], postgres_server: PostgresServer
) -> None:
    url = sa.make_url(postgres_server.create_database())
    wrong = {
        "create it, or correct the name": url.set(database="nowhere"),
        "correct user and password": url.set(username="nobody", password="hunter2"),
        "start it, or correct the address": sa.make_url(f"postgresql+psycopg://u:hunter2@127.0.0.1:{free_port()}/d"),
    }
    for action, one in wrong.items():
        code, said = run(one.render_as_string(hide_password=False), "check")
        assert code == 1
        assert action in database_line(said)
        assert "hunter2" not in said


def test_looking_before_an_apply_changes_nothing(run: Callable[..., tuple[int, str]], url: str) -> None:
    options = ("--set", f"contracts.dir={EXAMPLES}", "--set", "auth.builtin.enabled=true")
    code, said = run(url, "apply", "--dry-run", str(EXAMPLES / "catalog.yaml"), *options)
    assert code == 0, said
    assert "+ tenant acme" in said
    assert said.endswith("nothing was changed: --dry-run\n")
    assert run(url, "db", "current")[1].endswith("has no tables yet\n")
    assert not Path("data").exists()


# ---- sockets that play a server ------------------------------------------------------------------------------------


@contextmanager
def socket_that_accepts() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


@contextmanager
def socket_that_answers(answer: bytes) -> Iterator[int]:
    """To whatever comes first on a connection."""

    def serve() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection:
                connection.recv(64)
                connection.sendall(answer)
                connection.recv(64)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join(GENEROUS_SECONDS)
