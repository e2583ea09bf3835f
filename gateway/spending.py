"""Adds up what tenants with a spend limit have spent in their period: tells their reads, and ends them at the limit."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from gateway.billing.drafting import Drafting
from gateway.billing.period import Period
from gateway.billing.rating import RatingRefused, spend_so_far
from gateway.clock import Clock
from gateway.control import Control
from gateway.errors import Unavailable
from gateway.limits.spending import Spending, Spendings
from gateway.observability.logs import event
from gateway.subscription.registry import Registry
from gateway.subscription.subscription import Subscription

log = logging.getLogger("gateway.spending")
ROUND_SECONDS: Final = 2.0
REST: Final = 9
"""After a round at least so many times as long nothing is added up: many tenants are looked at less often."""

BATCH: Final = 200
"""Reads looked at before others get their turn on the loop."""


@dataclass(slots=True)
class _Told:
    """What a tenant's sessions were told last of a limit in a period: the mark, in percent."""

    period: str
    limit: str
    marks: dict[str, int] = field(default_factory=dict)


class SpendWatch:
    """One process's; each looks for itself, so that a stop needs nothing but the ledger."""

    def __init__(
        self, drafting: Drafting, *, control: Control, spendings: Spendings, registry: Registry, clock: Clock
    ) -> None:
        self._drafting = drafting
        self._control = control
        self._spendings = spendings
        self._registry = registry
        self._clock = clock
        self._known: dict[str, Spending] = {}
        self._told: dict[str, _Told] = {}
        self._puzzling: set[str] = set()

    async def run(self) -> None:
        """Look, until cancelled. While the database is away those who are stopped stay so, and nobody else is."""
        while True:
            began = self._clock.monotonic()
            try:
                await self.look()
            except Unavailable as error:
                log.debug("spending is not looked at: %s", error)
            except Exception as error:  # noqa: BLE001 - one bad round must not end all later ones
                event(log, logging.ERROR, "spending_failed", exception=error)
            await asyncio.sleep(max(ROUND_SECONDS, REST * (self._clock.monotonic() - began)))

    async def look(self) -> None:
        """One round: add up, tell, and end what is at its limit."""
        limits = {
            tenant: account["spend_limit"]
            for tenant, account in self._control.snapshot().catalog.accounts.items()
            if "spend_limit" in account
        }
        found: dict[str, Spending] = await self._control.work(self._add_up, limits) if limits else {}
        self._spendings.take(found)
        for tenant, spending in found.items():
            before = self._known.get(tenant)
            was_reached = before is not None and before.is_reached and before.period == spending.period
            if spending.is_reached and not was_reached:
                event(log, logging.WARNING, "spend_limit_reached", tenant=tenant, limit=spending.limit)
        self._known = found
        self._told = {tenant: told for tenant, told in self._told.items() if tenant in found}
        for number, (tenant, spending) in enumerate(found.items(), start=1):
            await self._tell_all(tenant, spending)
            if number % BATCH == 0:
                await asyncio.sleep(0)

    async def _tell_all(self, tenant: str, spending: Spending) -> None:
        """End a tenant's reads at its limit, or tell those that have not heard of the mark that it has passed."""
        news = spending.news(0)
        if news is None:
            # Below the first mark there is nothing for anybody.
            return
        told = self._told.get(tenant)
        if told is None or (told.period, told.limit) != (spending.period, spending.limit):
            told = self._told[tenant] = _Told(spending.period, spending.limit)
        roster = self._registry.roster
        reads = roster.of_tenant(tenant)
        if len(told.marks) > len(reads):
            told.marks = {session: mark for session, mark in told.marks.items() if roster.get(session) is not None}
        for number, subscription in enumerate(reads, start=1):
            # At the limit everybody is looked at: an application may be priced that was not.
            if spending.is_reached or told.marks.get(subscription.session, 0) < news[0]:
                self._tell(subscription, told.marks, news)
            if number % BATCH == 0:
                await asyncio.sleep(0)

    def _tell(self, subscription: Subscription, marks: dict[str, int], news: tuple[int, dict[str, object]]) -> None:
        refusal = self._spendings.refusal(subscription.grant)
        if refusal is not None:
            subscription.end(refusal)
            return
        is_heard = subscription.reading is not None and subscription.ended is False
        if subscription.grant.billable and is_heard and marks.get(subscription.session, 0) < news[0]:
            marks[subscription.session] = news[0]
            # Out of turn: at the limit there is no other warning.
            subscription.say_checkpoint(quota=news[1])

    def _add_up(self, limits: Mapping[str, str]) -> dict[str, Spending]:
        """Blocks. What each has spent in its present period, as far as that can be told."""
        found: dict[str, Spending] = {}
        now = self._clock.now()
        # Asked first: what is told meanwhile is in the sums, and not promised to be.
        complete_until = self._drafting.complete_until(now=now)
        for tenant, limit in limits.items():
            known = self._drafting.known(tenant=tenant)
            period = Period.holding(now, zone=known.zone(tenant))
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
                held = self._known.get(tenant)
                if held is not None and held.ends_at == period.end:
                    # What cannot be told is no reason to let it go on.
                    found[tenant] = held
                continue
            self._puzzling.discard(tenant)
            currency = terms[-1].plan.currency if terms else ""
            found[tenant] = Spending(limit, spent, currency, period.label, period.end, int(now), complete_until)
        return found
