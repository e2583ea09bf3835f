"""A TCP link that can be cut, delayed and silenced: it stands between two parts and looks at no byte."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator

_PIECE_BYTES = 64 * 1024
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER that makes a close a reset, as a cut is."""


class Link:
    """Listens at ``port`` and leads to ``upstream``, which may change.

    ``delay_seconds`` holds every piece back, both ways. While ``flowing`` is clear, nothing passes and nothing breaks.
    """

    def __init__(self, *, upstream: int, holds_little: bool) -> None:
        self._holds_little = holds_little
        self.upstream = upstream
        self.port = 0
        self.delay_seconds = 0.0
        self.flowing = asyncio.Event()
        self.flowing.set()
        self._cut_after: int | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def connections(self) -> int:
        return len(self._open) // 2

    def cut(self) -> None:
        """Reset every connection now."""
        for writer in list(self._open):
            _reset(writer)

    def cut_after(self, size: int) -> None:
        """Reset the next connection that carries so many bytes more to the client, amid a piece."""
        self._cut_after = size

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        ends = [writer]
        try:
            with contextlib.suppress(OSError, asyncio.CancelledError):
                up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.upstream)
                ends.append(up_writer)
                if self._holds_little:
                    keep_little(writer)
                    keep_little(up_writer)
                self._open.update(ends)
                up = asyncio.create_task(self._carry(reader, up_writer, down=False))
                down = asyncio.create_task(self._carry(up_reader, writer, down=True))
                try:
                    await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
                    if down.done() and not down.cancelled() and down.exception() is None and not down.result():
                        # The server has ended it in order: the client gets all there was, and the end.
                        writer.write_eof()
                        ends.remove(writer)
                        writer.close()
                finally:
                    up.cancel()
                    down.cancel()
                    await asyncio.gather(up, down, return_exceptions=True)
        finally:
            self._open.difference_update([writer, *ends])
            for one in ends:
                _reset(one)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, down: bool) -> bool:
        """Until the end of one side; whether it was cut."""
        while data := await reader.read(_PIECE_BYTES):
            await self.flowing.wait()
            if self.delay_seconds:
                await asyncio.sleep(self.delay_seconds)
            if down and self._cut_after is not None:
                if self._cut_after < len(data):
                    writer.write(data[: self._cut_after])
                    self._cut_after = None
                    return True
                self._cut_after -= len(data)
            writer.write(data)
            await writer.drain()
        return False


def keep_little(writer: asyncio.StreamWriter) -> None:
    """Small buffers in the kernel: who does not read is felt at the other end soon."""
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, option, _PIECE_BYTES)


def _reset(writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()


@contextlib.asynccontextmanager
async def link(*, upstream: int, port: int = 0, holds_little: bool = False) -> AsyncIterator[Link]:
    """An open link; all its connections end with it. ``holds_little``: a client that does not read stops the server
    soon, and not after the megabytes that the kernel would hold."""
    made = Link(upstream=upstream, holds_little=holds_little)
    server = await asyncio.start_server(made._serve, "127.0.0.1", port, backlog=4096)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        for task in list(made._tasks):
            task.cancel()
        await asyncio.gather(*made._tasks, return_exceptions=True)
        await server.wait_closed()
