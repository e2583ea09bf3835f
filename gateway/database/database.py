"""One database and the connections to it: bounded in number and in time, each transaction at one moment."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from gateway.database.faults import told
from gateway.errors import ConfigurationProblems

_IMMEDIATE: Final = "gateway_immediate"
_RECYCLE_SECONDS: Final = 1800
_LONG_SECONDS: Final = 300.0


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many connections a process opens, and how long it waits: for one to be free, to be made, to answer."""

    pool_size: int = 5
    pool_seconds: float = 3.0
    connect_seconds: int = 3
    statement_seconds: float = 5.0


class Database:
    """Blocks, and is safe to use from several threads and processes at once. Connects when it is first used.

    Whatever goes wrong on its side raises ``faults.DatabaseUnavailable``.
    """

    def __init__(self, url: str, *, bounds: Bounds | None = None) -> None:
        """Raises ConfigurationProblems where the URL names no database that can be spoken to."""
        self.url = _parsed(url)
        self.bounds = bounds or Bounds()
        self.dialect = self.url.get_backend_name()
        self._is_closing = threading.Event()
        self._open(for_changes=False)

    def _open(self, *, for_changes: bool) -> None:
        self._engine = _engine(self.url, self.bounds, is_closing=self._is_closing, for_changes=for_changes)
        self._writer = self._engine.execution_options(**{_IMMEDIATE: True})
        self._reader = self._engine
        if self.dialect != "sqlite":
            # Several SELECTs make up one catalog: they must see one moment. SQLite's transactions do that by nature.
            self._reader = self._engine.execution_options(isolation_level="REPEATABLE READ")

    @property
    def place(self) -> str:
        """Where it is, for people: no user, no password."""
        if self.dialect == "sqlite":
            return f"SQLite file {self.url.database or 'in memory'}"
        host = self.url.host or str(self.url.query.get("host", "local socket"))
        port = f":{self.url.port}" if self.url.port else ""
        return f"Postgres database {self.url.database} at {host}{port}"

    def is_there(self) -> bool:
        """False for a SQLite file that does not exist: looking into it would create it."""
        return self.dialect != "sqlite" or _is_in_memory(self.url) or Path(str(self.url.database)).exists()

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A transaction that sees one moment."""
        with told(self.place), self._reader.begin() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """A transaction that is committed whole at the end of the block, or not at all."""
        with told(self.place), self._writer.begin() as connection:
            yield connection

    def ping(self) -> None:
        """Return if the database answers."""
        with self.reading() as connection:
            connection.execute(sa.select(1))

    @contextmanager
    def for_changes(self) -> Iterator[Self]:
        """The same database with time for a change of its schema: one connection, long waits, no foreign keys on
        SQLite, where a table that is built anew would take its children along."""
        if self.dialect == "sqlite" and _is_in_memory(self.url):
            yield self
            return
        twin = type(self).__new__(type(self))
        twin.url, twin.dialect, twin._is_closing = self.url, self.dialect, self._is_closing
        twin.bounds = Bounds(1, _LONG_SECONDS, self.bounds.connect_seconds, _LONG_SECONDS)
        twin._open(for_changes=True)
        try:
            yield twin
        finally:
            twin._engine.dispose()

    def close(self) -> None:
        """Give the connections back; what still waits for Postgres is told so within a moment."""
        self._is_closing.set()
        self._engine.dispose()


def _parsed(url: str) -> sa.URL:
    try:
        return sa.engine.make_url(url)
    except (ArgumentError, ValueError) as error:
        raise _unusable(error) from None


def _is_in_memory(url: sa.URL) -> bool:
    return url.database in (None, "", ":memory:")


def _unusable(error: Exception) -> ConfigurationProblems:
    # The message may hold the URL, and the URL a password: only the kind of error is told.
    return ConfigurationProblems(
        [
            f"database.url: cannot be used ({type(error).__name__}); allowed: a SQLAlchemy URL such as "
            "sqlite:///data/gateway.db or postgresql+psycopg://user@host/name"
        ]
    )


def _engine(url: sa.URL, bounds: Bounds, *, is_closing: threading.Event, for_changes: bool) -> sa.Engine:
    is_sqlite = url.get_backend_name() == "sqlite"
    try:
        if is_sqlite:
            engine = sa.create_engine(url, **_sqlite_options(url, bounds))
            sa.event.listen(engine, "connect", _prepare_sqlite_for_changes if for_changes else _prepare_sqlite)
            sa.event.listen(engine, "begin", _begin_sqlite)
        else:
            engine = sa.create_engine(url, **_pool_options(bounds), pool_pre_ping=True, pool_recycle=_RECYCLE_SECONDS)
    except ModuleNotFoundError as error:
        if error.name != "psycopg":
            raise _unusable(error) from None
        raise ConfigurationProblems(
            [
                "database.url: the driver for Postgres is not installed; install the package with its extra:"
                " pip install 'streaming-gateway[postgres]'"
            ]
        ) from None
    except (ArgumentError, NoSuchModuleError, ImportError) as error:
        raise _unusable(error) from None
    if engine.driver == "psycopg":
        _bound_postgres(engine, url, bounds, is_closing)
    return engine


def _pool_options(bounds: Bounds) -> dict[str, Any]:
    return {"pool_size": bounds.pool_size, "max_overflow": 0, "pool_timeout": bounds.pool_seconds}


def _sqlite_options(url: sa.URL, bounds: Bounds) -> dict[str, Any]:
    options: dict[str, Any] = {"connect_args": {"timeout": bounds.statement_seconds}}
    # One in memory has one connection, or each would be another database.
    return options if _is_in_memory(url) else options | _pool_options(bounds)


def _bound_postgres(engine: sa.Engine, url: sa.URL, bounds: Bounds, is_closing: threading.Event) -> None:
    from gateway.database.postgres import connect

    defaults = {"application_name": "gateway", "connect_timeout": bounds.connect_seconds}
    ours = {name: value for name, value in defaults.items() if name not in url.query}

    def made(_dialect: sa.Dialect, _record: object, arguments: list[Any], parameters: Mapping[str, Any]) -> object:
        return connect(
            *arguments,
            statement_seconds=bounds.statement_seconds,
            is_closing=is_closing.is_set,
            **{**ours, **parameters},
        )

    sa.event.listen(engine, "do_connect", made)


def _prepare_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    # The driver's own BEGIN comes late and never as IMMEDIATE: switched off, ``_begin_sqlite`` says it.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA foreign_keys = ON")
    # Not WAL: several processes share the file, and SQLite before 3.51.3 can corrupt a WAL then.
    cursor.execute("PRAGMA journal_mode = DELETE")
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.close()


def _prepare_sqlite_for_changes(connection: sqlite3.Connection, record: object) -> None:
    _prepare_sqlite(connection, record)
    connection.execute("PRAGMA foreign_keys = OFF").close()


def _begin_sqlite(connection: sa.Connection) -> None:
    # A writer that reads first must hold the write lock from the start, or two of them fail instead of waiting.
    immediate = connection.get_execution_options().get(_IMMEDIATE, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")
