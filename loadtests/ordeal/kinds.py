"""The bad days: each breaks something, sees that reading goes on, and mends it."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from confluent_kafka import ElectionType, KafkaException
from confluent_kafka import TopicPartition as At
from confluent_kafka.admin import AdminClient

from loadtests.ordeal.link import Link
from loadtests.ordeal.stage import PARTITIONS, Stage, until

BROKER_BAR_SECONDS = 10.0
LEADER_BAR_SECONDS = 5.0
NODE_BAR_SECONDS = 3.0


class Kind:
    """One fault.

    ``bar_seconds``: the longest that a record may take to a reader meanwhile; None without one. It counts from the
    producer where ``kafka_too``, as Kafka itself is what broke, else from Kafka's acknowledgement.
    ``gaps``, ``resumes``: whether somebody must be told of a gap, must come back; else it reached nobody. ``inflict``
    breaks and mends; what it waits for in vain raises NotInTime.
    """

    what: str
    bar_seconds: float | None = None
    kafka_too = False
    gaps = False
    resumes = False

    async def inflict(self, stage: Stage) -> None:
        raise NotImplementedError


class BrokerKilled(Kind):
    what = "SIGKILL of the broker that leads a partition, and its return"
    bar_seconds = BROKER_BAR_SECONDS
    kafka_too = True

    async def inflict(self, stage: Stage) -> None:
        leader = await stage.leader()
        await asyncio.to_thread(stage.kafka.brokers[leader].kill)
        try:
            await stage.flows()
        finally:
            await stage.restart_broker(leader)


class BrokerFrozen(Kind):
    what = "SIGSTOP of a leading broker, and SIGCONT"
    bar_seconds = BROKER_BAR_SECONDS
    kafka_too = True

    async def inflict(self, stage: Stage) -> None:
        broker = stage.kafka.brokers[await stage.leader()]
        broker.pause()
        try:
            await asyncio.gather(stage.flows(), asyncio.sleep(stage.hold_seconds))
        finally:
            broker.resume()
        await stage.whole()


class LeaderMoved(Kind):
    what = "a leader leaves in order (SIGTERM), comes back, and is elected again"
    bar_seconds = LEADER_BAR_SECONDS
    kafka_too = True

    async def inflict(self, stage: Stage) -> None:
        leader = await stage.leader()
        await asyncio.to_thread(stage.kafka.brokers[leader].stop)
        try:
            await stage.flows()
        finally:
            await stage.restart_broker(leader)
        admin = AdminClient({"bootstrap.servers": stage.kafka.bootstrap, "log_level": 0})
        topic = stage.main.truth.topic

        async def moved() -> bool:
            election = admin.elect_leaders(ElectionType.PREFERRED, [At(topic, p) for p in range(PARTITIONS)])
            with contextlib.suppress(KafkaException):
                await asyncio.to_thread(election.result, 10)
            leaders = [await stage.kafka.leader_of(topic, partition) for partition in range(PARTITIONS)]
            return leader in leaders

        await until(moved, what=f"broker {leader} leads again")
        await stage.flows()


class GatewayKilled(Kind):
    resumes = True
    what = "SIGKILL of a gateway, and a new one in its place"
    bar_seconds = NODE_BAR_SECONDS

    async def inflict(self, stage: Stage) -> None:
        name = stage.busy_node()
        await asyncio.to_thread(stage.nodes[name].kill)
        try:
            await stage.flows()
        finally:
            await stage.restart_node(name)


class GatewayFrozen(Kind):
    resumes = True
    what = "SIGSTOP of a gateway, and SIGCONT; partners leave after 3 s of silence"

    async def inflict(self, stage: Stage) -> None:
        node = stage.nodes[stage.busy_node()]
        node.signal(signal.SIGSTOP)
        try:
            await asyncio.gather(stage.flows(), asyncio.sleep(stage.hold_seconds))
        finally:
            node.signal(signal.SIGCONT)


class GatewayDrained(Kind):
    resumes = True
    what = "SIGTERM of a gateway under load, and a new one in its place"
    bar_seconds = NODE_BAR_SECONDS

    async def inflict(self, stage: Stage) -> None:
        name = stage.busy_node()
        stage.nodes[name].signal(signal.SIGTERM)
        try:
            code = await asyncio.to_thread(stage.nodes[name].wait)
            assert code == 0, f"exit code {code}"
            await stage.flows()
        finally:
            await stage.restart_node(name)


@dataclass
class Outage(Kind):
    """A dependency goes and comes; meanwhile every partner is cut once, so that reads are opened without it."""

    resumes = True

    what: str
    goes: Callable[[Stage], None]
    comes: Callable[[Stage], None]
    bar_seconds: float | None = NODE_BAR_SECONDS

    async def inflict(self, stage: Stage) -> None:
        await asyncio.to_thread(self.goes, stage)
        try:
            await stage.flows()
            for one in stage.links.values():
                one.cut()
            await asyncio.gather(stage.flows(), asyncio.sleep(stage.hold_seconds))
        finally:
            await asyncio.to_thread(self.comes, stage)
        await stage.flows()


@dataclass
class Cuts(Kind):
    """Connections break, ten times, some of them amid a record."""

    what: str
    links: Callable[[Stage], list[Link]]
    bar_seconds: float | None = NODE_BAR_SECONDS

    async def inflict(self, stage: Stage) -> None:
        for turn in range(10):
            for one in self.links(stage):
                if turn % 2:
                    one.cut()
                else:
                    one.cut_after(stage.random.randrange(1, 20_000))
            await asyncio.sleep(stage.random.uniform(0.05, 0.5))
        await stage.flows()


@dataclass
class Delays(Kind):
    """Every piece waits, both ways, for some seconds of the clock."""

    what: str
    links: Callable[[Stage], list[Link]]
    delay_seconds: float

    async def inflict(self, stage: Stage) -> None:
        for one in self.links(stage):
            one.delay_seconds = self.delay_seconds
        try:
            await asyncio.gather(stage.flows(), asyncio.sleep(4))
        finally:
            for one in self.links(stage):
                one.delay_seconds = 0.0
        await stage.flows()


class KafkaSilent(Kind):
    what = "nothing passes between the gateways and Kafka for a time, and nothing breaks"

    async def inflict(self, stage: Stage) -> None:
        for one in stage.kafka_links.values():
            one.flowing.clear()
        try:
            await asyncio.sleep(stage.hold_seconds)
        finally:
            for one in stage.kafka_links.values():
                one.flowing.set()
        await stage.flows()


class RetentionPassed(Kind):
    what = "two partners stop reading; what they have not read leaves memory, and then Kafka"
    gaps = True
    records = 400
    padding = 40_000

    async def inflict(self, stage: Stage) -> None:
        slow = stage.random.sample(stage.readers(), 2)
        for partner in slow:
            partner.flowing.clear()
        try:
            for number in range(self.records):
                stage.main.send(number % PARTITIONS, padding=self.padding)
                await asyncio.sleep(0.005)
            await stage.flows()
            ends = stage.main.end_offsets()
            await stage.kafka.delete_records(stage.main.truth.topic, ends)
            stage.main.delete_before(ends)
        finally:
            for partner in slow:
                partner.flowing.set()
        await stage.flows()


class TopicRecreated(Kind):
    what = "the topic is deleted and made anew under its readers"
    gaps = True

    async def inflict(self, stage: Stage) -> None:
        topic = stage.main.truth.topic
        await stage.main.pause()
        stage.main.end_life()
        try:
            await stage.kafka.recreate_topic(topic, PARTITIONS, replicas=3)
            for broker in stage.kafka.brokers.values():
                # A producer that hears of the old topic, or of none, from one of them would give up.
                await until(partial(_knows, broker.bootstrap, topic), what=f"{broker.bootstrap} knows the new topic")
        finally:
            stage.main.begin_life()
            stage.main.go_on()
        await stage.whole()
        await stage.flows()


class TransactionsAborted(Kind):
    what = "transactions of 60 records, half of them aborted, and some left open until the next producer fences them"
    rounds = 8

    async def inflict(self, stage: Stage) -> None:
        for turn in range(self.rounds):
            await stage.main.transact(
                20, transactional_id="ordeal", commit=turn % 2 == 0, abandon=turn % 4 == 1 and turn < self.rounds - 1
            )
        await stage.flows()


async def _knows(bootstrap: str, topic: str) -> bool:
    client = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    with contextlib.suppress(KafkaException):
        found = (await asyncio.to_thread(client.list_topics, topic, 5)).topics[topic]
        return len(found.partitions) == PARTITIONS and all(one.leader >= 0 for one in found.partitions.values())
    return False


def _partner_links(stage: Stage) -> list[Link]:
    return list(stage.links.values())


def _kafka_links(stage: Stage) -> list[Link]:
    return list(stage.kafka_links.values())


KINDS: dict[str, Kind] = {
    "broker-killed": BrokerKilled(),
    "broker-frozen": BrokerFrozen(),
    "leader-moved": LeaderMoved(),
    "gateway-killed": GatewayKilled(),
    "gateway-frozen": GatewayFrozen(),
    "gateway-drained": GatewayDrained(),
    "redis-killed": Outage(
        "SIGKILL of Redis; reads are opened without it", lambda s: s.redis.kill(), lambda s: s.redis.start()
    ),
    "redis-frozen": Outage(
        "SIGSTOP of Redis; reads are opened without it", lambda s: s.redis.pause(), lambda s: s.redis.resume()
    ),
    "postgres-killed": Outage(
        "SIGKILL of Postgres; reads are opened without it", lambda s: s.postgres.kill(), lambda s: s.postgres.start()
    ),
    "postgres-frozen": Outage(
        "SIGSTOP of Postgres; reads are opened without it", lambda s: s.postgres.freeze(), lambda s: s.postgres.thaw()
    ),
    "partners-cut": Cuts("connections of partners are reset, ten times, half of them amid a record", _partner_links),
    "partners-delayed": Delays("300 ms more, both ways, between partners and gateways", _partner_links, 0.3),
    "kafka-cut": Cuts("connections to Kafka are reset, ten times, half of them amid an answer", _kafka_links),
    "kafka-delayed": Delays("300 ms more, both ways, between gateways and Kafka", _kafka_links, 0.3),
    "kafka-silent": KafkaSilent(),
    "retention": RetentionPassed(),
    "topic-recreated": TopicRecreated(),
    "transactions": TransactionsAborted(),
}
