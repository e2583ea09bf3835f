"""Look-ups of where topics begin, end and stood, against a real Kafka."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator

import pytest

from gateway.clock import SystemClock
from gateway.errors import Unavailable
from gateway.kafka.cluster import ClusterSettings, KafkaCluster
from gateway.kafka.faults import KafkaUnavailable
from gateway.kafka.offsets import Offsets, TopicMissing
from tests.parts.kafka import Kafka, KafkaBroker, eventually
from tests.parts.ports import free_port


@pytest.fixture
async def cluster(kafka: Kafka) -> AsyncIterator[KafkaCluster]:
    cluster = KafkaCluster(ClusterSettings(kafka.bootstrap), clock=SystemClock())
    yield cluster
    await cluster.close()


@pytest.fixture
async def topic(kafka: Kafka) -> str:
    name = f"offsets-{uuid.uuid4().hex}"
    await kafka.create_topic(name, 3)
    return name


async def test_bounds_follow_what_is_produced_and_deleted(kafka: Kafka, cluster: KafkaCluster, topic: str) -> None:
    offsets = Offsets(cluster)
    assert await offsets.partitions(topic) == 3
    assert await offsets.latest(topic) == (0, 0, 0)
    await kafka.produce(topic, [b"x"] * 7, partition=1)
    await kafka.delete_records(topic, {1: 4})
    assert await offsets.earliest(topic) == (0, 4, 0)
    assert await offsets.latest(topic) == (0, 7, 0)
    assert await offsets.bounds(topic) == ((0, 4, 0), (0, 7, 0))


async def test_growth_is_seen_by_the_next_look(kafka: Kafka, cluster: KafkaCluster, topic: str) -> None:
    offsets = Offsets(cluster)
    assert await offsets.partitions(topic) == 3
    await kafka.grow_topic(topic, 5)
    assert await offsets.partitions(topic) == 5
    assert await offsets.latest(topic) == (0, 0, 0, 0, 0)


async def test_a_topic_that_is_not_there_is_missing_and_stays_so(cluster: KafkaCluster) -> None:
    offsets = Offsets(cluster)
    for _ in range(2):
        with pytest.raises(TopicMissing, match="no topic absent-topic"):
            await offsets.partitions("absent-topic")
    with pytest.raises(TopicMissing):
        await offsets.latest("absent-topic")


async def test_latest_stays_before_an_open_transaction(kafka: Kafka, cluster: KafkaCluster, topic: str) -> None:
    offsets = Offsets(cluster)
    await kafka.produce(topic, [b"x"] * 2, partition=0)
    async with kafka.transaction(f"open-{topic}", commit=True) as producer:
        await producer.send_and_wait(topic, b"not yet", partition=0)
        assert (await offsets.latest(topic))[0] == 2

    async def is_past_the_commit_marker() -> bool:
        return (await offsets.latest(topic))[0] == 4

    # The marker is written after the commit was answered.
    await eventually(is_past_the_commit_marker)


async def test_time_finds_the_first_record_at_or_after_it(kafka: Kafka, cluster: KafkaCluster, topic: str) -> None:
    base = int(time.time() * 1000) - 60_000
    await kafka.produce(topic, [b"x"] * 5, partition=0, timestamps=[base + 1000 * n for n in range(5)])
    await kafka.produce(topic, [b"x"] * 2, partition=2, timestamps=[base - 5000, base + 2500])
    offsets = Offsets(cluster)
    assert await offsets.at_time(topic, base + 2000) == (2, 0, 1)
    assert await offsets.at_time(topic, base + 2001) == (3, 0, 1)
    assert await offsets.at_time(topic, 0) == (0, 0, 0)
    assert await offsets.at_time(topic, -5) == (0, 0, 0)
    assert await offsets.at_time(topic, base + 10_000) == (5, 0, 2)


async def test_a_time_after_everything_in_an_empty_topic_is_its_end(cluster: KafkaCluster, topic: str) -> None:
    assert await Offsets(cluster).at_time(topic, 1) == (0, 0, 0)


async def test_a_cluster_that_is_away_is_unavailable_and_the_partner_sees_no_address() -> None:
    settings = ClusterSettings(f"127.0.0.1:{free_port()}")
    cluster = KafkaCluster(settings, name="eu", clock=SystemClock())
    with pytest.raises(KafkaUnavailable, match=r"cluster eu: no answer from 127\.0\.0\.1") as raised:
        await cluster.ping()
    assert isinstance(raised.value, Unavailable)
    assert "127.0.0.1" not in raised.value.detail
    with pytest.raises(KafkaUnavailable):
        await Offsets(cluster).latest("any")
    await cluster.close()


async def test_a_frozen_broker_is_unavailable_within_the_bound_and_answers_again(own_kafka: KafkaBroker) -> None:
    cluster = KafkaCluster(ClusterSettings(own_kafka.bootstrap), clock=SystemClock())
    await own_kafka.create_topic("t", 2)
    offsets = Offsets(cluster, timeout_seconds=0.5)
    assert await offsets.latest("t") == (0, 0)
    own_kafka.pause()
    started = time.monotonic()
    with pytest.raises(KafkaUnavailable):
        await offsets.latest("t")
    assert time.monotonic() - started < 3
    own_kafka.resume()
    await cluster.ping()
    assert await Offsets(cluster).latest("t") == (0, 0)
    await cluster.close()


def test_settings_do_not_print_secrets() -> None:
    settings = ClusterSettings("b:9092", "SASL_SSL", sasl_username="u", sasl_password="hunter2")
    assert "hunter2" not in repr(settings)
