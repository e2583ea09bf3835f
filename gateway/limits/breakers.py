"""A breaker for each part of a cluster: tenants of a server that is away are held by each node alone, and no others."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from gateway.clock import Clock
from gateway.limits.breaker import Breaker
from gateway.limits.parts import PARTS, part_in


class Breakers:
    """Stands for all of them as one: open where any is. ``on_change`` is called at each change of any."""

    def __init__(self, clock: Clock, *, nodes: Callable[[], int] = lambda: 1) -> None:
        self.on_change: list[Callable[[], None]] = []
        self._parts = [Breaker(clock, nodes=nodes) for _ in range(PARTS)]
        self._open: set[Breaker] = set()
        self._clock = clock
        self._since = self._until = 0.0
        self._reason = ""
        for part in self._parts:
            part.on_change.append(self._changed)

    def of(self, key: str) -> Breaker:
        """The one of a key's part."""
        return self._parts[part_in(key)]

    @property
    def is_open(self) -> bool:
        """Whether any is."""
        return bool(self._open)

    @property
    def reason(self) -> str:
        """Why one of them is open, and how many are."""
        reasons = [part.reason for part in self._parts if part.is_open]
        if reasons:
            self._reason = f"{len(reasons)} of {len(self._parts)} parts of the cluster: {reasons[0]}"
        return self._reason

    def nodes(self) -> int:
        """Gateways alive, as last known; at least 1."""
        return self._parts[0].nodes()

    def away_seconds(self) -> float:
        """How long any has been open, or was when last all were closed."""
        return (self._clock.monotonic() if self._open else self._until) - self._since

    def _changed(self) -> None:
        before = bool(self._open)
        self._open = {part for part in self._parts if part.is_open}
        if before != bool(self._open):
            if self._open:
                self._since = self._clock.monotonic()
            else:
                self._until = self._clock.monotonic()
        for call in self.on_change:
            call()

    async def run(self, probe: Callable[[int], Awaitable[object]]) -> None:
        """Look whether a part is back whenever it is away, until cancelled. ``probe`` is told which one."""
        async with asyncio.TaskGroup() as group:
            for number, part in enumerate(self._parts):
                group.create_task(part.run(_probe(probe, number)), name=f"breaker-{number}")


def _probe(probe: Callable[[int], Awaitable[object]], part: int) -> Callable[[], Awaitable[object]]:
    return lambda: probe(part)
