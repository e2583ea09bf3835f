"""A broker that lies: TCP between a client and a real broker that delays, cuts and changes what the broker answers."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Callable

_FETCH = 1
_HEADER = struct.Struct(">hhi")

Change = Callable[[bytes], bytes | None]
"""An answer to a fetch, whole, without its length → what the client gets; None cuts the connection there."""


class LyingBroker:
    """What it says of itself is where it listens, so that clients stay with it. ``change`` is what happens to each
    answer to a fetch; ``delay_seconds`` holds every answer back; ``cut_after_bytes`` cuts amid that many."""

    def __init__(self, port: int, upstream: int) -> None:
        self.port = port
        self._upstream = upstream
        self.change: Change | None = None
        self.delay_seconds = 0.0
        self.cut_after_bytes: int | None = None
        self.lies = 0
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self.port}"

    def cut(self) -> None:
        """Break every connection now."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client."""
        asked: dict[int, int] = {}
        self._writers.add(writer)
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._upstream)
        self._writers.add(up_writer)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._requests(reader, up_writer, asked))
                group.create_task(self._answers(up_reader, writer, asked))
        except* (OSError, EOFError):
            self.lies += 0  # either side went; the other goes too
        finally:
            for one in (writer, up_writer):
                self._writers.discard(one)
                one.transport.abort()

    async def _requests(
        self, reader: asyncio.StreamReader, upstream: asyncio.StreamWriter, asked: dict[int, int]
    ) -> None:
        while True:
            request = await _frame(reader)
            key, _version, correlation = _HEADER.unpack_from(request)
            asked[correlation] = key
            upstream.write(struct.pack(">i", len(request)) + request)
            await upstream.drain()

    async def _answers(
        self, upstream: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: dict[int, int]
    ) -> None:
        real, own = (struct.pack(">i", port) for port in (self._upstream, self.port))
        while True:
            answer = await _frame(upstream)
            key = asked.pop(int.from_bytes(answer[:4], "big"), None)
            if key == 3:
                # Only in metadata: a payload may hold the same four bytes.
                answer = answer.replace(real, own)
            if self.delay_seconds:
                await asyncio.sleep(self.delay_seconds)
            if key == _FETCH and self.change is not None:
                changed = self.change(answer)
                if changed != answer:
                    self.lies += 1
                if changed is None:
                    raise EOFError
                answer = changed
            framed = struct.pack(">i", len(answer)) + answer
            if self.cut_after_bytes is not None and len(framed) > self.cut_after_bytes:
                framed, self.cut_after_bytes = framed[: self.cut_after_bytes], None
                self.lies += 1
                writer.write(framed)
                await writer.drain()
                raise EOFError
            writer.write(framed)
            await writer.drain()


async def _frame(reader: asyncio.StreamReader) -> bytes:
    return await reader.readexactly(int.from_bytes(await reader.readexactly(4), "big"))


@contextlib.asynccontextmanager
async def lying_broker(upstream: int) -> AsyncIterator[LyingBroker]:
    """A proxy before the broker at this loopback port, honest until told otherwise."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        await liar.serve(reader, writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    liar = LyingBroker(server.sockets[0].getsockname()[1], upstream)
    try:
        yield liar
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()
