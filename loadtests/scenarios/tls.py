"""What TLS in the process costs: per delivery, per handshake and per connection, beside the same without it."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import Final

from loadtests.machine import cpu_seconds, resident_bytes
from loadtests.readers import Protocol
from loadtests.stage import Stage, stage
from loadtests.table import Row, median, spread
from tests.parts.kafka import KafkaBroker

READERS = 500
PER_SECOND = 50
CALM_US = 1000
SATURATED_READERS = 1000
BATCH_RECORDS = 500
WARM_UP_RECORDS = 100

_KINDS: Final = ("plain", "tls")
Costs = dict[str, list[float]]


@dataclass(frozen=True, slots=True)
class Paced:
    """What readers cost that got their records one at a time.

    Counted by writes: on a machine that others use too, two records may leave in one, and ever so often in one of the
    two that are compared.
    """

    cpu_seconds: float
    writes: float
    open_ms: float
    weight_bytes: float


def run(running: KafkaBroker, *, quick: bool) -> list[Row]:
    """Two gateways that differ in TLS alone, by turns on the same core; only ratios within a round count."""
    records, batches, rounds = (200, 4, 1) if quick else (500, 12, 5)
    costs: Costs = {}
    with contextlib.ExitStack() as stack:
        stages = {
            kind: stack.enter_context(stage(running, f"tls-{kind}", partitions=1, linger_ms=5, tls=kind == "tls"))
            for kind in _KINDS
        }
        for number in range(rounds):
            found: dict[str, float] = {}
            # Every second round the other way round: what follows what must not matter.
            for kind in _KINDS if number % 2 == 0 else _KINDS[::-1]:
                one = _paced(stages[kind], 1, records, "sse")
                for protocol in ("sse", "ws"):
                    many = _paced(stages[kind], READERS, records, protocol)
                    spent, writes = many.cpu_seconds - one.cpu_seconds, many.writes - one.writes
                    found[f"{kind} {protocol}"] = spent / writes * 1e6
                    found[f"{kind} {protocol} open"] = many.open_ms
                    if number == 0:
                        found[f"{kind} {protocol} weight"] = many.weight_bytes / 1024
                found[f"{kind} saturated"] = _saturated(stages[kind], batches)
            print("tls:", {name: round(value, 2) for name, value in found.items()}, flush=True)
            for name, value in found.items():
                costs.setdefault(name, []).append(value)
    return _rows(costs)


def _rows(costs: Costs) -> list[Row]:
    def ratio(name: str) -> list[float]:
        return [a / b for a, b in zip(costs[f"tls {name}"], costs[f"plain {name}"], strict=True)]

    what = f"{READERS} readers, {PER_SECOND} records/s of 240 B"
    rows = []
    for protocol, title in (("sse", "SSE"), ("ws", "WebSocket")):
        rows += [
            Row(f"{title}, {what}, plain: µs CPU per write, without fetch", spread(costs[f"plain {protocol}"])),
            Row(f"{title} under TLS: µs per write, without fetch", spread(costs[f"tls {protocol}"])),
            Row(f"{title}: TLS ÷ plain", spread(ratio(protocol)), "≤ 2.0", median(ratio(protocol)) <= 2.0),
        ]
    extra = [a - b for a, b in zip(costs["tls sse open"], costs["plain sse open"], strict=True)]
    return [
        *rows,
        Row(f"{SATURATED_READERS} readers, batches of {BATCH_RECORDS}, plain: million deliveries per CPU-second",
            spread(costs["plain saturated"])),
        Row("the same under TLS", spread(costs["tls saturated"])),
        Row("opening an SSE stream, plain: ms CPU", spread(costs["plain sse open"])),
        Row("what a TLS 1.3 handshake (ECDSA P-256) adds: ms CPU", spread(extra)),
        Row("an SSE connection just opened, plain: KB", spread(costs["plain sse weight"], digits=1)),
        Row("under TLS: KB", spread(costs["tls sse weight"], digits=1)),
    ]  # fmt: skip


def _paced(ready: Stage, count: int, records: int, protocol: Protocol) -> Paced:
    source = ready.source
    memory, before = resident_bytes(ready.pid), cpu_seconds(ready.pid)
    with ready.readers(count, protocol=protocol, pause_us=CALM_US) as readers:
        readers.wait_open()
        open_ms = (cpu_seconds(ready.pid) - before) / count * 1e3
        source.send_paced(WARM_UP_RECORDS, per_second=PER_SECOND)
        readers.wait_for(source.vector)
        weight = (resident_bytes(ready.pid) - memory) / count
        writes, before = ready.writes(), cpu_seconds(ready.pid)
        source.send_paced(records, per_second=PER_SECOND)
        readers.wait_for(source.vector)
        spent = cpu_seconds(ready.pid) - before
        writes = ready.writes() - writes
    _until_gone(ready)
    return Paced(spent, writes, open_ms, weight)


def _saturated(ready: Stage, batches: int) -> float:
    """Million deliveries per CPU-second, with fetch."""
    source = ready.source
    with ready.readers(SATURATED_READERS) as readers:
        readers.wait_open()
        for number in range(batches + 2):
            if number == 2:
                before, delivered = cpu_seconds(ready.pid), readers.stats()["deliveries"]
            source.send(BATCH_RECORDS)
            readers.wait_for(source.vector, pause_seconds=0.002)
        spent = cpu_seconds(ready.pid) - before
        rate = float(readers.stats()["deliveries"] - delivered) / spent / 1e6
    _until_gone(ready)
    return rate


def _until_gone(ready: Stage) -> None:
    """Until what the last readers left behind is cleared away: it must not be on the next ones' account."""
    spent = cpu_seconds(ready.pid)
    while True:
        time.sleep(0.5)
        now = cpu_seconds(ready.pid)
        if now - spent < 0.02:
            return
        spent = now
