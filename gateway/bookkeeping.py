"""What a process does with usage beside counting it, put together: evidence, answers, upkeep."""

from __future__ import annotations

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
from gateway.metering.process_check import ProcessCheck
from gateway.metering.upkeep import Upkeep


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
        source: str,
        started_at: float,
    ) -> None:
        """``source`` is this process's name in the ledger, ``started_at`` (epoch seconds) is before its first count."""
        kept = settings.metering
        run: Callable[..., Awaitable[Any]] = control.work
        self.desk = UsageDesk(Ledger(control.database), run=run, clock=clock)
        self.evidence: DeliveryAudit | None = None
        check: ProcessCheck | None = None
        if kept.audit_days:
            audit = self.evidence = DeliveryAudit(AuditStore(control.database), source=source, run=run)
            check = ProcessCheck(counters, lambda: audit.taken_back, source=source, started_at=started_at)
        self.chores = UsageChores(
            control.database,
            zone=lambda tenant: zone_of(control, tenant),
            hours_after_days=kept.rollup_hours_after_days,
            days_after_days=kept.rollup_days_after_days,
            audit_days=kept.audit_days,
        )
        self.upkeep = Upkeep(self.chores, audit=self.evidence, run=run, clock=clock, holder=source, check=check)


def zone_of(control: Control, tenant: str) -> ZoneInfo:
    """The clock that a tenant's days go by; UTC for one that was removed."""
    found = control.snapshot().catalog.tenant(tenant)
    return ZoneInfo("UTC" if found is None else found.time_zone)
