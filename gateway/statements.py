"""The statements of a process: store, drafts, closing and schedule put together from settings and database."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Final

from gateway.billing.closing import Closed, Closing
from gateway.billing.drafting import Drafting, Rules
from gateway.billing.office import Run, StatementOffice
from gateway.billing.proof import Proof
from gateway.billing.rows import Ledger
from gateway.billing.schedule import Schedule
from gateway.billing.statement import Party
from gateway.billing.store import StatementStore
from gateway.catalog.catalog import Catalog
from gateway.catalog.store import Store
from gateway.clock import Clock
from gateway.config import Settings
from gateway.control import Control
from gateway.database.database import Database
from gateway.errors import Unavailable
from gateway.metering.audit_store import AuditStore
from gateway.metering.chores import SETTLE_SECONDS, UsageChores
from gateway.metering.drifts import Drifts
from gateway.metering.ledger import Ledger as UsageLedger
from gateway.metering.misfits import misfits
from gateway.metering.rollup import DAY
from gateway.observability.logs import event

log = logging.getLogger("gateway.statements")
RESIGN_SECONDS: Final = 1.0
"""What a stop waits for that."""


@dataclass(frozen=True, slots=True)
class Statements:
    """Everything that makes, closes and checks statements of one database. All of it blocks."""

    store: StatementStore
    drafting: Drafting
    closing: Closing
    proof: Proof
    ledger: Ledger
    catalogs: Store

    @classmethod
    def of(
        cls,
        settings: Settings,
        database: Database,
        *,
        clock: Clock,
        ledger: Ledger | None = None,
        catalog: Callable[[], Catalog] | None = None,
    ) -> Statements:
        """``ledger`` and ``catalog``: other than those of the database itself."""
        store, catalogs = StatementStore(database), Store(database, clock=clock)

        def from_database() -> Catalog:
            catalogs.catch_up_history()
            return catalogs.load_catalog(settings.auth.issuer_names())[1]

        source = ledger or UsageLedger(database)
        drafting = Drafting(store, source, catalog=catalog or from_database, rules=rules_of(settings))
        closing = Closing(store, drafting, drifts=_drifts(settings, database, clock=clock))
        proof = Proof(store, drafting, misfits=lambda tenant: list(misfits(database, tenant=tenant)))
        return cls(store, drafting, closing, proof, source, catalogs)

    def office(self, *, run: Run, clock: Clock) -> StatementOffice:
        """For those who ask over HTTP."""
        return StatementOffice(self.store, self.closing, run=run, clock=clock)

    def schedule(self, settings: Settings, *, clock: Clock) -> Schedule:
        """For a process that serves."""
        seen: int | None = None

        def catch_up() -> None:
            # A gateway of an older version may have changed the catalog without noting it down.
            nonlocal seen
            revision = self.catalogs.revision()
            if revision != seen:
                self.catalogs.catch_up_history()
                seen = revision

        return Schedule(
            self.closing,
            self.store,
            clock=clock,
            holder=secrets.token_hex(8),
            interval_seconds=settings.billing.interval_seconds,
            prepare=catch_up,
            tell=_tell,
            tell_failure=lambda error: event(log, logging.ERROR, "statements_failed", exception=error),
        )


class ServedStatements:
    """Statements in a process that serves: asked for over HTTP, closed by themselves."""

    def __init__(self, settings: Settings, control: Control, *, clock: Clock) -> None:
        made = Statements.of(settings, control.database, clock=clock, catalog=lambda: control.snapshot().catalog)
        self.office = made.office(run=control.work, clock=clock)
        self.drafting = made.drafting
        self._run = control.work
        self._schedule = made.schedule(settings, clock=clock) if settings.billing.schedule else None

    def tasks(self) -> list[tuple[str, Coroutine[Any, Any, None]]]:
        """What runs until it is cancelled, by name."""
        return [] if self._schedule is None else [("statements", self._schedule.run())]

    async def close(self) -> None:
        """Let another process lead at once, where the database answers at once; else the lease runs out by itself."""
        if self._schedule is not None:
            with contextlib.suppress(TimeoutError, Unavailable):
                async with asyncio.timeout(RESIGN_SECONDS):
                    await self._run(self._schedule.resign)


def rules_of(settings: Settings) -> Rules:
    """How the settings want statements made."""
    billing = settings.billing
    identity = billing.legal_identity
    seller = None
    if identity.name:
        seller = Party(identity.name, identity.address, identity.vat_id, identity.registration, identity.contact)
    return Rules(
        grace_seconds=billing.grace_seconds,
        needs_approval=billing.approval == "required",
        number_prefix=billing.number_prefix,
        corrected_periods=billing.corrected_periods,
        seller=seller,
    )


def _drifts(settings: Settings, database: Database, *, clock: Clock) -> Callable[[str, int, int], Sequence[str]]:
    metering = settings.metering
    found, evidence = Drifts(database), AuditStore(database)
    chores = UsageChores(
        database,
        zone=lambda _: "UTC",
        hours_after_days=metering.rollup_hours_after_days,
        days_after_days=metering.rollup_days_after_days,
        audit_days=metering.audit_days,
    )

    def standing(tenant: str, start: int, end: int) -> list[str]:
        if not found.standing(tenant=tenant, start=start, end=end):
            now = clock.now()
            # Once more at the close: as far as there is evidence, while usage is kept finely, and when it is all told.
            oldest = evidence.oldest()
            since = start if oldest is None else max(start, -(-oldest // DAY) * DAY)
            days = min(metering.audit_days, metering.rollup_hours_after_days)
            if oldest is not None and since < end and end + SETTLE_SECONDS <= now < since + days * DAY:
                chores.reconcile_period(start=since, end=end, now=now, tenant=tenant)
        return [
            f"drift {one.number}: {one.drift.kind} of {one.drift.whom.stream or 'a process'}; look into it, then"
            f" gateway usage reconcile --settle {one.number} --reason TEXT"
            for one in found.standing(tenant=tenant, start=start, end=end)
        ]

    return standing


def _tell(closed: Closed) -> None:
    statement = closed.statement
    number = None if statement is None else statement.number
    if closed.outcome == "final":
        event(log, logging.INFO, "statement_final", tenant=closed.tenant, period=closed.period.label, number=number)
    elif closed.outcome == "grace":
        event(log, logging.INFO, "statement_drafted", tenant=closed.tenant, period=closed.period.label)
    else:
        event(
            log,
            logging.WARNING,
            "statement_held_up",
            tenant=closed.tenant,
            period=closed.period.label,
            outcome=closed.outcome,
            reasons=list(closed.reasons),
        )
