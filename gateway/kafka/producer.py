"""Writing to a topic of the gateway's own: the topic made where it is missing, and batches of which it is known whether
Kafka has them.

No producer of aiokafka: what is sent here comes in bursts of a second, goes to partitions that the caller names, and
may come twice. So a burst is a request or a few, each awaited, and whoever gets an exception knows what is open.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any, Final

import aiokafka.errors as kafka_errors
from aiokafka.protocol.admin import CreateTopicsRequest, DescribeConfigsRequest
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from gateway.kafka.cluster import KafkaCluster
from gateway.kafka.faults import AccessDenied, KafkaUnavailable, TopicMissing, Unsupported

BATCH_BYTES: Final = 512 * 1024
"""Half of what brokers take by default."""

_ALL: Final = -1
_REQUEST_MS: Final = 2500
_REPLICAS: Final = 3
_TOPIC: Final = 2
_POLICY: Final = "cleanup.policy"
_RIGHTS: Final = (
    kafka_errors.TopicAuthorizationFailedError,
    kafka_errors.ClusterAuthorizationFailedError,
    kafka_errors.PolicyViolationError,
)
_log = logging.getLogger("gateway.kafka")

Pair = tuple[bytes, bytes]


class TopicRefused(AccessDenied):
    """The topic is missing, and the gateway may not make it."""


class Producer:
    """Writes into one topic. ``acks=all``: what it says Kafka has, no single broker can lose."""

    def __init__(self, cluster: KafkaCluster, topic: str) -> None:
        self._cluster = cluster
        self._topic = topic
        self._leaders: dict[int, int] = {}

    async def partitions(self) -> int:
        """How many the topic has. Raises TopicMissing, KafkaUnavailable."""
        if not self._leaders:
            self._leaders = await self._look(may_create=False)
        return len(self._leaders)

    async def send(self, pairs: Sequence[Pair], *, partition: int, timestamp_ms: int) -> int:
        """Append keys with their values, in this order, and return the offset after the last one.

        Raises KafkaUnavailable: then it is not known which of them Kafka has. A later call may be overtaken by what an
        earlier one, that failed, has left on the way.
        """
        await self.partitions()
        end = 0
        try:
            for batch, count in _batches(pairs, timestamp_ms):
                end = await self._append(batch, partition) + count
        except KafkaUnavailable:
            self._leaders = {}
            raise
        return end

    async def _append(self, batch: bytes, partition: int) -> int:
        request = ProduceRequest(None, _ALL, _REQUEST_MS, [(self._topic, [(partition, batch)])])
        response = await self._cluster.ask(request, node=self._leaders.get(partition))
        for _topic, answers in response.topics:
            for _partition, code, offset, *_rest in answers:
                self._raise_for(code)
                return int(offset)
        raise self._cluster.unavailable(f"no word about what was written to topic {self._topic}")

    async def ensure_topic(self, *, partitions: int = 1) -> bool:
        """Make the topic where there is none, compacted; whether it was made now.

        Where brokers know no such request (librdkafka's mock cluster) the topic comes into being as they make it.
        Raises TopicRefused where the gateway may not, KafkaUnavailable.
        """
        try:
            self._leaders = await self._look(may_create=False)
            return False
        except TopicMissing:
            pass
        await self._create(partitions)
        return True

    async def _create(self, partitions: int) -> None:
        told = await self._cluster.ask(MetadataRequest([], allow_auto_topic_creation=False))
        nodes = [broker[0] for broker in told.brokers]
        controller = told.controller_id if told.controller_id in nodes else None
        wanted: Any = (self._topic, partitions, min(_REPLICAS, len(nodes)), [], [(_POLICY, "compact")])
        try:
            request = CreateTopicsRequest([wanted], _REQUEST_MS, False)
            response = await self._cluster.ask(request, node=controller)
        except Unsupported:
            self._leaders = await self._look(may_create=True)
            return
        for _name, code, *_rest in response.topic_errors:
            fault = kafka_errors.for_code(code)
            if fault in _RIGHTS:
                raise TopicRefused(
                    f"Kafka cluster {self._cluster.name}: there is no topic {self._topic}, and the gateway may not "
                    f"make it ({fault.__name__}): give it CREATE on it, or run `gateway usage create-topic` with the "
                    f"settings of somebody who may"
                )
            if fault not in (kafka_errors.NoError, kafka_errors.TopicAlreadyExistsError):
                raise self._cluster.unavailable(f"topic {self._topic} cannot be made ({fault.__name__})")

    async def retention_problem(self) -> str | None:
        """What is wrong with how the topic keeps its records; None: nothing, or the brokers do not tell."""
        try:
            response = await self._cluster.ask(DescribeConfigsRequest([(_TOPIC, self._topic, [_POLICY])]))
        except Unsupported:
            return None
        for code, _message, _type, _name, entries in response.resources:
            policy = {entry[0]: entry[1] for entry in entries}.get(_POLICY) if not code else None
            if policy is not None and policy != "compact":
                return f"topic {self._topic} has cleanup.policy={policy}, which deletes usage: set it to compact"
        return None

    async def _look(self, *, may_create: bool) -> dict[int, int]:
        response = await self._cluster.ask(MetadataRequest([self._topic], allow_auto_topic_creation=may_create))
        for code, _name, *_internal, partitions in response.topics:
            if kafka_errors.for_code(code) is kafka_errors.UnknownTopicOrPartitionError:
                raise TopicMissing(f"Kafka cluster {self._cluster.name}: there is no topic {self._topic}")
            self._raise_for(code)
            leaders = {number: leader for _code, number, leader, *_replicas in partitions}
            if leaders and min(leaders.values()) >= 0:
                return leaders
        raise self._cluster.unavailable(f"topic {self._topic} has no leader yet")

    def _raise_for(self, code: int) -> None:
        fault = kafka_errors.for_code(code)
        if fault is kafka_errors.NoError:
            return
        if fault is kafka_errors.TopicAuthorizationFailedError:
            raise AccessDenied(
                f"Kafka cluster {self._cluster.name}: the gateway may not write topic {self._topic}: "
                f"give it WRITE, READ and DESCRIBE on it"
            )
        raise self._cluster.unavailable(f"topic {self._topic} takes nothing ({fault.__name__})")


def _batches(pairs: Sequence[Pair], timestamp_ms: int) -> Iterator[tuple[bytes, int]]:
    """Record batches of at most ``BATCH_BYTES`` with the number of records in each."""
    builder, count = _builder(), 0
    for key, value in pairs:
        if builder.append(count, timestamp_ms, key, value, []) is None:
            yield bytes(builder.build()), count
            builder, count = _builder(), 0
            builder.append(count, timestamp_ms, key, value, [])
        count += 1
    if count:
        yield bytes(builder.build()), count


def _builder() -> Any:
    return DefaultRecordBatchBuilder(
        magic=2,
        compression_type=0,
        is_transactional=False,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=-1,
        batch_size=BATCH_BYTES,
    )
