"""Every limit of records, bytes and requests on this node: accounts that borrow from the store and lend to reads."""

from __future__ import annotations

from collections.abc import Callable

from gateway.clock import Clock
from gateway.limits.breaker import Breaker
from gateway.limits.pace import Pace, Quotas
from gateway.limits.standing import Standing
from gateway.limits.store import Store
from gateway.model import Grant, Plan


class Limiter:
    """One per process; everything on the event loop's thread."""

    def __init__(
        self,
        store: Store,
        *,
        breaker: Breaker,
        clock: Clock,
        quotas: Callable[[Grant], Quotas] = lambda _: Quotas(),
    ) -> None:
        ...

    def pace(self, grant: Grant) -> Pace | None:
        """How fast this read may go; None: as fast as it can. Never waits, never asks Redis."""
        ...

    async def take(self, tenant: str, plan: Plan, limit: str = "requests_per_second") -> int:
        """Take one of a rate that refuses instead of waiting. 0: taken; else milliseconds until there may be one."""
        ...

    def standing(self, tenant: str, plan: Plan) -> list[Standing]:
        """How the tenant stands with each rate of the plan, as far as this node knows without asking."""
        ...

    async def run(self) -> None:
        """Watch over Redis and forget who is gone, until cancelled."""
        ...

    async def close(self) -> None:
        """Give back what is borrowed."""
        ...
