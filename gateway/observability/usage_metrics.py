"""How usage is looked after, for Prometheus: differences that stand, evidence that waits, was kept, was lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from gateway.observability.families import counter, gauge
from gateway.status import UpkeepStatus


class UpkeepCollector(Collector):
    """Asks how it stands, at the scrape."""

    def __init__(self, status: Callable[[], UpkeepStatus]) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        now = self._status()
        yield gauge(
            "gateway_usage_drifts",
            "Differences between usage and the evidence of it that nobody has settled; the same on every process.",
            (),
            [((), now.drifts)],
        )
        yield gauge(
            "gateway_delivery_notes_waiting",
            "Notes of deliveries that were not written to the database yet.",
            (),
            [((), now.notes_waiting)],
        )
        yield counter(
            "gateway_delivery_notes",
            "Notes of deliveries, by what became of them.",
            ["outcome"],
            [(("written",), now.notes_written), (("lost",), now.notes_lost)],
        )
