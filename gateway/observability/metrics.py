"""Prometheus metrics of one process: what the collectors find at the scrape, its health, and the event loop's lag."""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from gateway.counters import Counters, Distribution
from gateway.observability.engine_metrics import EngineCollector
from gateway.observability.families import counter, gauge, histogram, states, value
from gateway.observability.health import Health
from gateway.observability.partner_metrics import PartnerCollector
from gateway.observability.usage_metrics import MeteringCollector, UpkeepCollector
from gateway.status import EngineStatus, MeteringStatus, UpkeepStatus

LAG_BUCKETS_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
TENANTS = 20
LEVELS = ("ok", "degraded", "down")


class Metrics:
    """One process's metrics in a registry of their own. Scrape in the event loop's thread: the counts live there."""

    def __init__(
        self,
        counters: Counters,
        *,
        version: str,
        engine: Callable[[], EngineStatus] = EngineStatus,
        upkeep: Callable[[], UpkeepStatus] = UpkeepStatus,
        metering: Callable[[], MeteringStatus] = MeteringStatus,
        health: Health | None = None,
        tenants: int = TENANTS,
        lag_interval_seconds: float = 0.25,
    ) -> None:
        """``tenants``: how many have a label of their own."""
        self.registry = CollectorRegistry()
        self._lag_interval_seconds = lag_interval_seconds
        self._lag = Distribution(LAG_BUCKETS_SECONDS)
        self.registry.register(PartnerCollector(counters, tenants=tenants))
        self.registry.register(EngineCollector(counters, engine))
        self.registry.register(UpkeepCollector(upkeep))
        self.registry.register(MeteringCollector(metering))
        self.registry.register(_ProcessCollector(counters, health=health or Health([]), version=version, lag=self._lag))
        ProcessCollector(registry=self.registry)

    def exposition(self) -> tuple[bytes, str]:
        """The text format and its content type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST

    async def watch_loop_lag(self) -> None:
        """Sample the loop's lag until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + self._lag_interval_seconds
            await asyncio.sleep(self._lag_interval_seconds)
            self._lag.add(max(0.0, loop.time() - due))


class _ProcessCollector(Collector):
    """What runs here, whether it is well, and how late its loop is."""

    def __init__(self, counters: Counters, *, health: Health, version: str, lag: Distribution) -> None:
        self._counters = counters
        self._health = health
        self._version = version
        self._lag = lag

    def collect(self) -> Iterator[Metric]:
        build = (self._version, platform.python_version())
        yield gauge("gateway_build_info", "What runs here; always 1.", ["version", "python"], [(build, 1)])
        status, _ = self._health.readiness()
        yield value("gateway_ready", "1 while this process wants traffic.", status == 200)
        yield value("gateway_draining", "1 from the moment it was told to stop.", self._health.draining)
        found = list(self._health.dependencies())
        yield states(
            "gateway_dependency_state",
            "1 for the state the dependency is in.",
            ["dependency", "required"],
            LEVELS,
            (((check.name, str(check.required).lower()), one.level) for check, one in found),
        )
        yield counter(
            "gateway_reloads",
            "Reloads of contracts, catalog, keys and certificates, by outcome.",
            ["outcome"],
            (((outcome,), self._counters.reloads[outcome]) for outcome in ("ok", "refused")),
        )
        yield histogram("gateway_loop_lag_seconds", "How late the event loop ran a timer that was due.", self._lag)
