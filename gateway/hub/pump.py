"""Takes turns: who has something to send gets to write one slice, for about 5 ms of the loop's time at once.

A broadcast to ten thousand readers must not hold up accepts and heartbeats, and nobody must always come last.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, Protocol

from gateway.counters import Distribution

TURN_SECONDS: Final = 0.005
_CHECK_EVERY: Final = 16
_TURN_BUCKETS_SECONDS: Final = (0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)


class Pumped(Protocol):
    """What takes turns here."""

    queued: bool

    def pump(self) -> bool:
        """Write at most one slice. True: there is more, give me another turn. Must not raise."""
        ...


class Pump:
    """The ready list of a process.

    ``turns`` counts readers that got one, ``turn_seconds`` how long the loop was kept each time.
    """

    def __init__(self) -> None:
        self._ready: deque[Pumped] = deque()
        self._scheduled = False
        self._running = False
        self.after_round: list[Callable[[], None]] = []
        """Called when each who was ready has had a turn, and none two: one account is enough for all of them."""
        self.turns = 0
        self.turn_seconds = Distribution(_TURN_BUCKETS_SECONDS)

    def ready(self, reader: Pumped) -> None:
        """``reader`` may have something to send; nothing happens for one that waits already."""
        if reader.queued:
            return
        reader.queued = True
        self._ready.append(reader)
        if not self._running:
            self._schedule()

    def queue(self, readers: Iterable[Pumped]) -> None:
        """``ready`` for many at once; the caller runs the pump next."""
        append = self._ready.append
        for reader in readers:
            if not reader.queued:
                reader.queued = True
                append(reader)

    def run(self) -> None:
        """Give turns now, within the bound; for the caller that has just woken everybody."""
        if not self._running:
            self._turn()

    def _schedule(self) -> None:
        # One turn is to come, whoever ran others meanwhile: two of them in one round of the loop would hold it twice
        # as long.
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._come)

    def _come(self) -> None:
        self._scheduled = False
        self._turn()

    def _turn(self) -> None:
        self._running = True
        ready = self._ready
        began = time.monotonic()
        deadline = began + TURN_SECONDS
        count = 0
        try:
            while ready and (not count or time.monotonic() <= deadline):
                count = self._round(count, deadline)
        finally:
            self._running = False
            self.turns += count
            # Once for all who were served, so a delivery pays nothing for it.
            if count:
                self.turn_seconds.add(time.monotonic() - began)
            if ready:
                self._schedule()

    def _round(self, count: int, deadline: float) -> int:
        """One turn for each who is ready now, as far as the time goes; ``count`` and how many have had theirs."""
        ready = self._ready
        try:
            for _ in range(len(ready)):
                reader = ready.popleft()
                reader.queued = False
                if reader.pump() and not reader.queued:
                    reader.queued = True
                    ready.append(reader)
                count += 1
                if not count % _CHECK_EVERY and time.monotonic() > deadline:
                    break
        finally:
            for settle in self.after_round:
                settle()
        return count
