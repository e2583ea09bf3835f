"""A server that says what its script says, byte for byte: cut answers, late answers, answers no real one would give."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

Step = bytes | float | None
"""Bytes to send, seconds to stay silent, or None: wait until the client has left."""


@dataclass
class ScriptedServer:
    """What was asked of it, and where it listens."""

    port: int = 0
    targets: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@asynccontextmanager
async def scripted(*answers: Sequence[Step]) -> AsyncIterator[ScriptedServer]:
    """Each connection gets the next answer and is cut at its end; when they have run out, the last one again."""
    told = ScriptedServer()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        answer = answers[min(len(told.targets), len(answers) - 1)]
        told.targets.append(head[0].split(" ")[1])
        told.headers.append({name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:])})
        try:
            for step in answer:
                if isinstance(step, bytes):
                    writer.write(step)
                    await writer.drain()
                elif step is None:
                    await reader.read()
                else:
                    await asyncio.sleep(step)
        except ConnectionError:
            # The client left in the middle of the script, as some are told to.
            writer.transport.abort()
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    told.port = server.sockets[0].getsockname()[1]
    async with server:
        yield told


def head(content_type: str, *lines: str, status: int = 200) -> bytes:
    """Status and headers of an answer whose body ends with the connection or has its length in ``lines``."""
    return "\r\n".join([f"HTTP/1.1 {status} X", f"Content-Type: {content_type}", *lines, "", ""]).encode()


def answer(status: int, document: object, *lines: str, content_type: str = "application/json") -> bytes:
    """A whole answer with a JSON body."""
    body = json.dumps(document).encode()
    return head(content_type, f"Content-Length: {len(body)}", *lines, status=status) + body


def refusal(status: int, code: str, *lines: str, **members: object) -> bytes:
    """A problem, as the gateway says it."""
    problem = {
        "type": f"urn:streaming-gateway:problem:{code}",
        "title": code.replace("_", " ").capitalize(),
        "status": status,
        "detail": f"About {code}.",
        "code": code,
        "action": "Do something about it.",
        "correlation_id": "c0ffee",
        **members,
    }
    return answer(status, problem, *lines, content_type="application/problem+json")
