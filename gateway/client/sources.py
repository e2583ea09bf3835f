"""Where events come from, one class a protocol: open, read what is there, close."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Iterator
from typing import Final, Protocol
from urllib.parse import urlsplit

import websockets
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from gateway.client import http
from gateway.client.event import Event, MalformedEvent, decode_frame, decode_page
from gateway.client.jsontext import join_members
from gateway.client.ndjson import NdjsonDecoder
from gateway.client.outcome import StreamInterrupted, StreamRefused, outcome_of_answer, outcome_of_close
from gateway.client.request import StreamRequest
from gateway.client.sse import SseDecoder

SUBPROTOCOL: Final = Subprotocol("gateway.v1")
MESSAGE_BYTES: Final = 64 * 1024 * 1024
PAGE_BYTES: Final = 256 * 1024 * 1024
PROBLEM_BYTES: Final = 64 * 1024
EMPTY_PAGE_SECONDS: Final = 1.0
"""Least time from one empty page to the next request, whatever the server makes of ``wait``."""

_MEDIA_TYPE: Final = {"sse": "text/event-stream", "ndjson": "application/x-ndjson", "pull": "application/json"}


class Source(Protocol):
    """One connection's events. What ends it is raised: StreamInterrupted or StreamRefused."""

    @property
    def retry_ms(self) -> int | None:
        """The reconnection time that the server asked for last."""
        ...

    async def open(self) -> None: ...

    async def read(self) -> Iterable[Event]:
        """The next events, possibly none; waits for bytes, not for events.

        To be iterated to its end, which may be a MalformedEvent raised after good events.
        """
        ...

    async def close(self) -> None: ...

    def abort(self) -> None:
        """Drop the connection as a broken line would."""
        ...


class Decoder(Protocol):
    """Bytes split anywhere → events."""

    @property
    def retry_ms(self) -> int | None: ...

    def feed(self, chunk: bytes) -> Iterator[Event]: ...


class HttpSource:
    """SSE or NDJSON: one answer that does not end by itself."""

    def __init__(self, request: StreamRequest) -> None:
        self._request = request
        self._decoder: Decoder = SseDecoder(envelope=request.envelope) if request.protocol == "sse" else NdjsonDecoder()
        self._answer: http.HttpAnswer | None = None
        self._greeting: list[Event] = []

    @property
    def retry_ms(self) -> int | None:
        return self._decoder.retry_ms

    async def open(self) -> None:
        self._answer = await _ask(self._request)
        if self._request.protocol == "sse":
            # SSE has no welcome; its headers say the same.
            self._greeting = [_welcome(self._answer.headers)]

    async def read(self) -> Iterable[Event]:
        if self._answer is None:
            raise RuntimeError("read before open")
        if self._greeting:
            greeting, self._greeting = self._greeting, []
            return greeting
        chunk = await self._answer.read()
        if not chunk:
            raise StreamInterrupted("the server ended the stream without a goodbye")
        return self._decoder.feed(chunk)

    async def close(self) -> None:
        if self._answer is not None:
            await self._answer.close()

    def abort(self) -> None:
        if self._answer is not None:
            self._answer.abort()


