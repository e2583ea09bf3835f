"""Where a topic begins, where it ends, where it stood at a time, which topic it is, and how long it keeps records."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import TypeVar

import aiokafka.errors as kafka_errors
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.protocol.offset import OffsetRequest
from aiokafka.record.memory_records import MemoryRecords

from gateway.kafka.cluster import KafkaCluster
from gateway.kafka.faults import AccessDenied, KafkaUnavailable, LoginRefused, NotTrusted, TopicMissing, Unsupported
from gateway.kafka.identity import TopicIdRequest, topic_id_in
from gateway.kafka.retention import retention_in, retention_request
from gateway.model import Vector

T = TypeVar("T")

LOOKUP_SECONDS = 5.0
_RETRY_SECONDS = 0.1
_LATEST = -1
_EARLIEST = -2
_NOWHERE = -1
_READ_COMMITTED = 1
_PROBE_BYTES = 16 * 1024


class _Moved(Exception):
    """A partition whose leader is elsewhere or nowhere; the answer is to ask for metadata again."""


class Offsets:
    """Look-ups for the topics of one cluster, over its shared client.

    Every look-up asks for the topic's metadata first, in a form that lets no broker create a topic, so leaders are
    never stale and growth is seen at once. Each is bounded by ``timeout_seconds`` and raises KafkaUnavailable, or
    TopicMissing for a topic that the cluster does not know. Vectors have one entry for each partition.
    """

    def __init__(self, cluster: KafkaCluster, *, timeout_seconds: float = LOOKUP_SECONDS) -> None:
        self._cluster = cluster
        self._timeout_seconds = timeout_seconds
        self._times_answered = False

    async def partitions(self, topic: str) -> int:
        """How many partitions the topic has."""
        return len(await self._bounded(topic, lambda: self._leaders(topic)))

    async def check_readable(self, topic: str) -> int:
        """Fetch from the topic, for nothing but whether that is allowed; returns how many partitions it has. Raises
        AccessDenied where it is not."""

        async def look() -> int:
            leaders = await self._leaders(topic)
            end = await self._listed(topic, leaders[:1], _LATEST)
            await self._first_record(topic, 0, leader=leaders[0], offset=end[0])
            return len(leaders)

        return await self._bounded(topic, look)

    async def earliest(self, topic: str) -> Vector:
        """The first offset that each partition still holds."""
        return await self._bounded(topic, lambda: self._ask_all(topic, _EARLIEST))

    async def latest(self, topic: str) -> Vector:
        """The offset after the last one that a reader can reach now: the last stable offset, not the high watermark.

        An open transaction holds it back, so that reading up to it always ends.
        """
        return await self._bounded(topic, lambda: self._ask_all(topic, _LATEST))

    async def bounds(self, topic: str) -> tuple[Vector, Vector]:
        """``earliest`` and ``latest`` under one look at the metadata, hence of the same length."""

        async def both() -> tuple[Vector, Vector]:
            leaders = await self._leaders(topic)
            # In this order: an end asked for first could lie before a beginning that retention moves meanwhile.
            earliest = await self._listed(topic, leaders, _EARLIEST)
            return earliest, await self._listed(topic, leaders, _LATEST)

        return await self._bounded(topic, both)

    async def topic_id(self, topic: str) -> str | None:
        """Kafka's own id of the topic, another one each time a topic is made; None where the brokers have no ids."""

        async def look() -> str | None:
            try:
                code, found = topic_id_in(await self._cluster.ask(TopicIdRequest(topic)))
            except Unsupported:
                return None
            self._raise_if_missing(topic, code)
            return found

        return await self._bounded(topic, look)

    async def retention_ms(self, topic: str) -> float | None:
        """How long records are kept as far as their age decides that; infinite where it does not, None if not told."""

        async def look() -> float | None:
            try:
                return retention_in(await self._cluster.ask(retention_request(topic)))
            except Unsupported:
                return None

        return await self._bounded(topic, look)

    async def at_time(self, topic: str, millis: int) -> Vector:
        """The first offset whose Kafka time is at or after ``millis``, and the end where there is none.

        Brokers that do not answer questions about time (librdkafka's mock cluster) are searched by reading single
        records, which takes times that never go back within a partition.
        """
        millis = max(millis, 0)

        async def look() -> Vector:
            leaders = await self._leaders(topic)
            # The end comes first: a record that arrives between the two questions must not be stepped over.
            latest = await self._listed(topic, leaders, _LATEST)
            found = await self._listed(topic, leaders, millis)
            if _NOWHERE not in found:
                self._times_answered = True
                return found
            if not await self._answers_times(topic, leaders, found):
                found = await self._searched(topic, leaders, millis, latest)
            return tuple(end if offset == _NOWHERE else offset for offset, end in zip(found, latest, strict=True))

        return await self._bounded(topic, look)

    async def _answers_times(self, topic: str, leaders: Vector, found: Vector) -> bool:
        """Whether "no such record" may be believed: a broker that says so even of time zero finds nothing ever."""
        if not self._times_answered:
            answers = found if max(found) > _NOWHERE else await self._listed(topic, leaders, 0)
            self._times_answered = max(answers) > _NOWHERE
        return self._times_answered

    async def _searched(self, topic: str, leaders: Vector, millis: int, latest: Vector) -> Vector:
        earliest = await self._listed(topic, leaders, _EARLIEST)
        searches = (
            self._search(
                topic, partition, leader=leader, low=earliest[partition], high=latest[partition], millis=millis
            )
            for partition, leader in enumerate(leaders)
        )
        return tuple(await asyncio.gather(*searches))

    async def _search(self, topic: str, partition: int, *, leader: int, low: int, high: int, millis: int) -> int:
        while low < high:
            middle = (low + high) // 2
            probe = await self._first_record(topic, partition, leader=leader, offset=middle)
            if probe is None or probe[1] >= millis:
                high = middle
            else:
                low = probe[0] + 1
        return low

    async def _first_record(self, topic: str, partition: int, *, leader: int, offset: int) -> tuple[int, int] | None:
        """Offset and time of the first record at or after ``offset``, aborted or not, or None if there is none."""
        wanted = [(topic, [(partition, offset, _PROBE_BYTES)])]
        response = await self._cluster.ask(FetchRequest(0, 0, _PROBE_BYTES, _READ_COMMITTED, wanted), node=leader)
        for _topic, answers in response.topics:
            for _partition, code, _highwater, *rest in answers:
                self._raise_for(topic, code)
                batches = MemoryRecords(rest[-1])
                while batches.has_next():
                    for record in batches.next_batch():
                        if record.offset >= offset:
                            return record.offset, record.timestamp
        return None

    async def _ask_all(self, topic: str, timestamp: int) -> Vector:
        return await self._listed(topic, await self._leaders(topic), timestamp)

    async def _leaders(self, topic: str) -> Vector:
        """The broker that leads each partition, by partition number."""
        response = await self._cluster.ask(MetadataRequest([topic], allow_auto_topic_creation=False))
        for code, _name, *_internal, partitions in response.topics:
            self._raise_if_missing(topic, code)
            leaders = {number: leader for _code, number, leader, *_replicas in partitions}
            if not leaders or set(leaders) != set(range(len(leaders))):
                raise _Moved(f"topic {topic} has no complete list of partitions")
            return tuple(leaders[number] for number in range(len(leaders)))
        raise _Moved(f"the metadata of topic {topic} is empty")

    async def _listed(self, topic: str, leaders: Vector, timestamp: int) -> Vector:
        """One ListOffsets question (KIP-79, read_committed) to every leader; ``_NOWHERE`` where nothing was found."""
        by_leader: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for partition, leader in enumerate(leaders):
            if leader < 0:
                raise _Moved(f"partition {partition} of topic {topic} has no leader")
            by_leader[leader].append((partition, timestamp))
        responses = await asyncio.gather(
            *(
                self._cluster.ask(OffsetRequest(-1, _READ_COMMITTED, [(topic, wanted)]), node=leader)
                for leader, wanted in by_leader.items()
            )
        )
        found = [_NOWHERE] * len(leaders)
        for response in responses:
            for _topic, answers in response.topics:
                for partition, code, _timestamp, offset in answers:
                    self._raise_for(topic, code)
                    found[partition] = offset
        return tuple(found)

    def _raise_if_missing(self, topic: str, code: int) -> None:
        if kafka_errors.for_code(code) is kafka_errors.UnknownTopicOrPartitionError:
            raise TopicMissing(f"Kafka cluster {self._cluster.name}: there is no topic {topic}")
        self._raise_for(topic, code)

    def _raise_for(self, topic: str, code: int) -> None:
        fault = kafka_errors.for_code(code)
        if fault is kafka_errors.NoError:
            return
        # A leader that says "unknown" has not loaded the partition yet: that the topic exists, metadata said just now.
        if fault.retriable:
            raise _Moved(f"topic {topic} is between leaders ({fault.__name__})")
        if fault is kafka_errors.TopicAuthorizationFailedError:
            raise self._cluster.denied(topic)
        raise self._cluster.unavailable(f"topic {topic} is refused ({fault.__name__})")

    async def _bounded(self, topic: str, look: Callable[[], Awaitable[T]]) -> T:
        """``look`` until it answers, for ``timeout_seconds`` at most; the last reason is the one reported."""
        reason = f"no answer about topic {topic}"
        fault: KafkaUnavailable | None = None
        try:
            async with asyncio.timeout(self._timeout_seconds):
                while True:
                    try:
                        return await look()
                    except _Moved as moved:
                        reason, fault = str(moved), None
                    except (TopicMissing, AccessDenied, LoginRefused, NotTrusted):
                        # To ask again within seconds is of no use, and a login that is refused may be counted.
                        raise
                    except KafkaUnavailable as unavailable:
                        if fault is not None:
                            raise
                        fault = unavailable
                    await asyncio.sleep(_RETRY_SECONDS)
        except TimeoutError:
            # Given up by us and not by the client, which may sit on a connection that is dead and does not know it.
            await self._cluster.close()
            raise fault or self._cluster.unavailable(f"{reason} after {self._timeout_seconds:g} s") from None
