"""A reading that survives its connections: come back when allowed, go on where it was."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable
from typing import Final

from gateway.client.client import StreamClient
from gateway.client.event import Event
from gateway.client.outcome import StreamInterrupted
from gateway.client.request import StreamRequest

BASE_SECONDS: Final = 1.0
LEAST_BASE_SECONDS: Final = 0.1
CAP_SECONDS: Final = 30.0
MOST_SPREAD_SECONDS: Final = 30.0

_PROGRESS: Final = frozenset({"record", "checkpoint", "gap"})


class Backoff:
    """How long to wait before the next try: what the server said, or longer and longer, never all at the same time."""

    def __init__(
        self,
        *,
        base_seconds: float = BASE_SECONDS,
        cap_seconds: float = CAP_SECONDS,
        uniform: Callable[[float, float], float] | None = None,
    ) -> None:
        self._base_seconds = base_seconds
        self._cap_seconds = cap_seconds
        self._uniform = uniform or random.uniform
        self._failures = 0

    def reset(self) -> None:
        """The connection was worth its while: begin anew."""
        self._failures = 0

    def next_delay(self, *, told_ms: int | None, retry_ms: int | None) -> float:
        """Seconds. ``told_ms``: not sooner than this; ``retry_ms``: the usual time, doubled with every failure.

        Told a time, a first failure waits it and up to a quarter more, half a minute at most; told none, it waits half
        to all of the usual.
        """
        base = self._base_seconds if retry_ms is None else max(LEAST_BASE_SECONDS, retry_ms / 1000)
        grown = min(max(self._cap_seconds, base), base * 2 ** min(self._failures, 30))
        own = self._uniform(grown / 2, grown)
        self._failures += 1
        if told_ms is None:
            return own
        told = told_ms / 1000
        told += self._uniform(0.0, min(told / 4, MOST_SPREAD_SECONDS))
        return told if self._failures == 1 else max(told, own)


async def follow(
    request: StreamRequest,
    *,
    reconnect: bool = True,
    backoff: Backoff | None = None,
    on_wait: Callable[[StreamInterrupted, float], None] | None = None,
) -> AsyncGenerator[Event, None]:
    """The events of a stream across connections, each delivered at least once, in order within a partition.

    Ends by StreamRefused, or with ``reconnect=False`` also by StreamInterrupted. ``on_wait`` is told why and for how
    many seconds before every wait. Close it (``contextlib.aclosing``) to leave the connection.
    """
    backoff = backoff or Backoff()
    cursor = request.cursor
    while True:
        client = StreamClient(request.resumed(cursor))
        try:
            async with client:
                async for event in client:
                    cursor = event.cursor or cursor
                    if event.kind in _PROGRESS:
                        backoff.reset()
                    yield event
        except StreamInterrupted as interruption:
            if not reconnect:
                raise
            delay = backoff.next_delay(told_ms=interruption.retry_after_ms, retry_ms=client.retry_ms)
            if on_wait is not None:
                on_wait(interruption, delay)
        await asyncio.sleep(delay)
