"""HTTP/1.x connections: uvicorn's httptools protocol with bounds, deadlines and the direct writer."""

from __future__ import annotations

import asyncio
import enum
import functools
import math
import time
import weakref
from collections.abc import Callable
from typing import Any, Final

import httptools
from uvicorn._types import ASGI3Application
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from gateway.errors import BadRequest, GatewayError, HeadersTooLarge, PayloadTooLarge, RequestTimeout, UriTooLong
from gateway.ports import AGAIN_EXTENSION, WRITER_EXTENSION, Answer, AnswerAgain, DirectWriter
from gateway.server.again import Again, encode_answer, is_head_alone
from gateway.server.light import LightEvent, LightFlow, LightPipeline
from gateway.server.refusal import DISCARD_BYTES, encode_refusal, end_output
from gateway.server.state import ConnectionState, logger
from gateway.server.writer import TellsItsWriter, TransportWriter

KEPT_BYTES: Final = 4096
"""What a request came as is kept up to so much, to know the same one by."""


_Request = weakref.ref[RequestResponseCycle]


class Phase(enum.Enum):
    """What the connection is waiting for."""

    HEADERS = enum.auto()
    BODY = enum.auto()
    ANSWER = enum.auto()
    REQUEST = enum.auto()
    GOING = enum.auto()


class _Unbounded(int):
    """A body length that every body fits: HTTP/1.0 has no chunks, its body ends with the connection."""

    def __lt__(self, other: object) -> bool:
        return False

    def __ne__(self, other: object) -> bool:
        return False

    def __sub__(self, other: int) -> _Unbounded:
        return self

    __hash__ = int.__hash__


class _RefusedError(Exception):
    """Leaves a parser callback; the refusal itself waits in the protocol."""


