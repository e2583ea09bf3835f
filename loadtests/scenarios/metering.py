"""What it costs to count a batch, to publish a second's usage, and to take usage into a ledger."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

from gateway.clock import SystemClock
from gateway.database.database import Bounds, Database
from gateway.database.schema import Schema
from gateway.kafka.cluster import ClusterSettings, KafkaCluster
from gateway.kafka.producer import Producer
from gateway.metering.ledger import Ledger, Place
from gateway.metering.meter import Meter
from gateway.metering.publish import Publisher
from gateway.metering.slab import Slab
from gateway.metering.totals import VERSION, CellTotals, Totals, decode, encode
from gateway.server.loop import settle_collector
from loadtests.machine import cpu_seconds
from loadtests.stage import Stage, stage
from loadtests.table import Row, median, spread
from tests.parts.kafka import KafkaBroker
from tests.parts.metering import grant
from tests.parts.postgres import server

ROUNDS = 15
COUNTS = 200_000
COUNT_BAR_US = 0.6
TENANTS = 500
PASSES = 20
PUBLISH_BAR = 0.03
"""Of a core, at one pass a second with news of all tenants."""

MESSAGES = 20_000
BATCH = 2000
LEDGER_BAR = 5000

READS = 50

READERS = 500
PER_SECOND = 50
WARM_UP_RECORDS = 25
RECORDS = 150
TURNS = 8
DELIVERY_BAR = 1.05


def run(broker: KafkaBroker, *, quick: bool) -> list[Row]:
    """Counting, publishing, and both ledgers."""
    settle_collector()
    with tempfile.TemporaryDirectory(prefix="metering-") as name:
        directory = Path(name)
        rows = [Row("**Metering**", "")]
        rows += [_count(directory, reads=reads, rounds=3 if quick else ROUNDS) for reads in (1, READS)]
        rows.append(asyncio.run(_publish(directory, broker.bootstrap, passes=3 if quick else PASSES)))
        messages = MESSAGES // 10 if quick else MESSAGES
        rows.append(_ledger("SQLite", f"sqlite:///{directory}/ledger.db", messages))
        with server() as postgres:
            rows.append(_ledger("Postgres", postgres.create_database(), messages))
    rows.append(_deliveries(broker, records=25 if quick else RECORDS, rounds=1 if quick else TURNS))
    return rows


def _count(directory: Path, *, reads: int, rounds: int) -> Row:
    """CPU time of the process, the flip in the slab and the caller's loop included. So many ``reads`` of one key count
    in each round of the pump, after which there is a flip."""
    slab = Slab.create(directory, source=uuid4(), now=time.time())
    meter = Meter(slab, clock=SystemClock())
    adds = [meter.begin(grant(), transport="sse").add for _ in range(reads)]
    flush = meter.flush
    costs = []
    for _ in range(rounds):
        began = time.process_time()
        for _ in range(COUNTS // reads):
            for add in adds:
                add(3, 720, 3)
            flush()
        costs.append((time.process_time() - began) / (COUNTS // reads * reads) * 1e6)
    slab.close()
    bar = f"≤ {COUNT_BAR_US:g}"
    title = "one batch counted" if reads == 1 else f"of {reads} reads in a round, one batch counted"
    return Row(
        f"{title}, its part of a flip included: µs", spread(costs, digits=2), bar, met=median(costs) <= COUNT_BAR_US
    )


async def _publish(directory: Path, bootstrap: str, *, passes: int) -> Row:
    clock = SystemClock()
    slab = Slab.create(directory, source=uuid4(), now=clock.now())
    meter = Meter(slab, clock=clock)
    cluster = KafkaCluster(ClusterSettings(bootstrap), clock=clock)
    producer = Producer(cluster, f"usage-{uuid4()}")
    await producer.ensure_topic()
    publisher = Publisher(meter, producer, clock=clock, node="loadtest")
    reads = [meter.begin(grant(f"tenant-{number}"), transport="sse") for number in range(TENANTS)]
    shares = []
    for _ in range(passes):
        for read in reads:
            read.add(3, 720, 3)
        began = time.process_time()
        await publisher.publish()
        shares.append(time.process_time() - began)
    slab.close()
    await cluster.close()
    met = median(shares) <= PUBLISH_BAR
    return Row(
        f"{TENANTS} tenants with news published each second: share of a core",
        spread(shares, digits=4),
        f"≤ {PUBLISH_BAR}",
        met=met,
    )


def _ledger(name: str, url: str, count: int) -> Row:
    """From bytes to committed rows, first as news and then as larger totals of the same cells."""
    database = Database(url, bounds=Bounds(statement_seconds=60))
    Schema(database).require(may_upgrade=True)
    ledger = Ledger(database)
    rates = []
    for total in (1, 2):
        values = [encode(_totals(number, total)) for number in range(count)]
        rates.append(count / _seconds(lambda values=values: _merge(ledger, values)))  # type: ignore[misc]
    database.close()
    return Row(
        f"ledger on {name}: messages a second, new and known",
        " and ".join(f"{rate:.0f}" for rate in rates),
        f"≥ {LEDGER_BAR}",
        met=min(rates) >= LEDGER_BAR,
    )


def _totals(number: int, total: int) -> Totals:
    """A message of two cells: a tenant's quarter of an hour."""
    counts = (total, 240 * total, total, 60, 0, 0, 0, 0, 0)
    cells = tuple(CellTotals("web", stream, "gold", 1, "sse", True, counts) for stream in ("flights", "quakes"))
    bucket = 1_700_000_100 // 900 * 900 + 900 * (number // TENANTS)
    return Totals(VERSION, "source", total, f"tenant-{number % TENANTS}", bucket, cells)


def _merge(ledger: Ledger, values: list[bytes]) -> None:
    for first in range(0, len(values), BATCH):
        some = [decode(value) for value in values[first : first + BATCH]]
        ledger.merge(some, Place("usage", "", {0: first + len(some)}))


def _seconds(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _deliveries(running: KafkaBroker, *, records: int, rounds: int) -> Row:
    """Two gateways that differ in metering alone, by turns."""
    ratios = []
    off = {"metering": {"enabled": False}}
    on = {"metering": {"topic": f"usage-{uuid4()}"}}
    with stage(running, "unmetered", settings=off) as without, stage(running, "metered", settings=on) as with_it:
        for number in range(rounds + 1):
            # Every second round the other way round: what follows what must not matter.
            order = (without, with_it) if number % 2 else (with_it, without)
            found = {one is with_it: _each_us(one, records) for one in order}
            print(f"metering: {found[False]:.2f} µs without, {found[True]:.2f} µs with", flush=True)
            if number:
                # The first one warms both up.
                ratios.append(found[True] / found[False])
    met = median(ratios) <= DELIVERY_BAR
    return Row(f"a delivery to {READERS} SSE readers, metered ÷ not", spread(ratios), f"≤ {DELIVERY_BAR}", met=met)


def _each_us(ready: Stage, records: int) -> float:
    """CPU time of the gateway for a delivery, records coming one at a time."""
    with ready.readers(READERS, pause_us=1000) as readers:
        readers.wait_open()

        def send(count: int) -> None:
            ready.source.send_paced(count, per_second=PER_SECOND)
            readers.wait_for(ready.source.vector)

        send(WARM_UP_RECORDS)
        before = cpu_seconds(ready.pid)
        send(records)
        return (cpu_seconds(ready.pid) - before) / records / READERS * 1e6
