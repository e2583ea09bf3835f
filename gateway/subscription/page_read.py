"""A read of one page: a reading that is woken, and gives its view back."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final

from gateway.model import Grant
from gateway.subscription.encode import FRAMINGS
from gateway.subscription.opening import Opening
from gateway.subscription.registry import Registry
from gateway.subscription.shape import Shape

CHOOSY_RECORDS: Final = 1000
"""What a page that is choosy takes from Kafka to begin with."""


class PageRead:
    """A read of one pull request."""

    def __init__(self, registry: Registry, opening: Opening, grant: Grant, shape: Shape, *, limit: int) -> None:
        self._ready = asyncio.Event()
        self._on_drain = registry.on_drain
        self.feed = opening.feed
        self.queued = False
        self._teller = registry.teller(opening.feed, grant, shape, FRAMINGS["pull"])
        # A page of everything takes from Kafka what it needs; one that is choosy has to look at more.
        wanted = limit if grant.rows is None and shape.takes_all else max(limit, CHOOSY_RECORDS)
        self.reading = registry.reading(
            opening,
            grant,
            shape,
            self._teller,
            on_ready=self._ready.set,
            replay_records=(wanted, wanted),
            ahead_records=0,
        )
        self._on_drain[self.wake] = None

    def pump(self) -> bool:
        """Records have arrived. See ``Pumped``."""
        self._ready.set()
        return False

    def wake(self) -> None:
        """The plan's rates may allow more (see ``Waiter``), or something else has come that is waited for."""
        self._ready.set()

    def cursor(self) -> str:
        return self._teller.cursor(self.reading.vector())

    def wait(self, *, is_held: bool = False) -> Coroutine[Any, Any, None]:
        """Until there may be more to take; from the call on, not from its first step. ``is_held``: there is something,
        and what else arrives is no news."""
        if is_held:
            self.feed.forget(self)
        else:
            self.feed.listen(self)
        return self._news()

    async def _news(self) -> None:
        await self._ready.wait()
        self._ready.clear()

    def close(self) -> None:
        del self._on_drain[self.wake]
        self.reading.close()
        self.feed.forget(self)
