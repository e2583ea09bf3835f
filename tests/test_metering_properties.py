"""Whatever happens in whatever order, nobody is billed twice and nothing that Kafka took is lost (MONEY's law)."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any
from uuid import UUID

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from gateway.clock import ManualClock
from gateway.database.database import Database
from gateway.errors import Unavailable
from gateway.metering.ledger import Ledger, Place
from gateway.metering.meter import Count, Meter
from gateway.metering.orphans import Orphans
from gateway.metering.publish import Publisher
from gateway.metering.slab import Slab
from gateway.metering.totals import decode
from tests.parts.metering import TOPIC, MemoryTopic, grant, memory_database, total

READS = 3
PARTITIONS = 2
FAULTS = st.sampled_from(["", "away", "lying"])
EXAMPLES = int(os.environ.get("METERING_EXAMPLES", "60"))


class Process:
    """One life: a meter on a slab, some reads, and how much was counted and acknowledged of it."""

    def __init__(self, number: int, directory: Path, topic: MemoryTopic, clock: ManualClock) -> None:
        slab = Slab.create(directory, source=UUID(int=number), now=clock.now())
        self.slab = slab
        self.meter = Meter(slab, clock=clock)
        self.publisher = Publisher(self.meter, topic, clock=clock, node="n")
        self.reads: list[Count] = [self.meter.begin(grant(f"t{number}"), transport="sse") for number in range(READS)]
        self.sent = 0
        self.acked = 0
        self.lowered = 0


class Metering(RuleBasedStateMachine):
    """Processes count, publish, die; somebody adopts; the ledger merges what it likes, and is lost."""

    @initialize()
    def begin(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="metering-"))
        self.clock = ManualClock(now=1_700_000_000)
        self.topic = MemoryTopic(PARTITIONS)
        self.lives = 0
        self.processes = [self.process()]
        self.orphans = self.new_orphans()
        self.dead_sent = self.dead_acked = 0
        self.is_taken_back = self.is_stale = False
        self.read = [0] * PARTITIONS
        self.open_ledger()

    def teardown(self) -> None:
        if not hasattr(self, "database"):
            return
        # However it went, it can end well.
        self.all_is_billed_in_the_end()
        self.database.close()
        self.orphans.close()
        for one in self.processes:
            one.slab.close()
        shutil.rmtree(self.directory)

    def process(self) -> Process:
        self.lives += 1
        return Process(self.lives, self.directory, self.topic, self.clock)

    def new_orphans(self) -> Orphans:
        return Orphans(self.directory, self.topic, clock=self.clock, node="n")

    def open_ledger(self) -> None:
        self.database: Database = memory_database()
        self.ledger = Ledger(self.database)
        self.read = [0] * PARTITIONS

    def do(self, work: Any) -> bool:
        """Whether Kafka said that it has it."""
        try:
            asyncio.run(work)
        except Unavailable:
            return False
        return True

    # ---- what may happen -----------------------------------------------------------------------------------------

    @rule(which=st.integers(0, 5), read=st.integers(0, READS - 1), records=st.integers(1, 50))
    def count(self, which: int, read: int, records: int) -> None:
        process = self.processes[which % len(self.processes)]
        process.reads[read].add(records, 10 * records, records)
        process.meter.flush()
        process.sent += records

    @rule(which=st.integers(0, 5), read=st.integers(0, READS - 1), records=st.integers(1, 20))
    def take_back(self, which: int, read: int, records: int) -> None:
        process = self.processes[which % len(self.processes)]
        records = min(records, process.sent - process.acked)
        process.reads[read].take_back(records, 10 * records, records, 0, 0)
        process.lowered += records
        self.is_taken_back = self.is_taken_back or records > 0

    @rule(seconds=st.sampled_from([1, 100, 900, 2000]))
    def wait(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @rule(which=st.integers(0, 5), fault=FAULTS)
    def flush(self, which: int, fault: str) -> None:
        process = self.processes[which % len(self.processes)]
        self.topic.away, self.topic.lying = fault == "away", fault == "lying"
        if self.do(process.publisher.publish()):
            process.acked = max(process.acked, process.sent - process.lowered)
        self.topic.away = self.topic.lying = False

    @rule(which=st.integers(0, 5), records=st.lists(st.integers(1, 50), min_size=READS, max_size=READS), fault=FAULTS)
    def count_and_flush(self, which: int, records: list[int], fault: str) -> None:
        for read, count in enumerate(records):
            self.count(which, read, count)
        self.flush(which, fault)

    @rule(source=st.integers(0, 100), partition=st.integers(0, PARTITIONS - 1))
    def duplicate(self, source: int, partition: int) -> None:
        log = self.topic.logs[partition]
        if log:
            again = log[source % len(log)]
            self.is_stale = self.is_stale or dict(log)[again[0]] != again[1]
            log.append(again)

    @rule(which=st.integers(0, 100), count=st.integers(1, 10), partition=st.integers(0, PARTITIONS - 1))
    def reorder(self, which: int, count: int, partition: int) -> None:
        """The ledger sees some messages early, and again in their turn."""
        messages = self.topic.messages()
        self.ledger.merge(reversed(messages[which % (len(messages) + 1) :][:count]))

    @rule(limit=st.integers(1, 20), partition=st.integers(0, PARTITIONS - 1))
    def collect(self, limit: int, partition: int) -> None:
        log = self.topic.logs[partition]
        some = log[self.read[partition] :][:limit]
        self.read[partition] += len(some)
        place = Place(TOPIC, "", {partition: self.read[partition]})
        self.ledger.merge([decode(value) for _, value in some], place)

    @rule(which=st.integers(0, 5), adopts=st.booleans())
    def kill(self, which: int, adopts: bool) -> None:
        process = self.processes.pop(which % len(self.processes))
        # As the kernel does for a killed process: the lock is free, the mapped pages stay.
        process.slab.close()
        self.dead_sent += process.sent
        self.dead_acked += max(0, process.acked)
        self.processes.append(self.process())
        if adopts:
            self.adopt("")

    @rule(fault=FAULTS)
    def adopt(self, fault: str) -> None:
        self.topic.away, self.topic.lying = fault == "away", fault == "lying"
        self.orphans.look()
        self.do(self.orphans.publish())
        self.topic.away = self.topic.lying = False

    @rule()
    def adopter_dies(self) -> None:
        self.orphans.close()
        self.orphans = self.new_orphans()

    @rule()
    def settle(self) -> None:
        positions = self.ledger.place(TOPIC).positions
        reached = lambda partition, offset: positions.get(partition, 0) > offset  # noqa: E731
        for process in self.processes:
            process.publisher.settle(reached)
        self.orphans.settle(reached)

    @rule()
    def lose_ledger_and_rebuild(self) -> None:
        self.collect_all()
        before = self.ledger.digest()
        self.database.close()
        self.open_ledger()
        self.collect_all()
        assert self.ledger.digest() == before
        # And out of what a compacted topic keeps, in any order.
        if self.is_stale:
            # A late message stays the last of its key until its process, which knows that a call of its own failed,
            # says once more what holds.
            return
        other = memory_database()
        again = Ledger(other)
        again.merge(reversed(self.topic.compacted()))
        assert total(again) == total(self.ledger)
        other.close()

    def collect_all(self) -> None:
        for partition in range(PARTITIONS):
            self.collect(10**6, partition)

    # ---- what always holds ---------------------------------------------------------------------------------------

    @invariant()
    def nobody_is_billed_for_what_was_not_sent(self) -> None:
        if hasattr(self, "ledger"):
            sent = self.dead_sent + sum(one.sent for one in self.processes)
            assert total(self.ledger).get("records", 0) <= sent

    @invariant()
    def a_tenant_s_bytes_belong_to_its_records(self) -> None:
        if hasattr(self, "ledger"):
            found = total(self.ledger)
            assert found.get("bytes", 0) == 10 * found.get("records", 0)

    @rule()
    def everything_acknowledged_is_billed(self) -> None:
        self.collect_all()
        acked = self.dead_acked + sum(one.acked for one in self.processes)
        assert total(self.ledger).get("records", 0) >= acked

    @rule()
    def all_is_billed_in_the_end(self) -> None:
        """Everybody flushes, every orphan is adopted: what was counted and not taken back is what the ledger says."""
        self.adopt("")
        for process in self.processes:
            assert self.do(process.publisher.publish())
            process.acked = max(process.acked, process.sent - process.lowered)
        self.collect_all()
        sent = self.dead_sent + sum(one.sent for one in self.processes)
        if not self.is_taken_back:
            assert total(self.ledger).get("records", 0) == sent
        counted = sum(cell.records for one in self.processes for group in one.meter.groups() for cell in group.cells)
        assert total(self.ledger).get("records", 0) >= counted


TestMetering = Metering.TestCase
TestMetering.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
