"""Closes periods by itself inside a process that serves: one process of all at a time, and what was missed later."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Final

from gateway.billing.closing import Closed, Closing, Outcome
from gateway.billing.store import StatementStore
from gateway.clock import Clock
from gateway.database.faults import DatabaseUnavailable

LEASE_SECONDS: Final = 120
"""How long the one who leads does so without another word. A process that was killed is followed after it."""

_LOG = logging.getLogger("gateway.billing")


class Schedule:
    """Looks every so often whether a period is over. Who leads is decided in the database; a second leader, say while
    clocks differ, would find each period closed already."""

    def __init__(
        self,
        closing: Closing,
        store: StatementStore,
        *,
        clock: Clock,
        holder: str,
        interval_seconds: float,
        prepare: Callable[[], None] = lambda: None,
        tell: Callable[[Closed], None] = lambda _: None,
        tell_failure: Callable[[Exception], None] = lambda _: None,
    ) -> None:
        """``holder`` names this process. ``prepare`` is called before each look of who leads, ``tell`` with each period
        whose outcome is news, ``tell_failure`` with why a look broke off; all on a thread of their own."""
        self._closing = closing
        self._store = store
        self._clock = clock
        self._holder = holder
        self._interval_seconds = interval_seconds
        self._prepare = prepare
        self._tell = tell
        self._tell_failure = tell_failure
        self._stopping = threading.Event()
        self._told: dict[tuple[str, int], str] = {}
        self._leads_until = 0.0

    async def run(self) -> None:
        """Until cancelled. A period that is being closed then is closed, or left as it was."""
        try:
            while True:
                try:
                    await asyncio.to_thread(self.look)
                except DatabaseUnavailable as error:
                    # The prober says that the database is away, once; here it is only tried again.
                    _LOG.debug("periods not looked at: %s", error)
                except Exception as error:  # noqa: BLE001 - the next look may go well; a dead schedule would say nothing
                    self._tell_failure(error)
                await asyncio.sleep(self._interval_seconds)
        finally:
            self._stopping.set()

    def look(self) -> list[Outcome]:
        """Close what is over, if this process leads, and return what became of it; blocks."""
        if not self._leads():
            return []
        self._prepare()
        outcomes: list[Outcome] = []
        for closed in self._closing.run(now=self._clock.now(), goes_on=self._goes_on):
            self._see(closed)
            outcomes.append(closed.outcome)
        return outcomes

    def _leads(self) -> bool:
        now = self._clock.now()
        if not self._store.lead(self._holder, now=int(now), seconds=LEASE_SECONDS):
            return False
        self._leads_until = self._clock.monotonic() + LEASE_SECONDS
        return True

    def _goes_on(self) -> bool:
        if self._stopping.is_set():
            return False
        if self._leads_until - self._clock.monotonic() > LEASE_SECONDS / 2:
            return True
        return self._leads()

    def _see(self, closed: Closed) -> None:
        key = (closed.tenant, closed.period.start)
        if closed.outcome == "final":
            self._told.pop(key, None)
            self._tell(closed)
        elif closed.outcome != "empty" and self._told.get(key) != closed.outcome:
            self._told[key] = closed.outcome
            self._tell(closed)

    def resign(self) -> None:
        """Let another process lead at once; blocks."""
        self._store.resign(self._holder)
