"""Reads one topic for everybody: from a little before its end, on and on, through whatever Kafka does meanwhile."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import OffsetOutOfRangeError

from gateway.clock import Clock
from gateway.counters import TopicCounters
from gateway.kafka.cluster import KafkaCluster, stop_consumer
from gateway.kafka.faults import KafkaUnavailable, TopicMissing
from gateway.kafka.offsets import Offsets
from gateway.kafka.records import decode, payload_bytes
from gateway.kafka.watchdog import Watchdog
from gateway.model import Record, Vector

_log = logging.getLogger("gateway.kafka")

PATIENCE_SECONDS = 2.5
MAX_PATIENCE_SECONDS = 30.0
_FIRST_BACKOFF_SECONDS = 0.1
_MAX_BACKOFF_SECONDS = 2.0
# How soon a position that moved without records (control records, aborted transactions) is seen.
_POLL_MS = 250
_POLL_STARTING_MS = 20
_FETCH: dict[str, int] = {
    "fetch_max_wait_ms": 500,
    "max_partition_fetch_bytes": 1024 * 1024,
    "fetch_max_bytes": 8 * 1024 * 1024,
}
_EVIDENCE_TIMES = 3
IDENTITY_SECONDS = 5.0
"""How often Kafka is asked whether this is still the same topic."""

State = Literal["starting", "live", "down"]


class Sink(Protocol):
    """Where the records go. All calls are synchronous and on the loop; what one raises ends the reader."""

    def start(self, vector: Vector, *, topic_id: str | None) -> None:
        """A fresh log begins here; what came before it is not connected with it.

        The first start, a prefill that was too big, history that retention took before it was read, or the start after
        ``other_history``. ``topic_id`` is Kafka's id of the topic, None where it has none.
        """
        ...

    def other_history(self) -> None:
        """The topic is another one by now, or lost its end: positions so far mean nothing any more. A ``start``
        follows, if reading goes on."""
        ...

    def append(self, partition: int, records: Sequence[Record], position: int) -> None:
        """A run of one partition. ``position`` is its next fetch position after the run, and may lie further than the
        last offset + 1. ``records`` is empty where only the position moved, and where a new partition appears.
        """
        ...

    def flush(self) -> None:
        """A round of appends is complete."""
        ...

    def live(self) -> None:
        """The log has reached the ends seen when reading began; once after each ``start`` and each ``down``."""
        ...

    def down(self, reason: str) -> None:
        """Reading fails and goes on being tried. Once per change of state; may come before the first ``start``."""
        ...


@dataclass(frozen=True, slots=True)
class ReaderStatus:
    """How a reader stands. ``last_fetch_monotonic`` is when Kafka last answered a fetch, None before the first;
    ``lag_records`` is what Kafka said then that it holds beyond ``vector``, in offsets."""

    state: State
    reason: str
    last_fetch_monotonic: float | None
    vector: Vector
    lag_records: int | None = None


class TopicReader:
    """One topic's only live reader in this process.

    At least once and in order within each partition, from the first ``start`` on: after any fault it goes on at exactly
    the position that the sink has seen, with a new consumer, because an exception out of aiokafka's ``getmany`` leaves
    positions advanced past records that nobody received. It starts ``prefill_records`` before the end, spread over
    the partitions; when more than ``prefill_bytes`` arrive before it is live, it starts anew with half of what came.
    That the topic is another one now is believed at once where it has another id, which is looked at whenever reading
    begins anew and every ``identity_seconds``. Without ids, and for a topic that lost its end, one stale answer must
    not throw a log away: three answers over ``evidence_seconds`` have to say so.
    """

    def __init__(
        self,
        cluster: KafkaCluster,
        offsets: Offsets,
        topic: str,
        *,
        sink: Sink,
        prefill_records: int,
        prefill_bytes: int,
        clock: Clock,
        max_poll_records: int = 2000,
        evidence_seconds: float = 10.0,
        identity_seconds: float = IDENTITY_SECONDS,
        counters: TopicCounters | None = None,
    ) -> None:
        self._cluster = cluster
        self._offsets = offsets
        self._topic = topic
        self._sink = sink
        self._prefill_records = prefill_records
        self._prefill_bytes = prefill_bytes
        self._clock = clock
        self._max_poll_records = max_poll_records
        self._evidence_seconds = evidence_seconds
        self._identity_seconds = identity_seconds
        self._counters = counters or TopicCounters()

        self._state: State = "starting"
        self._reason = ""
        self._last_fetch_monotonic: float | None = None
        self._lag_records: int | None = None
        self._started = False
        self._positions: list[int] = []
        self._ends: Vector = ()
        self._prefill_left: int | None = None
        self._prefilled = 0
        self._faults = 0
        self._patience_seconds = PATIENCE_SECONDS
        self._evidence: list[float] = []
        self._topic_id: str | None = None

    @property
    def status(self) -> ReaderStatus:
        """How it stands now, for readiness and metrics."""
        return ReaderStatus(
            self._state, self._reason, self._last_fetch_monotonic, tuple(self._positions), self._lag_records
        )

    async def run(self) -> None:
        """Read until cancelled. No fault of Kafka ends it; the connections are closed when it ends."""
        opened = False
        while True:
            try:
                topic_id, earliest, latest = await self._look()
                vector, fresh = self._resume_at(topic_id, earliest, latest)
                consumer = await self._cluster.open_consumer(self._topic, dict(enumerate(vector)), **_FETCH)
            except KafkaUnavailable as unavailable:
                await self._fall(str(unavailable))
                continue
            self._counters.rebuilds += opened
            opened = True
            try:
                # The sink hears of a start only when there is something to read from.
                self._ends = latest
                if fresh:
                    self._begin(vector)
                elif len(vector) > len(self._positions):
                    self._grow(vector)
                fault = await self._follow_same(consumer)
            finally:
                await stop_consumer(consumer)
            if fault is not None:
                await self._fall(fault)

    async def _look(self) -> tuple[str | None, Vector, Vector]:
        try:
            # The id first: offsets of a later topic under an earlier id are found out, the other way round not.
            topic_id = await self._offsets.topic_id(self._topic)
            # A topic may be open to look at and closed to readers; the first fetch would say so too late.
            await self._offsets.check_readable(self._topic)
            earliest, latest = await self._offsets.bounds(self._topic)
        except TopicMissing:
            self._evidence.append(self._clock.monotonic())
            raise
        if self._lost_its_end(latest) and not self._is_other_topic(topic_id, latest):
            self._evidence.append(self._clock.monotonic())
            raise self._cluster.unavailable(f"topic {self._topic} ends at {latest}, before what was read of it")
        return topic_id, earliest, latest

    def _resume_at(self, topic_id: str | None, earliest: Vector, latest: Vector) -> tuple[Vector, bool]:
        """Where to read from, and whether that is a fresh log."""
        if self._is_other_topic(topic_id, latest):
            _log.warning("topic %s is not the one it was: reading it afresh", self._topic)
            self._started = False
            self._topic_id = None
            self._sink.other_history()
        self._evidence.clear()
        self._topic_id = topic_id or self._topic_id
        if not self._started:
            return prefill_start(earliest, latest, records=self._prefill_records), True
        # A partition that is new to us is read from its beginning.
        at = (*self._positions, *earliest[len(self._positions) :])
        reachable = tuple(map(max, at, earliest))
        if reachable != at:
            _log.warning("retention passed the reader of topic %s at %s; it goes on at %s", self._topic, at, reachable)
        return reachable, reachable != at

    def _is_other_topic(self, topic_id: str | None, latest: Vector) -> bool:
        """Whether to believe that what was read so far is not this topic's."""
        if not self._started:
            return False
        if topic_id is None or self._topic_id is None:
            return self._is_evident()
        return topic_id != self._topic_id or (self._lost_its_end(latest) and self._is_evident())

    def _lost_its_end(self, latest: Vector) -> bool:
        return self._started and (
            len(latest) < len(self._positions)
            or any(end < position for position, end in zip(self._positions, latest, strict=False))
        )

    def _is_evident(self) -> bool:
        seen = self._evidence
        return len(seen) >= _EVIDENCE_TIMES and self._clock.monotonic() - seen[0] >= self._evidence_seconds

    def _begin(self, vector: Vector) -> None:
        self._prefill_left = None if self._started else self._prefill_bytes
        self._prefilled = 0
        self._started = True
        self._positions = list(vector)
        self._state, self._reason = "starting", ""
        self._sink.start(vector, topic_id=self._topic_id)

    def _grow(self, vector: Vector) -> None:
        _log.info("topic %s has %d partitions now", self._topic, len(vector))
        for partition in range(len(self._positions), len(vector)):
            self._positions.append(vector[partition])
            self._sink.append(partition, (), vector[partition])
        self._sink.flush()

    async def _follow_same(self, consumer: AIOKafkaConsumer) -> str | None:
        """``_follow``, for as long as this is the same topic."""
        other = asyncio.create_task(self._until_other_topic(), name=f"identity of {self._topic}")
        try:
            return await self._follow(consumer, other)
        finally:
            other.cancel()
            await asyncio.gather(other, return_exceptions=True)

    async def _until_other_topic(self) -> None:
        """Return when Kafka names another topic than the one that is read. Beside the reading, which never waits."""
        while True:
            await asyncio.sleep(self._identity_seconds)
            try:
                found = await self._offsets.topic_id(self._topic)
            except KafkaUnavailable as unavailable:
                # Whether it can still be read is the watchdog's to say.
                _log.debug("the id of topic %s was not told: %s", self._topic, unavailable)
                continue
            if self._topic_id is None:
                self._topic_id = found
            elif found not in (None, self._topic_id):
                return

    async def _follow(self, consumer: AIOKafkaConsumer, other: asyncio.Task[None]) -> str | None:
        """Read until the consumer has to be replaced: the fault, or None where it is no fault."""
        partitions = [TopicPartition(self._topic, number) for number in range(len(self._positions))]
        watchdog = Watchdog(consumer, partitions, clock=self._clock, patience_seconds=self._patience_seconds)
        self._rise_if_there(consumer)
        while True:
            try:
                # Its own timeout and never wait_for: a cancelled getmany loses what it has already taken.
                fetched = await consumer.getmany(
                    timeout_ms=_POLL_MS if self._state == "live" else _POLL_STARTING_MS,
                    max_records=self._max_poll_records,
                )
                positions = [await consumer.position(partition) for partition in partitions]
            except OffsetOutOfRangeError:
                # Whether retention passed us or the topic changed is found out when connecting again.
                await self._replace("a position is out of range")
                return None
            except UnicodeDecodeError as fault:
                if not self._cluster.mistrust_names(self._topic):
                    return str(self._cluster.fault_with(self._topic, fault))
                await self._replace("a header's name is not UTF-8")
                return None
            except Exception as fault:  # noqa: BLE001 - aiokafka lets anything through: codecs, structs, assertions
                return str(self._cluster.fault_with(self._topic, fault))
            if any(map(int.__lt__, positions, self._positions)):
                return f"the broker's records go back from {tuple(self._positions)} to {tuple(positions)}"
            self._absorb(fetched, positions)
            self._rise_if_there(consumer)
            if self._prefill_left is not None and self._prefill_left < 0:
                # So many were too many: half of them are about half the bytes.
                self._started, self._prefill_records = False, self._prefilled // 2
                await self._replace(f"the prefill is larger than {self._prefill_bytes} bytes")
                return None
            fault_seen = watchdog.check(positions)
            self._last_fetch_monotonic = watchdog.last_fetch_monotonic
            self._lag_records = watchdog.lag_records
            if fault_seen is not None:
                self._patience_seconds = min(2 * self._patience_seconds, MAX_PATIENCE_SECONDS)
                return fault_seen
            if other.done():
                other.result()
                await self._replace("the topic has another id")
                return None
            known = consumer.partitions_for_topic(self._topic)
            if known is not None and len(known) > len(partitions):
                await self._replace("its partitions became more")
                return None
            if fetched:
                # A full prefetch buffer makes getmany return without suspending; others live on this loop too.
                await asyncio.sleep(0)

    def _absorb(self, fetched: Mapping[TopicPartition, Sequence[Any]], positions: Sequence[int]) -> None:
        """Give a round to the sink. The position is noted after the append: what a sink refused was not read."""
        moved = False
        for tp, batch in fetched.items():
            position = positions[tp.partition]
            records = decode(self._cluster, tp.partition, batch, position=position)
            if self._prefill_left is not None:
                self._prefill_left -= payload_bytes(records)
                self._prefilled += len(records)
            self._sink.append(tp.partition, records, position)
            self._positions[tp.partition] = position
            self._counters.fetched_records += len(records)
            moved = True
        self._counters.fetches += bool(fetched)
        for partition, position in enumerate(positions):
            if position != self._positions[partition]:
                self._sink.append(partition, (), position)
                self._positions[partition] = position
                moved = True
        if moved:
            self._faults = 0
            self._sink.flush()

    def _rise_if_there(self, consumer: AIOKafkaConsumer) -> None:
        """Tell that the ends are reached; after a fault, not before Kafka has answered a fetch again."""
        was_down = self._state == "down"
        if self._state == "live" or not all(map(int.__ge__, self._positions, self._ends)):
            return
        if was_down and consumer.last_poll_timestamp(TopicPartition(self._topic, 0)) is None:
            return
        self._state, self._reason = "live", ""
        self._prefill_left = None
        self._faults, self._patience_seconds = 0, PATIENCE_SECONDS
        _log.info("topic %s is read %s, at %s", self._topic, "again" if was_down else "live", tuple(self._positions))
        self._sink.live()

    async def _replace(self, why: str) -> None:
        """A consumer is replaced without anything being wrong; the short pause keeps a repeated cause from spinning."""
        _log.debug("the consumer of topic %s is replaced: %s", self._topic, why)
        await asyncio.sleep(_FIRST_BACKOFF_SECONDS / 2)

    async def _fall(self, reason: str) -> None:
        """Note a fault, tell it if it is news, and wait: 0.1 s at first, then up to 2 s, with jitter."""
        if self._state != "down":
            _log.warning("topic %s cannot be read: %s", self._topic, reason)
            self._state = "down"
            self._sink.down(reason)
        self._reason = reason
        self._counters.faults += 1
        delay = min(_FIRST_BACKOFF_SECONDS * 2 ** min(self._faults, 10), _MAX_BACKOFF_SECONDS)
        self._faults += 1
        await asyncio.sleep(delay * (0.5 + random.random() / 2))  # noqa: S311 - jitter, not a secret


def prefill_start(earliest: Vector, latest: Vector, *, records: int) -> Vector:
    """Where to begin so that about ``records`` offsets lie before the ends, as evenly as the partitions hold them."""
    held = sorted((end - begin, partition) for partition, (begin, end) in enumerate(zip(earliest, latest, strict=True)))
    start = list(latest)
    for done, (available, partition) in enumerate(held):
        # The emptiest first: what a small partition cannot give, the larger ones share.
        share = min(max(available, 0), records // (len(held) - done))
        start[partition] -= share
        records -= share
    return tuple(start)
