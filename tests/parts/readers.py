"""Partners on raw sockets: they read on any protocol, are cut at any byte, resume, and check every record they get.

No client library: what a cut connection leaves half of (an event, a frame, a line, a body) is exactly what a library
would hide. A reader keeps what was complete and goes on from the last cursor that was.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

PROTOCOLS: Final = ("sse", "ws", "ndjson", "pull")
_ACCEPT: Final = {"sse": "text/event-stream", "ndjson": "application/x-ndjson", "pull": "application/json"}
_PIECE_BYTES: Final = 64 * 1024
Message = dict[str, Any]
"""One record or control event, spelled as NDJSON spells it, whatever the protocol: a ``type``, ``id`` or ``cursor``."""


class Cut(Exception):
    """The byte has come at which this connection was to break."""


class Silent(Exception):
    """Nothing came for longer than the partner has patience."""


class Refused(Exception):
    """An answer that is no stream."""

    def __init__(self, status: int, head: str) -> None:
        super().__init__(f"{status}: {head}")
        self.status = status


def value(topic: str, partition: int, number: int, *, row: str, padding: int = 0) -> bytes:
    """A record that says where it belongs: the ``number``-th of its partition."""
    members = {"topic": topic, "p": partition, "n": number, "row": row, "pad": "x" * padding}
    return json.dumps(members, separators=(",", ":")).encode()


class Identities:
    """Every record has one uid, whoever reads it, wherever, however."""

    def __init__(self) -> None:
        self._place_of: dict[str, tuple[str, int, int]] = {}
        self._uid_of: dict[tuple[str, int, int], str] = {}

    def check(self, uid: str, place: tuple[str, int, int]) -> None:
        assert self._place_of.setdefault(uid, place) == place, f"uid {uid} names two records"
        assert self._uid_of.setdefault(place, uid) == uid, f"{place} has two uids"


class Ledger:
    """What one reader has to see of one topic: each number of each partition that is wanted, rising, none left out.

    A number may come again only directly after a resume, before anything new of its partition.
    """

    def __init__(
        self, topic: str, totals: Sequence[int], *, wanted: Callable[[int], bool], identities: Identities
    ) -> None:
        self._topic = topic
        self._identities = identities
        self._wanted = wanted
        self._expected: list[list[int]] = [[n for n in range(total) if wanted(n)] for total in totals]
        self._seen = [0] * len(totals)
        # The last number repeated in each partition since the resume; absent once something new has come.
        self._repeating: dict[int, int] = {}
        self.missing = sum(map(len, self._expected))
        self.records = 0
        self.duplicates = 0

    @property
    def complete(self) -> bool:
        return self.missing == 0

    def resume(self) -> None:
        """The reader opens again: repeats are forgiven for a moment."""
        self._repeating = dict.fromkeys(range(len(self._expected)), -1)

    def record(self, message: Message) -> None:
        """Check one record."""
        data = message["data"]
        partition, number = data["p"], data["n"]
        assert data["topic"] == self._topic, f"foreign: a record of {data['topic']}"
        assert self._wanted(number), f"foreign: row {data['row']} of {partition}/{number}"
        self._identities.check(message["uid"], (self._topic, partition, number))
        self.records += 1
        expected, seen = self._expected[partition], self._seen[partition]
        if seen < len(expected) and number == expected[seen]:
            self._seen[partition] += 1
            self._repeating.pop(partition, None)
            self.missing -= 1
            return
        before = expected[seen - 1] if seen else -1
        assert number <= before, f"lost or out of order: {partition}/{number} after {before}"
        assert partition in self._repeating, f"repeated without a resume: {partition}/{number} after {before}"
        assert number > self._repeating[partition], f"out of order in a repeat: {partition}/{number}"
        self._repeating[partition] = number
        self.duplicates += 1


class Wire:
    """One TCP connection that breaks, abruptly, after ``cut_after`` bytes of what the server sends.

    ``patience_seconds``: the longest silence that is taken for a living server; any by default. ``flowing``: while it
    is clear, nothing is read and the server's bytes pile up.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        cut_after: int | None,
        patience_seconds: float | None = None,
        flowing: asyncio.Event | None = None,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._left = cut_after
        self.patience_seconds = patience_seconds
        self._flowing = flowing
        self._buffer = bytearray()

    def write(self, data: bytes) -> None:
        self._writer.write(data)

    def drop(self) -> None:
        self._writer.transport.abort()

    async def some(self, most: int) -> bytes:
        """What is there, one byte at least. Raises Cut, Silent, and ConnectionError at the server's end."""
        if not self._buffer:
            await self._more()
        return await self.exactly(min(most, len(self._buffer)))

    async def exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            await self._more()
        found = bytes(self._buffer[:size])
        del self._buffer[:size]
        return found

    async def until(self, end: bytes) -> bytes:
        while (at := self._buffer.find(end)) < 0:
            await self._more()
        return await self.exactly(at + len(end))

    async def _more(self) -> None:
        if self._left == 0:
            raise Cut
        if self._flowing is not None:
            await self._flowing.wait()
        try:
            async with asyncio.timeout(self.patience_seconds):
                data = await self._reader.read(_PIECE_BYTES if self._left is None else min(_PIECE_BYTES, self._left))
        except TimeoutError:
            raise Silent from None
        if not data:
            raise ConnectionResetError("the server ended the connection")
        self._buffer += data
        if self._left is not None:
            self._left -= len(data)


