"""A desk of finance for tests: catalog, ledger and statements of one real database, by a clock that is set by hand."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from gateway.billing.closing import Closed
from gateway.billing.period import Period
from gateway.billing.store import Kept
from gateway.catalog.file import load_catalog
from gateway.catalog.store import Store
from gateway.clock import ManualClock
from gateway.config import Settings
from gateway.database.database import Bounds, Database
from gateway.database.schema import Schema
from gateway.metering.ledger import Ledger
from gateway.metering.totals import CellTotals, SourceWord, Totals
from gateway.statements import Statements
from gateway.usage import Usage, bucket_of

EXAMPLE = Path(__file__).parents[2] / "asyncapi" / "catalog.yaml"
BERLIN = "Europe/Berlin"
JULY = Period.parse("2026-07", zone=BERLIN)
AUGUST, SEPTEMBER = JULY.next(), JULY.next().next()
HOUR = 3600


def example() -> dict[str, Any]:
    """The example catalog, with tenant acme in Berlin alone."""
    document: dict[str, Any] = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))
    document["tenants"] = [one for one in document["tenants"] if one["name"] == "acme"]
    return document


class Desk:
    """Everything on one database. Usage is put into the ledger as a process would tell it."""

    def __init__(self, url: str, folder: Path, *, catalog: Mapping[str, Any] | None = None, **billing: Any) -> None:
        self.database = Database(url, bounds=Bounds(statement_seconds=30))
        Schema(self.database).require(may_upgrade=True)
        self.folder = folder
        self.clock = ManualClock(now=JULY.start + 9 * 24 * HOUR)
        self.catalogs = Store(self.database, clock=self.clock)
        self.ledger = Ledger(self.database)
        settings: dict[str, Any] = {"billing": {"corrected_periods": 3, **billing}, "metering": {"audit_days": 0}}
        self.settings = Settings.model_validate(settings)
        self.statements = Statements.of(self.settings, self.database, clock=self.clock)
        self.store, self.closing = self.statements.store, self.statements.closing
        self._sequence = 0
        self.apply(catalog or example())

    def apply(self, catalog: Mapping[str, Any]) -> None:
        """Make the catalog say this, now."""
        path = self.folder / "catalog.yaml"
        path.write_text(yaml.safe_dump(_dated(catalog), sort_keys=False), encoding="utf-8")
        self.catalogs.apply(load_catalog(path, issuers=["builtin"]))

    def use(self, moment: float, *, source: str = "node-1", tenant: str = "acme", **counts: Any) -> None:
        """Count so much at a moment: a source's first word of that key in that bucket."""
        about = {
            "application": "acme-web",
            "stream": "flights",
            "plan": "pro",
            "revision": 1,
            "transport": "sse",
            "is_billable": True,
        }
        about |= {name: counts.pop(name) for name in list(counts) if name in about}
        self._sequence += 1
        cell = CellTotals(**about, counts=tuple(Usage(**counts)))  # type: ignore[arg-type]
        self.ledger.merge([Totals(1, source, self._sequence, tenant, bucket_of(moment), (cell,))])

    def told(self, until: float, *, source: str = "node-1", state: Any = "live") -> None:
        """A source says that it has told everything before this moment."""
        self._sequence += 1
        self.ledger.merge([SourceWord(1, source, self._sequence, state, "node", 0, int(until))])

    def at(self, moment: float) -> None:
        """Set the clock."""
        self.clock.advance(moment - self.clock.now())

    def close(self, moment: float, **options: Any) -> list[Closed]:
        """Close what is over at this moment, all usage told."""
        self.at(moment)
        return list(self.closing.run(now=moment, **options))

    def close_all(self, moment: float) -> list[Kept]:
        """The same with usage told, and every period final."""
        self.told(moment)
        closed = self.close(moment)
        assert closed
        assert {one.outcome for one in closed} <= {"final", "empty"}, closed
        return [one.statement for one in closed if one.statement is not None]

    def findings(self) -> list[tuple[str, str]]:
        """What verification finds, as statement and kind."""
        return [(one.statement, one.kind) for one in self.statements.proof.verify().findings]


@contextmanager
def desk(url: str, folder: Path, **options: Any) -> Iterator[Desk]:
    """A desk that is closed at the end."""
    made = Desk(url, folder, **options)
    try:
        yield made
    finally:
        made.database.close()


def _dated(catalog: Mapping[str, Any]) -> dict[str, Any]:
    return copy.deepcopy(dict(catalog))