class GuardedHttpProtocol(TellsItsWriter, HttpToolsProtocol):
    """One HTTP connection; a broken bound is answered with a problem where an answer is still possible, and closed.

    At most one deadline is armed at a time; ``sweep`` looks at it, so that a request costs no timer.
    """

    server_state: ConnectionState
    # Beyond thirty attributes an instance's dict is shared with no other one's, and five times as large.
    __slots__ = (
        "_abort_at",
        "_again",
        "_body_bytes",
        "_bounds",
        "_deadline",
        "_due",
        "_fresh",
        "_head_bytes",
        "_header_bytes",
        "_phase",
        "_received",
        "_refusal",
        "_running",
        "_writer",
    )

    def __init__(
        self,
        config: Config,
        server_state: ConnectionState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.logger = logger
        self.access_log = False
        self.pipeline = LightPipeline()  # type: ignore[assignment]
        self._bounds = server_state.bounds
        self._phase = Phase.HEADERS
        self._deadline = math.inf
        self._abort_at = math.inf
        self._refusal: GatewayError | None = None
        # The request being answered; uvicorn's `cycle` is the one read last, which may be waiting behind it.
        self._running: RequestResponseCycle | None = None
        self._writer: TransportWriter | None = None
        self._again: Again | None = None
        # What is decided to be said to the request before and waits for its turn in the lane.
        self._due: Callable[[], Answer] | None = None
        # What the request read last came as, where it came whole and alone; and what has come and nothing began in yet.
        self._received: bytes | None = None
        self._fresh: bytes | None = None
        self._head_bytes = 0
        self._header_bytes = 0
        self._body_bytes = 0

    # Connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = LightFlow(transport)
        transport.set_write_buffer_limits(high=self.server_state.write_buffer_high_bytes)
        self._deadline = time.monotonic() + self._bounds.header_seconds

    def connection_lost(self, exc: Exception | None) -> None:
        running, self._running = self._running, None
        writer, self._writer = self._writer, None
        self._again = None
        due, self._due = self._due, None
        if due is not None:
            # Nobody hears it any more, but it is counted and logged as it is put into words.
            self._in_words(due)
        super().connection_lost(exc)
        # A request knows its connection: if that knew the request for longer, both would wait for the collector.
        self.cycle = self.scope = None  # type: ignore[assignment]
        if running is not None:
            _disconnect(running)
        self.pipeline.clear()
        if writer is not None:
            writer.lose()

    def shutdown(self) -> None:
        self._say_due()
        # A second close() would make asyncio's TLS transport deaf to abort().
        if not self.transport.is_closing():
            super().shutdown()

    def data_received(self, data: bytes) -> None:
        if self._phase is Phase.GOING:
            self._body_bytes += len(data)
            if self._body_bytes > DISCARD_BYTES:
                self.transport.abort()
            return
        if self._phase is Phase.HEADERS:
            # Headers reach `on_header` only when whole: an endless one is seen here.
            self._head_bytes += len(data)
        if self._again is not None:
            self._again.is_spent = False
            if self._phase is Phase.REQUEST and data == self._again.received and self._answer_as_before(self._again):
                self._await_request()
                return
        self._received = None
        self._fresh = data if self._phase is Phase.REQUEST and len(data) <= KEPT_BYTES else None
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if self._should_upgrade():
                self.handle_websocket_upgrade()
                # They hold this protocol, which is over here: without this all wait for the garbage collector.
                self.parser = self.cycle = self.scope = self._again = None  # type: ignore[assignment]
            else:
                self._read_again_without_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self._refuse(self._refusal or BadRequest("this is not a valid HTTP/1.1 request"))
        else:
            head_bytes = self._bounds.headers_bytes + self._bounds.url_bytes
            if self._phase is Phase.HEADERS and self._head_bytes > head_bytes:
                self._refuse(HeadersTooLarge(f"headers take more than {self._bounds.headers_bytes} bytes"))

    def sweep(self, now: float) -> None:
        """Enforce what is due at ``now`` (``time.monotonic``); called for every connection about once a second."""
        if self.transport.is_closing():
            self._abort_at = min(self._abort_at, now + self._bounds.close_seconds)
            if now >= self._abort_at:
                self.transport.abort()
            return
        if self._writer is not None:
            self._writer.sample(now)
        if now < self._deadline:
            return
        if self._phase is Phase.GOING:
            self.transport.abort()
        elif self._phase is Phase.REQUEST:
            self.transport.close()
        else:
            self._refuse(RequestTimeout("the request took too long to arrive"))

    # Parser callbacks

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._received, self._fresh = self._fresh, None
        if self._received is None and self._again is not None:
            # The one before is not all that has come at once.
            self._again.received = None
        if self._phase is not Phase.HEADERS:
            self._phase = Phase.HEADERS
            self._deadline = math.inf if self._running else time.monotonic() + self._bounds.header_seconds
        self._head_bytes = self._header_bytes = self._body_bytes = 0

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > self._bounds.url_bytes:
            raise self._refused(UriTooLong(f"the request target is longer than {self._bounds.url_bytes} bytes"))

    def on_header(self, name: bytes, value: bytes) -> None:
        bounds = self._bounds
        line_bytes = len(name) + 2 + len(value)
        if self._phase is Phase.BODY:
            # A trailer. uvicorn would add it to the headers that the application has read already.
            self._count_body(line_bytes)
            return
        self._header_bytes += line_bytes + 2
        if line_bytes > bounds.header_line_bytes:
            raise self._refused(HeadersTooLarge(f"a header line is longer than {bounds.header_line_bytes} bytes"))
        if self._header_bytes > bounds.headers_bytes:
            raise self._refused(HeadersTooLarge(f"headers take more than {bounds.headers_bytes} bytes"))
        if len(self.headers) >= bounds.header_lines:
            raise self._refused(HeadersTooLarge(f"there are more than {bounds.header_lines} header lines"))
        # White space around a value is none of it (RFC 9110 §5.5); the parser takes only what leads it away.
        super().on_header(name, value.strip(b" \t"))

    def on_headers_complete(self) -> None:
        self._say_due()
        version = self.parser.get_http_version()
        if version not in ("1.0", "1.1"):
            raise self._refused(BadRequest("only HTTP/1.1 and HTTP/1.0 are spoken here"))
        hosts = sum(name == b"host" for name, _ in self.headers)
        if hosts > 1 or (hosts == 0 and version == "1.1"):
            raise self._refused(BadRequest("send exactly one Host header"))
        if self.parser.get_method() == b"CONNECT":
            raise self._refused(BadRequest("this is not a proxy"))
        for name, value in self.headers:
            if name == b"content-length" and value.isdigit() and int(value[:20]) > self._bounds.body_bytes:
                raise self._refused(self._body_too_large())
        if self._running and (self.parser.should_upgrade() or len(self.pipeline) >= self._bounds.pipelined_requests):
            raise self._refused(BadRequest("too many requests at once on one connection"))
        if self.parser.should_upgrade():
            if self._should_upgrade():
                super().on_headers_complete()
            return
        if self._again is not None and self._answer_again(version):
            return
        super().on_headers_complete()
        # Its task has not run yet, and no body has come: nobody waits at the event that this one replaces.
        self.cycle.message_event = LightEvent()
        self._phase = Phase.BODY
        waits = self.cycle is not self._running
        self._deadline = math.inf if waits else time.monotonic() + self._bounds.body_seconds

    def on_body(self, body: bytes) -> None:
        self._count_body(len(body))
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        super().on_message_complete()
        self._await_request() if self._running is None else self._await_answer()

    # Requests and answers

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        scope: Any = cycle.scope
        # Weakly, since the scope is the request's own; while somebody answers it, it is there.
        request = weakref.ref(cycle)
        scope["extensions"] = {
            WRITER_EXTENSION: functools.partial(self._open_writer, request),
            AGAIN_EXTENSION: functools.partial(self._keep_again, request),
        }
        if scope["http_version"] == "1.0":
            cycle.chunked_encoding = False
            cycle.expected_content_length = _Unbounded()
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        # In place of uvicorn's, which arms a timer after every answer.
        self.server_state.total_requests += 1
        self._running = None
        if self._writer is not None:
            self._writer.shut()
            self._writer = None
        if self.transport.is_closing() or self._phase is Phase.GOING:
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
            if self._phase is Phase.BODY and not self.pipeline:
                self._deadline = time.monotonic() + self._bounds.body_seconds
        elif self._phase is Phase.ANSWER:
            self._await_request()
        elif self._phase is Phase.HEADERS:
            self._deadline = time.monotonic() + self._bounds.header_seconds

    def _open_writer(self, request: _Request) -> DirectWriter:
        """``gateway.ports.OpenWriter`` for one request."""
        cycle = request()
        if cycle is None or cycle.disconnected or self.transport.is_closing():
            writer = TransportWriter(self.transport, chunked=False, paused=False)
            writer.shut()
            return writer
        if cycle is not self._running or not cycle.response_started:
            raise RuntimeError("the direct writer opens between http.response.start and the end of the body")
        one_zero = cycle.scope["http_version"] == "1.0"
        if cycle.scope["method"] == "HEAD" or not (cycle.chunked_encoding or one_zero):
            raise RuntimeError("the direct writer is for bodies of open length")
        self._again = self._received = None
        if self._writer is None:
            self._writer = TransportWriter(self.transport, chunked=not one_zero, paused=self.flow.write_paused)
        return self._writer

    def _keep_again(self, request: _Request, answer: AnswerAgain) -> None:
        """``gateway.ports.KeepAgain`` for one request."""
        cycle = request()
        if cycle is None or cycle is not self.cycle:
            return
        is_last = self._phase is Phase.REQUEST and cycle.keep_alive
        if is_last and cycle.scope["method"] == "GET" and is_head_alone(self.headers):
            received = self._received if cycle.scope["http_version"] == "1.1" else None
            self._again = Again(self.url, self.headers, answer, received=received)

    def _answer_again(self, version: str) -> bool:
        """Whether the request whose head is complete has been answered by what came of the one before it."""
        again = self._again
        if again is None or version != "1.1" or self.parser.get_method() != b"GET":
            return False
        if not again.is_of(self.url, self.headers):
            self._again = None
            return False
        if not self._answer_as_before(again):
            return False
        again.received = self._received
        return True

    def _answer_as_before(self, again: Again) -> bool:
        """The same of a request that is known to be the same."""
        self._say_due()
        # A client that does not take its answers waits for its turn, as with any other request.
        if self._running is not None or self.flow.write_paused:
            return False
        answer = again.answer()
        if answer is None:
            return False
        self.server_state.total_requests += 1
        self._due = answer
        self.server_state.lane.put(self._say_due)
        if self._due is not None:
            # Who does not wait for his answer gets no turn more by it.
            self.flow.pause_reading()
        return True

    def _say_due(self) -> None:
        """Answer the request before, where that is still to be done: nothing on this connection overtakes it."""
        due, self._due = self._due, None
        if due is not None:
            self.flow.resume_reading()
            answer = self._in_words(due)
            if answer is None:
                # Whoever is cut off asks again; without an answer he would wait until the idle deadline.
                self.transport.abort()
            elif not self.transport.is_closing():
                self.transport.write(answer)

    def _in_words(self, due: Callable[[], Answer]) -> bytes | None:
        """The answer as it is sent; None where that went wrong, which is of no other connection's concern."""
        try:
            return encode_answer(*due(), default_headers=self.server_state.default_headers)
        except Exception:
            self.logger.exception("an answer could not be put into words; its connection is dropped")
            return None

    def _await_request(self) -> None:
        self._phase = Phase.REQUEST
        self._deadline = time.monotonic() + self._bounds.idle_seconds

    def _await_answer(self) -> None:
        self._phase = Phase.ANSWER
        self._deadline = math.inf

    def _read_again_without_upgrade(self, rest: bytes) -> None:
        """Take a request that offers a protocol we do not speak (``h2c``) for what it is without (RFC 9110 §7.8).

        The parser drops the body of any request with an offer, so the head goes through a new parser without it.
        Java's own client makes this offer with every request over plain HTTP.
        """
        version = self.parser.get_http_version().encode("ascii")
        lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, version)]
        for name, value in self.headers:
            if name == b"connection":
                options = [option.strip() for option in value.lower().split(b",")]
                value = b", ".join(option for option in options if option not in (b"upgrade", b"http2-settings"))
            if name not in (b"upgrade", b"http2-settings") and (value or name != b"connection"):
                lines.append(name + b": " + value)
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self.data_received(b"\r\n".join([*lines, b"", rest]))

    # Refusals

    def _count_body(self, body_bytes: int) -> None:
        self._body_bytes += body_bytes
        if self._body_bytes > self._bounds.body_bytes:
            raise self._refused(self._body_too_large())

    def _body_too_large(self) -> GatewayError:
        return PayloadTooLarge(f"the body is longer than {self._bounds.body_bytes} bytes")

    def _refused(self, error: GatewayError) -> _RefusedError:
        self._refusal = error
        return _RefusedError()

    def _refuse(self, error: GatewayError) -> None:
        """End the connection, with an answer if the refused request is the one whose turn it is and has none yet."""
        self._say_due()
        if self._phase is Phase.BODY:
            answerable = self._running is self.cycle and not self.cycle.response_started
        else:
            answerable = self._running is None
        self._phase = Phase.GOING
        self._body_bytes = 0
        if self._writer is not None:
            self._writer.shut()
        for cycle in (self._running, self.cycle):
            if cycle is not None:
                _disconnect(cycle)
        self.pipeline.clear()
        self.flow.resume_reading()
        if not answerable:
            self.transport.close()
            return
        self.transport.write(encode_refusal(error, date_header=self.server_state.default_headers))
        if end_output(self.transport):
            self._deadline = time.monotonic() + self._bounds.linger_seconds


def _disconnect(cycle: RequestResponseCycle) -> None:
    """Tell the application of a request that its client is gone; nothing more is written for it."""
    if not cycle.response_complete:
        cycle.disconnected = True
        cycle.waiting_for_100_continue = False
        cycle.message_event.set()
