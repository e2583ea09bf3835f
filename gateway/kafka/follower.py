"""Reading a topic of the gateway's own from given positions on, without a group: whoever reads keeps the positions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.protocol.metadata import MetadataRequest

from gateway.kafka.cluster import KafkaCluster, doubt_about, fetching_failure, stop_consumer
from gateway.kafka.offsets import Offsets

_FETCH_BYTES: Final = 2 << 20


class Extent(NamedTuple):
    """A topic as it is: Kafka's id of it (its cluster's, where topics have none) and each partition's first and next
    offset."""

    topic_id: str
    earliest: dict[int, int]
    latest: dict[int, int]


class Follower:
    """Reads one topic. Open it, read until it raises, close it."""

    def __init__(self, cluster: KafkaCluster, topic: str) -> None:
        self._cluster = cluster
        self._topic = topic
        self._offsets = Offsets(cluster)
        self._consumer: Any = None
        self._partitions: list[TopicPartition] = []

    async def extent(self) -> Extent:
        """How the topic is now. Raises TopicMissing, KafkaUnavailable."""
        topic_id = await self._offsets.topic_id(self._topic)
        if topic_id is None:
            told = await self._cluster.ask(MetadataRequest([], allow_auto_topic_creation=False))
            topic_id = told.cluster_id
        earliest, latest = await self._offsets.bounds(self._topic)
        return Extent(topic_id or "", dict(enumerate(earliest)), dict(enumerate(latest)))

    async def open(self, positions: Mapping[int, int]) -> None:
        """Stand at these positions. Raises KafkaUnavailable."""
        self._consumer = await self._cluster.open_consumer(self._topic, positions, fetch_max_bytes=_FETCH_BYTES)
        self._partitions = [TopicPartition(self._topic, partition) for partition in positions]

    async def read(self, *, timeout_ms: int, max_records: int) -> tuple[list[bytes | None], dict[int, int]]:
        """Values in the order of their partitions, and the positions after them; none, where nothing came in time.

        Raises KafkaUnavailable where nothing will ever come again.
        """
        try:
            found = await self._consumer.getmany(timeout_ms=timeout_ms, max_records=max_records)
            values = [record.value for records in found.values() for record in records]
            positions = {one.partition: await self._consumer.position(one) for one in found}
        except KafkaError as fault:
            raise self._cluster.fault_with(self._topic, fault) from fault
        failure = fetching_failure(self._consumer)
        if not values and failure is None:
            failure = next((doubt for one in self._partitions if (doubt := doubt_about(self._consumer, one))), None)
        if failure is not None:
            raise self._cluster.unavailable(f"topic {self._topic} cannot be read on: {failure}")
        return values, positions

    async def close(self) -> None:
        """Close the consumer, in whatever state it is."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await stop_consumer(consumer)
