"""Readers share encoded bytes; a stalled one may hold them long after they left the log. They stay what they were."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gateway.model import Grant, RowMatch
from gateway.server.listener import Listener
from gateway.server.loop import LoopName, loop_factory
from gateway.transport import ndjson, sse, ws
from tests.parts.serving import serving, until
from tests.parts.source import Engine, MemoryKafka, MemoryTopic, contract, grant

ROWS = ("red", "blue")
RING_RECORDS = 64
RECORDS = 3000
STALLED = 4
LETTERS = {"red": "r", "blue": "b"}


def payload(number: int) -> dict[str, Any]:
    """Every third record is another tenant's still; sizes differ, so that slices do not line up."""
    row = (*ROWS, "nobody's")[number % 3]
    return {"row": row, "pad": LETTERS.get(row, "x") * (number * 37 % 3000), "n": number}


def grants() -> dict[str, Grant]:
    shown = contract("paint", "paint")
    return {row: grant(shown, tenant=row, rows=RowMatch("/row", frozenset({row}))) for row in ROWS}


class StallingClient:
    """A socket with little room, which reads nothing until it is told to."""

    def __init__(self, row: str, transport: str) -> None:
        self.row = row
        self.transport = transport
        self.heard = bytearray()
        self._socket = socket.socket()
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)

    async def open(self, listener: Listener) -> None:
        upgrade = (
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        )
        head = (
            f"GET /{self.transport}?from=earliest HTTP/1.1\r\nHost: gateway.example\r\nTenant: {self.row}\r\n"
            f"{upgrade if self.transport == 'ws' else ''}\r\n"
        )
        loop = asyncio.get_running_loop()
        await loop.sock_connect(self._socket, ("127.0.0.1", listener.port))
        await loop.sock_sendall(self._socket, head.encode())

    async def read_to_the_end(self) -> None:
        """Read until the last record of the row is there."""
        loop = asyncio.get_running_loop()
        last = max(number for number in range(RECORDS) if payload(number)["row"] == self.row)
        end = b'"n":%d}}%b' % (last, {"sse": b"\n\n", "ndjson": b"\n", "ws": b""}[self.transport])
        while end not in self.heard[-300_000:]:
            data = await loop.sock_recv(self._socket, 256 * 1024)
            assert data, "the stream ended"
            self.heard += data

    def records(self) -> list[tuple[bytes, dict[str, Any]]]:
        """Each record as its bytes on the wire, without the chunks or frames around, and decoded."""
        _, _, body = bytes(self.heard).partition(b"\r\n\r\n")
        if self.transport == "ws":
            found = [(part, json.loads(part)) for part in frames(body)]
        elif self.transport == "ndjson":
            found = [(part, json.loads(part)) for part in chunks(body).split(b"\n")[:-1]]
        else:
            events = [part for part in chunks(body).split(b"\n\n")[:-1] if part.startswith(b"id: ")]
            found = [(part, {"type": "record", **json.loads(part.partition(b"\ndata: ")[2])}) for part in events]
        return [(raw, message) for raw, message in found if message["type"] == "record"]

    def close(self) -> None:
        self._socket.close()


def chunks(data: bytes) -> bytes:
    """The body of what chunks have come."""
    body = []
    while data:
        size, _, data = data.partition(b"\r\n")
        length = int(size, 16)
        body.append(data[:length])
        assert data[length : length + 2] in (b"\r\n", b"\r", b"")
        data = data[length + 2 :]
    return b"".join(body)


def frames(data: bytes) -> list[bytes]:
    """The payloads of the whole text frames that have come."""
    found = []
    while len(data) > 10:
        assert data[0] == 0x81
        size, start = data[1], 2
        if size > 125:
            start = 4 if size == 126 else 10
            size = int.from_bytes(data[2:start], "big")
        if len(data) < start + size:
            break
        found.append(data[start : start + size])
        data = data[start + size :]
    return found


@asynccontextmanager
async def engine_on_a_port() -> AsyncIterator[tuple[Engine, MemoryTopic, Listener]]:
    kafka = MemoryKafka()
    topic = kafka.create_topic("paint")
    engine = Engine(kafka, ring_records=RING_RECORDS)
    gate = engine.gate(grants())
    serve = {"/sse": sse.serve, "/ndjson": ndjson.serve, "/ws": ws.serve}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await serve[scope["path"]](gate, scope, receive, send)

    try:
        async with serving(app) as listener:
            for server in listener._servers:
                # Inherited by what is accepted: the kernel alone would take megabytes from a writer to a stalled peer.
                server.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 * 1024)
            yield engine, topic, listener
    finally:
        await engine.hub.close()


@pytest.mark.parametrize(
    ("loop", "transport"), [("uvloop", "sse"), ("uvloop", "ws"), ("uvloop", "ndjson"), ("asyncio", "sse")]
)
def test_a_client_that_stalls_across_eviction_reads_its_own_bytes_and_no_other_tenants(
    loop: LoopName, transport: str
) -> None:
    with asyncio.Runner(loop_factory=loop_factory(loop)) as runner:
        runner.run(stall_and_read_on(transport))


async def stall_and_read_on(transport: str) -> None:
    async with engine_on_a_port() as (engine, topic, listener), contextlib.AsyncExitStack() as sockets:
        stalled = [StallingClient(row, transport) for row in ROWS for _ in range(STALLED)]
        reading = [StallingClient(row, transport) for row in ROWS]
        clients = [*stalled, *reading]
        for client in clients:
            sockets.callback(client.close)
            await client.open(listener)
        await until(lambda: len(engine.registry.made) == len(clients))
        tasks = [asyncio.ensure_future(client.read_to_the_end()) for client in reading]
        for number in range(RECORDS):
            topic.produce(0, json.dumps(payload(number), separators=(",", ":")).encode())
            if not number % 20:
                await asyncio.sleep(0)
        await asyncio.gather(*tasks)
        feed = topic.feeds[0]
        gone = feed.log.vector_before(feed.log.first)[0]
        held = [subscription for subscription, outlet in engine.registry.made if outlet.paused]
        assert len(held) == len(stalled), f"{len(held)} of {len(stalled)} stalled clients hold unsent bytes"
        for subscription in held:
            assert subscription.reading is not None
            assert subscription.reading.vector()[0] < gone, "its place in the log must be gone"
        # Whatever was let go by mistake is now written over by something else of like sizes.
        gc.collect()
        rubbish = [bytes([number % 256]) * (number * 61 % 300_000) for number in range(1000)]
        for client in stalled:
            await client.read_to_the_end()
        assert rubbish
        for client in clients:
            check(client, reading[ROWS.index(client.row)])


def check(client: StallingClient, pattern: StallingClient) -> None:
    """All of one row, in order, with every byte of it right, and the same bytes as everybody of that row."""
    found = client.records()
    wanted = [payload(number) for number in range(RECORDS)]
    assert [message["data"] for _, message in found] == [data for data in wanted if data["row"] == client.row]
    # One partition: cursors too are equal, wherever a record came from.
    assert [raw for raw, _ in found] == [raw for raw, _ in pattern.records()]
    strangers = [other for other in ROWS if other != client.row]
    assert not any(f'"row":"{other}"'.encode() in client.heard for other in (*strangers, "nobody's"))
