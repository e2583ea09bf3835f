"""Whether Redis is asked about limits: one failure is enough to stop, and two good answers to go on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Final, TypeVar

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from gateway.clock import Clock

CALL_SECONDS: Final = 0.1
"""How long a call may take, with all that is tried again in it. Whoever waits for it waits no longer."""

STEPS: Final = 4
PROBE_SECONDS: Final = 0.5
LONGEST_PROBE_SECONDS: Final = 5.0
GOOD_PROBES: Final = 2
"""So many probes in a row must be answered, each in half of a call's time: a server at its limit is not asked yet."""

Answer = TypeVar("Answer")


class Away(Exception):
    """Redis was not asked, or did not answer: what it was told has perhaps been done and perhaps not."""


class Breaker:
    """Closed: calls go through. Open: they are refused at once, and a probe looks whether Redis is back.

    ``on_change`` is called at each change, on the loop. ``nodes`` says how many gateways were last known to be alive,
    this one included; what one may do alone is its share of a limit.
    """

    def __init__(self, clock: Clock, *, nodes: Callable[[], int] = lambda: 1) -> None:
        self.is_open = False
        self.reason = ""
        self.on_change: list[Callable[[], None]] = []
        self._clock = clock
        self._nodes = nodes
        self._since = self._until = 0.0
        self._opened = asyncio.Event()
        self._probe_seconds = PROBE_SECONDS

    def of(self, key: str) -> Breaker:
        """The one for this key: itself. Where there are several, see ``breakers``."""
        return self

    def nodes(self) -> int:
        """Gateways alive, as last known; at least 1."""
        return max(1, self._nodes())

    def away_seconds(self) -> float:
        """How long it has been open, or was when last it closed."""
        return (self._clock.monotonic() if self.is_open else self._until) - self._since

    async def call(self, ask: Callable[[], Awaitable[Answer]], *, repeatable: bool = False) -> Answer:
        """What ``ask`` returns. Raises Away, at once while open.

        ``repeatable``: said twice counts once; where the connection broke it is said again in what is left of the time.
        """
        if self.is_open:
            raise Away(self.reason)
        try:
            async with _Patience(CALL_SECONDS):
                try:
                    return await ask()
                except (ConnectionError, RedisError) as error:
                    if not repeatable or not _is_broken(error):
                        raise
                    return await ask()
        except (RedisError, OSError, TimeoutError) as error:
            self._open(error)
            raise Away(self.reason) from error

    def _open(self, error: Exception) -> None:
        if self.is_open:
            return
        now = self._clock.monotonic()
        # Who comes and goes is asked less and less often.
        flutters = self._since > 0 and now - self._since < 4 * LONGEST_PROBE_SECONDS
        self._probe_seconds = min(LONGEST_PROBE_SECONDS, self._probe_seconds * 2) if flutters else PROBE_SECONDS
        self.reason = str(error) or f"no answer within {CALL_SECONDS * 1000:.0f} ms"
        self.is_open = True
        self._since = now
        self._opened.set()
        self._tell()

    def _close(self) -> None:
        self.is_open = False
        self._until = self._clock.monotonic()
        self._opened.clear()
        self._tell()

    def _tell(self) -> None:
        for call in self.on_change:
            call()

    async def run(self, probe: Callable[[], Awaitable[object]]) -> None:
        """Look whether Redis is back whenever it is away, until cancelled. ``probe`` does what limits do there."""
        while True:
            await self._opened.wait()
            good = 0
            while good < GOOD_PROBES:
                await asyncio.sleep(self._probe_seconds if good == 0 else PROBE_SECONDS / 10)
                good = good + 1 if await self._is_good(probe) else 0
            self._close()

    async def _is_good(self, probe: Callable[[], Awaitable[object]]) -> bool:
        try:
            async with _Patience(CALL_SECONDS / 2):
                await probe()
        except (RedisError, OSError, TimeoutError) as error:
            self.reason = str(error) or f"no answer within {CALL_SECONDS * 500:.0f} ms"
            return False
        return True


class _Patience:
    """Raises TimeoutError within it when the loop has waited so long.

    In steps, so that a loop that was held up itself does not take an answer that is there already for one that is not.
    """

    __slots__ = ("_deadline", "_left", "_step_seconds", "_timer")

    def __init__(self, seconds: float) -> None:
        self._deadline = asyncio.timeout(None)
        self._left = STEPS
        self._step_seconds = seconds / STEPS
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> None:
        await self._deadline.__aenter__()
        self._wait_on()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
            # It keeps this, as this keeps it.
            self._timer = None
        await self._deadline.__aexit__(kind, error, at)

    def _wait_on(self) -> None:
        loop = asyncio.get_running_loop()
        if self._left:
            self._left -= 1
            self._timer = loop.call_later(self._step_seconds, self._wait_on)
        else:
            self._deadline.reschedule(loop.time())


def _is_broken(error: Exception) -> bool:
    """The connection broke, rather than that the server answered something.

    The link's own clock has run out where this process was held up; where the server is slow there is no time left.
    """
    return isinstance(error, RedisConnectionError | RedisTimeoutError | ConnectionError)
