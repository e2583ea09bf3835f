"""What the black-box tests of the partner's API stand on: one deployment, and two nodes of it under different servers.

A test module that says ``pytest_plugins = ("tests.parts.estate",)`` gets ``served``: the node, once as ``gateway serve``
and once as ``gateway.asgi:app`` under hypercorn, an ASGI server without the direct writer. Both share Kafka, contracts,
catalog and database, so that a cursor of one is good on the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.parts.gateway import Deployment, contract
from tests.parts.kafka import Kafka, free_port
from tests.parts.partner import Partner
from tests.parts.process import die_with_parent

SERVERS = ("gateway serve", "hypercorn")
PARTITIONS = 4
PER_PARTITION = 30
TIME_STEP_MS = 1000
EMPTY_STREAMS = 90


@dataclass
class Estate:
    """The deployment, its topics, and what stands in them."""

    deployment: Deployment
    kafka: Kafka
    prefix: str
    began_ms: int
    """Kafka time of the first record of each partition of ``numbers``; the others follow a second apart."""
    _fresh: Iterator[int] = field(default_factory=lambda: iter(range(EMPTY_STREAMS)))

    def topic(self, stream: str) -> str:
        return f"{self.prefix}.{stream}"

    async def new_stream(self, *, partitions: int = 1, kind: str = "fresh") -> str:
        """A stream over a new and empty topic."""
        stream = f"{kind}-{next(self._fresh)}" if kind == "fresh" else kind
        await self.kafka.create_topic(self.topic(stream), partitions)
        return stream

    async def produce(self, stream: str, values: Sequence[bytes | None], **options: Any) -> None:
        await self.kafka.produce(self.topic(stream), values, **options)


@dataclass
class Node:
    """A running server of the deployment."""

    server: str
    base_url: str
    estate: Estate
    admin_url: str = ""

    def partner(self, client_id: str = "acme-web", *, scope: str = "streams:read", **claims: Any) -> Partner:
        return Partner(self.base_url, self.estate.deployment.token(client_id, scope=scope, **claims))

    @property
    def deployment(self) -> Deployment:
        return self.estate.deployment

    @property
    def is_direct(self) -> bool:
        """Whether it writes past ASGI."""
        return self.server == "gateway serve"


def contracts(prefix: str) -> list[dict[str, Any]]:
    """One stream for each thing that a contract can say, and many that are empty."""

    def one(stream: str, *, topic: str | None = None, **options: Any) -> dict[str, Any]:
        return contract(stream, f"{prefix}.{topic or stream}", **options)

    flight = {"type": "object", "properties": {"origin": {"type": "string"}, "delay": {"type": "number"}}}
    event = {"type": "object", "properties": {"kept": {}, "deep": {"type": "object", "properties": {"in": {}}}}}
    return [
        one("numbers"),
        one("others"),
        one("payloads", partitions=1, headers=["trace", "absent"]),
        one("keyless", topic="payloads", key={"expose": False}),
        one("texts", partitions=1, content_type="text/plain", payload={"type": "string"}),
        one("cut", partitions=1, payload=event, projection=["/kept", "/deep/in"]),
        one(
            "rows",
            partitions=1,
            payload=flight,
            filters={"origin": {"pointer": "/origin", "type": "string"}},
            row_filter={"field": "origin", "claim": "airport"},
        ),
        one("onward", topic="numbers", replay={"earliest": False, "time": False}),
        one("recent", topic="aged", partitions=1, replay={"earliest": True, "time": True, "max_age": "PT1H"}),
        one("slow-only", topic="numbers", transports=["pull"]),
        one("guarded", topic="numbers", scopes=["streams:read", "guarded:read"]),
        one("hidden", topic="numbers", visibility="entitled"),
        one("drafted", topic="numbers", lifecycle="draft"),
        one(
            "ageing",
            topic="numbers",
            lifecycle="deprecated",
            deprecated_on="2026-01-15",
            sunset_on="2031-06-30",
            successor="numbers",
        ),
        one("gone", topic="numbers", lifecycle="retired", deprecated_on="2025-01-15", successor="numbers"),
        one("absent-topic"),
        *[one(f"fresh-{number}") for number in range(EMPTY_STREAMS)],
    ]


def number(partition: int, n: int) -> bytes:
    """A record of ``numbers``."""
    return b'{"p":%d,"n":%d}' % (partition, n)


async def _fill(estate: Estate) -> None:
    kafka = estate.kafka
    await asyncio.gather(
        kafka.create_topic(estate.topic("numbers"), PARTITIONS, retention_ms="-1"),
        kafka.create_topic(estate.topic("others"), PARTITIONS),
        kafka.create_topic(estate.topic("payloads")),
        kafka.create_topic(estate.topic("texts")),
        kafka.create_topic(estate.topic("cut")),
        kafka.create_topic(estate.topic("rows")),
        kafka.create_topic(estate.topic("aged"), retention_ms="-1"),
    )
    for partition in range(PARTITIONS):
        await kafka.produce(
            estate.topic("numbers"),
            [number(partition, n) for n in range(PER_PARTITION)],
            partition=partition,
            timestamps=[estate.began_ms + n * TIME_STEP_MS for n in range(PER_PARTITION)],
        )
    hours_ago = int(time.time() * 1000) - 3 * 3_600_000
    await kafka.produce(estate.topic("aged"), [b'{"old":%d}' % n for n in range(3)], timestamps=[hours_ago] * 3)
    await kafka.produce(estate.topic("aged"), [b'{"new":%d}' % n for n in range(3)])


@pytest.fixture(scope="session")
def estate(kafka: Kafka, tmp_path_factory: pytest.TempPathFactory) -> Estate:
    """Contracts, catalog, topics with their records; no node yet."""
    prefix = f"estate.{uuid.uuid4().hex[:8]}"
    deployment = Deployment(
        tmp_path_factory.mktemp("estate"),
        kafka.bootstrap,
        contracts(prefix),
        settings={"stream": {"heartbeat_seconds": 1, "drain_seconds": 10}},
    )
    estate = Estate(deployment, kafka, prefix, int(time.time() * 1000) - 600_000)
    asyncio.run(_fill(estate))
    return estate


@pytest.fixture(scope="session")
def gateway_node(estate: Estate) -> Iterator[Node]:
    """``gateway serve``."""
    with estate.deployment.gateway("estate") as process:
        yield Node("gateway serve", process.base_url, estate, process.admin_url)


@pytest.fixture(scope="session")
def hypercorn_node(estate: Estate) -> Iterator[Node]:
    """``hypercorn gateway.asgi:app``."""
    with hypercorn(estate.deployment) as (base_url, admin_url):
        yield Node("hypercorn", base_url, estate, admin_url)


@pytest.fixture(scope="session", params=SERVERS)
def served(request: pytest.FixtureRequest) -> Node:
    """A node, once under each server: what a partner sees must be the same."""
    node: Node = request.getfixturevalue("gateway_node" if request.param == "gateway serve" else "hypercorn_node")
    return node


@pytest.fixture
def acme(served: Node) -> Partner:
    """An entitled partner of the node."""
    return served.partner()


@contextlib.contextmanager
def hypercorn(deployment: Deployment, *, node: str = "hypercorn", seconds: float = 30) -> Iterator[tuple[str, str]]:
    """A node under hypercorn: its public and management address."""
    port, admin_port = free_port(), free_port()
    directory = deployment.directory / node
    directory.mkdir()
    shutil.copy(deployment.options(node)[1], directory / "gateway.toml")
    log = directory / "log"
    base_url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "hypercorn", "gateway.asgi:app", "--bind", f"127.0.0.1:{port}"]
    environment = os.environ | {"GATEWAY_HTTP__PORT": str(port), "GATEWAY_ADMIN__PORT": str(admin_port)}
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, cwd=directory, env=environment, stdout=output, stderr=output, preexec_fn=die_with_parent
        )
    try:
        _await_listening(process, f"Running on {base_url}", log, seconds=seconds)
        yield base_url, f"http://127.0.0.1:{admin_port}"
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await_listening(process: subprocess.Popen[bytes], line: str, log: Path, *, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while line not in log.read_text():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"hypercorn did not come up:\n{log.read_text()}")
        time.sleep(0.05)


def numbers_by_partition(records: Sequence[Any]) -> dict[int, list[int]]:
    """The ``n`` of records of ``numbers`` for each partition, in the order they came."""
    found: dict[int, list[int]] = {}
    for record in records:
        data = record["data"] if isinstance(record, dict) else record.data["data"]
        found.setdefault(data["p"], []).append(data["n"])
    return found


ALL_NUMBERS = dict(zip(range(PARTITIONS), itertools.repeat(list(range(PER_PARTITION))), strict=False))
