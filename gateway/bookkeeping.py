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
from gateway.metering.reconcile import Drift, compare_process
from gateway.metering.upkeep import Upkeep
from gateway.model import Transport

Metered = Callable[[], dict[tuple[str, Transport], int]]
"""Records that this process metered since it came up, live and replayed, by stream and protocol."""


class Bookkeeping:
    """``evidence`` takes notes of deliveries, ``desk`` answers questions, ``upkeep`` is run in the background and
    closed after the last delivery."""

    def __init__(
        self,
        settings: Settings,
        *,
        control: Control,
        clock: Clock,
        source: str,
        ledger: Ledger | None = None,
        look: Callable[[], list[Drift]] = list,
    ) -> None:
        """``source`` is this process's name in the ledger; ``look`` finds differences within it."""
        kept = settings.metering
        run: Callable[..., Awaitable[Any]] = control.work
        self.desk = UsageDesk(ledger or Ledger(control.database), run=run, clock=clock)
        self.evidence: DeliveryAudit | None = None
        if kept.audit_days:
            self.evidence = DeliveryAudit(AuditStore(control.database), source=source, run=run)
        self.chores = UsageChores(
            control.database,
            zone=lambda tenant: zone_of(control, tenant),
            hours_after_days=kept.rollup_hours_after_days,
            days_after_days=kept.rollup_days_after_days,
            audit_days=kept.audit_days,
        )
        self.upkeep = Upkeep(self.chores, audit=self.evidence, run=run, clock=clock, holder=source, look=look)


def zone_of(control: Control, tenant: str) -> ZoneInfo:
    """The clock that a tenant's days go by; UTC for one that was removed."""
    found = control.snapshot().catalog.tenant(tenant)
    return ZoneInfo("UTC" if found is None else found.time_zone)


class ProcessCheck:
    """Compares what was metered with the counters behind ``gateway_delivered_records_total``, in one turn of the event
    loop. A difference is told once, and again when it has changed."""

    def __init__(self, metered: Metered, counters: Counters, *, clock: Clock, source: str) -> None:
        self._metered = metered
        self._counters = counters
        self._clock = clock
        self._source = source
        self._began = int(clock.now())
        self._known: dict[tuple[str, str], int] = {}

    def look(self) -> list[Drift]:
        """What is new."""
        counted: dict[tuple[str, Transport], int] = {}
        for kind, total in self._counters.census().by_kind.items():
            place = (kind.stream, kind.protocol)
            counted[place] = counted.get(place, 0) + total.records
        found = list(
            compare_process(
                self._metered(), counted, source=self._source, start=self._began, end=int(self._clock.now()) + 1
            )
        )
        news = []
        for one in found:
            whom, difference = (one.whom.stream, one.whom.transport), one.metered - one.least
            if self._known.get(whom) != difference:
                self._known[whom] = difference
                news.append(one)
        return news
