"""How fast one reader gets through history that no memory holds any more."""

from __future__ import annotations

import time

from loadtests.machine import cpu_seconds
from loadtests.readers import Protocol
from loadtests.stage import Stage, stage
from loadtests.table import Row, median, spread
from tests.parts.kafka import KafkaBroker

RING_RECORDS = 20_000


def run(running: KafkaBroker, *, quick: bool) -> list[Row]:
    """Records per second of wall time, from the request to the last record, over a topic far larger than the ring."""
    records, rounds = (100_000, 1) if quick else (1_000_000, 3)
    rows = []
    with stage(running, "replay", partitions=4, linger_ms=20, ring_records=RING_RECORDS) as ready:
        ready.source.send(records)
        for protocol, title in (("sse", "SSE"), ("ndjson", "NDJSON")):
            rates, costs = [], []
            for _ in range(rounds):
                seconds, spent = _replay(ready, protocol)  # type: ignore[arg-type]
                rates.append(records / seconds / 1e3)
                costs.append(spent / records * 1e6)
                print(f"replay: {protocol} {rates[-1]:.1f} k/s, {costs[-1]:.2f} µs", flush=True)
            what = f"replay by one {title} reader, {records / 1e6:g} M records, 4 partitions: thousand records/s"
            rows.append(Row(what, spread(rates, digits=1), "≥ 80", median(rates) >= 80))
            rows.append(Row(f"replay, {title}: µs CPU per record", spread(costs)))
    return rows


def _replay(ready: Stage, protocol: Protocol) -> tuple[float, float]:
    """Wall and CPU seconds for one reader to get everything."""
    start, before = time.monotonic(), cpu_seconds(ready.pid)
    first = [0] * len(ready.source.vector)
    with ready.readers(1, protocol=protocol, query="from=earliest", first=first) as reader:
        reader.wait_for(ready.source.vector)
        return time.monotonic() - start, cpu_seconds(ready.pid) - before
