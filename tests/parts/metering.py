"""A usage topic in memory, and ledgers in databases of a test's own: what metering's tests are made of."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from gateway.database.database import Database
from gateway.database.schema import Schema
from gateway.errors import Unavailable
from gateway.metering.ledger import Ledger, Place
from gateway.metering.tables import METADATA, STATE
from gateway.metering.totals import Message, decode
from gateway.model import Grant, Plan
from tests.parts.source import contract, principal

TOPIC = "gateway.usage"
T = TypeVar("T")


class Extent(NamedTuple):
    topic_id: str
    earliest: dict[int, int]
    latest: dict[int, int]


class MemoryTopic:
    """Partitions of keys and values. ``away``: nothing is taken; ``lying``: it is, and the answer is lost."""

    def __init__(self, partitions: int = 1) -> None:
        self.logs: list[list[tuple[bytes, bytes]]] = [[] for _ in range(partitions)]
        self.away = False
        self.lying = False

    async def partitions(self) -> int:
        return len(self.logs)

    async def ensure_topic(self, *, partitions: int = 1) -> bool:
        self._check()
        return False

    async def retention_problem(self) -> str | None:
        return None

    async def send(self, pairs: Sequence[tuple[bytes, bytes]], *, partition: int, timestamp_ms: int) -> int:
        self._check()
        self.logs[partition] += pairs
        if self.lying:
            raise Unavailable("The answer is lost.")
        return len(self.logs[partition])

    def _check(self) -> None:
        if self.away:
            raise Unavailable("Kafka is away.")

    def messages(self) -> list[Message]:
        """All, partition by partition."""
        return [decode(value) for log in self.logs for _key, value in log]

    def compacted(self) -> list[Message]:
        """What is left when only the last message of each key is kept."""
        return [decode(value) for log in self.logs for value in dict(log).values()]

    def place(self) -> Place:
        """Its end."""
        return Place(TOPIC, "", {number: len(log) for number, log in enumerate(self.logs)})


async def at_once(work: Callable[..., T], /, *arguments: Any, **named: Any) -> T:
    """Blocking work done here and now."""
    await asyncio.sleep(0)
    return work(*arguments, **named)


def new_database(url: str | Path) -> Database:
    """A database with its schema; a path is that of a SQLite file."""
    database = Database(f"sqlite:///{url}" if isinstance(url, Path) else url)
    Schema(database).require(may_upgrade=True)
    return database


def memory_database() -> Database:
    """The ledger's tables alone, in memory: made in a moment."""
    database = Database("sqlite://")
    with database.writing() as connection:
        METADATA.create_all(connection)
        connection.execute(STATE.insert().values(id=1, holder="", until=0, rolled_until=0))
    return database


def total(ledger: Ledger, tenant: str | None = None) -> Mapping[str, int]:
    """Everything in a ledger, added up."""
    found: dict[str, int] = {}
    for _, usage in ledger.rows(tenant=tenant, start=0, end=2**40):
        for name, count in usage._asdict().items():
            found[name] = found.get(name, 0) + count
    return found


def grant(
    tenant: str = "acme", *, stream: str = "flights", plan: str = "open", revision: int = 1, application: str = ""
) -> Grant:
    """What a meter looks at."""
    application = application or f"{tenant}-app"
    given = contract(stream, stream)
    return Grant(principal(application), tenant, application, given, Plan(plan, revision, plan, "EUR"))
