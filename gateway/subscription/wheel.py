"""One timer for the whole process: heartbeats, expiries and deadlines of all readers.

A ``call_later`` per connection costs a heap operation each; here scheduling is an append to the list of its tick.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from gateway.clock import Clock

log = logging.getLogger("gateway.timers")


HORIZON_SECONDS: Final = 60.0
"""Later appointments are filed this far ahead and looked at again then, so that cancelled ones do not pile up for as
long as a token lives."""


class Timer:
    """One appointment; ``cancel()`` forgets it."""

    __slots__ = ("call", "tick")

    def __init__(self, call: Callable[[], None], tick: int) -> None:
        self.call: Callable[[], None] | None = call
        self.tick = tick

    def cancel(self) -> None:
        self.call = None


class TimerWheel:
    """Calls functions late by at most one tick, never early. Runs on the loop that calls ``schedule``."""

    def __init__(self, clock: Clock, *, tick_seconds: float = 0.1) -> None:
        self._clock = clock
        self._tick_seconds = tick_seconds
        self._due: dict[int, list[Timer]] = {}
        self._done = self._tick(clock.monotonic())
        self._running = False

    def _tick(self, moment: float) -> int:
        return int(moment / self._tick_seconds)

    def schedule(self, delay_seconds: float, call: Callable[[], None]) -> Timer:
        """Call ``call`` once, ``delay_seconds`` from now or up to a tick later."""
        now = self._clock.monotonic()
        timer = Timer(call, self._tick(now + max(0.0, delay_seconds)) + 1)
        self._file(timer, self._tick(now))
        if not self._running:
            self._running = True
            asyncio.get_running_loop().call_later(self._tick_seconds, self._turn)
        return timer

    def _file(self, timer: Timer, now: int) -> None:
        ahead = now + max(1, self._tick(HORIZON_SECONDS))
        self._due.setdefault(min(timer.tick, ahead), []).append(timer)

    def waiting(self) -> int:
        """Appointments that are filed, cancelled ones included until they are looked at."""
        return sum(map(len, self._due.values()))

    def _turn(self) -> None:
        self.advance()
        if self._due:
            asyncio.get_running_loop().call_later(self._tick_seconds, self._turn)
        else:
            self._running = False

    def advance(self) -> None:
        """Call what is due by now. A call that fails is logged and the others go on."""
        now = self._tick(self._clock.monotonic())
        late = now - self._done
        self._done = now
        # After a pause longer than the entries (a stopped process) walking the dict is cheaper than walking the time.
        ticks = range(now - late + 1, now + 1) if late <= len(self._due) else sorted(t for t in self._due if t <= now)
        for tick in ticks:
            for timer in self._due.pop(tick, ()):
                if timer.call is not None and timer.tick > now:
                    self._file(timer, now)
                    continue
                call, timer.call = timer.call, None
                if call is None:
                    continue
                try:
                    call()
                except Exception:
                    log.exception("a timer failed")
