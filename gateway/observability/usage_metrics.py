"""How usage is counted, told and looked after, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from gateway.observability.families import counter, gauge, value
from gateway.status import MeteringStatus, UpkeepStatus


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


class MeteringCollector(Collector):
    """Asks how it stands, at the scrape."""

    def __init__(self, status: Callable[[], MeteringStatus]) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        now = self._status()
        yield value(
            "gateway_metering_healthy", "1 while usage is kept on disk and reaches the ledger.", not now.trouble
        )
        yield value("gateway_metering_lines", "Keys that usage is counted under now.", now.lines)
        yield value("gateway_metering_cells", "Keys by quarter of an hour that this process keeps.", now.cells)
        yield value("gateway_metering_slab_bytes", "Size of this process's slab.", now.slab_bytes)
        yield gauge(
            "gateway_metering_unpublished_seconds",
            "Since all that was counted was in Kafka.",
            (),
            [((), now.unpublished_seconds)],
        )
        yield counter("gateway_usage_published", "Messages of usage that Kafka took.", (), [((), now.published)])
        yield counter(
            "gateway_usage_orphans",
            "Slabs of processes that are gone, by what became of them.",
            ["outcome"],
            (((outcome,), now.orphans.get(outcome, 0)) for outcome in ("adopted", "removed", "set_aside")),
        )
        yield value("gateway_ledger_leader", "1 in the process that reads usage into the ledger.", now.is_leader)
        yield gauge("gateway_ledger_lag_messages", "Messages that the ledger has not read.", (), [((), now.lag)])
        yield counter(
            "gateway_ledger_messages",
            "Messages read into the ledger by this process, and those that were none.",
            ["outcome"],
            [(("merged",), now.merged), (("refused",), now.refused)],
        )
