"""SIGTERM as partners live through it: a goodbye with a cursor on every stream, and another node goes on from there."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import time
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.parts.gateway import Deployment, GatewayProcess, contract
from tests.parts.kafka import Kafka, eventually
from tests.parts.partner import PROTOCOLS, Heard, Partner, Stream, StreamOver

READERS_PER_PROTOCOL = 14
PARTITIONS = 3
RECORDS = 600
DRAIN_SECONDS = 10


@pytest.fixture
def deployment(kafka: Kafka, tmp_path: Path) -> Deployment:
    topic = f"drain.{uuid.uuid4().hex[:8]}"
    asyncio.run(kafka.create_topic(topic, PARTITIONS))
    settings = {"stream": {"drain_seconds": DRAIN_SECONDS}}
    return Deployment(tmp_path / "drain", kafka.bootstrap, [contract("steps", topic)], settings=settings)


class Reader:
    """One partner's read: what it got, and the goodbye."""

    def __init__(self, protocol: str) -> None:
        self.protocol = protocol
        self.records: list[Heard] = []
        self.goodbye: Heard | None = None
        self.close_code: int | None = None

    async def read(self, partner: Partner, opened: asyncio.Semaphore, **start: Any) -> None:
        async with partner.open(self.protocol, "steps", **start) as stream:
            opened.release()
            try:
                while True:
                    self._note(await stream.next(seconds=60))
            except StreamOver as end:
                self.close_code = end.close_code

    async def go_on(self, partner: Partner, *, until: int) -> None:
        assert self.goodbye is not None
        async with partner.open(self.protocol, "steps", cursor=self.goodbye.data["cursor"]) as stream:
            while len(self.records) < until:
                self._note(await stream.next(seconds=60))

    def _note(self, heard: Heard) -> None:
        assert heard.kind in ("record", "checkpoint", "goodbye"), heard
        if heard.kind == "record":
            self.records.append(heard)
        elif heard.kind == "goodbye":
            self.goodbye = heard

    def steps(self) -> dict[int, list[int]]:
        found: dict[int, list[int]] = {}
        for record in self.records:
            data = record.data["data"]
            found.setdefault(data["p"], []).append(data["n"])
        return found


