"""WebSocket connections: uvicorn's sans-I/O protocol with bounds on what a peer may send, and the direct writer."""

from __future__ import annotations

import asyncio
import math
import time
from http import HTTPStatus
from typing import Any

from uvicorn._types import ASGIReceiveEvent, ASGISendEvent
from uvicorn.config import Config
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.datastructures import Headers
from websockets.exceptions import InvalidState
from websockets.frames import CloseCode, Frame
from websockets.http11 import Response
from websockets.protocol import OPEN
from websockets.server import ServerProtocol
from websockets.typing import StatusLike

from gateway.errors import BadRequest, Forbidden, GatewayError, HeadersTooLarge, Internal, MethodNotAllowed, UriTooLong
from gateway.ports import WRITER_EXTENSION, DirectWriter
from gateway.server.light import LightEvent, LightQueue
from gateway.server.refusal import DISCARD_BYTES, encode_refusal, end_output
from gateway.server.state import ConnectionState, logger
from gateway.server.writer import TellsItsWriter, TransportWriter

PIECE_BYTES = 1024
"""Input is parsed in pieces of this size: a flood of tiny frames is noticed after hundreds, not tens of thousands."""


class GuardedWebSocketProtocol(TellsItsWriter, WebSocketsSansIOProtocol):
    """One WebSocket connection, from the request that asked for the upgrade on.

    What breaks a bound is closed with 1007, 1008 or 1009 and read on for a moment, so that the code arrives.
    """

    def __init__(
        self,
        config: Config,
        server_state: ConnectionState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.logger = logger
        self.queue = LightQueue()  # type: ignore[assignment]
        self.writable = LightEvent()
        self.writable.set()
        self._bounds = server_state.bounds
        self.conn = conn = _Handshake(max_size=self._bounds.message_bytes, logger=logger)
        conn.date_header = self.default_headers
        self.close_timeout = self._bounds.close_seconds
        self._abort_at = math.inf
        self._writer: TransportWriter | None = None
        self._unparsed = b""
        self._control_frames = 0
        self._control_second = 0.0
        self._message_frames = 0
        self._failed = False
        self._discarded_bytes = 0

    # Connection

    def connection_lost(self, exc: Exception | None) -> None:
        writer, self._writer = self._writer, None
        self._unparsed = b""
        super().connection_lost(exc)
        if writer is not None:
            writer.lose()

    def sweep(self, now: float) -> None:
        """Enforce what is due at ``now`` (``time.monotonic``); called for every connection about once a second."""
        if self.close_sent or self.transport.is_closing():
            self._abort_at = min(self._abort_at, now + self._bounds.close_seconds)
            if now >= self._abort_at:
                self.transport.abort()
        elif self._writer is not None:
            self._writer.sample(now)

    def shutdown(self) -> None:
        if not self.transport.is_closing() and (self.conn.state is OPEN or not self.handshake_complete):
            super().shutdown()
        self._settle()

    # Input

    def data_received(self, data: bytes) -> None:
        if self._failed:
            self._discarded_bytes += len(data)
            if self._discarded_bytes > DISCARD_BYTES:
                self.transport.abort()
        elif not self.handshake_initiated:
            # The whole request, given by the HTTP protocol.
            super().data_received(data)
            if not self.handshake_initiated:
                self._refuse_handshake()
        else:
            self._unparsed += data
            self._parse()

    def _parse(self) -> None:
        """Parse what has come in, as far as the application keeps up."""
        data, start = self._unparsed, 0
        self._unparsed = b""
        while start < len(data) and not self.transport.is_closing() and not self._failed:
            if self.queue.qsize() >= self._bounds.queued_messages:
                self._unparsed = data[start:]
                break
            piece = data[start : start + PIECE_BYTES]
            start += len(piece)
            try:
                super().data_received(piece)
            except InvalidState:
                # Frames after the peer's own close frame, in the same piece.
                self.transport.close()
        self._settle()

    async def receive(self) -> ASGIReceiveEvent:
        message = await super().receive()
        if self._unparsed and self.queue.empty():
            # Others' turn first: an application that takes each message at once would never give the loop back.
            await asyncio.sleep(0)
            self._parse()
        return message

    def handle_text(self, event: Frame) -> None:
        self._message_frames = 1
        super().handle_text(event)

    def handle_bytes(self, event: Frame) -> None:
        self._message_frames = 1
        super().handle_bytes(event)

    def handle_cont(self, event: Frame) -> None:
        self._message_frames += 1
        if self._message_frames > self._bounds.message_frames:
            self._fail(CloseCode.POLICY_VIOLATION, "too many fragments")
        else:
            super().handle_cont(event)

    def handle_ping(self) -> None:
        if not self._failed and self._count_control():
            super().handle_ping()

    def handle_pong(self, event: Frame) -> None:
        if not self._failed and self._count_control():
            super().handle_pong(event)

    def send_receive_event_to_app(self) -> None:
        if self.curr_msg_data_type == "text" and not self.close_sent:
            try:
                b"".join(self.frames).decode()
            except UnicodeDecodeError:
                # uvicorn does the same with a traceback in the log for every bad message.
                self.frames = []
                self._fail(CloseCode.INVALID_DATA, "text is not UTF-8")
                return
        super().send_receive_event_to_app()

    def handle_parser_exception(self) -> None:
        # In place of uvicorn's, which closes with input unread: the reset would overtake the close code.
        self._failed = True
        close = self.conn.close_sent
        code, reason = (close.code, close.reason) if close is not None else (1006, "")
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self._settle()
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        if end_output(self.transport):
            # Armed, it also keeps uvicorn from closing when the application returns.
            self.close_timer = self.loop.call_later(self._bounds.linger_seconds, self.transport.abort)

    def _count_control(self) -> bool:
        """Count a ping or pong; False if the connection was failed for it."""
        now = time.monotonic()
        if now - self._control_second >= 1.0:
            self._control_second = now
            self._control_frames = 0
        self._control_frames += 1
        if self._control_frames <= self._bounds.control_frames_per_second:
            return True
        self._fail(CloseCode.POLICY_VIOLATION, "too many control frames")
        return False

    def _fail(self, code: CloseCode, reason: str) -> None:
        if self._failed:
            return
        if self.close_sent or self.conn.state is not OPEN:
            # A close frame is out already, or prepared as the answer to the peer's own; there cannot be a second one.
            self.transport.write(b"".join(self.conn.data_to_send()))
            self.transport.close()
            return
        # Pongs prepared before the failure are not worth sending to a flooder.
        self.conn.data_to_send()
        self.conn.fail(code, reason)
        self.handle_parser_exception()

    def _refuse_handshake(self) -> None:
        """Answer a request that the WebSocket parser would not take; uvicorn leaves its sender waiting for ever."""
        self.handshake_initiated = self.handshake_complete = self.close_sent = True
        answer = b"".join(self.conn.data_to_send())
        if not answer:
            error = BadRequest("this is not a valid WebSocket handshake")
            answer = encode_refusal(error, date_header=self.default_headers)
        self.transport.write(answer)
        self.transport.close()

    # Output

    async def run_asgi(self) -> None:
        scope: Any = self.scope
        scope["extensions"][WRITER_EXTENSION] = self._open_writer
        try:
            await super().run_asgi()
        finally:
            # The scope is the connection's own: each would keep the other until the garbage collector comes.
            scope["extensions"].pop(WRITER_EXTENSION, None)

    async def send(self, message: ASGISendEvent) -> None:
        if message["type"] == "websocket.close":
            if self._failed:
                return
            # Waiting for a peer that reads nothing would keep its connection; the sweep ends it soon after the close.
            self.writable.set()
        elif self._failed:
            raise ClientDisconnected
        await super().send(message)
        if message["type"] == "websocket.accept" and self.handshake_complete:
            # Only the handshake needs them, and an idle connection shall be small.
            del self.request, self.response
        if message["type"] == "websocket.http.response.body" and self.close_sent:
            # A refusal is a whole answer; the base takes it for none, and says so as an error.
            self.handshake_complete = True
        self._settle()

    def _settle(self) -> None:
        """Direct writes end where the close handshake begins, whoever began it."""
        if self._writer is not None and (self.conn.state is not OPEN or self.transport.is_closing()):
            self._writer.shut()

    def _open_writer(self) -> DirectWriter:
        """``gateway.ports.OpenWriter`` for this connection."""
        if not self.handshake_complete:
            raise RuntimeError("the direct writer opens after websocket.accept")
        if self._writer is None:
            writer = TransportWriter(self.transport, chunked=False, paused=not self.writable.is_set())
            if self.disconnected:
                writer.shut()
                return writer
            self._writer = writer
            self._settle()
        return self._writer


class _Handshake(ServerProtocol):
    """Refuses with a problem body where its base has plain text; offers no extension, so nothing is ever inflated."""

    date_header: list[tuple[bytes, bytes]]

    def reject(self, status: StatusLike, text: str) -> Response:
        error = _error(HTTPStatus(status), text.strip())
        head, _, body = encode_refusal(error, date_header=self.date_header).partition(b"\r\n\r\n")
        headers = Headers()
        for line in head.decode("ascii").split("\r\n")[1:]:
            name, _, value = line.partition(": ")
            headers[name.title()] = value
        return Response(error.status, HTTPStatus(error.status).phrase, headers, body)


def _error(status: HTTPStatus, text: str) -> GatewayError:
    if status == HTTPStatus.FORBIDDEN:
        return Forbidden()
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR and status != HTTPStatus.HTTP_VERSION_NOT_SUPPORTED:
        return Internal()
    by_status: dict[int, type[GatewayError]] = {405: MethodNotAllowed, 414: UriTooLong, 431: HeadersTooLarge}
    error = by_status.get(status, BadRequest)(text)
    error.status = status
    return error
