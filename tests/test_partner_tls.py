"""TLS in the process as partners and operators live through it: every protocol, a renewed certificate, a drain."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import signal
import socket
import ssl
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.parts.certificates import make_certificate
from tests.parts.gateway import Deployment, GatewayProcess, contract
from tests.parts.kafka import Kafka, eventually
from tests.parts.partner import PROTOCOLS, Partner, Stream

PATIENCE_SECONDS = 30.0


@dataclass
class Secured:
    """A gateway that speaks TLS, and its one stream."""

    deployment: Deployment
    gateway: GatewayProcess
    kafka: Kafka
    topic: str

    @property
    def partner(self) -> Partner:
        return Partner(self.gateway.base_url, self.deployment.token())

    @property
    def certificates(self) -> Path:
        return self.deployment.directory / "tls"

    async def say_on(self, streams: dict[str, Stream]) -> None:
        """A new record, which each of the streams must bring next."""
        mark = uuid.uuid4().hex
        await self.kafka.produce(self.topic, [json.dumps({"mark": mark}).encode()])
        for stream in streams.values():
            (heard,) = await stream.records(1, seconds=PATIENCE_SECONDS)
            assert heard.data["data"] == {"mark": mark}

    def shown(self) -> str:
        """SHA-256 of the certificate that a new connection is shown."""
        port = int(self.gateway.base_url.rpartition(":")[2])
        pem = ssl.get_server_certificate(("127.0.0.1", port), timeout=30)
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()

    def on_disk(self) -> str:
        pem = (self.certificates / "cert.pem").read_text()
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()

    def events(self, name: str) -> list[dict[str, Any]]:
        lines = (json.loads(line) for line in self.gateway.log().splitlines() if line.startswith("{"))
        return [line for line in lines if line["event"] == name]

    async def reload(self, outcome: str) -> dict[str, Any]:
        """SIGHUP, and the event that says how it went."""
        before = len(self.events("reloaded")) + len(self.events("reload_refused"))
        self.gateway.signal(signal.SIGHUP)
        await eventually(lambda: len(self.events("reloaded")) + len(self.events("reload_refused")) > before)
        return self.events(outcome)[-1]


@pytest.fixture(scope="module")
def secured(kafka: Kafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    directory = tmp_path_factory.mktemp("secured")
    topic = f"tls-{uuid.uuid4().hex}"
    asyncio.run(kafka.create_topic(topic, 1))
    folder = directory / "tls"
    folder.mkdir()
    cert_file, key_file = make_certificate(folder, name="one")
    settings = {
        "http": {"port": 0, "tls_cert_file": str(cert_file), "tls_key_file": str(key_file)},
        "stream": {"heartbeat_seconds": 1, "drain_seconds": 10},
    }
    deployment = Deployment(directory, kafka.bootstrap, [contract("marks", topic, partitions=1)], settings=settings)
    with deployment.gateway() as gateway:
        assert gateway.base_url.startswith("https://127.0.0.1:")
        yield Secured(deployment, gateway, kafka, topic)


async def test_a_renewed_certificate_is_for_new_connections_and_a_bad_one_refuses_the_whole_reload(
    secured: Secured,
) -> None:
    path = secured.deployment.directory / "asyncapi" / "streams" / "marks.yaml"
    document = yaml.safe_load(path.read_text())
    document["info"]["title"] = "Renamed"
    async with contextlib.AsyncExitStack() as stack:
        streams = {one: await stack.enter_async_context(secured.partner.open(one, "marks")) for one in PROTOCOLS}
        await secured.say_on(streams)
        first = await asyncio.to_thread(secured.shown)
        assert first == secured.on_disk()

        path.write_text(yaml.safe_dump(document, sort_keys=False))
        make_certificate(secured.certificates, name="two")
        (secured.certificates / "key.pem").write_bytes(b"half a k")
        refused = await secured.reload("reload_refused")
        assert [line for line in refused["problems"] if "no private key in PEM" in line] == refused["problems"]
        assert await asyncio.to_thread(secured.shown) == first
        assert await title(secured) == "marks"
        status, body = secured.gateway.readiness()
        assert (status, body["status"]) == (200, "degraded")

        make_certificate(secured.certificates, name="three")
        await secured.reload("reloaded")
        assert await asyncio.to_thread(secured.shown) == secured.on_disk() != first
        assert await title(secured) == "Renamed"
        await eventually(lambda: secured.gateway.readiness()[1]["status"] == "ready")
        await secured.say_on(streams)


async def title(secured: Secured) -> str:
    (listed,) = (await secured.partner.get("/v1/streams")).json()["streams"]
    return str(listed["title"])


async def test_a_readers_end_frees_its_stream_and_plain_http_harms_nobody(secured: Secured) -> None:
    async with secured.partner.sse("marks") as stream:
        await secured.say_on({"sse": stream})
        await eventually(lambda: count_sessions(secured, wanted=1))
        port = int(secured.gateway.base_url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=30) as plain:
            plain.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            with contextlib.suppress(ConnectionResetError):
                assert await asyncio.to_thread(plain.recv, 100) in (b"", b"\x15\x03\x01\x00\x02\x02F")
        await secured.say_on({"sse": stream})
    await eventually(lambda: count_sessions(secured, wanted=0))
    errors = [json.loads(line) for line in secured.gateway.log().splitlines() if '"level": "ERROR"' in line]
    assert {line["event"] for line in errors} <= {"reload_refused"}


async def test_every_protocol_reads_under_tls_and_hears_goodbye(secured: Secured) -> None:
    # The last test here: it ends the gateway.
    partner = secured.partner
    start = (await partner.pull("marks"))["next_cursor"]
    async with contextlib.AsyncExitStack() as stack:
        streams = {one: await stack.enter_async_context(partner.open(one, "marks", cursor=start)) for one in PROTOCOLS}
        for _ in range(3):
            await secured.say_on(streams)
        assert len(await partner.pull_all("marks", 3, cursor=start)) == 3
        secured.gateway.signal(signal.SIGTERM)
        for protocol, stream in streams.items():
            goodbye = await stream.until("goodbye", seconds=PATIENCE_SECONDS)
            assert goodbye.data["code"] == "draining"
            assert await stream.over() == (4503 if protocol == "ws" else None)
    assert await asyncio.to_thread(secured.gateway.wait) == 0


async def count_sessions(secured: Secured, *, wanted: int) -> bool:
    """Whether so many streams are open, as the metrics tell."""
    metrics = await Partner(secured.gateway.admin_url, None).get("/metrics")
    found = [line for line in metrics.text.splitlines() if line.startswith("gateway_open_streams{")]
    return int(sum(float(line.rpartition(" ")[2]) for line in found)) == wanted
