"""One connection to a stream as an async iterator of events."""

from __future__ import annotations

import asyncio
from collections import deque
from types import TracebackType
from typing import Self

from gateway.client.event import Event, MalformedEvent
from gateway.client.outcome import ConnectionEnd, StreamInterrupted, outcome_of_goodbye
from gateway.client.request import StreamRequest
from gateway.client.sources import HttpSource, PullSource, Source, WebSocketSource

HEARTBEATS_MISSED = 4
"""A connection that said its heartbeat's interval is given up after so many of them without a byte."""


class StreamClient:
    """Reads one stream over one connection (for pull: one chain of requests).

    ``async with StreamClient(request) as client: async for event in client: ...``

    Entering opens; the iteration never ends by itself. Both raise StreamInterrupted (come back with the last cursor) or
    StreamRefused (do not come back as you are); after a ``goodbye`` the next step raises what it asked for.
    """

    def __init__(self, request: StreamRequest) -> None:
        self._silence_seconds = request.silence_seconds
        self._open_seconds = request.open_seconds
        self._source = _source(request)
        self._heard: deque[Event] = deque()
        self._end: ConnectionEnd | None = None
        if request.protocol == "pull":
            self._open_seconds += request.wait_seconds
            self._silence_seconds += request.wait_seconds

    @property
    def retry_ms(self) -> int | None:
        """The reconnection time that the server asked for last (``retry:``), None if it did not."""
        return self._source.retry_ms

    async def __aenter__(self) -> Self:
        try:
            async with asyncio.timeout(self._open_seconds):
                await self._source.open()
        except TimeoutError as error:
            raise StreamInterrupted(f"no answer within {self._open_seconds:g} s") from error
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._source.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        while not self._heard:
            if self._end is not None:
                raise self._end
            await self._listen()
        event = self._heard.popleft()
        if event.kind == "goodbye":
            self._heard.clear()
            self._end = outcome_of_goodbye(event)
        elif event.kind == "welcome":
            self._expect_heartbeats(event)
        return event

    def abort(self) -> None:
        """Drop the connection as a broken line would; the iteration raises StreamInterrupted."""
        self._source.abort()

    async def _listen(self) -> None:
        try:
            async with asyncio.timeout(self._silence_seconds):
                events = await self._source.read()
            self._heard.extend(events)
        except TimeoutError as error:
            reason = f"nothing heard for {self._silence_seconds:g} s, not even a heartbeat"
            raise StreamInterrupted(reason) from error
        except MalformedEvent as error:
            # What stood before it is good and is given out first.
            self._end = StreamInterrupted(f"what came is not this protocol: {error}")

    def _expect_heartbeats(self, welcome: Event) -> None:
        told = welcome.data.get("heartbeat_ms")
        if isinstance(told, int | float):
            self._silence_seconds = max(self._silence_seconds, HEARTBEATS_MISSED * told / 1000)


def _source(request: StreamRequest) -> Source:
    if request.protocol == "ws":
        return WebSocketSource(request)
    return PullSource(request) if request.protocol == "pull" else HttpSource(request)
