"""The schema's version: found, refused, moved up and down, by one process at a time and as a whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

import sqlalchemy as sa
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.script import Script, ScriptDirectory
from alembic.util import CommandError

from gateway import __version__
from gateway.database.database import Database
from gateway.errors import ConfigurationProblems

VERSIONS: Final = Path(__file__).parent / "versions"
BASE: Final = "base"
"""What ``downgrade`` calls a database without any table of ours."""

_OTHERS_SECONDS: Final = 60
_TABLE_SECONDS: Final = 5
"""Longest waits for another process that changes the schema, and for a table that is in use."""

_LOCK: Final = int.from_bytes(b"gateway", "big")
_FOUND = sa.table("alembic_version", sa.column("version_num", sa.String))
_MADE = sa.table("schema_versions", *(sa.column(name) for name in ("revision", "usable_by", "made_by", "made_at")))

Standing = Literal["empty", "unversioned", "foreign", "behind", "current", "newer", "too_new"]


class SchemaTooNew(ConfigurationProblems):
    """A newer version of the gateway changed the database so that this one cannot work with it."""


class SchemaTooOld(ConfigurationProblems):
    """The database has to be upgraded first, and this process may not."""


class SchemaForeign(ConfigurationProblems):
    """The database holds tables of our names that are not ours."""


@dataclass(frozen=True, slots=True)
class SchemaState:
    """How a database stands to this version of the gateway.

    ``newer``: changed by a newer version in a way that this one works with; ``too_new``: in another way.
    ``unversioned``: made before versions were kept. ``made_by``: the gateway's version that brought it there.
    """

    standing: Standing
    revision: str | None
    newest: str
    made_by: str = ""

    @property
    def is_usable(self) -> bool:
        """Whether this version may work with it as it is."""
        return self.standing in ("current", "newer")


class Schema:
    """The schema of one database. Every method blocks."""

    def __init__(self, database: Database, *, versions: Sequence[Path] = (VERSIONS,)) -> None:
        """``versions``: folders of version modules, together one line."""
        self._database = database
        self._scripts = ScriptDirectory(VERSIONS.parent, version_locations=[str(path) for path in versions])
        line = list(self._scripts.walk_revisions())
        self.newest = line[0].revision
        self._line = {script.revision: script for script in reversed(line)}

    @property
    def revisions(self) -> list[str]:
        """The versions known here, oldest first."""
        return list(self._line)

    def state(self) -> SchemaState:
        """Look, and change nothing."""
        if not self._database.is_there():
            return SchemaState("empty", None, self.newest)
        with self._database.reading() as connection:
            return self._state(connection)

    def _state(self, connection: sa.Connection) -> SchemaState:
        there = set(sa.inspect(connection).get_table_names())
        found = [row[0] for row in connection.execute(sa.select(_FOUND))] if _FOUND.name in there else []
        if not found:
            return SchemaState(self._standing_without_version(connection, there), None, self.newest)
        revision = ", ".join(found)
        made = None
        if _MADE.name in there:
            made = connection.execute(sa.select(_MADE).where(_MADE.c.revision == revision)).mappings().first()
        made_by = str(made["made_by"]) if made else ""
        if revision in self._line:
            return SchemaState("current" if revision == self.newest else "behind", revision, self.newest, made_by)
        # Only what the newer version itself wrote down counts: another program's version has no such row.
        usable = made is not None and made["usable_by"] in self._line
        return SchemaState("newer" if usable else "too_new", revision, self.newest, made_by)

    def _standing_without_version(self, connection: sa.Connection, there: set[str]) -> Standing:
        """By the tables of the first version: none, those of a gateway from before versions were kept, or others."""
        first = next(iter(self._line.values())).module.TABLES.tables
        same = there & set(first)
        if not same:
            return "empty"
        columns = sa.inspect(connection)
        ours = all({one["name"] for one in columns.get_columns(name)} == set(first[name].c.keys()) for name in same)
        return "unversioned" if ours and "catalog_state" in same else "foreign"

    def require(self, *, may_upgrade: bool) -> SchemaState:
        """A schema that this version works with, made or upgraded where that is needed and allowed.

        Processes that start together agree: one changes, the others wait and find it done. Returns how it stands then.
        Raises SchemaTooNew, SchemaTooOld, SchemaForeign.
        """
        state = self.state()
        if state.is_usable:
            return state
        self._refuse(state)
        if not may_upgrade:
            raise SchemaTooOld([f"database.url: {self._database.place} {self.told(state)}; run `gateway db upgrade`"])
        self.upgrade()
        return self.state()

    def upgrade(self, revision: str | None = None) -> list[str]:
        """Go up to ``revision`` (the newest); the versions passed, none where it is there already.

        Raises SchemaTooNew, SchemaForeign, ConfigurationProblems. A crash leaves it as it was.
        """
        target = self._known(revision or self.newest)
        with self._changing() as connection:
            state = self._state(connection)
            if state.standing == "newer":
                return []
            self._refuse(state)
            above = self._steps(above=state.revision, up_to=target)
            if above:
                # What alembic's own command `upgrade` asks for; it would want a folder with an env.py.
                self._run(connection, lambda current, _: self._scripts._upgrade_revs(target, current))
            return above

    def downgrade(self, revision: str) -> list[str]:
        """Go down to ``revision`` (or ``base``); the versions undone, newest first. What only they hold is lost."""
        target = None if revision == BASE else self._known(revision)
        if not self._database.is_there():
            return []
        with self._changing() as connection:
            state = self._state(connection)
            self._refuse(state)
            if state.standing == "newer":
                raise SchemaTooNew([self._too_new(state)])
            undone = self._steps(above=target, up_to=state.revision)[::-1] if state.revision else []
            if undone:
                self._run(connection, lambda current, _: self._scripts._downgrade_revs(revision, current))
            return undone

    def _steps(self, *, above: str | None, up_to: str | None) -> list[str]:
        line = self.revisions
        first = 0 if above is None else line.index(above) + 1
        return line[first : 0 if up_to is None else line.index(up_to) + 1]

    def _known(self, revision: str) -> str:
        if revision not in self._line:
            raise ConfigurationProblems(
                [f"schema version {revision!r} is not known; allowed: one of {', '.join(self._line)}"]
            )
        return revision

    @contextmanager
    def _changing(self) -> Iterator[sa.Connection]:
        """A transaction that nobody else changes the schema beside."""
        with self._database.for_changes() as database, database.writing() as connection:
            # SQLite's transaction has the file's write lock from its first statement.
            if database.dialect == "postgresql":
                connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{_OTHERS_SECONDS}s'")
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
                # A change that waits for a table holds up everybody who comes after it.
                connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{_TABLE_SECONDS}s'")
            yield connection
            if database.dialect == "sqlite":
                _check_references(connection)

    def _run(self, connection: sa.Connection, steps: Callable[[Any, Any], Any]) -> None:
        config = Config()
        with EnvironmentContext(config, self._scripts, fn=steps) as environment:
            environment.configure(
                connection=connection, transactional_ddl=True, on_version_apply=self._write_down, compare_type=False
            )
            try:
                environment.run_migrations()
            except CommandError as error:
                raise ConfigurationProblems([f"database.url: the schema cannot be changed: {error}"]) from error

    def _write_down(self, ctx: Any, step: Any, heads: Collection[Any], run_args: Any) -> None:
        """After each step: which versions made the database, and who can work with it since."""
        connection: sa.Connection = ctx.connection
        for revision in step.up_revision_ids if step.is_upgrade else ():
            connection.execute(
                _MADE.insert().values(
                    revision=revision,
                    usable_by=_usable_by(self._line[revision]),
                    made_by=__version__,
                    made_at=datetime.now(UTC).isoformat(timespec="seconds"),
                )
            )
        if not step.is_upgrade and heads:
            connection.execute(_MADE.delete().where(_MADE.c.revision.in_(step.up_revision_ids)))

    def _refuse(self, state: SchemaState) -> None:
        if state.standing == "too_new":
            raise SchemaTooNew([self._too_new(state)])
        if state.standing == "foreign":
            raise SchemaForeign(
                [f"database.url: {self._database.place} {self.told(state)}; name a database of the gateway's own"]
            )

    def _too_new(self, state: SchemaState) -> str:
        return (
            f"database.url: {self._database.place} {self.told(state)}; run that version or a newer one,"
            f" or go back with it: `gateway db downgrade {self.newest}`"
        )

    def told(self, state: SchemaState) -> str:
        """How it stands, as the end of a sentence about the database."""
        by = f" (made by gateway {state.made_by})" if state.made_by else ""
        return {
            "empty": "has no tables yet",
            "unversioned": "was made before schema versions were kept",
            "foreign": "holds tables of the same names that are not the gateway's",
            "behind": f"has schema {state.revision}, and this version needs {self.newest}",
            "current": f"has schema {state.revision}, the newest known",
            "newer": f"has schema {state.revision}{by}, newer than {self.newest} and usable by this version",
            "too_new": f"has schema {state.revision}{by}, which this version, {__version__}, does not know",
        }[state.standing]


def _usable_by(script: Script) -> str:
    """The oldest version whose gateways work with a database that this one has changed."""
    return str(script.module.usable_by)


def _check_references(connection: sa.Connection) -> None:
    dangling = connection.exec_driver_sql("PRAGMA foreign_key_check").first()
    if dangling is not None:
        raise ConfigurationProblems(
            [f"database.url: the change would leave rows of {dangling[0]} without their parent"]
        )
