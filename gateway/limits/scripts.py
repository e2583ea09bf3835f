"""The port of what needs Redis beside the rates: scripts that say what is so, and may therefore be run twice."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, Protocol, TypeVar

from gateway.limits.store import Call, Script

__all__ = ["Call", "Script", "Scripts", "Whole"]

T = TypeVar("T")


class Scripts(Protocol):
    """``store.RedisStore`` is one."""

    async def run(self, script: Script, calls: Sequence[Call]) -> list[Any]:
        """What each run returns, all in one round trip. Raises Away."""
        ...

    def apart(self, keys: Sequence[str]) -> list[list[int]]:
        """The keys, by their place here, in groups of which one may be away while another is not."""
        ...

    async def each(self, script: Script, calls: Sequence[Call]) -> list[Any]:
        """As ``run``; in a cluster some may be away and the others not: with Away in the place of their answers."""
        ...


class Whole:
    """Questions to Redis that end by themselves: who waits for one can be cancelled, and it goes on.

    The client may lose a cancellation that reaches it while it talks to the server: whoever was cancelled would go on
    for ever, and whoever waits for that with it.
    """

    def __init__(self) -> None:
        self._asking: set[asyncio.Task[Any]] = set()

    async def __call__(self, asking: Coroutine[Any, Any, T]) -> T:
        """What ``asking`` returns or raises."""
        task = asyncio.ensure_future(asking)
        self._asking.add(task)
        task.add_done_callback(self._end)
        return await asyncio.shield(task)

    def _end(self, task: asyncio.Task[Any]) -> None:
        self._asking.discard(task)
        if not task.cancelled():
            # Its error was raised to whoever waited, and is nobody's where nobody did.
            task.exception()

    async def settled(self) -> None:
        """Return when none is on its way any more."""
        while self._asking:
            await asyncio.wait(self._asking)