@dataclass(kw_only=True)
class Place:
    """Where one read of one stream stands, and how it asks for what comes next.

    ``begin`` is ``latest`` or ``earliest``. ``opened`` is set once the read has a cursor, from which nothing that is
    produced later can be missed.
    """

    stream: str
    token: str
    random: Random
    begin: str = "earliest"
    cursor: str | None = None
    opened: asyncio.Event = field(default_factory=asyncio.Event)

    def target(self, protocol: str, **more: str | int) -> str:
        """Path and query of the next request."""
        suffix = "records" if protocol == "pull" else protocol
        place = {"cursor": self.cursor} if self.cursor else {"from": self.begin}
        return f"/v1/streams/{self.stream}/{suffix}?{urlencode({**place, **more})}"

    def head(self, protocol: str, *lines: str, **more: str | int) -> bytes:
        """A request's head."""
        accept = [f"Accept: {_ACCEPT[protocol]}"] if protocol in _ACCEPT else []
        said = [f"GET {self.target(protocol, **more)} HTTP/1.1", "Host: gateway.example", *accept, *lines]
        return "\r\n".join([*said, f"Authorization: Bearer {self.token}", "", ""]).encode()

    def start_at(self, headers: Mapping[str, str]) -> None:
        """The read stands somewhere from its answer's head on, records or not."""
        if self.cursor is None:
            self.cursor = headers["gateway-start-cursor"]
        self.opened.set()


@dataclass(kw_only=True)
class Reader(Place):
    """One partner's read, over as many connections as it takes. ``messages`` counts what came, by type."""

    name: str
    ledger: Ledger
    connections: int = 0
    refusals: int = 0
    messages: dict[str, int] = field(default_factory=dict)
    last: str = ""

    async def read_all(
        self, nodes: Sequence[str], *, first: str, cuts: Callable[[Random], int | None], switch: bool = True
    ) -> None:
        """Read until the ledger is complete.

        ``nodes`` may change meanwhile; each connection takes one of them at random, on another protocol than the one
        before unless told not to ``switch``. ``cuts`` says after how many bytes the next connection breaks.
        """
        protocol = first
        while not self.ledger.complete:
            node = self.random.choice(list(nodes))
            self.last = f"{protocol} at {node} from {self.cursor}"
            try:
                await self.read_once(node, protocol, cut_after=cuts(self.random))
            except (Cut, OSError):
                # Cut by us, or the node has gone: either way the reader keeps what was complete.
                pass
            except Refused as refused:
                # A node that is stopped, or a source that is away. Anything else is a failure.
                if refused.status != 503:
                    raise
                self.refusals += 1
                await asyncio.sleep(self.random.uniform(0.02, 0.2))
            self.ledger.resume()
            if switch:
                protocol = self.random.choice([other for other in PROTOCOLS if other != protocol])

    async def read_once(self, node: str, protocol: str, *, cut_after: int | None) -> None:
        """One connection, to its end or until the ledger is complete."""
        address = urlsplit(node)
        wire = Wire(*await asyncio.open_connection(address.hostname, address.port), cut_after=cut_after)
        self.connections += 1
        try:
            async for message in READ[protocol](self, wire):
                self._take(message)
                if self.ledger.complete:
                    return
        finally:
            wire.drop()

    def _take(self, message: Message) -> None:
        kind = message["type"]
        self.messages[kind] = self.messages.get(kind, 0) + 1
        if kind == "record":
            self.ledger.record(message)
            self.cursor = message["id"]
        elif kind == "gap":
            raise AssertionError(f"{self.name} was told of a gap: {message}")
        elif message.get("cursor"):
            self.cursor = message["cursor"]


