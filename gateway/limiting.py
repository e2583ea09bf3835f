"""The limits of one process put together: rates, seats, quotas, and what comes before it is known who asks."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any, Final

from gateway.alerts.alert import Alert, QuotaAlert
from gateway.alerts.store import AlertStore
from gateway.alerts.watchman import Watchman
from gateway.alerts.webhook import Webhook
from gateway.clock import Clock
from gateway.config import Settings
from gateway.control import Control
from gateway.counters import Counters
from gateway.limits.addresses import Addresses
from gateway.limits.admission import Admission
from gateway.limits.allowance import Allowances
from gateway.limits.breaker import Breaker
from gateway.limits.breakers import Breakers
from gateway.limits.busiest import TOPIC, Busiest
from gateway.limits.connections import Connections
from gateway.limits.limiter import Limiter
from gateway.limits.quota_redis import RedisQuotas
from gateway.limits.quota_store import QuotaStore
from gateway.limits.quotas import Quotas
from gateway.limits.redis import RedisLink
from gateway.limits.spending import Spendings
from gateway.limits.store import MemoryStore, RedisStore
from gateway.nodes.bus import Bus
from gateway.observability.health import Check, Status
from gateway.observability.logs import event

log = logging.getLogger("gateway.limits")
QUOTA_BELL: Final = "quotas"
"""Rung where Redis was found to have lost what it knew of quotas."""


class Limiting:
    """Rates, seats, quotas and addresses. Without Redis all but quotas are this process's own; those are shared through
    the database then."""

    def __init__(
        self,
        settings: Settings,
        *,
        redis: RedisLink | None,
        bus: Bus | None,
        control: Control,
        clock: Clock,
        counters: Counters,
    ) -> None:
        node = secrets.token_hex(8) if bus is None else bus.node
        # A cluster may lose some of its servers: tenants of the others notice nothing.
        kind = Breakers if settings.redis.mode == "cluster" else Breaker
        self._breaker = breaker = kind(clock, nodes=(lambda: 1) if bus is None else lambda: bus.live_nodes)
        breaker.on_change.append(self._tell)
        self._clock = clock
        self._away_since = 0.0
        self._was_away = False
        self._redis = scripts = None if redis is None else RedisStore(redis.client, breaker, node=node)
        self._limiter = limiter = Limiter(scripts or MemoryStore(), breaker=breaker, clock=clock)
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
            spendings=Spendings(clock),
            counters=counters,
        )
        self.allowances = Allowances(self.admission)
        self.busiest = Busiest(limiter, self.connections, self.quotas, refused=self.admission.refused)
        self.alerts = AlertStore(control.database)
        url, secret = settings.alerts.webhook_url, settings.alerts.secret
        self._watchman = None
        if url is not None and secret is not None:
            self._watchman = Watchman(
                shares=self.quotas.all,
                spendings=self.admission.spendings.all,
                store=self.alerts,
                work=control.work,
                post=Webhook(url.get_secret_value(), secret.get_secret_value()),
                clock=clock,
                tell=_tell_of,
            )
        control.on_change.append(self.connections.ring)
        if bus is not None:
            bus.on_bell(QUOTA_BELL, self.quotas.ring)
            bus.on_question(TOPIC, self.busiest.answer)
            self.busiest.others = bus
            self.quotas.on_loss = _ringing(bus)

    def tasks(self) -> Iterator[tuple[str, Coroutine[Any, Any, None]]]:
        """What runs as long as the process does, by name."""
        yield "limits", self._limiter.run()
        if self._redis is not None:
            yield "breaker", self._breaker.run(self._redis.probe)
        yield "seats", self.connections.run()
        yield "quotas", self.quotas.run()
        if self._watchman is not None:
            yield "alerts", self._watchman.run()

    async def close(self) -> None:
        """Give back what is borrowed and held, so that the other nodes need not wait for it to lapse."""
        await self.quotas.close()
        await self.connections.close()
        await self._limiter.close()

    def check(self) -> Check:
        """For readiness: with Redis away each node holds its own share of the limits, which is good enough to serve."""
        breaker = self._breaker

        def status() -> Status:
            if not breaker.is_open:
                return Status("ok")
            return Status("degraded", f"held by each node alone for {breaker.away_seconds():.0f} s: {breaker.reason}")

        return Check("limits", required=False, status=status)

    def _tell(self) -> None:
        breaker, now = self._breaker, self._clock.monotonic()
        if breaker.is_open == self._was_away:
            # Another part of a cluster is away, or there again, and not the only one.
            return
        self._was_away = breaker.is_open
        if breaker.is_open:
            self._away_since = now
            event(log, logging.WARNING, "limits_degraded", reason=breaker.reason, nodes=breaker.nodes())
        else:
            event(log, logging.INFO, "limits_recovered", away_seconds=round(now - self._away_since, 1))


def _tell_of(alert: Alert, failure: str) -> None:
    if isinstance(alert, QuotaAlert):
        quota = {"tenant": alert.tenant, "quota": alert.quota, "percent": alert.percent}
        if failure:
            event(log, logging.WARNING, "quota_alert_failed", **quota, reason=failure)
        else:
            event(log, logging.INFO, "quota_alert_sent", **quota)
        return
    spend = {"tenant": alert.tenant, "limit": alert.limit, "percent": alert.percent}
    if failure:
        event(log, logging.WARNING, "spend_alert_failed", **spend, reason=failure)
    else:
        event(log, logging.INFO, "spend_alert_sent", **spend)


def _zone(control: Control, tenant: str) -> str:
    found = control.snapshot().catalog.tenant(tenant)
    return "UTC" if found is None else found.time_zone


def _ringing(bus: Bus) -> Callable[[], Awaitable[None]]:
    async def ring() -> None:
        await bus.ring(QUOTA_BELL)

    return ring