async def produce(kafka: Kafka, topic: str) -> None:
    """All records, some at a time, so that the drain falls among them."""
    for first in range(0, RECORDS // PARTITIONS, 10):
        for partition in range(PARTITIONS):
            values = [b'{"p":%d,"n":%d}' % (partition, n) for n in range(first, first + 10)]
            await kafka.produce(topic, values, partition=partition)


async def test_every_stream_hears_goodbye_and_goes_on_elsewhere_without_a_loss(
    deployment: Deployment, kafka: Kafka
) -> None:
    topic = deployment.contracts[0]["channels"]["steps"]["address"]
    readers = [Reader(protocol) for protocol in PROTOCOLS for _ in range(READERS_PER_PROTOCOL)]
    with deployment.gateway("one") as one, deployment.gateway("two") as two:
        here, there = (Partner(node.base_url, deployment.token()) for node in (one, two))
        opened = asyncio.Semaphore(0)
        reading = [asyncio.create_task(reader.read(here, opened)) for reader in readers]
        for _ in readers:
            await opened.acquire()
        producing = asyncio.create_task(produce(kafka, topic))
        await eventually(lambda: min(len(reader.records) for reader in readers) >= RECORDS // 4)
        began = time.monotonic()
        one.signal(signal.SIGTERM)
        await asyncio.gather(*reading)
        assert await asyncio.to_thread(one.wait) == 0
        assert time.monotonic() - began < DRAIN_SECONDS
        assert max(len(reader.records) for reader in readers) < RECORDS, "the drain fell among the records"
        for reader in readers:
            goodbye = reader.goodbye
            assert goodbye is not None
            assert (goodbye.data["code"], goodbye.data["close_code"]) == ("draining", 4503)
            assert goodbye.data["reconnect"] is True
            assert goodbye.data["retry_after_ms"] > 0
            assert reader.close_code == (4503 if reader.protocol == "ws" else None)
        assert len({reader.goodbye.data["retry_after_ms"] for reader in readers if reader.goodbye}) > 10
        await producing
        await asyncio.gather(*[reader.go_on(there, until=RECORDS) for reader in readers])
    whole = {partition: list(range(RECORDS // PARTITIONS)) for partition in range(PARTITIONS)}
    assert all(reader.steps() == whole for reader in readers), "in order, nothing lost, nothing twice"


async def test_goodbye_on_sse_comes_with_the_streams_own_retry(deployment: Deployment) -> None:
    with deployment.gateway("one") as node:
        async with Partner(node.base_url, deployment.token()).sse("steps") as stream:
            node.signal(signal.SIGTERM)
            goodbye = await stream.until("goodbye")
            assert stream.retry_ms == goodbye.data["retry_after_ms"]
            assert b"retry: %d\nevent: goodbye\nid: " % goodbye.data["retry_after_ms"] in stream.raw
            assert goodbye.cursor == goodbye.data["cursor"]
            await stream.over()
        assert node.wait() == 0


async def test_a_pull_that_waits_is_answered_and_not_cut(deployment: Deployment) -> None:
    with deployment.gateway("one") as node:
        partner = Partner(node.base_url, deployment.token())
        start = (await partner.pull("steps"))["next_cursor"]
        waiting = asyncio.create_task(partner.pull("steps", cursor=start, wait=30))
        async with partner.sse("steps") as stream:
            # Opened after the pull was sent, on a node that serves in turn: by now that one waits.
            await partner.pull("steps")
            node.signal(signal.SIGTERM)
            await stream.until("goodbye")
        page = await waiting
        assert (page["records"], page["next_cursor"]) == ([], start)
        assert await asyncio.to_thread(node.wait) == 0


async def test_a_client_that_reads_nothing_cannot_keep_the_process(deployment: Deployment, kafka: Kafka) -> None:
    topic = deployment.contracts[0]["channels"]["steps"]["address"]
    await kafka.produce(topic, [b'"%s"' % (b"x" * 100_000)] * 200)
    with deployment.gateway("one") as node, _silent_reader(node, deployment.token()):
        async with Partner(node.base_url, deployment.token()).sse("steps") as stream:
            began = time.monotonic()
            node.signal(signal.SIGTERM)
            await _goodbye(stream)
        assert await asyncio.to_thread(node.wait) == 0
        assert time.monotonic() - began < DRAIN_SECONDS + 2


async def _goodbye(stream: Stream) -> None:
    assert (await stream.until("goodbye")).data["code"] == "draining"


@contextlib.contextmanager
def _silent_reader(node: GatewayProcess, token: str) -> Any:
    """A connection that asks for much, and reads no byte of the answer after the first."""
    address = urlsplit(node.base_url)
    with socket.create_connection((address.hostname or "", address.port or 0)) as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        request = (
            f"GET /v1/streams/steps/sse?from=earliest HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n"
        )
        peer.sendall(request.encode())
        assert peer.recv(15).startswith(b"HTTP/1.1 200")
        yield peer


async def test_a_node_that_drains_is_not_ready_at_once_and_a_second_signal_ends_it(
    deployment: Deployment, kafka: Kafka
) -> None:
    topic = deployment.contracts[0]["channels"]["steps"]["address"]
    await kafka.produce(topic, [b'"%s"' % (b"x" * 100_000)] * 200)
    deployment.settings = {"stream": {"drain_seconds": 120}}
    with deployment.gateway("one") as node, _silent_reader(node, deployment.token()):
        node.signal(signal.SIGTERM)

        async def says_so() -> bool:
            status, body = await asyncio.to_thread(node.readiness)
            return status == 503 and bool(body["draining"])

        # Somebody is still to be waited for, so this is amid the drain.
        await eventually(says_so)
        node.signal(signal.SIGTERM)
        assert await asyncio.to_thread(node.wait) == -signal.SIGTERM, "not 0, as after a drain"
