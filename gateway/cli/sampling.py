"""The newest records of a topic, read once and within bounds, for a contract to be drafted from."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gateway.errors import Unavailable
from gateway.model import Record, Vector

if TYPE_CHECKING:
    from gateway.kafka.cluster import KafkaCluster
    from gateway.kafka.offsets import Offsets
    from gateway.kafka.replay import ReplayPool

READ_SECONDS: Final = 20.0
"""After this long, what has been read is what there is."""
MAX_BYTES: Final = 4 * 1024 * 1024
_WIDER: Final = 4
_ATTEMPTS: Final = 3


@dataclass(frozen=True, slots=True)
class Sampled:
    """``records`` from the oldest to the newest, the same list for the same content of the topic."""

    partitions: int
    records: list[Record]


async def read_newest(cluster: KafkaCluster, topic: str, *, count: int) -> Sampled:
    """The newest ``count`` committed records of a topic, evenly from its partitions as far as they hold so many.

    Fewer where the topic holds fewer, and where :data:`READ_SECONDS` or :data:`MAX_BYTES` run out. Raises
    KafkaUnavailable, and TopicMissing for a topic that the cluster does not know; nothing is left open.
    """
    from gateway.kafka.faults import OutOfRange
    from gateway.kafka.offsets import Offsets
    from gateway.kafka.replay import ReplayPool

    offsets = Offsets(cluster)
    pool = ReplayPool(cluster, offsets, consumers=1)
    try:
        for _ in range(_ATTEMPTS):
            try:
                return await _Reading(offsets, pool, topic, count).read()
            except OutOfRange:
                continue  # retention passed the place between the question and the read: look again
        raise Unavailable(f"Topic {topic} loses its records faster than they can be read.")
    finally:
        await pool.close()
        await cluster.close()


class _Reading:
    """One attempt: the tail of every partition, and further back where holes made the tail too short."""

    def __init__(self, offsets: Offsets, pool: ReplayPool, topic: str, count: int) -> None:
        self._offsets = offsets
        self._pool = pool
        self._topic = topic
        self._count = count
        self._records: list[Record] = []
        self._left_bytes = MAX_BYTES

    async def read(self) -> Sampled:
        earliest, latest = await self._offsets.bounds(self._topic)
        self._ends_at = asyncio.get_running_loop().time() + READ_SECONDS
        until, width = latest, self._count
        while len(self._records) < self._count and not self._is_over():
            if all(end <= begin for begin, end in zip(earliest, until, strict=True)):
                break
            start = shares(earliest, until, count=width)
            await self._read_stretch(start, until)
            # Aborted, compacted and control records take offsets and give nothing: each turn reaches further back.
            until, width = start, width * _WIDER
        self._records.sort(key=lambda record: (record.timestamp, record.partition, record.offset))
        return Sampled(len(latest), self._records[-self._count :])

    async def _read_stretch(self, start: Vector, until: Vector) -> None:
        at = start
        while at != until and not self._is_over():
            slice_ = await self._pool.read(self._topic, at, until, max_records=self._count, max_bytes=self._left_bytes)
            at = slice_.vector
            self._records += slice_.records
            self._left_bytes -= sum(len(record.key or b"") + len(record.value or b"") for record in slice_.records)

    def _is_over(self) -> bool:
        return self._left_bytes <= 0 or asyncio.get_running_loop().time() > self._ends_at


def shares(earliest: Vector, until: Vector, *, count: int) -> Vector:
    """Where to begin so that ``count`` offsets lie before ``until``: as many of each partition, as far as they go.

    What short partitions cannot give, longer ones do. All offsets where there are not so many.
    """
    room = [max(0, end - begin) for begin, end in zip(earliest, until, strict=True)]
    share = [0] * len(room)
    left = min(count, sum(room))
    for number, partition in enumerate(sorted(range(len(room)), key=lambda one: (room[one], one))):
        share[partition] = min(room[partition], -(-left // (len(room) - number)))
        left -= share[partition]
    return tuple(end - part for end, part in zip(until, share, strict=True))
