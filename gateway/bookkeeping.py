"""What a process does with usage beside counting it, put together: evidence, answers, upkeep."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable, Callable
from typing import Any
from zoneinfo import ZoneInfo

from gateway.clock import Clock
from gateway.config import Settings
from gateway.control import Control
from gateway.counters import Counters
from gateway.metering.audit import DeliveryAudit
from gateway.metering.audit_store import AuditStore
from gateway.metering.chores import UsageChores
from gateway.metering.desk import UsageDesk
from gateway.metering.ledger import Ledger
from gateway.metering.meter import Meter
from gateway.metering.process_check import ProcessCheck
from gateway.metering.reconcile import Drift
from gateway.metering.upkeep import Upkeep
from gateway.observability.logs import event
from gateway.units import format_rfc3339

log = logging.getLogger("gateway.bookkeeping")


class Bookkeeping:
    """``evidence`` takes notes of deliveries, ``desk`` answers questions, ``upkeep`` is run in the background and
    closed after the last delivery."""

    def __init__(
        self,
        settings: Settings,
        *,
        control: Control,
        clock: Clock,
        counters: Counters,
        meter: Meter | None,
    ) -> None:
        """``meter`` None: nothing is counted here, and questions are answered about what others counted."""
        kept = settings.metering
        run: Callable[..., Awaitable[Any]] = control.work
        self.desk = UsageDesk(Ledger(control.database), run=run, clock=clock)
        self.evidence: DeliveryAudit | None = None
        check: ProcessCheck | None = None
        if kept.audit_days and meter is not None:
            audit = self.evidence = DeliveryAudit(AuditStore(control.database), source=meter.source, run=run)
            check = ProcessCheck(counters, lambda: audit.taken_back, source=meter.source, started_at=meter.started_at)
        self.chores = UsageChores(
            control.database,
            zone=lambda tenant: zone_of(control, tenant),
            hours_after_days=kept.rollup_hours_after_days,
            days_after_days=kept.rollup_days_after_days,
            audit_days=kept.audit_days,
        )
        holder = secrets.token_hex(8) if meter is None else meter.source
        self.upkeep = Upkeep(
            self.chores, audit=self.evidence, run=run, clock=clock, holder=holder, check=check, tell=_tell
        )


def _tell(drift: Drift) -> None:
    event(
        log,
        logging.ERROR,
        "usage_drift",
        kind=drift.kind,
        **drift.whom._asdict(),
        start=format_rfc3339(drift.start * 1000),
        end=format_rfc3339(drift.end * 1000),
        metered=drift.metered,
        least=drift.least,
        most=drift.most,
    )


def zone_of(control: Control, tenant: str) -> ZoneInfo:
    """The clock that a tenant's days go by; UTC for one that was removed."""
    found = control.snapshot().catalog.tenant(tenant)
    return ZoneInfo("UTC" if found is None else found.time_zone)
