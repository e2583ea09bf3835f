"""What a partner is done with is free at once: a garbage collector that has much to find holds everybody up."""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.parts.garbage import Garbage
from tests.parts.gateway import UNLIMITED, Deployment, GatewayProcess, catalog, contract
from tests.parts.kafka import Kafka, eventually
from tests.parts.partner import PROTOCOLS, Partner
from tests.parts.redis import server
from tests.parts.serving import RawClient

TIMES = 20
LIMITS = {
    "requests_per_second": {"rate": 5, "burst": 2 * TIMES},
    "connections": 10,
    "records_per_second": 100_000,
    "records_per_month": 1_000_000,
}


@dataclass
class Stage:
    garbage: Garbage
    gateway: GatewayProcess
    partner: Partner
    kafka: Kafka
    topic: str

    def left(self) -> dict[str, int]:
        """Objects of ours, and of the server's, that only the collector could free."""
        return {name: count for name, count in self.garbage.ask().items() if name.startswith(("gateway.", "uvicorn."))}

    def is_alone(self) -> bool:
        """Whether no partner's connection is open."""
        told = httpx.get(f"{self.gateway.admin_url}/metrics", trust_env=False).text
        (sockets,) = re.findall(r'(?m)^gateway_sockets{listener="http"} (\S+)$', told)
        return float(sockets) == 0


@pytest.fixture(scope="module")
def stage(kafka: Kafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    topic = f"garbage.{uuid.uuid4().hex[:8]}"
    directory: Path = tmp_path_factory.mktemp("garbage")
    plans = catalog(["numbers"])
    plans["plans"][0] |= {"limits": UNLIMITED | LIMITS}
    asyncio.run(kafka.create_topic(topic, 1))
    with server() as redis:
        deployment = Deployment(
            directory,
            kafka.bootstrap,
            [contract("numbers", topic, partitions=1)],
            plans,
            settings={"redis": {"url": redis.url}},
        )
        garbage = Garbage(directory)
        process = GatewayProcess(deployment, "a", within=garbage.within)
        process.start()
        try:
            yield Stage(garbage, process, Partner(process.base_url, deployment.token()), kafka, topic)
        finally:
            process.stop()


async def test_a_stream_that_is_over_leaves_nothing_to_the_collector(stage: Stage) -> None:
    async def read(protocol: str) -> None:
        async with stage.partner.open(protocol, "numbers", **{"from": "earliest"}) as stream:
            await stream.records(20)

    await stage.kafka.produce(stage.topic, [b'{"n":%d}' % n for n in range(20)])
    for protocol in PROTOCOLS:
        await read(protocol)
    stage.left()
    for protocol in PROTOCOLS:
        for _ in range(TIMES // 4):
            await read(protocol)
    await eventually(stage.is_alone)
    assert stage.left() == {}


async def test_a_connection_that_turns_into_a_websocket_leaves_nothing_to_the_collector(stage: Stage) -> None:
    async def ask_and_upgrade() -> None:
        place = urlsplit(stage.partner.base_url)
        assert place.port is not None
        client = RawClient(*await asyncio.open_connection("127.0.0.1", place.port))
        head = f"Host: {place.netloc}\r\nAuthorization: Bearer {stage.partner.token}\r\n"
        await client.say(f"GET /v1/limits HTTP/1.1\r\n{head}\r\n".encode())
        assert (await client.answer()).status == 200
        upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        await client.say(f"GET /v1/streams/numbers/ws HTTP/1.1\r\n{head}{upgrade}{key}\r\n".encode())
        assert (await client.hear(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        client.leave()
        await client.writer.wait_closed()

    await ask_and_upgrade()
    stage.left()
    for _ in range(3):
        await ask_and_upgrade()
    await eventually(stage.is_alone)
    assert stage.left() == {}


async def test_pulls_that_wait_and_pulls_that_are_refused_leave_nothing_to_the_collector(stage: Stage) -> None:
    url = stage.partner.url("/v1/streams/numbers/records", **{"from": "latest", "wait": "1"})
    statuses = set()
    async with httpx.AsyncClient(timeout=30, headers=stage.partner.all_headers(), trust_env=False) as client:
        for round_ in range(2):
            stage.left()
            deadline = time.monotonic() + 60
            while statuses != {200, 429} and time.monotonic() < deadline:
                for answer in await asyncio.gather(*(client.get(url) for _ in range(TIMES))):
                    statuses.add(answer.status_code)
            assert statuses == {200, 429}
            if round_ == 0:
                # What is made once is made: scripts that Redis had to be told, statements, patterns.
                statuses.clear()
    await eventually(stage.is_alone)
    assert stage.left() == {}


@pytest.mark.parametrize(
    ("path", "token", "status"),
    [
        ("/v1/limits", True, 200),
        ("/v1/streams", True, 200),
        ("/v1/streams/numbers", True, 200),
        ("/v1/usage", True, 200),
        ("/v1/streams/numbers/records?limit=0", True, 400),
        ("/v1/streams/numbers/sse?cursor=nonsense", True, 400),
        ("/v1/streams/numbers/records", False, 401),
        ("/v1/streams/nothing/sse", True, 404),
        ("/nowhere", True, 404),
    ],
)
async def test_an_answer_leaves_nothing_to_the_collector(stage: Stage, path: str, token: bool, status: int) -> None:
    url = f"{stage.partner.base_url}{path}"
    headers = stage.partner.all_headers() if token else {"Authorization": "Bearer nonsense"}
    async with httpx.AsyncClient(timeout=30, headers=headers, trust_env=False) as client:
        for _ in range(2):
            stage.left()
            for number in range(3):
                # Never twice the same: who repeats a request is answered from what came of it before.
                answer = await client.get(url, headers={"X-Correlation-Id": str(number)})
                while answer.status_code == 429:
                    await asyncio.sleep(0.1)
                    answer = await client.get(url, headers={"X-Correlation-Id": str(number)})
                assert answer.status_code == status, answer.text
    await eventually(stage.is_alone)
    assert stage.left() == {}
