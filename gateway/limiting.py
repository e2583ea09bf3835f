"""The limits of one process put together: rates, seats, quotas, and what comes before it is known who asks."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any, Final

from gateway.clock import Clock
from gateway.config import Settings
from gateway.control import Control
from gateway.counters import Counters
from gateway.limits.addresses import Addresses
from gateway.limits.admission import Admission
from gateway.limits.breaker import Breaker
from gateway.limits.connections import Connections
from gateway.limits.limiter import Limiter
from gateway.limits.quota_redis import RedisQuotas
from gateway.limits.quota_store import QuotaStore
from gateway.limits.quotas import Quotas
from gateway.limits.scripts import Scripts
from gateway.nodes.bus import Bus

QUOTA_BELL: Final = "quotas"
"""Rung where Redis was found to have lost what it knew of quotas."""


class Limiting:
    """Seats, quotas and addresses, beside the rates. Without Redis seats are this process's own; quotas are shared
    through the database then."""

    def __init__(
        self,
        settings: Settings,
        *,
        limiter: Limiter,
        breaker: Breaker,
        scripts: Scripts | None,
        bus: Bus | None,
        control: Control,
        clock: Clock,
        counters: Counters,
    ) -> None:
        node = secrets.token_hex(8) if bus is None else bus.node
        self.connections = Connections(scripts, node=node, nodes=breaker.nodes, clock=clock, counters=counters)
        self.quotas = Quotas(
            shared=None if scripts is None else RedisQuotas(scripts, node=node),
            kept=QuotaStore(control.database, node=node),
            work=control.work,
            node=node,
            nodes=breaker.nodes,
            zone=lambda tenant: _zone(control, tenant),
            clock=clock,
        )
        limits = settings.limits
        addresses = Addresses(
            per_minute=limits.refused_credentials_per_minute, exempt=limits.exempt_addresses, clock=clock
        )
        self.admission = Admission(
            rates=limiter,
            connections=self.connections,
            quotas=self.quotas,
            addresses=addresses,
            counters=counters,
        )
        control.on_change.append(self.connections.ring)
        if bus is not None:
            bus.on_bell(QUOTA_BELL, self.quotas.ring)
            self.quotas.on_loss = _ringing(bus)

    def tasks(self) -> Iterator[tuple[str, Coroutine[Any, Any, None]]]:
        """What runs as long as the process does, by name."""
        yield "seats", self.connections.run()
        yield "quotas", self.quotas.run()

    async def close(self) -> None:
        """Give back what is borrowed and held, so that the other nodes need not wait for it to lapse."""
        await self.quotas.close()
        await self.connections.close()


def _zone(control: Control, tenant: str) -> str:
    found = control.snapshot().catalog.tenant(tenant)
    return "UTC" if found is None else found.time_zone


def _ringing(bus: Bus) -> Callable[[], Awaitable[None]]:
    async def ring() -> None:
        await bus.ring(QUOTA_BELL)

    return ring
