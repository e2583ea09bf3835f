"""The publisher: what the meter counted, told as totals to the usage topic, and forgotten once the ledger has it.

All messages of a source go to one partition, so that "complete through" comes after everything it speaks of. A total is
told as often as it takes: Kafka being away changes when, never what.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Protocol
from zlib import crc32

from gateway.clock import Clock
from gateway.metering.cells import Group
from gateway.metering.meter import Meter
from gateway.metering.totals import VERSION, Message, SourceState, SourceWord, encode
from gateway.usage import BUCKET_SECONDS

WORD_EVERY_SECONDS: Final = 5.0
"""How often an idle source says that it is complete; a busy one says so each time."""

AGAIN_SECONDS: Final = 90.0
"""After this no message of a failed call can arrive any more, and what holds is told once more."""


class Producer(Protocol):
    """Where messages go."""

    async def partitions(self) -> int:
        """How many the topic has."""
        ...

    async def send(self, pairs: Sequence[tuple[bytes, bytes]], *, partition: int, timestamp_ms: int) -> int:
        """Append them and return the offset after the last one. Raises Unavailable: some may be there, or none."""
        ...


Reached = Callable[[int, int], bool]
"""Whether the ledger has read a partition of the usage topic beyond an offset."""


def partition_for(source: str, partitions: int) -> int:
    """The partition of a source that has none yet."""
    return crc32(source.encode()) % partitions


class Publisher:
    """Tells one meter's totals. One call at a time."""

    def __init__(self, meter: Meter, producer: Producer, *, clock: Clock, node: str) -> None:
        self._meter = meter
        self._producer = producer
        self._clock = clock
        self._node = node
        self._sequence = 0
        self._partition: int | None = None
        self._told_at = -WORD_EVERY_SECONDS
        self._acked_at = 0
        self._is_uncertain = False
        self.published = 0
        """Messages that Kafka took."""
        self.complete_through = meter.started_at
        """Up to when Kafka has everything."""

    def word(self, state: SourceState = "live") -> SourceWord:
        """How this source stands."""
        meter = self._meter
        return SourceWord(
            VERSION, meter.source, self._sequence, state, self._node, meter.started_at, self.complete_through
        )

    async def publish(self) -> None:
        """Tell what is new, and then up to when that is all. Raises Unavailable; all of it is told the next time."""
        meter, now = self._meter, self._clock.monotonic()
        # Everything that was delivered before this moment is in the totals that are taken here; and where it is past
        # the end of a bucket, nothing is counted in that any more.
        moment = self._roll()
        meter.sweep()
        self._say_again(now)
        groups = meter.take_dirty()
        if not groups and now - self._told_at < WORD_EVERY_SECONDS:
            return
        await self._tell(groups, moment, "live")
        self._told_at = now

    def _roll(self) -> int:
        """The present moment, and nothing is counted any more in a bucket that is over by then."""
        moment = int(self._clock.now())
        self._meter.roll()
        return min(moment, self._meter.bucket + BUCKET_SECONDS)

    async def finish(self) -> None:
        """After the last delivery: tell what is left, and that nothing more will come. Raises Unavailable."""
        meter = self._meter
        moment = self._roll()
        meter.close()
        await self._tell(meter.take_dirty(), moment, "ended")

    async def _tell(self, groups: list[Group], moment: int, state: SourceState) -> None:
        meter = self._meter
        try:
            partition = await self._place()
            self._sequence += 1
            messages: list[Message] = [group.snapshot(meter.source, self._sequence) for group in groups]
            if messages:
                self._acked_at = await self._send(messages, partition)
                for group in groups:
                    group.acked_at = self._acked_at - 1
            # Clocks may be set back; what was said to be complete stays said.
            self.complete_through = max(self.complete_through, moment)
            self._acked_at = await self._send([self.word(state)], partition)
        except BaseException:
            for group in groups:
                group.soil()
            raise
        if self._is_uncertain:
            self._is_uncertain = False
            for group in groups:
                group.again_at = self._clock.monotonic() + AGAIN_SECONDS
        if meter.slab is not None:
            meter.slab.note(sequence=self._sequence, complete_through=self.complete_through)

    async def _place(self) -> int:
        partitions = await self._producer.partitions()
        slab = self._meter.slab
        if self._partition is None or self._partition >= partitions:
            kept = None if slab is None else slab.partition
            if kept is None or kept >= partitions:
                kept = partition_for(self._meter.source, partitions)
            self._partition = kept
        if slab is not None and slab.partition != self._partition:
            slab.partition = self._partition
        return self._partition

    async def _send(self, messages: Sequence[Message], partition: int) -> int:
        pairs = [(message.key, encode(message)) for message in messages]
        try:
            end = await self._producer.send(pairs, partition=partition, timestamp_ms=int(self._clock.now() * 1000))
        except BaseException:
            self._is_uncertain = True
            raise
        self.published += len(pairs)
        return end

    def _say_again(self, now: float) -> None:
        """A message of a failed call may have come after a newer one, and be what a compacted topic keeps."""
        for groups in self._meter.past():
            for group in groups:
                if group.again_at is not None and group.again_at <= now:
                    group.again_at = None
                    group.soil()

    # ---- forgetting ----------------------------------------------------------------------------------------------

    def settle(self, reached: Reached) -> int:
        """Forget what the ledger has of buckets that are over; how many cells."""
        partition, forgotten = self._partition, 0
        if partition is None:
            return 0
        for groups in list(self._meter.past()):
            if all(
                group.is_clean
                and group.again_at is None
                and group.acked_at is not None
                and reached(partition, group.acked_at)
                for group in groups
            ):
                forgotten += sum(len(group.cells) for group in groups)
                self._meter.forget(groups)
        return forgotten

    def has_ended(self, reached: Reached) -> bool:
        """Whether the ledger has everything, the last word too."""
        if self._partition is None or self._is_uncertain or any(group.again_at for group in self._meter.groups()):
            return False
        return reached(self._partition, self._acked_at - 1)
