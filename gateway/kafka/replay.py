"""Old reads of one cluster: few consumers, given out by turns for one slice at a time."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass

from aiokafka.errors import OffsetOutOfRangeError

from gateway.kafka.cluster import KafkaCluster
from gateway.kafka.faults import OutOfRange
from gateway.kafka.offsets import Offsets
from gateway.kafka.slices import ConsumerBroken, SliceReader, Stretch
from gateway.model import Record, Vector
from gateway.status import ReplayStatus


@dataclass(frozen=True, slots=True)
class Replayed:
    """One slice. ``vector`` is the position after it, past control records and holes too."""

    records: list[Record]
    vector: Vector


class ReplayPool:
    """At most ``consumers`` consumers for all old reads of one cluster, given out first come, first served.

    Each ``read`` is one slice and holds a consumer for that long only, so a slow client never holds one. A slice that
    begins where an idle consumer stands goes on from what that consumer has fetched ahead. A consumer buffers at most
    1 MiB (as compressed) for each partition, and is closed after ``max_age_idle_seconds`` without use.
    """

    def __init__(
        self, cluster: KafkaCluster, offsets: Offsets, *, consumers: int = 4, max_age_idle_seconds: float = 30
    ) -> None:
        self._cluster = cluster
        self._offsets = offsets
        self._turns = asyncio.Semaphore(consumers)
        self._readers = [SliceReader(cluster) for _ in range(consumers)]
        # In the order in which they became idle, each with the time.
        self._idle: dict[SliceReader, float] = dict.fromkeys(self._readers, -math.inf)
        self._max_age_idle_seconds = max_age_idle_seconds
        self._sweeping: asyncio.Task[None] | None = None
        self._closed = False
        self._waiting = 0

    @property
    def status(self) -> ReplayStatus:
        """How many slices are read and how many wait, now."""
        return ReplayStatus(self._cluster.name, len(self._readers) - len(self._idle), self._waiting)

    async def read(
        self, topic: str, start: Vector, until: Vector, *, max_records: int = 2000, max_bytes: int = 1 << 20
    ) -> Replayed:
        """Records with ``start[p] ≤ offset < until[p]``: ``max_records`` at most, and about ``max_bytes``.

        At least one record or a vector that has moved on; never a record at or beyond ``until``, never a position
        beyond it. In order within each partition; partitions with ``start[p] ≥ until[p]`` are left alone. ``max_bytes``
        counts keys and values, and is missed where sizes vary much. Raises OutOfRange and KafkaUnavailable.
        """
        stretch = Stretch(topic, start, until)
        if not stretch.wanted:
            return Replayed([], start)
        self._waiting += 1
        try:
            await self._turns.acquire()
        finally:
            self._waiting -= 1
        try:
            # One pass of the loop for each slice, even where the buffer has it all: others live on this loop too.
            await asyncio.sleep(0)
            reader = self._sit(stretch)
            try:
                return await self._read(reader, stretch, max_records=max_records, max_bytes=max_bytes)
            finally:
                await self._rise(reader)
        finally:
            self._turns.release()

    async def close(self) -> None:
        """Close the idle consumers now, and those in use when their slice is done."""
        self._closed = True
        if self._sweeping is not None:
            self._sweeping.cancel()
        for reader in list(self._idle):
            await reader.stop()

    def _sit(self, stretch: Stretch) -> SliceReader:
        if self._closed:
            raise self._cluster.unavailable("old records are read no more")
        reader = next((one for one in self._idle if one.continues(stretch)), None)
        if reader is None:
            # One without a consumer, else the one left longest: nobody goes on with that one any more, most likely.
            reader = min(self._idle, key=lambda one: (one.is_open, self._idle[one]))
        del self._idle[reader]
        return reader

    async def _rise(self, reader: SliceReader) -> None:
        loop = asyncio.get_running_loop()
        if self._closed:
            await reader.stop()
        self._idle[reader] = loop.time()
        if not self._closed and (self._sweeping is None or self._sweeping.done()):
            self._sweeping = loop.create_task(self._sweep())

    async def _read(self, reader: SliceReader, stretch: Stretch, *, max_records: int, max_bytes: int) -> Replayed:
        for is_last in (False, True):
            try:
                return Replayed(*await reader.read(stretch, max_records=max_records, max_bytes=max_bytes))
            except OffsetOutOfRangeError as fault:
                earliest, latest = await self._offsets.bounds(stretch.topic)
                raise OutOfRange(earliest=earliest, latest=latest) from fault
            except ConsumerBroken as broken:
                if is_last:
                    raise self._cluster.unavailable(f"topic {stretch.topic} cannot be read: {broken}") from broken
        raise AssertionError("the second attempt returns or raises")

    async def _sweep(self) -> None:
        """Close consumers that nobody uses any more, until none is open."""
        loop = asyncio.get_running_loop()
        while any(reader.is_open for reader in self._readers):
            await asyncio.sleep(self._max_age_idle_seconds / 4)
            limit = loop.time() - self._max_age_idle_seconds
            for reader in [one for one, since in self._idle.items() if since <= limit]:
                await reader.stop()
