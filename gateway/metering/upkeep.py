"""What usage needs from time to time: notes written down, old cells put together, old evidence forgotten, differences
looked for. One process of all does the common part."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final, Protocol

from gateway.clock import Clock
from gateway.errors import Unavailable
from gateway.metering.audit import DeliveryAudit
from gateway.metering.process_check import ProcessCheck
from gateway.metering.reconcile import Drift
from gateway.model import Transport
from gateway.status import UpkeepStatus

log = logging.getLogger("gateway.metering")
FLUSH_SECONDS: Final = 10.0
ROUND_SECONDS: Final = 300.0
PAUSE_SECONDS: Final = 0.25
CLOSE_SECONDS: Final = 2.0
"""Longest time for the last notes, of what a stop takes."""

LEASE_SECONDS: Final = 900
"""Who does the common part keeps it for so long after it last came round; then another process takes over."""

Run = Callable[..., Awaitable[Any]]


class Chores(Protocol):
    """The common part, in pieces that each take one short transaction or a few. Every method blocks."""

    def take(self, holder: str, *, now: float, seconds: int) -> bool:
        """Whether it is this process that does them now."""
        ...

    def release(self, holder: str) -> None:
        """Let another process do them."""
        ...

    def roll_up(self, *, now: float) -> bool:
        """Put some old cells together; False: there was nothing left to do."""
        ...

    def purge(self, *, now: float) -> bool:
        """Forget some old evidence; False: there was nothing left to do."""
        ...

    def reconcile(self, *, now: float) -> list[Drift] | None:
        """Look at the next day that is over, and return what is new; None: there is none to look at."""
        ...

    def of_process(self, source: str, *, start: int, end: int) -> Mapping[tuple[str, Transport], int] | None:
        """Records of one process within these epoch seconds, by stream and protocol; None: not complete yet."""
        ...

    def note(self, drifts: Iterable[Drift], *, now: float) -> list[Drift]:
        """Write drifts down that were found elsewhere; those that are new."""
        ...

    def standing(self) -> int:
        """How many drifts stand."""
        ...


class Upkeep:
    """One process's part of it; ``run`` until cancelled, then ``close``."""

    def __init__(
        self,
        chores: Chores,
        *,
        audit: DeliveryAudit | None,
        run: Run,
        clock: Clock,
        holder: str,
        check: ProcessCheck | None = None,
        tell: Callable[[Drift], None] = lambda drift: None,
    ) -> None:
        """``audit`` None: no evidence is kept. ``check`` None: the process is not compared with its own counters.
        ``tell`` is told of each drift that is new."""
        self._chores = chores
        self._audit = audit
        self._run = run
        self._clock = clock
        self._holder = holder
        self._check = check
        self._say = tell
        self._standing: int | None = None

    async def run(self) -> None:
        """Go on until cancelled. A database that is away is waited for; anything else is told, and tried again."""
        due = self._clock.monotonic()
        while True:
            try:
                if self._check is not None:
                    self._check.look(self._clock.now())
                await self.flush()
                if self._clock.monotonic() >= due:
                    due = self._clock.monotonic() + ROUND_SECONDS
                    await self.go_round()
            except Unavailable as error:
                log.debug("usage is not looked after: %s", error)
            except Exception:
                # The next round may go well; without this one nobody would look after usage any more.
                log.exception("usage could not be looked after; it is tried again")
            await asyncio.sleep(FLUSH_SECONDS)

    async def flush(self) -> None:
        """Write down the notes of deliveries."""
        if self._audit is not None:
            await self._audit.flush(now=self._clock.now())

    async def go_round(self) -> None:
        """Do once what there is to do. Raises Unavailable."""
        now = self._clock.now()
        if self._check is not None:
            await self._compare(self._check, now=now)
        if await self._run(self._chores.take, self._holder, now=now, seconds=LEASE_SECONDS):
            while (found := await self._run(self._chores.reconcile, now=now)) is not None:
                self._tell(found)
            await self._go_through(self._chores.roll_up, now=now)
            await self._go_through(self._chores.purge, now=now)
        self._standing = await self._run(self._chores.standing)

    async def _go_through(self, chore: Callable[..., bool], *, now: float) -> None:
        is_left = True
        while is_left:
            is_left = await self._run(chore, now=now)
            if is_left:
                # Deliveries go before: the thread that does this keeps the event loop waiting now and then.
                await asyncio.sleep(PAUSE_SECONDS)

    async def _compare(self, check: ProcessCheck, *, now: float) -> None:
        for hour in check.due():
            metered = await self._run(self._chores.of_process, check.source, start=hour.start.at, end=hour.end.at)
            if metered is None:
                return
            self._tell(await self._run(self._chores.note, check.compare(hour, metered), now=now))

    def _tell(self, drifts: list[Drift]) -> None:
        for one in drifts:
            self._say(one)

    def status(self) -> UpkeepStatus:
        """For metrics."""
        notes = {} if self._audit is None else self._audit.statistics()
        return UpkeepStatus(self._standing, notes.get("waiting", 0), notes.get("written", 0), notes.get("lost", 0))

    async def close(self) -> None:
        """After the last delivery: write down what is left, and let another process do the common part."""
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                if self._audit is not None:
                    await self._audit.close()
                await self._run(self._chores.release, self._holder)
        except (Unavailable, TimeoutError) as error:
            log.warning("the last notes of deliveries were not written down: %s", error or "no time left")
