"""Looks at this node's quotas, notes which have come to a mark, and sends what is due, also other nodes' leftovers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

from gateway.alerts.alert import MARKS, Alert, next_try_at
from gateway.alerts.store import AlertStore, Due
from gateway.alerts.webhook import NotTaken
from gateway.clock import Clock
from gateway.errors import Unavailable
from gateway.limits.quota import Share

log = logging.getLogger("gateway.alerts")
LOOK_SECONDS: Final = 2.0
CLAIM_SECONDS: Final = 60.0


class Post(Protocol):
    """``webhook.Webhook`` is one."""

    async def post(self, alert: Alert, *, now: float) -> None:
        """Raises NotTaken."""
        ...


class Watchman:
    """``tell`` hears of each try: the alert, and why it was not taken; nothing where it was."""

    def __init__(
        self,
        *,
        shares: Callable[[], list[Share]],
        store: AlertStore,
        work: Callable[..., Awaitable[Any]],
        post: Post,
        clock: Clock,
        tell: Callable[[Alert, str], None],
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        self._shares = shares
        self._store = store
        self._work = work
        self._post = post
        self._clock = clock
        self._tell = tell
        self._look_seconds = look_seconds
        self._noted: dict[tuple[str, str, str], tuple[str, int]] = {}

    async def run(self) -> None:
        """Look, note and send, until cancelled. A database that is away delays all of it."""
        while True:
            await asyncio.sleep(self._look_seconds)
            try:
                await self.look()
            except Unavailable as error:
                log.debug("alerts wait for the database: %s", error)

    async def look(self) -> None:
        """One round. Raises Unavailable."""
        found = self._reached()
        if found:
            await self._work(self._store.note, found)
            self._noted |= {(one.tenant, one.plan, one.quota): (one.period, one.percent) for one in found}
        due: list[Due] = await self._work(self._store.claim, now=self._clock.now(), seconds=CLAIM_SECONDS)
        for one in due:
            await self._send(one)

    def _reached(self) -> list[Alert]:
        """Marks that were passed since the last round, each with those before it."""
        found: list[Alert] = []
        for share in self._shares():
            key, percent = share.key, share.percent()
            period, noted = self._noted.get((key.tenant, key.plan, key.name), ("", 0))
            noted = noted if period == key.period else 0
            found += [
                Alert(
                    *(key.tenant, key.plan, key.name, key.period, mark),
                    limit=share.limit,
                    used=min(share.limit, share.used_by_all),
                    resets_at=share.period.ends_at,
                    found_at=self._clock.now(),
                )
                for mark in MARKS
                if noted < mark <= percent
            ]
        return found

    async def _send(self, due: Due) -> None:
        now, attempts, failure, next_at = self._clock.now(), due.attempts + 1, "", None
        try:
            await self._post.post(due.alert, now=now)
        except NotTaken as error:
            failure = str(error)
            next_at = next_try_at(attempts, now=now)
        self._tell(due.alert, failure)
        await self._work(
            self._store.tried, due.alert, attempts=attempts, now=self._clock.now(), next_at=next_at, failure=failure
        )
