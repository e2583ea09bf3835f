"""Everything that the fault test breaks: three brokers, Redis, Postgres, two gateways, and partners who read on."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from loadtests.ordeal.checker import Identities, Ledger
from loadtests.ordeal.link import Link, link
from loadtests.ordeal.partner import Partner
from loadtests.ordeal.traffic import PLAIN, Traffic
from tests.parts.gateway import Deployment, GatewayProcess, contract
from tests.parts.kafka_trio import KafkaTrio
from tests.parts.postgres import PostgresServer
from tests.parts.readers import PROTOCOLS
from tests.parts.redis import RedisServer

PARTITIONS = 12
NODES = ("a", "b")
SETTLE_SECONDS = 90.0
SETTINGS = {
    # Small, so that a reader that falls behind leaves memory and reads Kafka.
    "stream": {"heartbeat_seconds": 1.0, "ring_records": 20_000, "ring_bytes": 4 << 20},
}


class NotInTime(Exception):
    """Something that had to happen did not."""


@dataclass
class Stage:
    """What a fault finds. ``stories`` are the topics; the first one has most of the partners and the faults."""

    kafka: KafkaTrio
    redis: RedisServer
    postgres: PostgresServer
    random: Random
    deployment: Deployment
    nodes: dict[str, GatewayProcess]
    links: dict[str, Link]
    kafka_links: dict[int, Link]
    stories: list[Traffic]
    partners: list[Partner] = field(default_factory=list)
    hold_seconds: float = 5.0
    """How long what freezes or is silent stays so."""

    _tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _read_logs: dict[str, int] = field(default_factory=dict)

    @property
    def main(self) -> Traffic:
        return self.stories[0]

    def readers(self) -> list[Partner]:
        """The partners that read what the faults are about."""
        return [partner for partner in self.partners if partner.traffic is self.main]

    def busy_node(self) -> str:
        """The one that most partners read at."""
        return max(NODES, key=lambda name: sum(partner.node == self.links[name].url for partner in self.partners))

    def check_instruments(self) -> None:
        """Raises what ended a producer or a partner: nothing may."""
        for task in self._tasks:
            if task.done():
                task.result()

    # ---- breaking and mending --------------------------------------------------------------------------------------

    async def leader(self) -> int:
        """The broker that leads a random partition of the main topic."""
        return await self.kafka.leader_of(self.main.truth.topic, self.random.randrange(PARTITIONS))

    async def restart_broker(self, number: int) -> None:
        """Bring it back, until it has all that it missed: only then may the next one go."""
        broker = self.kafka.brokers[number]
        broker.launch()
        await asyncio.to_thread(broker.wait_up)
        await self.whole()

    async def whole(self) -> None:
        """Every broker has all of every topic."""
        for story in self.stories:

            async def is_whole(topic: str = story.truth.topic) -> bool:
                try:
                    return await self.kafka.is_whole(topic)
                except Exception:  # noqa: BLE001 - an admin client that meets a broker on its way up has many errors
                    return False

            await until(is_whole, what=f"three replicas of {story.truth.topic}")

    async def restart_node(self, name: str) -> None:
        """Start a gateway that has ended, behind the address that it had."""
        await asyncio.to_thread(self.nodes[name].start)
        self.links[name].upstream = _port(self.nodes[name])

    async def flows(self) -> None:
        """Every partner has, in every partition, something that was sent after this call."""
        marks = [
            {series: number + 1 for series, number in story.sent.items() if series[0] == PLAIN}
            for story in self.stories
        ]

        def flowing() -> bool:
            self.check_instruments()
            return all(
                partner.ledger.has(mark, life=partner.traffic.truth.life)
                for story, mark in zip(self.stories, marks, strict=True)
                for partner in self.partners
                if partner.traffic is story and partner.flowing.is_set()
            )

        await until(flowing, what="every partner reads what is new")

    async def settled(self) -> list[str]:
        """Every partner has all that Kafka has by now, and both nodes are ready; what is not so in time."""
        targets = {id(story): (dict(story.truth.acknowledged), story.truth.life) for story in self.stories}
        problems: list[str] = []

        def target(partner: Partner) -> tuple[dict[tuple[str, int], int], int]:
            return targets[id(partner.traffic)]

        def complete(partner: Partner) -> bool:
            wanted, life = target(partner)
            return partner.ledger.has(wanted, life=life)

        try:
            await until(lambda: all(map(complete, self.partners)), seconds=SETTLE_SECONDS, what="everything is there")
        except NotInTime:
            for partner in self.partners:
                if not complete(partner):
                    wanted, life = target(partner)
                    missing = partner.ledger.give_up(wanted, life=life)
                    problems.append(f"{partner.name} ({partner.protocol} at {partner.node}): {missing} did not come")
        for name in NODES:
            try:
                await until(lambda name=name: self._is_ready(name), what=f"node {name} ready")
            except NotInTime as late:
                problems.append(str(late))
        return problems

    async def _is_ready(self, name: str) -> bool:
        try:
            return (await asyncio.to_thread(self.nodes[name].readiness))[0] == 200
        except OSError:
            return False

    def errors_logged(self) -> list[str]:
        """What the gateways logged as an error, or beside their log, since the last time."""
        found = []
        for name, node in self.nodes.items():
            text = node.log()
            lines = text[self._read_logs.get(name, 0) :].splitlines()
            self._read_logs[name] = len(text)
            found += [f"{name}: {line[:300]}" for line in lines if _is_error(line)]
        return found


def _is_error(line: str) -> bool:
    if not line.startswith("{"):
        return True
    try:
        return bool(json.loads(line)["level"] in ("ERROR", "CRITICAL"))
    except (ValueError, KeyError):
        return True


async def until(
    condition: Callable[[], bool] | Callable[[], Awaitable[bool]], *, what: str, seconds: float = 90.0
) -> None:
    """Return when the condition holds. Raises NotInTime."""
    deadline = time.monotonic() + seconds
    while True:
        holds = condition()
        if holds if isinstance(holds, bool) else await holds:
            return
        if time.monotonic() > deadline:
            raise NotInTime(f"not in {seconds:g} s: {what}")
        await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def stage(
    kafka: KafkaTrio,
    redis: RedisServer,
    postgres: PostgresServer,
    directory: Path,
    *,
    seed: int,
    partners_per_protocol: int = 2,
    protocols: Sequence[str] = PROTOCOLS,
    settings: Mapping[str, Any] | None = None,
    prepare: Callable[[Stage], None] | None = None,
) -> AsyncIterator[Stage]:
    """Two ready gateways behind links, traffic on two topics, and partners who have begun to read.

    ``kafka`` needs its ``fronts``; ``directory``, which is not there yet, gives the topics their names. ``prepare`` is
    called before anybody reads or writes. Of the partners of a protocol every second one moves on to others.
    """
    topics = [f"{directory.name}.main", f"{directory.name}.other"]
    for topic in topics:
        await kafka.create_topic(topic, PARTITIONS, replicas=3)
    async with contextlib.AsyncExitStack() as stack:
        kafka_links = {
            number: await stack.enter_async_context(link(upstream=outside, port=kafka.fronts[number]))
            for number, outside in kafka.outside.items()
        }
        bootstrap = [f"127.0.0.1:{front}" for front in kafka.fronts.values()]
        own: dict[str, Any] = {
            **SETTINGS,
            "kafka": {"bootstrap_servers": bootstrap},
            "redis": {"url": redis.url},
            "database": {"url": await asyncio.to_thread(postgres.create_database)},
        }
        for section, values in (settings or {}).items():
            own[section] = {**own.get(section, {}), **values}
        contracts = [contract(topic, topic, partitions=PARTITIONS) for topic in topics]
        deployment = await asyncio.to_thread(Deployment, directory, bootstrap[0], contracts, None, own)
        nodes = {name: GatewayProcess(deployment, name) for name in NODES}
        for node in nodes.values():
            stack.push_async_callback(asyncio.to_thread, node.stop)
        await asyncio.gather(*[asyncio.to_thread(node.start) for node in nodes.values()])
        links = {
            name: await stack.enter_async_context(link(upstream=_port(node), holds_little=True))
            for name, node in nodes.items()
        }
        stories = [Traffic(kafka.bootstrap, topic, partitions=PARTITIONS) for topic in topics]
        # Against the stress on one, a trickle that must never mix with it.
        stories[1].beat_seconds = 0.2
        made = Stage(kafka, redis, postgres, Random(seed), deployment, nodes, links, kafka_links, stories)
        made.partners = _partners(made, partners_per_protocol, protocols)
        if prepare is not None:
            prepare(made)
        made._tasks = tasks = [asyncio.create_task(one.run()) for one in stories]
        tasks += [asyncio.create_task(one.run()) for one in made.partners]
        try:
            await until(lambda: all(one.opened.is_set() for one in made.partners), what="every partner has begun")
            yield made
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for story in stories:
                story.close()


def _partners(made: Stage, per_protocol: int, protocols: Sequence[str]) -> list[Partner]:
    identities = [Identities() for _ in made.stories]
    urls = [one.url for one in made.links.values()]

    def partner(name: str, protocol: str, *, story: int, switches: bool) -> Partner:
        traffic = made.stories[story]
        return Partner(
            name=name,
            protocol=protocol,
            nodes=urls,
            stream=traffic.truth.topic,
            token=made.deployment.token(),
            random=Random(made.random.random()),
            traffic=traffic,
            ledger=Ledger(traffic.truth, identities=identities[story]),
            switches=switches,
        )

    main = [
        partner(f"{protocol} {number}", protocol, story=0, switches=number % 2 == 1)
        for number in range(per_protocol)
        for protocol in protocols
    ]
    return [*main, *[partner(f"other {protocol}", protocol, story=1, switches=False) for protocol in ("sse", "pull")]]


def _port(node: GatewayProcess) -> int:
    return int(node.base_url.rpartition(":")[2])
