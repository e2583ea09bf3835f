"""How fast one reader gets through history that no memory holds any more, and how much of it many at once have read."""

from __future__ import annotations

import re
import time
import urllib.request

from loadtests.machine import cpu_seconds
from loadtests.readers import Protocol, Readers, request
from loadtests.stage import STREAM, Stage, stage
from loadtests.table import Row, median, spread
from tests.parts.kafka import KafkaBroker

RING_RECORDS = 20_000
CROWD = 200
SHAPES = ("", "&fields=/seq", "&fields=/seq,/callsign", "&fields=/seq,/latitude,/longitude")


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
    return [*rows, *_crowd(running, records=records // 10)]


def _crowd(running: KafkaBroker, *, records: int) -> list[Row]:
    """Two hundred readers from the beginning in four shapes: how often a record is read from Kafka for all of them."""
    with stage(running, "crowd", partitions=4, linger_ms=20, ring_records=RING_RECORDS // 10) as ready:
        ready.source.send(records)
        requests = [request(STREAM, token, query="from=earliest" + shape) for token in ready.tokens for shape in SHAPES]
        first = [0] * len(ready.source.vector)
        start, before = time.monotonic(), cpu_seconds(ready.pid)
        with Readers(ready.port, count=CROWD, requests=requests, first=first) as readers:
            readers.wait_for(ready.source.vector)
        seconds, spent = time.monotonic() - start, cpu_seconds(ready.pid) - before
        with urllib.request.urlopen(f"{ready.gateway.admin_url}/metrics", timeout=10) as answer:
            counted = re.findall(r"^gateway_replay_records_total{[^}]*} (\S+)$", answer.read().decode(), re.MULTILINE)
        times = sum(map(float, counted)) / records
    what = f"{CROWD} readers of 4 shapes from the beginning, {records / 1e3:g} k records"
    return [
        Row(f"{what}: reads from Kafka per record", f"{times:.2f}", "≤ 3", times <= 3),
        Row(f"{what}: seconds", f"{seconds:.1f}"),
        Row(f"{what}: µs CPU per delivery", f"{spent / records / CROWD * 1e6:.3f}"),
    ]


def _replay(ready: Stage, protocol: Protocol) -> tuple[float, float]:
    """Wall and CPU seconds for one reader to get everything."""
    start, before = time.monotonic(), cpu_seconds(ready.pid)
    first = [0] * len(ready.source.vector)
    with ready.readers(1, protocol=protocol, query="from=earliest", first=first) as reader:
        reader.wait_for(ready.source.vector)
        return time.monotonic() - start, cpu_seconds(ready.pid) - before
