"""What a connection weighs that has nothing to read."""

from __future__ import annotations

import time

from loadtests.machine import resident_bytes
from loadtests.readers import Protocol
from loadtests.stage import stage
from loadtests.table import Row
from tests.parts.kafka import KafkaBroker

READERS = 2000
WARM_UP_READERS = 200
HEARTBEAT_SECONDS = 15


def run(running: KafkaBroker, *, quick: bool) -> list[Row]:
    """Growth of the gateway's own memory by 2 000 connections after their first heartbeats, for each protocol."""
    rows = []
    for protocol, bar in (("sse", 16), ("ws", 26)):
        weight = _weight(running, protocol, settle_seconds=3 if quick else 2 * HEARTBEAT_SECONDS + 2)  # type: ignore[arg-type]
        print(f"idle: {protocol} {weight / 1024:.1f} KB", flush=True)
        name = f"idle {'SSE' if protocol == 'sse' else 'WebSocket'} connection, {READERS} of them: KB"
        rows.append(Row(name, f"{weight / 1024:.1f}", f"≤ {bar}", weight <= bar * 1024))
    return rows


def _weight(running: KafkaBroker, protocol: Protocol, *, settle_seconds: float) -> float:
    """Bytes per connection. The first connections are not counted: they pay for code and caches that all share."""
    with (
        stage(running, f"idle-{protocol}", heartbeat_seconds=HEARTBEAT_SECONDS) as ready,
        ready.readers(WARM_UP_READERS, protocol=protocol) as first,
    ):
        first.wait_open()
        time.sleep(min(settle_seconds, HEARTBEAT_SECONDS + 1))
        before = resident_bytes(ready.pid)
        with ready.readers(READERS, protocol=protocol) as readers:
            readers.wait_open()
            time.sleep(settle_seconds)
            weight = (resident_bytes(ready.pid) - before) / READERS
            # All of them are alive: each gets this one.
            ready.source.send(4)
            readers.wait_for(ready.source.vector)
            first.wait_for(ready.source.vector)
    return weight
