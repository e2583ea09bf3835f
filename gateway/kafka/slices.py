"""One consumer that reads stretches of topics in slices and remembers where it stands between them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import OffsetOutOfRangeError

from gateway.kafka.cluster import KafkaCluster, doubt_about, fetching_failure, stop_consumer
from gateway.kafka.faults import describe
from gateway.kafka.records import decode, payload_bytes, with_next
from gateway.model import Record, Vector

PROGRESS_SECONDS = 5.0
"""How long a slice waits for its first progress before the consumer counts as stuck."""

MOST_SHARING = 64
"""With more partitions than this, asking for each of them costs more than what they give."""

_POLL_MS = 100
_FIRST_GUESS_BYTES = 512.0
# An old read always finds data, so a fetch need not wait long for some; a consumer left standing at an end must not
# ask a thousand times a second either.
_FETCH: dict[str, int] = {
    "fetch_max_wait_ms": 100,
    "max_partition_fetch_bytes": 1024 * 1024,
    "fetch_max_bytes": 8 * 1024 * 1024,
}


@dataclass(frozen=True, slots=True)
class Stretch:
    """What to read: ``start[p] ≤ offset < until[p]``. A partition with ``start[p] ≥ until[p]`` has nothing to read."""

    topic: str
    start: Vector
    until: Vector

    @property
    def wanted(self) -> list[int]:
        """The partitions with something to read."""
        return [number for number, (at, end) in enumerate(zip(self.start, self.until, strict=True)) if at < end]


class ConsumerBroken(Exception):
    """The consumer is of no use any more; it has been closed, and another one may do."""


class SliceReader:
    """Reads slices, one at a time. Between two of them its consumer fetches ahead from where the first one ended."""

    def __init__(self, cluster: KafkaCluster) -> None:
        self._cluster = cluster
        self._consumer: AIOKafkaConsumer | None = None
        self._topic = ""
        # None for a partition that is paused and has nothing in the buffer.
        self._positions: list[int | None] = []
        self._record_bytes = _FIRST_GUESS_BYTES

    @property
    def is_open(self) -> bool:
        """Whether it holds a consumer."""
        return self._consumer is not None

    def continues(self, stretch: Stretch) -> bool:
        """Whether the stretch begins where this reader stands, so that its buffer is good for it."""
        return (
            self._consumer is not None
            and self._topic == stretch.topic
            and len(self._positions) == len(stretch.start)
            and all(self._positions[number] == stretch.start[number] for number in stretch.wanted)
        )

    async def read(self, stretch: Stretch, *, max_records: int, max_bytes: int) -> tuple[list[Record], Vector]:
        """Some records of the stretch, or at least a vector that has moved on.

        Raises OffsetOutOfRangeError (aiokafka's), KafkaUnavailable, ConsumerBroken. However it fails, or if it is
        cancelled, the next read seeks anew: records may have been taken that nobody received.
        """
        topic, self._topic = self._topic, ""
        try:
            await self._aim(stretch, topic)
            slice_ = await self._take(stretch, max_records=max_records, max_bytes=max_bytes)
        except ConsumerBroken:
            await self.stop()
            raise
        self._topic = stretch.topic
        return slice_

    async def stop(self) -> None:
        """Close the consumer, if there is one."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await stop_consumer(consumer)

    async def _aim(self, stretch: Stretch, topic: str) -> None:
        """Make the consumer, which is assigned to ``topic`` now, stand at the stretch's start and fetch no more."""
        start = stretch.start
        if self._consumer is None:
            self._consumer = await self._cluster.open_consumer(stretch.topic, dict(enumerate(start)), **_FETCH)
            self._positions = list(start)
        elif topic != stretch.topic or len(self._positions) != len(start):
            self._consumer.assign([TopicPartition(stretch.topic, number) for number in range(len(start))])
            for number, offset in enumerate(start):
                self._consumer.seek(TopicPartition(stretch.topic, number), offset)
            self._positions = list(start)
        wanted = set(stretch.wanted)
        for number in range(len(start)):
            tp = TopicPartition(stretch.topic, number)
            if number not in wanted:
                self._leave(tp)
            elif self._positions[number] != start[number]:
                self._consumer.seek(tp, start[number])
                self._consumer.resume(tp)
                self._positions[number] = start[number]

    def _leave(self, tp: TopicPartition) -> None:
        """Fetch no more of a partition and drop what was fetched ahead.

        The seek is what drops the buffer. It goes to an offset that no fetch on its way can be for: the answer would be
        kept, and aiokafka holds back all other partitions of a broker while an answer waits to be taken.
        """
        position = self._positions[tp.partition]
        if position is None or self._consumer is None:
            return
        self._consumer.pause(tp)
        self._consumer.seek(tp, 0 if position > 0 else 1)
        self._positions[tp.partition] = None

    async def _take(self, stretch: Stretch, *, max_records: int, max_bytes: int) -> tuple[list[Record], Vector]:
        consumer = self._consumer
        assert consumer is not None
        records: list[Record] = []
        vector = list(stretch.start)
        reading = [TopicPartition(stretch.topic, number) for number in stretch.wanted]
        left_bytes = max_bytes
        loop = asyncio.get_running_loop()
        deadline = loop.time() + PROGRESS_SECONDS
        while reading and len(records) < max_records and left_bytes > 0:
            room = max(1, min(max_records - len(records), int(left_bytes / self._record_bytes)))
            try:
                fetched: dict[TopicPartition, list[Any]] = {}
                for tp, share in _shares(reading, vector, stretch.until, room=room):
                    fetched |= await consumer.getmany(tp, timeout_ms=0, max_records=share)
                if not fetched:
                    # Waits only while there is nothing to give. Its own timeout and never wait_for: what a cancelled
                    # getmany has taken is gone.
                    fetched = await consumer.getmany(*reading, timeout_ms=0 if records else _POLL_MS, max_records=room)
                positions = [await consumer.position(tp) for tp in reading]
            except OffsetOutOfRangeError:
                raise
            except UnicodeDecodeError as fault:
                # Of a header's name; the consumer that replaces this one gets another.
                self._cluster.mistrust_names(stretch.topic)
                raise ConsumerBroken(describe(fault)) from fault
            except Exception as fault:
                raise ConsumerBroken(describe(fault)) from fault
            if any(position < vector[tp.partition] for tp, position in zip(reading, positions, strict=True)):
                raise ConsumerBroken("the broker's records go back")
            moved = False
            for tp, position in list(zip(reading, positions, strict=True)):
                number = tp.partition
                if position == vector[number]:
                    continue
                moved = True
                end = stretch.until[number]
                vector[number] = min(position, end)
                run = self._run(number, fetched.get(tp, ()), position=position, end=end)
                if position < end:
                    self._positions[number] = position
                else:
                    self._leave(tp)
                    reading.remove(tp)
                if run:
                    run_bytes = payload_bytes(run)
                    left_bytes -= run_bytes
                    self._record_bytes = max(1.0, run_bytes / len(run))
                    records += run
            if not fetched:
                if records or moved:
                    break
                self._check(consumer, reading, late=loop.time() > deadline)
        return records, tuple(vector)

    def _check(self, consumer: AIOKafkaConsumer, reading: Sequence[TopicPartition], *, late: bool) -> None:
        dead = fetching_failure(consumer)
        if dead is not None:
            raise ConsumerBroken(dead)
        if late:
            doubts = [doubt for doubt in (doubt_about(consumer, tp) for tp in reading) if doubt is not None]
            raise ConsumerBroken(doubts[0] if doubts else f"nothing came for {PROGRESS_SECONDS:g} s")

    def _run(self, partition: int, fetched: Sequence[object], *, position: int, end: int) -> list[Record]:
        """A run without what lies at or beyond ``end``."""
        run = decode(self._cluster, partition, fetched, position=position)
        if position > end:
            while run and run[-1].offset >= end:
                run.pop()
            if run and run[-1].next != end:
                run[-1] = with_next(run[-1], end)
        return run


def _shares(
    reading: Sequence[TopicPartition], vector: Sequence[int], until: Vector, *, room: int
) -> list[tuple[TopicPartition, int]]:
    """How many records to take of each partition: in proportion to what is left of it, so that all come to their ends
    together. All of one and then all of the next would give records of very different times side by side."""
    if len(reading) > MOST_SHARING:
        return []
    left = [until[tp.partition] - vector[tp.partition] for tp in reading]
    total = sum(left)
    shares = []
    for tp, one in zip(reading, left, strict=True):
        share = min(room, max(1, room * one // total))
        total -= one
        room -= share
        if share:
            shares.append((tp, share))
    return shares
