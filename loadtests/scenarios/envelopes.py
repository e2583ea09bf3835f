"""What a CloudEvents envelope costs beside the gateway's own record, at fan-out."""

from __future__ import annotations

from collections.abc import Callable

from loadtests.machine import cpu_seconds
from loadtests.readers import Protocol, Readers
from loadtests.stage import Stage, stage
from loadtests.table import Row, median, spread
from tests.parts.kafka import KafkaBroker

READERS = 500
PER_SECOND = 50
WARM_UP_RECORDS = 20
BATCH_RECORDS = 500
ENVELOPES = ("record", "cloudevents")

Costs = dict[str, list[float]]


def run(running: KafkaBroker, *, quick: bool) -> list[Row]:
    """CPU per delivery with both envelopes, one record at a time and in batches; ratios of neighbours.

    Turns are short, so that what else the machine does is the same in two that follow each other.
    """
    records, batches, rounds = (100, 10, 1) if quick else (100, 10, 15)
    costs: Costs = {}
    with stage(running, "envelopes", linger_ms=5) as ready:

        def paced(readers: Readers) -> int:
            ready.source.send_paced(records, per_second=PER_SECOND)
            readers.wait_for(ready.source.vector)
            return records

        def batched(readers: Readers) -> int:
            for _ in range(batches):
                ready.source.send(BATCH_RECORDS)
                readers.wait_for(ready.source.vector, pause_seconds=0.002)
            return batches * BATCH_RECORDS

        for number in range(rounds):
            for what, send in (("sse", paced), ("ws", paced), ("batches", batched)):
                # Every second round the other way round: what follows what must not matter.
                for envelope in ENVELOPES[:: -1 if number % 2 else 1]:
                    cost = _cost(ready, envelope, "ws" if what == "ws" else "sse", send)
                    costs.setdefault(f"{what} {envelope}", []).append(cost)
            print("envelopes:", {name: round(found[-1], 3) for name, found in costs.items()}, flush=True)
    what = f"{READERS} readers, {PER_SECOND} records/s: µs CPU per delivery, with fetch"
    return [
        Row(f"`record`, SSE, {what}", spread(costs["sse record"])),
        Row(f"CloudEvents, SSE, {what}", spread(costs["sse cloudevents"])),
        _ratio("CloudEvents ÷ `record`, SSE", costs, "sse", bar=1.2),
        Row(f"`record`, WebSocket, {what}", spread(costs["ws record"])),
        Row(f"CloudEvents, WebSocket, {what}", spread(costs["ws cloudevents"])),
        _ratio("CloudEvents ÷ `record`, WebSocket", costs, "ws", bar=1.2),
        _ratio(f"CloudEvents ÷ `record`, SSE, batches of {BATCH_RECORDS}", costs, "batches"),
    ]


def _ratio(name: str, costs: Costs, what: str, *, bar: float | None = None) -> Row:
    pairs = zip(costs[f"{what} cloudevents"], costs[f"{what} record"], strict=True)
    found = [above / below for above, below in pairs]
    return Row(name, spread(found), "" if bar is None else f"≤ {bar}", None if bar is None else median(found) <= bar)


def _cost(ready: Stage, envelope: str, protocol: Protocol, send: Callable[[Readers], int]) -> float:
    """µs CPU of the gateway per delivery; the clock stops when every reader has everything."""
    with ready.readers(READERS, protocol=protocol, query=f"envelope={envelope}", pause_us=1000) as readers:
        readers.wait_open()
        ready.source.send_paced(WARM_UP_RECORDS, per_second=PER_SECOND)
        readers.wait_for(ready.source.vector)
        before = cpu_seconds(ready.pid)
        deliveries = send(readers) * READERS
        return (cpu_seconds(ready.pid) - before) / deliveries * 1e6
