"""Adds up what tenants with a spend limit have spent in their period, and stops those who have reached it."""

from __future__ import annotations

import asyncio
import logging
from decimal import Decimal
from typing import Final

from gateway.billing.drafting import Drafting
from gateway.billing.period import Period
from gateway.billing.rating import RatingRefused, spend_so_far
from gateway.clock import Clock
from gateway.control import Control
from gateway.errors import Unavailable
from gateway.limits.spending import SpendStops, Stop
from gateway.observability.logs import event
from gateway.subscription.registry import Registry

log = logging.getLogger("gateway.spending")
ROUND_SECONDS: Final = 2.0
REST: Final = 9
"""After a round at least so many times as long nothing is added up: many tenants are looked at less often."""


class SpendWatch:
    """One process's; each looks for itself, so that a stop needs nothing but the ledger."""

    def __init__(
        self, drafting: Drafting, *, control: Control, stops: SpendStops, registry: Registry, clock: Clock
    ) -> None:
        self._drafting = drafting
        self._control = control
        self._stops = stops
        self._registry = registry
        self._clock = clock
        self._stopped: dict[str, Stop] = {}
        self._puzzling: set[str] = set()

    async def run(self) -> None:
        """Look, until cancelled. While the database is away those who are stopped stay so, and nobody else is."""
        while True:
            began = self._clock.monotonic()
            try:
                await self._look()
            except Unavailable as error:
                log.debug("spending is not looked at: %s", error)
            except Exception as error:  # noqa: BLE001 - one bad round must not end all later ones
                event(log, logging.ERROR, "spending_failed", exception=error)
            await asyncio.sleep(max(ROUND_SECONDS, REST * (self._clock.monotonic() - began)))

    async def _look(self) -> None:
        limits = {
            tenant: account["spend_limit"]
            for tenant, account in self._control.snapshot().catalog.accounts.items()
            if "spend_limit" in account
        }
        stops = await self._control.work(self._reached, limits) if limits else {}
        self._stops.take(stops)
        for tenant in stops.keys() - self._stopped:
            event(log, logging.WARNING, "spend_limit_reached", tenant=tenant, limit=stops[tenant].limit)
        self._stopped = stops
        for tenant in stops:
            for subscription in self._registry.roster.of_tenant(tenant):
                refusal = self._stops.refusal(subscription.grant)
                if refusal is not None:
                    subscription.end(refusal)

    def _reached(self, limits: dict[str, str]) -> dict[str, Stop]:
        """Blocks. Who has spent their limit in the present period."""
        found: dict[str, Stop] = {}
        for tenant, limit in limits.items():
            known = self._drafting.known(tenant=tenant)
            period = Period.holding(self._clock.now(), zone=known.zone(tenant))
            terms = known.terms(tenant)
            rows = self._drafting.usage(tenant, start=period.start, end=period.end)
            try:
                spent = spend_so_far(
                    rows.items(), tenant=tenant, period=period, terms=terms, plans=known.revisions.plans
                )
            except RatingRefused as error:
                if tenant not in self._puzzling:
                    self._puzzling.add(tenant)
                    log.warning("the spending of tenant %s cannot be added up: %s", tenant, error)
                held = self._stopped.get(tenant)
                if held is not None and held.ends_at == period.end:
                    # What cannot be told is no reason to let it go on.
                    found[tenant] = held
                continue
            self._puzzling.discard(tenant)
            if spent >= Decimal(limit):
                found[tenant] = Stop(limit, terms[-1].plan.currency if terms else "", period.end)
        return found