class WebSocketSource:
    """One WebSocket with the subprotocol ``gateway.v1``."""

    retry_ms: int | None = None

    def __init__(self, request: StreamRequest) -> None:
        self._request = request
        self._socket: ClientConnection | None = None

    async def open(self) -> None:
        headers = self._request.headers
        try:
            self._socket = await _Connect(
                self._request.url,
                subprotocols=[SUBPROTOCOL],
                additional_headers={name: value for name, value in headers.items() if name != "User-Agent"},
                user_agent_header=headers["User-Agent"],
                compression=None,
                proxy=None,
                max_size=MESSAGE_BYTES,
                open_timeout=None,
                close_timeout=1,
            )
        except websockets.InvalidStatus as error:
            answer = error.response
            names = {name.lower(): value for name, value in answer.headers.raw_items()}
            raise outcome_of_answer(answer.status_code, names, bytes(answer.body or b"")) from error
        except websockets.InvalidMessage as error:
            raise StreamInterrupted(f"the connection was cut: {error}") from error
        except websockets.InvalidHandshake as error:
            raise StreamRefused("Not a gateway", detail=str(error)) from error
        except OSError as error:
            parts = urlsplit(self._request.base_url)
            port = parts.port or (443 if parts.scheme == "https" else 80)
            raise http.outcome_of_failed_open(parts.hostname or "", port, error) from error
        if self._socket.subprotocol != SUBPROTOCOL:
            await self._socket.close()
            raise StreamRefused("Not a gateway", detail=f"the server does not speak {SUBPROTOCOL}")

    async def read(self) -> list[Event]:
        if self._socket is None:
            raise RuntimeError("read before open")
        try:
            message = await self._socket.recv()
        except websockets.ConnectionClosed as error:
            received = error.rcvd
            raise outcome_of_close(received.code if received else None, received.reason if received else "") from error
        if isinstance(message, bytes):
            raise MalformedEvent("a binary message")
        event = decode_frame(message)
        return [] if event is None else [event]

    async def close(self) -> None:
        if self._socket is not None:
            await self._socket.close()

    def abort(self) -> None:
        if self._socket is not None:
            self._socket.transport.abort()


class PullSource:
    """Page after page, each by a request of its own, for ever."""

    retry_ms: int | None = None

    def __init__(self, request: StreamRequest) -> None:
        self._request = request
        self._cursor = request.cursor
        self._answer: http.HttpAnswer | None = None
        self._greeting: list[Event] = []
        self._pause_seconds = 0.0

    async def open(self) -> None:
        self._answer = await _ask(self._request)
        # Where the chain starts is worth knowing before its first page has arrived whole.
        self._greeting = [_welcome(self._answer.headers)]

    async def read(self) -> list[Event]:
        if self._greeting:
            greeting, self._greeting = self._greeting, []
            return greeting
        await asyncio.sleep(self._pause_seconds)
        started = asyncio.get_running_loop().time()
        if self._answer is None:
            self._answer = await _ask(self._request.resumed(self._cursor))
        body = await self._answer.read_all(limit_bytes=PAGE_BYTES)
        await self.close()
        self._answer = None
        events = decode_page(body.decode("utf-8", "replace"), envelope=self._request.envelope)
        self._cursor = events[-1].cursor
        taken = asyncio.get_running_loop().time() - started
        empty = not any(event.kind == "record" for event in events)
        self._pause_seconds = max(0.0, EMPTY_PAGE_SECONDS - taken) if empty else 0.0
        return events

    async def close(self) -> None:
        if self._answer is not None:
            await self._answer.close()

    def abort(self) -> None:
        if self._answer is not None:
            self._answer.abort()


class _Connect(connect):
    """Follows no redirect: where a gateway's credentials go is the partner's decision."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


async def _ask(request: StreamRequest) -> http.HttpAnswer:
    """The answer, if it is the one asked for; else what it means is raised."""
    answer = await http.get(request.url, request.headers)
    media_type = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    if answer.status == 200 and media_type == _MEDIA_TYPE[request.protocol]:
        return answer
    body = b""
    # A problem that was cut off is known by its status.
    with contextlib.suppress(StreamInterrupted):
        body = await answer.read_all(limit_bytes=PROBLEM_BYTES)
    await answer.close()
    if answer.status == 200:
        raise StreamRefused("Not a gateway", detail=f"the answer is {media_type or 'of no type'}, not a stream")
    raise outcome_of_answer(answer.status, answer.headers, body)


def _welcome(headers: dict[str, str]) -> Event:
    cursor = headers.get("gateway-start-cursor") or None
    named = {"session": headers.get("gateway-session"), "cursor": cursor}
    # Both are base64url or of that kind; anything else would be no name and is left out.
    parts = {name: f'"{value}"' for name, value in named.items() if value and value.isascii() and '"' not in value}
    return Event("welcome", cursor, join_members(parts))
