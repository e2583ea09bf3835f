"""A process's metering as a whole: its meter and slab, what tells of them, and what takes that into the ledger."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Protocol
from uuid import UUID, uuid4

from gateway.clock import Clock
from gateway.errors import Unavailable
from gateway.kafka.faults import AccessDenied
from gateway.metering.collector import Collector, CollectorStatus, Follower
from gateway.metering.ledger import Ledger, Place
from gateway.metering.meter import Meter, OnFailure
from gateway.metering.orphans import Orphans
from gateway.metering.publish import Producer, Publisher
from gateway.metering.slab import Slab
from gateway.status import MeteringStatus

PUBLISH_SECONDS: Final = 1.0
ROLL_SECONDS: Final = 1.0
"""How long a jump of the clock over the end of a bucket may stay unnoticed, whether Kafka is there or not."""

LOOK_SECONDS: Final = 2.0
"""How often orphans are looked for, and whether the ledger has what waits to be forgotten."""

BACKOFF_SECONDS: Final = 10.0
"""Longest time between two tries to reach Kafka."""

LATE_SECONDS: Final = 30.0
"""How long nothing may have been published before health says so."""

SETTLE_SECONDS: Final = 5.0
"""How long a process that ends waits for the ledger to have its last word: long enough to take the ledger over from one
that has just ended."""

_SETTLE_EVERY_SECONDS: Final = 0.05
_log = logging.getLogger("gateway.metering")

Run = Callable[..., Awaitable[Any]]


class Topic(Producer, Protocol):
    """The usage topic, made where it is missing."""

    async def ensure_topic(self, *, partitions: int = 1) -> bool:
        """Whether it was made now. Raises Unavailable."""
        ...

    async def retention_problem(self) -> str | None:
        """What is wrong with how it keeps its records."""
        ...


class Metering:
    """Owns one life of a process: a source. Run its ``tasks``; at the end ``drain`` after the last
    delivery, cancel the tasks, ``close``."""

    def __init__(
        self,
        directory: Path,
        *,
        topic: Topic | None,
        topic_name: str,
        follower: Follower | None,
        ledger: Ledger,
        run: Run,
        clock: Clock,
        on_failure: OnFailure = "deliver",
        source: UUID | None = None,
    ) -> None:
        """``topic`` and ``follower`` None: there is no Kafka to tell, and what is counted waits in the slab."""
        self._directory = directory
        self._topic = topic
        self._topic_name = topic_name
        self._ledger = ledger
        self._run = run
        self._clock = clock
        self._source = source or uuid4()
        self._trouble: str | None = None
        self._is_refused = False
        self._is_kept = True
        self._is_topic_sure = False
        self._is_registered = False
        self._known: Place | None = None
        self._publishing = asyncio.Lock()
        self._is_over = False
        self._published_at = clock.monotonic()
        node = f"{socket.gethostname()}:{os.getpid()}"[:255]
        self.meter = Meter(self._new_slab(), clock=clock, source=self._source, on_failure=on_failure)
        if self.meter.slab is None:
            self.meter.trouble = self._trouble
        self._publisher = None if topic is None else Publisher(self.meter, topic, clock=clock, node=node)
        self._orphans = None if topic is None else Orphans(directory, topic, clock=clock, node=node)
        self.collector = (
            None
            if follower is None
            else Collector(follower, ledger, topic=topic_name, run=run, clock=clock, holder=str(self._source))
        )

    def _new_slab(self) -> Slab | None:
        try:
            return Slab.create(self._directory, source=self._source, now=self._clock.now())
        except OSError as error:
            self._trouble = f"no slab in {self._directory}: {error.strerror or error}"
            self._tell_kept(self._trouble)
            return None

    def _tell_kept(self, trouble: str | None) -> None:
        """Once each time that it changes."""
        if (trouble is None) == self._is_kept:
            return
        self._is_kept = trouble is None
        if trouble is None:
            _log.info("usage is kept in %s again", self._directory)
        else:
            _log.error("usage cannot be kept on disk, and a crash loses it: %s", trouble)

    def tasks(self) -> list[tuple[str, Coroutine[Any, Any, None]]]:
        """What has to run, by name, each until cancelled."""
        found = [("metering", self.run())]
        if self.collector is not None:
            found.append(("ledger", self.collector.run()))
        return found

    # ---- while running -------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Roll at each quarter of an hour, publish every second, adopt, mend; until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._roll())
            if self._publisher is not None:
                group.create_task(self._publish())
            group.create_task(self._look_after())

    async def _roll(self) -> None:
        while True:
            await asyncio.sleep(max(0.001, min(self.meter.until_roll(), ROLL_SECONDS)))
            self.meter.roll()

    async def _publish(self) -> None:
        seconds = PUBLISH_SECONDS
        while True:
            try:
                await self.publish()
                seconds = PUBLISH_SECONDS
            except Unavailable as fault:
                seconds = min(2 * seconds, BACKOFF_SECONDS)
                _log.debug("usage is not published: %s", fault)
            except Exception:  # noqa: BLE001 - the next try may go well; a dead task would say nothing
                seconds = min(2 * seconds, BACKOFF_SECONDS)
                _log.exception("usage could not be published; it is tried again")
            await asyncio.sleep(seconds)

    async def publish(self) -> None:
        """Tell once what is new. Raises Unavailable."""
        if self._publisher is None or self._orphans is None:
            return
        async with self._publishing:
            if self._is_over:
                return
            try:
                await self._ensure_topic()
                await self._publisher.publish()
                await self._orphans.publish()
            except Exception as fault:
                self._is_topic_sure = False
                self._tell(fault)
                raise
            self._published_at = self._clock.monotonic()
            self._is_refused = False

    async def _ensure_topic(self) -> None:
        """At the start, and again after every fault: a topic may be deleted."""
        if self._topic is None or self._is_topic_sure:
            return
        if await self._topic.ensure_topic():
            _log.info("topic %s was made", self._topic_name)
        problem = await self._topic.retention_problem()
        if problem is not None:
            _log.warning("usage is not safe in Kafka: %s", problem)
        self._is_topic_sure = True

    def _tell(self, fault: Exception) -> None:
        text = str(fault)
        # That Kafka is away is told by its own check; that somebody has to give us a right, only here.
        self._is_refused = isinstance(fault, AccessDenied)
        if self._is_refused and text != self._trouble:
            _log.error("usage is not published, and waits in its slab: %s", text)
        self._trouble = text

    async def _look_after(self) -> None:
        while True:
            try:
                await self.look_after()
            except Unavailable as fault:
                _log.debug("usage is not looked after: %s", fault)
            except Exception:  # noqa: BLE001 - the next try may go well; a dead task would say nothing
                _log.exception("slabs could not be looked after; it is tried again")
            await asyncio.sleep(LOOK_SECONDS)

    async def look_after(self) -> None:
        """Once: register, mend the slab, take up orphans, forget what the ledger has. Raises Unavailable."""
        self._mend()
        if self._orphans is not None:
            self._orphans.look()
        await self.register()
        await self._settle()

    async def register(self) -> None:
        """Let the ledger know of this source before it delivers. Raises Unavailable."""
        if not self._is_registered and self._publisher is not None:
            await self._run(self._ledger.register, self._publisher.word())
            self._is_registered = True

    def _mend(self) -> None:
        meter = self.meter
        self._tell_kept(meter.trouble)
        if meter.slab is None:
            slab = self._new_slab()
            if slab is not None:
                meter.use(slab)
        else:
            meter.mend()
        self._tell_kept(meter.trouble)

    async def _settle(self) -> None:
        publisher, orphans = self._publisher, self._orphans
        if publisher is None or orphans is None:
            return
        place = await self._look_up()
        publisher.settle(place)
        orphans.settle(place)

    async def _look_up(self) -> Callable[[int, int], bool]:
        """How far the ledger is. Where it is not as far as it was, everything is told again."""
        place: Place = await self._run(self._ledger.place, self._topic_name)
        known, self._known = self._known, place
        if known is not None and any(place.positions.get(one, 0) < at for one, at in known.positions.items()):
            self.meter.soil_all()
            if self._orphans is not None:
                self._orphans.tell_again()
        return lambda partition, offset: place.positions.get(partition, 0) > offset

    # ---- the end -------------------------------------------------------------------------------------------------

    async def drain(self, *, within_seconds: float) -> bool:
        """After the last delivery: tell what is left and wait until Kafka has it; whether it has. What is not told in
        time waits in the slab for the next process of this volume."""
        publisher = self._publisher
        if publisher is None:
            self.meter.close()
            return False
        until = asyncio.get_running_loop().time() + within_seconds
        try:
            async with asyncio.timeout_at(until), self._publishing:
                self._is_over = True
                await self._ensure_topic()
                await publisher.finish()
        except (Unavailable, TimeoutError) as fault:
            _log.warning("usage was not published before the end, and waits in its slab: %s", fault or "no time left")
            return False
        with suppress(Unavailable, TimeoutError):
            async with asyncio.timeout_at(min(until, asyncio.get_running_loop().time() + SETTLE_SECONDS)):
                while not publisher.has_ended(await self._look_up()):  # noqa: ASYNC110 - it is the database's news
                    await asyncio.sleep(_SETTLE_EVERY_SECONDS)
                # A read that outlived the drain may still have counted: then the slab is for the next process.
                if self.meter.slab is not None and not self.meter.take_dirty():
                    self.meter.slab.remove()
        return True

    async def close(self) -> None:
        """Let go of slabs and lease."""
        self.meter.flush()
        if self.collector is not None:
            await self.collector.close()
        if self._orphans is not None:
            self._orphans.close()
        if self.meter.slab is not None:
            self.meter.slab.close()
            self.meter.slab = None

    def status(self) -> MeteringStatus:
        """How it stands."""
        lines, cells = self.meter.counts
        collector = CollectorStatus(False, 0, 0, None, None) if self.collector is None else self.collector.status()
        late = 0.0 if self._publisher is None else self._clock.monotonic() - self._published_at
        return MeteringStatus(
            trouble=self._told(late, collector),
            lines=lines,
            cells=cells,
            slab_bytes=0 if self.meter.slab is None else self.meter.slab.size_bytes,
            published=0 if self._publisher is None else self._publisher.published,
            unpublished_seconds=None if self._publisher is None else late,
            orphans={} if self._orphans is None else dict(self._orphans.counts),
            is_leader=collector.is_leader,
            merged=collector.merged,
            refused=collector.refused,
            lag=collector.lag,
        )

    def _told(self, late: float, collector: CollectorStatus) -> str | None:
        if self.meter.trouble is not None:
            return f"{self.meter.trouble}; what is counted would be lost with the process"
        if self._publisher is None:
            return "there is no Kafka cluster to keep usage in"
        # What nobody gives a right for does not pass by itself.
        if late > LATE_SECONDS or self._is_refused:
            return f"not published for {late:.0f} s: {self._trouble}"
        if self.meter.ahead_seconds > 0:
            return f"the clock was set back {self.meter.ahead_seconds:.0f} s behind what is counted"
        return None if collector.trouble is None else f"not taken into the ledger: {collector.trouble}"
