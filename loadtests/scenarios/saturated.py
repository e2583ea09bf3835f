"""What a delivery costs when there is always more to send: slices grow, and one write carries hundreds of records."""

from __future__ import annotations

from loadtests.machine import cpu_seconds
from loadtests.stage import stage
from loadtests.table import Row, median, spread
from tests.parts.kafka import KafkaBroker

READERS = 2000
BATCH_RECORDS = 500


def run(running: KafkaBroker, *, quick: bool) -> list[Row]:
    """Deliveries per CPU-second. A batch follows when everybody has the one before: nobody is ever left behind."""
    batches, rounds = (6, 1) if quick else (20, 3)
    rates = []
    with stage(running, "saturated", partitions=1, linger_ms=20) as ready:
        source = ready.source
        with ready.readers(READERS) as readers:
            readers.wait_open()
            for _ in range(2):
                source.send(BATCH_RECORDS)
                readers.wait_for(source.vector, pause_seconds=0.002)
            for _ in range(rounds):
                before, delivered = cpu_seconds(ready.pid), readers.stats()["deliveries"]
                for _ in range(batches):
                    source.send(BATCH_RECORDS)
                    readers.wait_for(source.vector, pause_seconds=0.002)
                spent = cpu_seconds(ready.pid) - before
                rates.append((readers.stats()["deliveries"] - delivered) / spent / 1e6)
                print(f"saturated: {rates[-1]:.2f} M", flush=True)
    what = f"{READERS} SSE readers, batches of {BATCH_RECORDS}: million deliveries per CPU-second, with fetch"
    return [Row(what, spread(rates), "≥ 5", median(rates) >= 5)]
