"""How a process takes itself down: part by part, by name, and none is waited for longer than there is time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Coroutine
from typing import Any, Final

from gateway.clock import Clock
from gateway.observability.logs import event

log = logging.getLogger("gateway.takedown")

SLOW_SECONDS: Final = 5.0
"""A part that takes so long is named in the log while it is still waited for."""

CLOSER_SECONDS: Final = 3.0
LEAST_SECONDS: Final = 0.1
"""The most that one closer may take of the time for all, and what each of them gets when that time is over."""

CANCEL_SECONDS: Final = 0.5
"""How long a cancelled task may take before it is cancelled once more."""


class Takedown:
    """Closers, last in first out. One that fails or hangs is told in the log, and keeps none of the others from its
    turn. Times (``until``) are those of the clock's ``monotonic``."""

    def __init__(self, clock: Clock, *, slow_seconds: float = SLOW_SECONDS) -> None:
        self._clock = clock
        self._closers: list[tuple[str, Callable[[], Awaitable[object]]]] = []
        self.waiting_for = ""
        """What is being waited for now; for whoever has to say why the end takes so long."""
        self._slow_seconds = slow_seconds

    def add(self, name: str, close: Callable[[], Awaitable[object]]) -> None:
        """Close this at the end, before everything that was added earlier. ``name`` is for operators."""
        self._closers.append((name, close))

    async def step(self, name: str, work: Coroutine[Any, Any, object], *, until: float) -> None:
        """Wait for this part of the end until then, and a moment at least; what is not done by then is cancelled.

        Cancelled itself, it cancels the part. Raises nothing that the part raises.
        """
        self.waiting_for = name
        begun = self._clock.monotonic()
        allowed = max(LEAST_SECONDS, until - begun)
        task = asyncio.create_task(work, name=f"end of {name}")
        try:
            await asyncio.wait({task}, timeout=min(self._slow_seconds, allowed))
            if not task.done() and allowed > self._slow_seconds:
                self._tell_slow(begun)
                await asyncio.wait({task}, timeout=allowed - self._slow_seconds)
        except asyncio.CancelledError:
            task.cancel()
            raise
        if task.done():
            _tell_failure(name, task)
            return
        self._tell_cut(begun)
        task.cancel()
        # It may lose that, or take its time: it is left behind then, and what it was to raise with it.
        await asyncio.wait({task}, timeout=LEAST_SECONDS)
        task.add_done_callback(_forget)

    async def end(self, tasks: Collection[asyncio.Task[None]], *, until: float) -> None:
        """Cancel what runs in the background, and wait until it has ended, or until then."""
        running = {task for task in tasks if not task.done()}
        begun, slow_at = self._clock.monotonic(), self._clock.monotonic() + self._slow_seconds
        while running:
            self.waiting_for = ", ".join(sorted(task.get_name() for task in running))
            for task in running:
                # Again until it has ended: a client may lose a cancellation that reaches it while it talks.
                task.cancel()
            _, running = await asyncio.wait(running, timeout=CANCEL_SECONDS)
            now = self._clock.monotonic()
            if running and now >= until:
                self._tell_cut(begun)
                return
            if running and now >= slow_at:
                slow_at = until
                self._tell_slow(begun)

    async def close(self, *, until: float) -> None:
        """Close everything that was added, each within ``CLOSER_SECONDS``, and all of it about until then."""
        while self._closers:
            name, close = self._closers.pop()
            await self.step(name, _closing(close), until=min(until, self._clock.monotonic() + CLOSER_SECONDS))
        self.waiting_for = ""

    def _tell_slow(self, begun: float) -> None:
        event(log, logging.WARNING, "stop_slow", waiting_for=self.waiting_for, seconds=self._since(begun))

    def _tell_cut(self, begun: float) -> None:
        event(log, logging.WARNING, "stop_cut", waiting_for=self.waiting_for, seconds=self._since(begun))

    def _since(self, begun: float) -> float:
        return round(self._clock.monotonic() - begun, 1)


async def _closing(close: Callable[[], Awaitable[object]]) -> object:
    return await close()


def _tell_failure(name: str, task: asyncio.Task[object]) -> None:
    if not task.cancelled() and task.exception() is not None:
        event(log, logging.ERROR, "stop_failed", waiting_for=name, exception=task.exception())


def _forget(task: asyncio.Task[object]) -> None:
    if not task.cancelled():
        task.exception()
