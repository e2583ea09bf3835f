"""Three real brokers in one cluster, each a process of its own, so that leaders can move."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.parts.kafka import Kafka, KafkaBroker
from tests.parts.ports import free_port

NODES = (1, 2, 3)
_PROPERTIES = """
node.id={node}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
controller.quorum.voters={voters}
default.replication.factor=3
min.insync.replicas=2
offsets.topic.replication.factor=3
transaction.state.log.replication.factor=3
transaction.state.log.min.isr=2
auto.leader.rebalance.enable=false
auto.create.topics.enable=true
controller.quorum.election.timeout.ms=500
controller.quorum.fetch.timeout.ms=1000
replica.lag.time.max.ms=3000
controlled.shutdown.enable=true
"""

_OUTSIDE = """
listeners=PLAINTEXT://127.0.0.1:{port},OUTSIDE://127.0.0.1:{outside},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=PLAINTEXT://127.0.0.1:{port},OUTSIDE://127.0.0.1:{front}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,OUTSIDE:PLAINTEXT,CONTROLLER:PLAINTEXT
"""


class KafkaTrio(Kafka):
    """A cluster of three; every topic has its replicas on all of them.

    ``fronts``: by node, the port of something that stands before that broker. Each then has a second listener, at
    ``outside``, whose clients are told to come through there.
    """

    def __init__(self, directory: Path, *, fronts: Mapping[int, int] | None = None) -> None:
        self.fronts = dict(fronts or {})
        self.outside = {node: free_port() for node in self.fronts}
        ports = {node: (free_port(), free_port()) for node in NODES}
        voters = ",".join(f"{node}@127.0.0.1:{controller}" for node, (_, controller) in ports.items())
        self.brokers = {
            node: KafkaBroker(
                directory / str(node),
                port=port,
                node=node,
                properties=_PROPERTIES.format(node=node, port=port, controller_port=controller, voters=voters)
                + self._second_listener(node, port=port, controller_port=controller),
            )
            for node, (port, controller) in ports.items()
        }
        super().__init__(ports[1][0])

    def _second_listener(self, node: int, **ports: int) -> str:
        if node not in self.fronts:
            return ""
        return _OUTSIDE.format(outside=self.outside[node], front=self.fronts[node], **ports)

    @property
    def bootstrap(self) -> str:
        return ",".join(broker.bootstrap for broker in self.brokers.values())

    def start(self) -> None:
        """All three at once; returns when all answer. Blocks."""
        first, *others = self.brokers.values()
        first.prepare()
        for broker in others:
            broker.prepare(like=first)
        for broker in self.brokers.values():
            broker.launch()
        for broker in self.brokers.values():
            broker.wait_up()

    def kill(self) -> None:
        """SIGKILL all."""
        for broker in self.brokers.values():
            broker.kill()

    async def leader_of(self, topic: str, partition: int = 0) -> int:
        """The node that leads a partition; -1 while none does."""
        async with self._admin() as admin:
            (described,) = await admin.describe_topics([topic])
            return next(int(one["leader"]) for one in described["partitions"] if one["partition"] == partition)

    async def is_whole(self, topic: str) -> bool:
        """Whether all three have all of it, and so any one may go."""
        async with self._admin() as admin:
            (described,) = await admin.describe_topics([topic])
            return all(one["leader"] >= 0 and len(one["isr"]) == len(NODES) for one in described["partitions"])


@contextlib.contextmanager
def trio(*, fronts: Mapping[int, int] | None = None) -> Iterator[KafkaTrio]:
    """Three brokers of one's own. Raises PartMissing."""
    with tempfile.TemporaryDirectory(prefix="kafka-trio-") as directory:
        own = KafkaTrio(Path(directory), fronts=fronts)
        try:
            own.start()
            yield own
        finally:
            own.kill()
