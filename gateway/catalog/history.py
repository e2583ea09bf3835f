"""How the catalog came to say what it says: a row for each change of it, written in the change's own transaction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from gateway.catalog.diff import Change
from gateway.catalog.tables import HISTORY
from gateway.database.database import Database


@dataclass(frozen=True, slots=True)
class Step:
    """One change of the catalog: the revision it led to, when (RFC 3339), on whose objects (``owner``), by whom.

    ``actor`` is empty where nobody said.
    """

    revision: int
    at: str
    owner: str
    actor: str
    action: str
    changes: tuple[Change, ...]

    def to_dict(self) -> dict[str, Any]:
        """The step for machines, fit for JSON."""
        return {
            "revision": self.revision,
            "at": self.at,
            "owner": self.owner,
            "actor": self.actor,
            "action": self.action,
            "changes": [change.to_dict() for change in self.changes],
        }

    def lines(self) -> list[str]:
        """The step for people."""
        by = f" by {self.actor}" if self.actor else ""
        return [f"{self.at} revision {self.revision}: {self.action}{by}", *(f"  {one.line()}" for one in self.changes)]


class CatalogChanged(Exception):
    """Somebody has changed the catalog since the revision that a change was made for; nothing was written."""

    def __init__(self, since: int, last: Step) -> None:
        by = f" by {last.actor}" if last.actor else ""
        super().__init__(
            f"the catalog has changed since revision {since}: revision {last.revision} is of {last.at}, "
            f"{last.action}{by}. Nothing was changed; see `gateway catalog history`, and look at the difference again"
        )


class History:
    """The steps of one database. Every method blocks."""

    def __init__(self, database: Database) -> None:
        self._reading = database.reading

    def read(self, *, limit: int, before: int | None = None) -> list[Step]:
        """The newest steps first, ``limit`` of them, those that led to an older revision than ``before``."""
        wanted = sa.select(HISTORY).order_by(HISTORY.c.revision.desc()).limit(limit)
        if before is not None:
            wanted = wanted.where(HISTORY.c.revision < before)
        with self._reading() as connection:
            return _steps(connection, wanted)


def append_step(connection: sa.Connection, step: Step) -> None:
    """Write the step in the transaction of the change itself: either both are there, or neither."""
    connection.execute(
        HISTORY.insert().values(
            revision=step.revision,
            at=step.at,
            owner=step.owner,
            actor=step.actor,
            action=step.action,
            changes=[change.stored() for change in step.changes],
        )
    )


def newest_step(connection: sa.Connection) -> Step | None:
    """The last step, None where none was noted yet."""
    found = _steps(connection, sa.select(HISTORY).order_by(HISTORY.c.revision.desc()).limit(1))
    return found[0] if found else None


def _steps(connection: sa.Connection, wanted: sa.Select[Any]) -> list[Step]:
    return [
        Step(
            row["revision"],
            row["at"],
            row["owner"],
            row["actor"],
            row["action"],
            tuple(Change.restored(one) for one in row["changes"]),
        )
        for row in connection.execute(wanted).mappings()
    ]
