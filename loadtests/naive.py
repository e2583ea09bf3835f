"""The usual design, for comparison: a queue for each client, drained by an sse-starlette generator under uvicorn.

    python -m loadtests.naive RATE CHUNK

Fed by a timer of its own, so that it pays for delivery alone. CHUNK is a file with one record as the gateway sends it;
the JSON text is made once for all clients, the event for each. Prints its port; ``GET /`` is a stream and ``GET
/send?count=N`` sends N records.
"""

from __future__ import annotations

import asyncio
import re
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import uvicorn
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

QUEUE_RECORDS = 1000


class Broadcast:
    """Everybody's queues."""

    def __init__(self, *, rate: float, chunk: bytes) -> None:
        found = re.search(rb"id: (\S+)\ndata: (.*)\n\n", chunk)
        assert found is not None, chunk
        self._id = found[1].decode()
        head, tail = re.split(r'"seq":"\d:\d{10}', found[2].decode())
        self._head, self._tail = head + '"seq":"0:', tail
        self._rate = rate
        self._next = 0
        self._queues: set[asyncio.Queue[tuple[str, str]]] = set()
        self._sending: asyncio.Task[None] | None = None

    async def send(self, request: Request) -> Response:
        """Start to send, at the rate."""
        self._sending = asyncio.create_task(self._send(int(request.query_params["count"])))
        return PlainTextResponse("sending")

    async def _send(self, count: int) -> None:
        loop = asyncio.get_running_loop()
        start = loop.time()
        for number in range(count):
            await asyncio.sleep(start + number / self._rate - loop.time())
            event = (self._id, f"{self._head}{self._next:010d}{self._tail}")
            self._next += 1
            for queue in self._queues:
                queue.put_nowait(event)

    async def stream(self, request: Request) -> Response:
        """One client."""
        queue: asyncio.Queue[tuple[str, str]] = asyncio.Queue(QUEUE_RECORDS)
        self._queues.add(queue)

        async def events() -> AsyncIterator[ServerSentEvent]:
            try:
                while True:
                    number, data = await queue.get()
                    yield ServerSentEvent(id=number, data=data)
            finally:
                self._queues.discard(queue)

        return EventSourceResponse(events())


def main() -> None:
    """Serve until killed."""
    broadcast = Broadcast(rate=float(sys.argv[1]), chunk=Path(sys.argv[2]).read_bytes())
    app = Starlette(routes=[Route("/", broadcast.stream), Route("/send", broadcast.send)])
    listening = socket.create_server(("127.0.0.1", 0), backlog=4096)
    print(listening.getsockname()[1], flush=True)
    config = uvicorn.Config(app, loop="uvloop", http="httptools", log_level="warning", access_log=False)
    uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main()
