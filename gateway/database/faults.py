"""What is wrong with a database, out of the driver's error: in words, with what to do, and whether waiting helps."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from gateway.errors import ConfigurationProblems, Unavailable

RETRY_MS: Final = 2000
_SAID_CHARACTERS: Final = 200


@dataclass(frozen=True, slots=True)
class Fault:
    """``kind`` is a stable slug; ``passes``: it may be gone by itself a moment later, so asking again makes sense."""

    kind: str
    reason: str
    action: str
    passes: bool


class DatabaseUnavailable(Unavailable):
    """The database does not answer, or refuses. Partners are told only that; ``str()`` is for operators."""

    def __init__(self, fault: Fault, *, place: str) -> None:
        super().__init__("The catalog database does not answer.", retry_after_ms=RETRY_MS)
        self.fault = fault
        self.args = (f"database.url: {place}: {fault.reason}; {fault.action}",)


_START = "start it, or correct the address"
_LOGIN = "correct user and password in database.url (or PGPASSWORD, or a .pgpass file)"
_LATER = "it is asked again"
_TABLES = "run `gateway db upgrade`"

AWAY: Final = Fault("away", "no connection to it", _START, passes=True)
SILENT: Final = Fault("silent", "no answer in time", "look whether it is overloaded, frozen or cut off", passes=True)
BUSY: Final = Fault(
    "busy", "no connection was free in time", "raise database.pool_size, or look for slow work", passes=True
)
NO_TABLES: Final = Fault("no_tables", "it lacks the gateway's tables", _TABLES, passes=False)
_REFUSED: Final = Fault("refused", "connection refused", _START, passes=True)
_NOT_READY: Final = Fault("not_ready", "it is starting or stopping", _LATER, passes=True)
_FULL_HOUSE: Final = Fault(
    "too_many_connections", "it takes no more connections", "lower database.pool_size or raise its limit", passes=True
)
_LOCKED: Final = Fault("locked", "somebody else holds it locked", "look for long transactions", passes=True)
_DISK_FULL: Final = Fault("disk_full", "its disk is full", "make room", passes=True)
_PASSWORD: Final = Fault("password", "wrong user or password", _LOGIN, passes=False)
_NO_DATABASE: Final = Fault(
    "unknown_database", "there is no database of this name", "create it, or correct the name", passes=False
)
_NO_ENTRY: Final = Fault(
    "not_admitted",
    "it does not admit this user from here",
    "add a line to its pg_hba.conf, or use TLS if it asks for it",
    passes=False,
)
_RIGHTS: Final = Fault(
    "rights",
    "the user may not do this",
    "grant the rights on the schema and its tables, or run `gateway db upgrade` as their owner with"
    " database.auto_upgrade off here",
    passes=False,
)
_READ_ONLY: Final = Fault("read_only", "it can only be read", "name the primary, not a replica", passes=True)
_TLS: Final = Fault(
    "tls",
    "TLS could not be agreed on",
    "correct sslmode and sslrootcert in database.url, or its certificate",
    passes=False,
)

_BY_STATE: Final = {
    "28P01": _PASSWORD,
    "28000": _PASSWORD,
    "3D000": _NO_DATABASE,
    "42501": _RIGHTS,
    "42P01": NO_TABLES,
    "42703": NO_TABLES,
    "57014": SILENT,
    "55P03": _LOCKED,
    "57P01": _NOT_READY,
    "57P02": _NOT_READY,
    "57P03": _NOT_READY,
    "53300": _FULL_HOUSE,
    "53100": _DISK_FULL,
    "25006": _READ_ONLY,
    "40001": _LOCKED,
    "40P01": _LOCKED,
    "25P03": SILENT,
}
# An error of connecting has no SQLSTATE, only words: libpq's own, and the server's where it speaks English.
_BY_WORDS: Final = tuple(
    (re.compile(pattern, re.IGNORECASE), fault)
    for pattern, fault in (
        (r"password authentication failed|no password supplied|role \".*\" does not exist", _PASSWORD),
        (r"database \".*\" does not exist", _NO_DATABASE),
        (r"pg_hba\.conf|is not permitted to log in|permission denied for database", _NO_ENTRY),
        (r"does not support SSL|certificate|SSL error|root\.crt|TLS", _TLS),
        (r"too many (clients|connections)|remaining connection slots", _FULL_HOUSE),
        (r"database system is (starting|shutting|in recovery|not (yet )?accepting)", _NOT_READY),
        (r"timeout|timed out", SILENT),
        (r"connection refused", _REFUSED),
        (
            r"no such file or directory",
            Fault("no_socket", "there is no socket of a server", _START, passes=True),
        ),
        (
            r"failed to resolve|could not translate|name or service not known",
            Fault(
                "unknown_host",
                "its host name is not known",
                "correct the host, or look at the name service",
                passes=True,
            ),
        ),
        (r"read-only transaction", _READ_ONLY),
    )
)
_OF_SQLITE: Final = {
    "SQLITE_BUSY": _LOCKED,
    "SQLITE_LOCKED": _LOCKED,
    "SQLITE_CANTOPEN": Fault(
        "cannot_open",
        "the file cannot be opened",
        "create its directory, and let the gateway write there",
        passes=False,
    ),
    "SQLITE_READONLY": Fault("read_only", "the file cannot be written", "let the gateway write it", passes=False),
    "SQLITE_NOTADB": Fault("not_a_database", "the file is not a database", "name another file", passes=False),
    "SQLITE_CORRUPT": Fault("corrupt", "the file is damaged", "restore it from a backup", passes=False),
    "SQLITE_FULL": _DISK_FULL,
    "SQLITE_IOERR": Fault("io", "the file cannot be read or written", "look at its disk", passes=True),
}


@contextmanager
def told(place: str) -> Iterator[None]:
    """Faults of the database become DatabaseUnavailable; what is our own mistake stays what it is."""
    try:
        yield
    except SQLAlchemyError as error:
        fault = fault_of(error)
        if fault is None:
            raise
        raise DatabaseUnavailable(fault, place=place) from error


@contextmanager
def at_start() -> Iterator[None]:
    """For commands and the start: a fault that waiting does not mend is for the operator to correct."""
    try:
        yield
    except DatabaseUnavailable as error:
        if error.fault.passes:
            raise
        raise ConfigurationProblems([str(error)]) from error


def fault_of(error: SQLAlchemyError) -> Fault | None:
    """The fault behind an error, None where the statement is wrong and not the database."""
    if isinstance(error, PoolTimeoutError):
        return BUSY
    if not isinstance(error, DBAPIError) or isinstance(error, IntegrityError | DataError):
        return None
    cause = error.orig
    if isinstance(cause, sqlite3.Error):
        return _sqlite_fault(cause)
    words = str(cause)
    fault = _BY_STATE.get(str(getattr(cause, "sqlstate", None)))
    if fault is None and not isinstance(error, sa.exc.ProgrammingError | sa.exc.NotSupportedError):
        fault = next((known for pattern, known in _BY_WORDS if pattern.search(words)), None)
        fault = fault or Fault("away", f"no answer ({_one_line(words)})", _START, passes=True)
    return fault


def _sqlite_fault(error: sqlite3.Error) -> Fault | None:
    if "no such table" in str(error) or "no such column" in str(error):
        return NO_TABLES
    name = str(getattr(error, "sqlite_errorname", ""))
    return next((fault for known, fault in _OF_SQLITE.items() if name.startswith(known)), None)


def _one_line(words: str) -> str:
    """The driver's words, which name places and reasons and no password."""
    return " ".join(words.split())[:_SAID_CHARACTERS]
