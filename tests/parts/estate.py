"""What the black-box tests of the partner's API stand on: one deployment, and nodes of it under different servers."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from tests.parts.gateway import Deployment, catalog, contract
from tests.parts.kafka import Kafka
from tests.parts.partner import Partner
from tests.parts.ports import free_port
from tests.parts.process import die_with_parent

PARTITIONS = 4
PER_PARTITION = 30
TIME_STEP_MS = 1000
EMPTY_STREAMS = 120
ORIGIN = "https://app.example"
"""What acme's application lists for browsers."""


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
    sensor = {
        "type": "object",
        "properties": {
            "site": {"type": "string"},
            "level": {"type": "number"},
            "count": {"type": "integer"},
            "live": {"type": "boolean"},
            "at": {"type": "object", "properties": {"x": {}, "y": {}}},
            "secret": {"type": "string"},
        },
    }
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
        one(
            "sensors", payload=sensor, filters=SENSOR_FILTERS, projection=["/site", "/level", "/count", "/live", "/at"]
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
            deprecated_on=date(2026, 1, 15),
            sunset_on=date(2031, 6, 30),
            successor="numbers",
        ),
        one("gone", topic="numbers", lifecycle="retired", deprecated_on=date(2025, 1, 15), successor="numbers"),
        one("absent-topic"),
        *[one(f"fresh-{number}") for number in range(EMPTY_STREAMS)],
    ]


PAYLOADS = (
    b'{"price": 1.10,  "count":123456789012345678901234567890, "exponent":1E+400, "zero":-0.0}',
    b'{\r\n  "broken":\n\t"lines",\r"unicode": "\xe2\x80\xa8 \xef\xbb\xbf \\u0000 \xf0\x9f\x8c\x8d"\n}\n',
    b'"a word"',
    None,
)
"""What stands in ``payloads``, one record each, with these keys."""
PAYLOAD_KEYS = (b"first", b"\xff\x00", "schl\u00fcssel".encode(), b"first")


SENSOR_FILTERS = {
    "site": {"pointer": "/site", "type": "string"},
    "level": {"pointer": "/level", "type": "number"},
    "count": {"pointer": "/count", "type": "integer"},
    "live": {"pointer": "/live", "type": "boolean"},
}
SENSORS = (
    b'{"site":"north","level":1.50,"count":1,"live":true,"at":{"x":1,"y":2.0},"secret":"s"}',
    b'{"site":"south","level":-2,"count":2,"live":false,"at":{"x":3}}',
    b'{"site":"north, upper","level":4.25,"count":10,"live":true}',
    b'{"site":"northwest","level":1e1,"count":3}',
    b'{"site":null,"level":"high","count":4,"live":true}',
    b'{"level":0.0,"count":5,"secret":"t"}',
    b'{"site":"S\\u00fcden","level":3,"count":6,"live":false}',
    b'{"site":"a:b","level":1.5,"count":7,"live":true}',
)
"""What stands in ``sensors``, in partitions by turns; ``count`` tells them apart."""


def number(partition: int, n: int) -> bytes:
    """A record of ``numbers``."""
    return b'{"p":%d,"n":%d}' % (partition, n)


def tenants(streams: Sequence[str]) -> dict[str, Any]:
    """acme may read everything; globex nothing; initech is suspended; hooli's time has not come; umbrella's is over."""
    document: dict[str, Any] = catalog(streams)
    acme: dict[str, Any] = document["tenants"][0]
    acme["applications"][0]["origins"] = [ORIGIN]

    def like(name: str, **changes: Any) -> dict[str, Any]:
        return acme | {"name": name, "applications": [{"client_id": f"{name}-app", "title": "App"}]} | changes

    right = {"product": "all", "plan": "open"}
    document["tenants"] += [
        like("initech", status="suspended"),
        like("hooli", entitlements=[right | {"from": date(2099, 1, 1)}]),
        like("umbrella", entitlements=[right | {"from": date(2020, 1, 1), "to": date(2021, 1, 1)}]),
    ]
    return document


async def fill(estate: Estate) -> None:
    kafka = estate.kafka
    await asyncio.gather(
        kafka.create_topic(estate.topic("numbers"), PARTITIONS, retention_ms="-1"),
        kafka.create_topic(estate.topic("others"), PARTITIONS),
        kafka.create_topic(estate.topic("payloads")),
        kafka.create_topic(estate.topic("texts")),
        kafka.create_topic(estate.topic("cut")),
        kafka.create_topic(estate.topic("rows")),
        kafka.create_topic(estate.topic("sensors"), PARTITIONS),
        kafka.create_topic(estate.topic("aged"), retention_ms="-1"),
    )
    for partition in range(PARTITIONS):
        await kafka.produce(
            estate.topic("numbers"),
            [number(partition, n) for n in range(PER_PARTITION)],
            partition=partition,
            timestamps=[estate.began_ms + n * TIME_STEP_MS for n in range(PER_PARTITION)],
        )
    await kafka.produce(
        estate.topic("payloads"),
        PAYLOADS,
        keys=PAYLOAD_KEYS,
        headers=[("trace", b"t-1"), ("secret", b"hidden"), ("trace", b"t-2")],
        timestamps=[estate.began_ms] * len(PAYLOADS),
    )
    await kafka.produce(estate.topic("texts"), [b"plain \xff\n\ntext", b""])
    await kafka.produce(
        estate.topic("cut"),
        [
            b'{"secret":1,"kept":[1.50, {"x":2}],"deep":{"in":0.10,"out":9}}',
            b'{"kept":null,"deep":7}',
            b'["secret"]',
            None,
        ],
        keys=[b"k"] * 4,
    )
    for partition in range(PARTITIONS):
        await kafka.produce(estate.topic("sensors"), SENSORS[partition::PARTITIONS], partition=partition)
    airports = ["ORD", "SEA", "ORD", "LAX", "SEA", "ORD"]
    await kafka.produce(
        estate.topic("rows"), [b'{"origin":"%s","delay":%d}' % (a.encode(), n) for n, a in enumerate(airports)]
    )
    hours_ago = int(time.time() * 1000) - 3 * 3_600_000
    await kafka.produce(estate.topic("aged"), [b'{"old":%d}' % n for n in range(3)], timestamps=[hours_ago] * 3)
    await kafka.produce(estate.topic("aged"), [b'{"new":%d}' % n for n in range(3)])


@contextlib.contextmanager
def hypercorn(deployment: Deployment, *, node: str = "hypercorn", seconds: float = 30) -> Iterator[tuple[str, str]]:
    """A node under hypercorn: its public and management address."""
    port, admin_port = free_port(), free_port()
    directory = deployment.directory / node
    directory.mkdir()
    shutil.copy(deployment.options(node)[1], directory / "gateway.toml")
    log = directory / "log"
    base_url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "hypercorn", "gateway.asgi:app", "--workers", "0"]
    command += ["--bind", f"127.0.0.1:{port}"]
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
