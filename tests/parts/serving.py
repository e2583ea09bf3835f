"""A listener on a free port, and the raw client that says to it what no library would."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from gateway.server.listener import Listener

LOOPS = ["uvloop", "asyncio"]


@asynccontextmanager
async def serving(app: Any, **options: Any) -> AsyncIterator[Listener]:
    """``app`` on a free loopback port until the block ends."""
    listener = Listener(app, host="127.0.0.1", port=0, name="http", **options)
    await listener.start()
    try:
        yield listener
    finally:
        await listener.close(timeout_seconds=0)


async def until(condition: Callable[[], bool], *, within_seconds: float = 10.0) -> None:
    """Wait for what must come; fails when it does not."""
    deadline = time.monotonic() + within_seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.005)


@dataclass
class RawClient:
    """One TCP connection to a listener."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def say(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def hear(self, until_bytes: bytes) -> bytes:
        return await asyncio.wait_for(self.reader.readuntil(until_bytes), 10)

    async def hear_all(self) -> bytes:
        """Everything up to the end of the connection."""
        return await asyncio.wait_for(self.reader.read(-1), 15)

    async def answer(self) -> Answer:
        """One answer of known length."""
        head = await self.hear(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:] if line)}
        body = await asyncio.wait_for(self.reader.readexactly(int(headers.get("content-length", 0))), 10)
        return Answer(int(lines[0].split(" ")[1]), headers, body)

    async def ended(self) -> bool:
        """Wait for the end; False if something came instead."""
        try:
            return await asyncio.wait_for(self.reader.read(1), 15) == b""
        except ConnectionResetError:
            return True

    def leave(self) -> None:
        self.writer.close()


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def problem(self) -> dict[str, Any]:
        assert self.headers["content-type"] == "application/problem+json"
        members: dict[str, Any] = json.loads(self.body)
        assert members["status"] == self.status
        assert {"type", "title", "detail", "code", "action"} <= members.keys()
        return members


@asynccontextmanager
async def connected(listener: Listener, **options: Any) -> AsyncIterator[RawClient]:
    client = RawClient(*await asyncio.open_connection("127.0.0.1", listener.port, **options))
    try:
        yield client
    finally:
        client.leave()
        try:
            await client.writer.wait_closed()
        except OSError:
            # Many of these connections end badly; that is what they are for.
            client.writer.transport.abort()


def request(target: str = "/", *lines: str, method: str = "GET", version: str = "1.1", host: bool = True) -> bytes:
    """A request's head."""
    head = [f"{method} {target} HTTP/{version}", *(["Host: gateway.example"] if host else []), *lines, "", ""]
    return "\r\n".join(head).encode("latin-1")


def dechunked(data: bytes) -> bytes:
    """The body that HTTP/1.1 chunks carry; what is not whole and well formed fails."""
    body = b""
    while True:
        size, _, data = data.partition(b"\r\n")
        length = int(size, 16)
        if length == 0:
            assert data == b"\r\n"
            return body
        assert data[length : length + 2] == b"\r\n"
        body, data = body + data[:length], data[length + 2 :]


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)
