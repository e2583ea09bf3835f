"""What partners do and get, for Prometheus: counts added up at the scrape."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from gateway.counters import Counters, Total
from gateway.observability.families import Rows, counter, gauge
from gateway.observability.tenants import TenantLabels

_READ = ("stream", "protocol", "plan")


class PartnerCollector(Collector):
    """Reads ``Counters`` at the scrape, so that counting costs an integer addition and never a metric's lock."""

    def __init__(self, counters: Counters, *, tenants: int) -> None:
        self._counters = counters
        self._tenants = TenantLabels(tenants)

    def collect(self) -> Iterator[Metric]:
        counters = self._counters
        yield from self._reads()
        yield counter(
            "gateway_opens", "Attempts to read, by outcome.", ["stream", "protocol", "outcome"], counters.opens.items()
        )
        yield counter(
            "gateway_closes",
            "Streams that ended, by the code said to the client or client_gone.",
            ["stream", "protocol", "reason"],
            counters.closes.items(),
        )
        yield counter(
            "gateway_requests", "Requests answered.", ["route", "method", "status"], counters.requests.items()
        )
        yield counter(
            "gateway_tokens_refused",
            "Access tokens refused, by reason.",
            ["reason"],
            (((reason,), count) for reason, count in counters.refused_tokens.items()),
        )
        yield counter(
            "gateway_tokens_accepted",
            "Access tokens found good, by how: their signature verified, or remembered from before.",
            ["how"],
            (((how,), counters.tokens_accepted[how]) for how in ("verified", "remembered")),
        )
        yield counter(
            "gateway_tokens_issued",
            "Answers of the token endpoint, by outcome: issued, or why not.",
            ["outcome"],
            (((outcome,), count) for outcome, count in counters.tokens_issued.items()),
        )
        yield counter(
            "gateway_key_fetches",
            "Answers of issuers that were asked for their keys, by outcome.",
            ["issuer", "outcome"],
            counters.key_fetches.items(),
        )

        yield counter(
            "gateway_limited",
            "Requests refused and reads ended by a limit: by its name in the catalog and the plan.",
            ["limit", "plan"],
            counters.limited.items(),
        )

    def _reads(self) -> Iterator[Metric]:
        census = self._counters.census()
        kinds = list(census.by_kind.items())
        yield gauge("gateway_open_streams", "Reads open now.", _READ, ((kind, one.open) for kind, one in kinds))
        yield counter(
            "gateway_delivered_records",
            "Records written to readers.",
            _READ,
            ((kind, one.records) for kind, one in kinds),
        )
        yield counter(
            "gateway_delivered_bytes",
            "Bytes of data written to readers.",
            _READ,
            ((kind, one.bytes) for kind, one in kinds),
        )
        tenants = list(self._tenants.of(census.by_tenant))
        yield gauge(
            "gateway_tenant_open_streams", "Reads open now.", ["tenant"], _of(tenants, [one.open for _, one in tenants])
        )
        yield counter(
            "gateway_tenant_delivered_records",
            "Records written to a tenant's readers.",
            ["tenant"],
            _of(tenants, [one.records for _, one in tenants]),
        )
        yield counter(
            "gateway_tenant_delivered_bytes",
            "Bytes of data written to a tenant's readers.",
            ["tenant"],
            _of(tenants, [one.bytes for _, one in tenants]),
        )


def _of(tenants: list[tuple[str, Total]], numbers: list[int]) -> Rows:
    return [((label,), number) for (label, _), number in zip(tenants, numbers, strict=True)]
