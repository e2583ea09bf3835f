"""Ways out: a subscription's bytes into a connection, straight where the server lets us, else through ASGI ``send``."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Final

from starlette.types import Send

from gateway.errors import GatewayError
from gateway.hub.block import Slice
from gateway.ports import DirectWriter
from gateway.subscription.encode import Framing
from gateway.subscription.subscription import Subscription

log = logging.getLogger("gateway.transport")
HIGH_WATER_BYTES: Final = 64 * 1024
LOW_WATER_BYTES: Final = 16 * 1024


class _DirectOutlet:
    """What both kinds of direct outlet hand on to their writer."""

    __slots__ = ("_writer", "framing")

    def __init__(self, writer: DirectWriter, framing: Framing) -> None:
        self.framing = framing
        self._writer = writer

    @property
    def paused(self) -> bool:
        return self._writer.paused

    @property
    def on_resume(self) -> Callable[[], None] | None:
        return self._writer.on_resume

    @on_resume.setter
    def on_resume(self, call: Callable[[], None] | None) -> None:
        self._writer.on_resume = call

    @property
    def on_close(self) -> Callable[[], None] | None:
        return self._writer.on_close

    @on_close.setter
    def on_close(self, call: Callable[[], None] | None) -> None:
        self._writer.on_close = call

    def accepted_monotonic(self) -> float:
        return self._writer.accepted_monotonic

    def unsent(self) -> int:
        return self._writer.unsent()

    def abort(self) -> None:
        self._writer.abort()


class DirectHttpOutlet(_DirectOutlet):
    """An HTTP response body written past ASGI, framed as chunks where the response is chunked."""

    __slots__ = ("_ended",)

    def __init__(self, writer: DirectWriter, framing: Framing) -> None:
        super().__init__(writer, framing)
        self._ended: asyncio.Future[GatewayError | None] = asyncio.get_running_loop().create_future()

    def write(self, piece: Slice) -> None:
        writer = self._writer
        writer.write(piece.http_chunk if writer.chunked else piece.body)

    def say(self, data: bytes) -> None:
        writer = self._writer
        writer.write(b"%x\r\n%b\r\n" % (len(data), data) if writer.chunked else data)

    def finish(self, error: GatewayError | None) -> None:
        if not self._ended.done():
            self._ended.set_result(error)

    async def serve(self, subscription: Subscription, send: Send) -> None:
        """Wait for the end of the stream and complete the response."""
        if self._writer.closed:
            # Gone before the stream began: nobody else would ever say so.
            subscription.leave()
        try:
            await self._ended
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            subscription.leave()


class DirectWebSocketOutlet(_DirectOutlet):
    """Ready-made frames written past ASGI; the close goes through it, so that the server's protocol knows."""

    __slots__ = ("_closing", "_send")

    def __init__(self, writer: DirectWriter, framing: Framing, send: Send) -> None:
        super().__init__(writer, framing)
        self._send = send
        self._closing: asyncio.Task[None] | None = None

    def write(self, piece: Slice) -> None:
        self._writer.write(piece.body)

    def say(self, data: bytes) -> None:
        self._writer.write(data)

    def finish(self, error: GatewayError | None) -> None:
        if error is not None and not self._writer.closed:
            # A task, since the connection's own waits for the client's frames; kept, or it could be collected.
            self._closing = asyncio.ensure_future(_close(self._send, error))


async def _close(send: Send, error: GatewayError) -> None:
    try:
        await send({"type": "websocket.close", "code": error.close_code, "reason": error.code})
    except (OSError, RuntimeError) as gone:
        # The client was faster; the server's protocol lets go of the connection by itself.
        log.debug("close not sent: %s", gone)


class QueuedOutlet:
    """Bytes for a task that sends them: for ASGI servers without a direct writer. Bounded by its high-water mark."""

    def __init__(self, framing: Framing) -> None:
        self.framing = framing
        self.on_resume: Callable[[], None] | None = None
        self.on_close: Callable[[], None] | None = None
        self.error: GatewayError | None = None
        self.paused = False
        self._pieces: deque[bytes] = deque()
        self._bytes = 0
        self._over = False
        self._news = asyncio.Event()
        self._accepted_monotonic = time.monotonic()

    def write(self, piece: Slice) -> None:
        self.say(piece.body)

    def say(self, data: bytes) -> None:
        self._pieces.append(data)
        self._bytes += len(data)
        self.paused = self.paused or self._bytes > HIGH_WATER_BYTES
        self._news.set()

    def accepted_monotonic(self) -> float:
        return self._accepted_monotonic

    def unsent(self) -> int:
        return self._bytes

    def finish(self, error: GatewayError | None) -> None:
        self.error = error
        self._over = True
        self._news.set()

    def abort(self) -> None:
        self._pieces.clear()
        self._bytes = 0

    def lost(self) -> None:
        """The server says that the client has gone."""
        if self.on_close is not None:
            self.on_close()

    async def pieces(self) -> AsyncIterator[bytes]:
        """What is to be sent, until the end. Taking the next piece means that the one before was sent."""
        while True:
            while self._pieces:
                piece = self._pieces.popleft()
                yield piece
                self._sent(len(piece))
            if self._over:
                return
            self._news.clear()
            await self._news.wait()

    def _sent(self, size: int) -> None:
        self._bytes = max(0, self._bytes - size)
        self._accepted_monotonic = time.monotonic()
        if self.paused and self._bytes <= LOW_WATER_BYTES:
            self.paused = False
            if self.on_resume is not None:
                self.on_resume()
