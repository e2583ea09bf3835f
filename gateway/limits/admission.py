"""The limits as those see them who let requests and reads in: one question each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from gateway.counters import Counters
from gateway.errors import RateLimited, TooManyConnections
from gateway.limits.addresses import Addresses
from gateway.limits.connections import Connections
from gateway.limits.pace import Pace
from gateway.limits.quota_pace import QuotaPace
from gateway.limits.quotas import Quotas
from gateway.limits.scopes import RATES, name_of_application, name_of_stream, of_each_application, of_stream
from gateway.limits.seats import LIMIT as CONNECTIONS
from gateway.limits.seats import Seat
from gateway.limits.spending import Spendings
from gateway.limits.standing import Standing, count_of, fields
from gateway.model import Grant, Plan

REQUESTS: Final = "requests_per_second"


class Rates(Protocol):
    """The rates of plans; ``limiter.Limiter`` is one."""

    def pace(self, grant: Grant) -> Pace | None:
        """What a read under the grant may send; None: no rate limits it."""
        ...

    async def take(self, tenant: str, plan: Plan, limit: str = REQUESTS) -> int:
        """Take one; 0: taken, else the milliseconds until there may be one."""
        ...

    def wait_ms(self, tenant: str, plan: Plan, limit: str = REQUESTS) -> int:
        """What ``take`` would say where there is nothing to take; 0: there may be something. Never waits."""
        ...

    def standing(self, tenant: str, plan: Plan, limits: Sequence[str] = RATES) -> list[Standing]:
        """How the tenant stands with each of these rates, as far as it is known here."""
        ...

    def tighter(self, tenant: str, plan: Plan, scope: str, rates: Mapping[str, Any]) -> list[Standing]:
        """The same of rates that hold within a scope of the plan."""
        ...


class Admission:
    """Asks all limits that a request or a read comes under."""

    def __init__(
        self,
        *,
        rates: Rates,
        connections: Connections,
        quotas: Quotas,
        addresses: Addresses,
        spendings: Spendings,
        counters: Counters,
    ) -> None:
        self.addresses = addresses
        self.spendings = spendings
        self.refused: Counter[tuple[str, str, str]] = Counter()
        """How often, by tenant, plan and limit, since the process began."""
        self._rates = rates
        self._connections = connections
        self._quotas = quotas
        self._counters = counters

    async def request(self, tenant: str, plan: Plan) -> None:
        """One more request of the tenant. Raises RateLimited."""
        wait_ms = await self._rates.take(tenant, plan, REQUESTS)
        if wait_ms:
            raise self._too_many(tenant, plan, wait_ms)

    def refusal(self, tenant: str, plan: Plan) -> RateLimited | None:
        """What ``request`` would raise now, counted as if it had; None: it may let the request in."""
        wait_ms = self._rates.wait_ms(tenant, plan, REQUESTS)
        return self._too_many(tenant, plan, wait_ms) if wait_ms else None

    def _too_many(self, tenant: str, plan: Plan, wait_ms: int) -> RateLimited:
        self._refuse(tenant, plan, REQUESTS)
        allowed = plan.limits[REQUESTS]["rate"]
        return RateLimited(
            f"The plan allows {allowed} requests a second, over all applications and nodes.", retry_after_ms=wait_ms
        )

    async def begin(self, grant: Grant, *, is_held: bool) -> Seat | None:
        """A read begins: it needs something left of each quota, and a seat where it stays open (``is_held``).

        Raises QuotaExceeded, for a spend limit too, and TooManyConnections.
        """
        self.spendings.check(grant)
        for share in await self._quotas.ready(grant.tenant, grant.plan.name, grant.plan.limits):
            if share.is_over:
                self._refuse(grant.tenant, grant.plan, share.key.name)
                raise share.exceeded()
        if not is_held:
            return None
        try:
            return await self._connections.take(grant)
        except TooManyConnections:
            self._refuse(grant.tenant, grant.plan, CONNECTIONS)
            raise

    def _refuse(self, tenant: str, plan: Plan, limit: str) -> None:
        self._counters.count_limited(limit, plan=plan.name)
        self.refused[tenant, plan.name, limit] += 1

    def end(self, seat: Seat | None) -> None:
        """The read is over."""
        if seat is not None:
            self._connections.release(seat)

    def pace(self, grant: Grant) -> Pace | QuotaPace | None:
        """What the read may send; None: nothing limits it."""
        rates = self._rates.pace(grant)
        shares = self._quotas.shares(grant.tenant, grant.plan.name, grant.plan.limits)
        return QuotaPace(rates, shares) if shares else rates

    def fields(self, tenant: str, plan: Plan) -> list[tuple[bytes, bytes]]:
        """What every answer says of requests and quotas: header fields."""
        requests = self._rates.standing(tenant, plan, (REQUESTS,))
        quotas = self._quotas.shares(tenant, plan.name, plan.limits)
        return fields([*requests, *(share.standing() for share in quotas)])

    async def standings(self, tenant: str, plan: Plan) -> list[Standing]:
        """How the tenant stands with everything that the plan limits, over all nodes."""
        found = self._rates.standing(tenant, plan)
        cap = count_of(plan.limits, CONNECTIONS)
        remaining = None if cap is None else cap - await self._connections.used((tenant, plan.name))
        found.append(Standing(CONNECTIONS, cap, remaining=remaining))
        shares = await self._quotas.refresh(tenant, plan.name, plan.limits)
        return found + [share.standing() for share in shares]

    def of_stream(self, tenant: str, plan: Plan, stream: str) -> list[Standing]:
        """How the tenant stands with the plan's tighter rates of a stream; empty where it has none."""
        return self._rates.tighter(tenant, plan, name_of_stream(stream), of_stream(plan.limits, stream))

    def of_application(self, tenant: str, plan: Plan, issuer: str, client_id: str) -> list[Standing]:
        """The same of the plan's tighter rates of an application."""
        scope = name_of_application(issuer, client_id)
        return self._rates.tighter(tenant, plan, scope, of_each_application(plan.limits))
