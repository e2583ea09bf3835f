"""One request over a connection of its own, and the answer's bytes as they came."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

PATIENCE_SECONDS = 60.0
UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Protocol": "gateway.v1",
}
_CLOSE_FRAME = 0x88


@dataclass(frozen=True)
class RawAnswer:
    """The status, the header lines in their order, the body; of a WebSocket the frames up to the close.

    The body of what streams without end is empty.
    """

    status: int
    headers: tuple[str, ...]
    body: bytes

    def without(self, *names: str) -> RawAnswer:
        """The same without these headers, in lower case."""
        kept = (line for line in self.headers if line.partition(":")[0].lower() not in names)
        return RawAnswer(self.status, tuple(kept), self.body)

    @property
    def code(self) -> str:
        """What a problem body calls itself; empty where it is none."""
        if not any(line.lower() == "content-type: application/problem+json" for line in self.headers):
            return ""
        found: dict[str, Any] = json.loads(self.body)
        return str(found["code"])


async def ask(
    base_url: str,
    path: str,
    *,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
    follow: bool = False,
) -> RawAnswer:
    """``follow``: read the frames of a WebSocket that is opened up to its close."""
    place = urlsplit(base_url)
    told = {"Host": place.netloc, **(headers or {})}
    if body or method in ("POST", "PUT"):
        told["Content-Length"] = str(len(body))
    lines = "".join(f"{name}: {value}\r\n" for name, value in told.items())
    async with asyncio.timeout(PATIENCE_SECONDS):
        reader, writer = await asyncio.open_connection(place.hostname, place.port)
        try:
            writer.write(f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode() + body)
            head = await reader.readuntil(b"\r\n\r\n")
            first, *rest = head.decode("latin-1").split("\r\n")[:-2]
            status = int(first.split(" ")[1])
            known = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in rest)}
            if status == 101:
                content = await _frames(reader) if follow else b""
            else:
                content = await reader.readexactly(int(known.get("content-length", 0)))
            return RawAnswer(status, tuple(rest), content)
        finally:
            writer.transport.abort()


async def _frames(reader: asyncio.StreamReader) -> bytes:
    """Frames of a server, which are short and unmasked."""
    found = b""
    while True:
        start = await reader.readexactly(2)
        length = start[1]
        if length == 126:
            more = await reader.readexactly(2)
            start, length = start + more, int.from_bytes(more, "big")
        found += start + await reader.readexactly(length)
        if start[0] == _CLOSE_FRAME:
            return found
