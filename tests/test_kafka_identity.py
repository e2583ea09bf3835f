"""Kafka's ids of topics: asked of a real Kafka, of librdkafka's mock cluster, and of brokers that know none."""

from __future__ import annotations

import contextlib
import math
import uuid
from collections.abc import AsyncIterator

import pytest
from aiokafka.client import AIOKafkaClient

from gateway.clock import SystemClock
from gateway.kafka.cluster import ClusterSettings, KafkaCluster
from gateway.kafka.faults import KafkaUnavailable, TopicMissing
from gateway.kafka.offsets import Offsets
from tests.parts.kafka import Kafka, eventually
from tests.parts.ports import free_port


@pytest.fixture
async def cluster(kafka: Kafka) -> AsyncIterator[KafkaCluster]:
    cluster = KafkaCluster(ClusterSettings(kafka.bootstrap), clock=SystemClock())
    yield cluster
    await cluster.close()


@pytest.fixture
async def topic(kafka: Kafka) -> str:
    name = f"identity-{uuid.uuid4().hex}"
    await kafka.create_topic(name, 3)
    return name


class OlderCluster(KafkaCluster):
    """Brokers that offer no request in the versions that this product would like."""

    async def _connected(self) -> AIOKafkaClient:
        client = await super()._connected()
        for connection in client._conns.values():
            connection._versions = {3: (0, 9)}
        return client


async def test_a_topic_keeps_its_id_until_it_is_made_anew(kafka: Kafka, cluster: KafkaCluster, topic: str) -> None:
    offsets = Offsets(cluster)
    first = await offsets.topic_id(topic)
    assert first is not None
    await kafka.grow_topic(topic, 4)
    await kafka.produce(topic, [b"x"])
    assert await offsets.topic_id(topic) == first
    await kafka.recreate_topic(topic, 3)

    async def is_another() -> bool:
        with contextlib.suppress(TopicMissing):
            return await offsets.topic_id(topic) not in (None, first)
        return False

    await eventually(is_another)


async def test_topics_have_different_ids(kafka: Kafka, cluster: KafkaCluster, topic: str) -> None:
    await kafka.create_topic(f"{topic}-other")
    offsets = Offsets(cluster)
    assert await offsets.topic_id(topic) != await offsets.topic_id(f"{topic}-other")


async def test_to_ask_for_an_id_creates_no_topic(cluster: KafkaCluster) -> None:
    offsets = Offsets(cluster)
    for _ in range(2):
        with pytest.raises(TopicMissing, match="no topic absent-topic"):
            await offsets.topic_id("absent-topic")


async def test_brokers_without_ids_give_none_and_keep_their_connection(kafka: Kafka, topic: str) -> None:
    older = OlderCluster(ClusterSettings(kafka.bootstrap), clock=SystemClock())
    await older.ping()
    client = await older._connected()
    offsets = Offsets(older)
    assert await offsets.topic_id(topic) is None
    assert await offsets.retention_ms(topic) is None
    assert await older._connected() is client
    await older.close()


async def test_a_cluster_that_is_away_is_said_to_be() -> None:
    nowhere = KafkaCluster(ClusterSettings(f"127.0.0.1:{free_port()}"), clock=SystemClock())
    with pytest.raises(KafkaUnavailable):
        await Offsets(nowhere, timeout_seconds=1).topic_id("any")


@pytest.mark.parametrize(
    ("configured", "expected"),
    [
        ({"retention_ms": "60000"}, 60_000),
        ({"retention_ms": "-1"}, math.inf),
        ({"retention_ms": "60000", "cleanup_policy": "compact"}, math.inf),
        ({"retention_ms": "60000", "cleanup_policy": "compact,delete"}, 60_000),
        ({}, 7 * 24 * 3600 * 1000),
    ],
)
async def test_retention_is_what_the_topics_configuration_says(
    kafka: Kafka, cluster: KafkaCluster, configured: dict[str, str], expected: float
) -> None:
    name = f"kept-{uuid.uuid4().hex}"
    await kafka.create_topic(name, 1, **configured)
    assert await Offsets(cluster).retention_ms(name) == expected
