"""Notices a consumer that has stopped fetching without saying so."""

from __future__ import annotations

from collections.abc import Sequence

from aiokafka import AIOKafkaConsumer, TopicPartition

from gateway.clock import Clock
from gateway.kafka.cluster import doubt_about, fetching_failure

CHECK_SECONDS = 0.25


class Watchdog:
    """Watches one running consumer, at the cost of a few attribute reads every quarter of a second.

    Three things count as failure: the fetch task is dead (told at once); a partition got no answer for
    ``patience_seconds``, although an idle broker answers an empty fetch twice a second; a partition stands still for
    so long although the broker says that it has more. ``last_fetch_monotonic`` is when
    the broker last answered, ``lag_records`` the offsets it said that it holds beyond the last positions checked, those
    of transactions that are still open among them.
    """

    def __init__(
        self,
        consumer: AIOKafkaConsumer,
        partitions: Sequence[TopicPartition],
        *,
        clock: Clock,
        patience_seconds: float,
    ) -> None:
        self._consumer = consumer
        self._partitions = partitions
        self._clock = clock
        self._patience_seconds = patience_seconds
        now = clock.monotonic()
        self._next_check = now
        self._answer_stamps: list[int | None] = [None] * len(partitions)
        self._answered_at = [now] * len(partitions)
        self._positions = [-1] * len(partitions)
        self._moved_at = [now] * len(partitions)
        self.last_fetch_monotonic = now
        self.lag_records: int | None = None

    def check(self, positions: Sequence[int]) -> str | None:
        """What is wrong with the consumer that stands at these positions, or None."""
        dead = fetching_failure(self._consumer)
        if dead is not None:
            return dead
        now = self._clock.monotonic()
        if now < self._next_check:
            return None
        self._next_check = now + CHECK_SECONDS
        ends = [self._consumer.last_stable_offset(partition) for partition in self._partitions]
        held = [self._consumer.highwater(partition) for partition in self._partitions]
        self.lag_records = sum(max(0, end - at) for end, at in zip(held, positions, strict=True) if end is not None)
        for index, partition in enumerate(self._partitions):
            stamp = self._consumer.last_poll_timestamp(partition)
            if stamp != self._answer_stamps[index]:
                self._answer_stamps[index] = stamp
                self._answered_at[index] = self.last_fetch_monotonic = now
            position = positions[index]
            if position != self._positions[index] or position >= (ends[index] or 0):
                self._positions[index] = position
                self._moved_at[index] = now
            if now - self._answered_at[index] > self._patience_seconds:
                return f"no answer to a fetch of partition {partition.partition} for {self._patience_seconds:g} s"
            if now - self._moved_at[index] > self._patience_seconds:
                why = doubt_about(self._consumer, partition)
                return (
                    f"partition {partition.partition} stands at {position}, short of its end, "
                    f"for {self._patience_seconds:g} s" + (f": {why}" if why else "")
                )
        return None
