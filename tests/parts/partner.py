"""A partner's side of the wire, written from the API alone: pulls, and open streams read event by event."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlencode

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

PROTOCOLS = ("sse", "ws", "ndjson")
"""Those that keep a stream open."""

PATIENCE_SECONDS = 15.0
"""Nothing that a test waits for takes longer, unless it says so."""


@dataclass(frozen=True)
class Heard:
    """One event: ``kind`` as WebSocket and NDJSON call it, ``cursor`` to go on from, ``data`` the members besides."""

    kind: str
    cursor: str | None
    data: dict[str, Any]


class StreamOver(Exception):
    """The stream ended where another event was waited for; ``close_code`` on a WebSocket."""

    def __init__(self, close_code: int | None = None) -> None:
        super().__init__(f"the stream is over ({close_code})")
        self.close_code = close_code


class Stream:
    """An open read. Every wait has an end: what does not come in time fails the test."""

    def __init__(self, *, headers: Mapping[str, str]) -> None:
        self.headers = headers
        self.last_cursor: str | None = None
        self._heard: deque[Heard] = deque()

    async def next(self, *, seconds: float = PATIENCE_SECONDS) -> Heard:
        """The next event of any kind; StreamOver at the end."""
        async with asyncio.timeout(seconds):
            while not self._heard:
                self._heard.extend(await self._read())
        heard = self._heard.popleft()
        self.last_cursor = heard.cursor or self.last_cursor
        return heard

    async def next_but_checkpoints(self, *, seconds: float = PATIENCE_SECONDS) -> Heard:
        """The next event that is no checkpoint: those come whenever they come."""
        async with asyncio.timeout(seconds):
            while (heard := await self.next(seconds=seconds)).kind == "checkpoint":
                pass
        return heard

    async def until(self, kind: str, *, seconds: float = PATIENCE_SECONDS) -> Heard:
        """The next event of this kind; what comes before it is passed over."""
        async with asyncio.timeout(seconds):
            while (heard := await self.next(seconds=seconds)).kind != kind:
                pass
        return heard

    async def records(self, count: int, *, seconds: float = PATIENCE_SECONDS) -> list[Heard]:
        """The next ``count`` records, between which nothing but checkpoints may stand."""
        found: list[Heard] = []
        async with asyncio.timeout(seconds):
            while len(found) < count:
                heard = await self.next_but_checkpoints(seconds=seconds)
                assert heard.kind == "record", f"{heard} after {len(found)} records"
                found.append(heard)
        return found

    async def over(self, *, seconds: float = PATIENCE_SECONDS) -> int | None:
        """Wait for the end, which must be the next thing but checkpoints; the close code."""
        try:
            heard = await self.next_but_checkpoints(seconds=seconds)
        except StreamOver as end:
            return end.close_code
        raise AssertionError(f"{heard} where the end should be")

    async def _read(self) -> list[Heard]:
        raise NotImplementedError


class _HttpStream(Stream):
    """Pieces of an HTTP body up to a separator."""

    separator = b"\n"

    def __init__(self, response: httpx.Response) -> None:
        super().__init__(headers=response.headers)
        self.raw = b""
        self._chunks = response.aiter_raw()
        self._rest = b""

    async def _read(self) -> list[Heard]:
        try:
            chunk = await anext(self._chunks)
        except StopAsyncIteration:
            assert not self._rest, f"cut off within an event: {self._rest!r}"
            raise StreamOver from None
        self.raw += chunk
        *whole, self._rest = (self._rest + chunk).split(self.separator)
        return [heard for piece in whole if (heard := self._parse(piece.decode("utf-8"))) is not None]

    def _parse(self, text: str) -> Heard | None:
        raise NotImplementedError


class SseStream(_HttpStream):
    """Server-Sent Events as WHATWG HTML §9.2 reads them; ``retry_ms`` is the last ``retry:`` heard."""

    separator = b"\n\n"
    retry_ms: int | None = None

    def _parse(self, text: str) -> Heard | None:
        fields: dict[str, str] = {}
        for line in text.split("\n"):
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            assert name in ("id", "event", "data", "retry"), f"a line that this API does not promise: {line!r}"
            assert name not in fields, f"{name} twice in {text!r}"
            fields[name] = value
        if "retry" in fields:
            self.retry_ms = int(fields["retry"])
        if "data" not in fields:
            assert set(fields) == {"retry"}, f"an event without data: {text!r}"
            return None
        data = json.loads(fields["data"])
        return Heard(fields.get("event", "record"), fields.get("id"), data)


class NdjsonStream(_HttpStream):
    """One JSON object a line."""

    def _parse(self, text: str) -> Heard | None:
        return heard_frame(text)


class WebSocketStream(Stream):
    """JSON text frames."""

    def __init__(self, connection: ClientConnection) -> None:
        response = connection.response
        assert response is not None
        super().__init__(headers=response.headers)
        self.connection = connection

    async def _read(self) -> list[Heard]:
        try:
            message = await self.connection.recv()
        except ConnectionClosed as end:
            raise StreamOver(end.rcvd.code if end.rcvd else None) from None
        assert isinstance(message, str), "a binary frame"
        return [heard_frame(message)]

    async def say(self, frame: Any) -> None:
        """Send a frame: text and bytes as they are, anything else as JSON."""
        await self.connection.send(frame if isinstance(frame, str | bytes) else json.dumps(frame))


def heard_frame(text: str) -> Heard:
    """A frame of WebSocket or NDJSON in the words that all protocols share."""
    members = json.loads(text)
    kind = members.pop("type")
    cursor = members.pop("id", None) if kind == "record" else members.get("cursor")
    return Heard(kind, cursor, members)


@dataclass(frozen=True)
class Partner:
    """Somebody with a token (or without) at the public port of one gateway."""

    base_url: str
    token: str | None
    headers: Mapping[str, str] = field(default_factory=dict)
    http2: bool = False
    """Whether it asks over HTTP/2, of a proxy that speaks it; WebSockets begin with HTTP/1.1 all the same."""
    address: str | None = None
    """Which of this machine's addresses it comes from."""

    def as_(self, token: str | None, **headers: str) -> Partner:
        """The same place with another token and more headers; ``_`` in their names stands for ``-``."""
        more = {name.replace("_", "-"): value for name, value in headers.items()}
        return replace(self, token=token, headers={**self.headers, **more})

    def all_headers(self) -> dict[str, str]:
        bearer = {} if self.token is None else {"Authorization": f"Bearer {self.token}"}
        return bearer | dict(self.headers)

    def url(self, path: str, **parameters: Any) -> str:
        """Address with a query; a trailing ``_`` of a name is dropped, since ``from`` is no argument in Python."""
        query = urlencode({name.removesuffix("_"): value for name, value in parameters.items()})
        return f"{self.base_url}{path}" + (f"?{query}" if query else "")

    def url_of(self, path: str, parameters: Sequence[tuple[str, Any]]) -> str:
        """A path with a query whose names may repeat."""
        return f"{path}?{urlencode(parameters)}"

    async def request(self, method: str, path: str, **parameters: Any) -> httpx.Response:
        async with self._client() as client:
            return await client.request(method, self.url(path, **parameters))

    def _client(self) -> httpx.AsyncClient:
        transport = httpx.AsyncHTTPTransport(
            verify=False, http2=self.http2, http1=not self.http2, local_address=self.address, trust_env=False
        )
        return httpx.AsyncClient(timeout=40, headers=self.all_headers(), trust_env=False, transport=transport)

    async def get(self, path: str, **parameters: Any) -> httpx.Response:
        return await self.request("GET", path, **parameters)

    async def pull(self, stream: str, **parameters: Any) -> dict[str, Any]:
        """One page."""
        answer = await self.get(f"/v1/streams/{stream}/records", **parameters)
        assert answer.status_code == 200, answer.text
        page: dict[str, Any] = answer.json()
        return page

    async def pull_all(self, stream: str, count: int, **parameters: Any) -> list[dict[str, Any]]:
        """``count`` records by following ``next_cursor``; gaps in between fail."""
        found: list[dict[str, Any]] = []
        while len(found) < count:
            page = await self.pull(stream, **{"wait": 10, "limit": 1000, **parameters})
            assert page["records"], f"only {len(found)} of {count}"
            assert not page["gaps"], page["gaps"]
            found += page["records"]
            parameters = {"cursor": page["next_cursor"]}
        return found

    async def refused(self, path: str, status: int, code: str, **parameters: Any) -> dict[str, Any]:
        """A GET that must be refused with this problem, whole and well formed; its members."""
        return problem(await self.get(path, **parameters), status, code)

    @contextlib.asynccontextmanager
    async def sse(self, stream: str, **parameters: Any) -> AsyncIterator[SseStream]:
        async with self._http(f"/v1/streams/{stream}/sse", **parameters) as response:
            yield SseStream(response)

    @contextlib.asynccontextmanager
    async def ndjson(self, stream: str, **parameters: Any) -> AsyncIterator[NdjsonStream]:
        """Opened with its ``welcome`` unread."""
        async with self._http(f"/v1/streams/{stream}/ndjson", **parameters) as response:
            yield NdjsonStream(response)

    @contextlib.asynccontextmanager
    async def _http(self, path: str, **parameters: Any) -> AsyncIterator[httpx.Response]:
        async with (
            self._client() as client,
            client.stream("GET", self.url(path, **parameters)) as response,
        ):
            if response.status_code != 200:
                await response.aread()
            assert response.status_code == 200, response.text
            yield response

    @contextlib.asynccontextmanager
    async def ws(
        self,
        stream: str,
        *,
        subprotocols: tuple[str, ...] = ("gateway.v1",),
        suffix: str = "/ws",
        ahead: int | None = None,
        **parameters: Any,
    ) -> AsyncIterator[WebSocketStream]:
        """Opened with its ``welcome`` unread. Raises ``websockets.exceptions.InvalidStatus`` where it is refused.

        ``ahead``: how many messages the client takes in before they are asked for; by default all.
        """
        headers = self.all_headers()
        origin = headers.pop("Origin", None)
        url = self.url(f"/v1/streams/{stream}{suffix}", **parameters).replace("http", "ws", 1)
        connection = await connect(
            url,
            ssl=_any_certificate() if url.startswith("wss:") else None,
            additional_headers=headers,
            origin=origin,  # type: ignore[arg-type]
            subprotocols=list(subprotocols) or None,  # type: ignore[arg-type]
            proxy=None,
            compression=None,
            # Without bound unless told: a client that has stopped reading would not see the server's close either.
            max_queue=ahead,
            close_timeout=2,
            open_timeout=PATIENCE_SECONDS,
        )
        try:
            yield WebSocketStream(connection)
        finally:
            await connection.close()

    @contextlib.asynccontextmanager
    async def open(self, protocol: str, stream: str, **parameters: Any) -> AsyncIterator[Stream]:
        """An open stream over ``protocol``; the ``welcome`` of those that have one is read already."""
        opens: dict[str, Callable[..., contextlib.AbstractAsyncContextManager[Stream]]]
        opens = {"sse": self.sse, "ws": self.ws, "ndjson": self.ndjson}
        opened = opens[protocol](stream, **parameters)
        async with opened as reading:
            if protocol != "sse":
                welcome = await reading.next()
                assert welcome.kind == "welcome", welcome
            yield reading


def _any_certificate() -> ssl.SSLContext:
    """As httpx is told with ``verify=False``: whose certificate it is, is not what these tests are about."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The members of a problem body (RFC 9457), after a look at all that every one of them must have."""
    assert answer.status_code == status, f"{answer.status_code} {answer.text}"
    assert answer.headers["content-type"] == "application/problem+json"
    members: dict[str, Any] = answer.json()
    assert members["code"] == code, members
    assert members["status"] == status
    assert members.keys() >= {"type", "title", "detail", "action", "correlation_id", "close_code"}
    assert answer.headers["x-correlation-id"] == members["correlation_id"]
    return members