async def _answer(wire: Wire, *, expected: int = 200) -> dict[str, str]:
    head = (await wire.until(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.split("\r\n")
    status = int(first.split(" ")[1])
    if status != expected:
        raise Refused(status, head)
    return {name.lower(): text for name, _, text in (line.partition(": ") for line in lines)}


async def _chunks(wire: Wire) -> AsyncIterator[bytes]:
    """A chunked body, as it comes: parts of chunks too."""
    while True:
        left = int(await wire.until(b"\r\n"), 16)
        if left == 0:
            await wire.exactly(2)
            return
        while left:
            piece = await wire.some(left)
            left -= len(piece)
            yield piece
        assert await wire.exactly(2) == b"\r\n"


async def _split(wire: Wire, end: bytes) -> AsyncIterator[bytes]:
    """The complete parts of a chunked body."""
    rest = b""
    async for piece in _chunks(wire):
        *parts, rest = (rest + piece).split(end)
        for part in parts:
            yield part


async def read_sse(reader: Place, wire: Wire) -> AsyncIterator[Message]:
    wire.write(reader.head("sse"))
    reader.start_at(await _answer(wire))
    async for text in _split(wire, b"\n\n"):
        lines = [line.partition(b": ") for line in text.split(b"\n")]
        assert {name for name, _, _ in lines} <= {b"id", b"data", b"event", b"retry"}, text[:200]
        said = {name.decode(): content.decode() for name, _, content in lines}
        if "data" not in said:
            continue
        kind = said.get("event", "record")
        place = {"id" if kind == "record" else "cursor": said["id"]} if "id" in said else {}
        yield {"type": kind, **json.loads(said["data"]), **place}


async def read_ndjson(reader: Place, wire: Wire) -> AsyncIterator[Message]:
    wire.write(reader.head("ndjson"))
    reader.start_at(await _answer(wire))
    async for line in _split(wire, b"\n"):
        yield json.loads(line)


async def read_ws(reader: Place, wire: Wire) -> AsyncIterator[Message]:
    key = base64.b64encode(secrets.token_bytes(16)).decode()
    upgrade = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {key}"]
    wire.write(reader.head("ws", *upgrade, "Sec-WebSocket-Protocol: gateway.v1"))
    reader.start_at(await _answer(wire, expected=101))
    while True:
        first, size = await wire.exactly(2)
        assert first in (0x81, 0x88), f"a frame that begins with {first:#x}"
        assert size < 128, "a server's frame is not masked"
        if size > 125:
            size = int.from_bytes(await wire.exactly(2 if size == 126 else 8), "big")
        payload = await wire.exactly(size)
        if first == 0x88:
            return
        yield json.loads(payload)


async def read_pull(reader: Place, wire: Wire) -> AsyncIterator[Message]:
    """Page after page over one connection; the first answers at once, so that the reader has a cursor."""
    for page in itertools.count():
        limit, wait = reader.random.choice((1, 7, 100, 1000)), 2 if page else 0
        wire.write(reader.head("pull", limit=limit, wait=wait, max_bytes=reader.random.choice((1, 5_000, 1_000_000))))
        headers = await _answer(wire)
        body = json.loads(await wire.exactly(int(headers["content-length"])))
        assert len(body["records"]) <= limit
        reader.start_at(headers)
        for index, record in enumerate([*body["records"], None]):
            for gap in body["gaps"]:
                if gap["before"] == index:
                    yield {"type": "gap", **gap, "cursor": gap["resumed_at"]}
            if record is not None:
                yield {"type": "record", **record}
        yield {"type": "checkpoint", "cursor": body["next_cursor"]}


READ: Final[Mapping[str, Callable[[Place, Wire], AsyncIterator[Message]]]] = {
    "sse": read_sse,
    "ndjson": read_ndjson,
    "ws": read_ws,
    "pull": read_pull,
}
