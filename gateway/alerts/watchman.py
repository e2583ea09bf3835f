"""Notes which quotas and spend limits have come to a mark, and sends what is due, also other nodes' leftovers."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, Final, Protocol

from gateway.alerts.alert import MARKS, Alert, QuotaAlert, SpendAlert, next_try_at
from gateway.alerts.store import AlertStore, Due
from gateway.alerts.webhook import NotTaken
from gateway.clock import Clock
from gateway.errors import Unavailable
from gateway.limits.quota import Share
from gateway.limits.spending import Spending

log = logging.getLogger("gateway.alerts")
LOOK_SECONDS: Final = 2.0
CLAIM_SECONDS: Final = 60.0
SILENT_SECONDS: Final = 10.0


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
        spendings: Callable[[], Mapping[str, Spending]],
        store: AlertStore,
        work: Callable[..., Awaitable[Any]],
        post: Post,
        clock: Clock,
        tell: Callable[[Alert, str], None],
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        self._shares = shares
        self._spendings = spendings
        self._store = store
        self._work = work
        self._post = post
        self._clock = clock
        self._tell = tell
        self._look_seconds = look_seconds
        self._noted: dict[tuple[str, ...], tuple[str, int]] = {}
        self._silent_until = -math.inf

    async def run(self) -> None:
        """Look, note and send, until cancelled. A database that is away delays all of it."""
        while True:
            await asyncio.sleep(self._look_seconds)
            try:
                await self.look()
            except Unavailable as error:
                log.debug("alerts wait for the database: %s", error)
            except Exception:  # noqa: BLE001 - the next round may go well; with none, no alert would ever be sent
                self._complain("a look for alerts failed, and the next one comes")

    def _complain(self, what: str) -> None:
        """One line now and then: what goes wrong may go wrong in every round."""
        now = self._clock.monotonic()
        if now >= self._silent_until:
            self._silent_until = now + SILENT_SECONDS
            log.exception(what)

    async def look(self) -> None:
        """One round. Raises Unavailable."""
        found = self._reached()
        if found:
            await self._work(self._store.note, found)
            self._noted |= {_about(one): (one.period, one.percent) for one in found}
        due: list[Due] = await self._work(self._store.claim, now=self._clock.now(), seconds=CLAIM_SECONDS)
        for one in due:
            try:
                await self._send(one)
            except Unavailable:
                raise
            except Exception:  # noqa: BLE001 - those behind it are due too; it is tried again when its claim is over
                self._complain("an alert could not be sent")

    def _reached(self) -> list[Alert]:
        """Marks that were passed since the last round, each with those before it."""
        found: list[Alert] = []
        standing: list[Alert] = [*self._of_quotas(), *self._of_spend_limits()]
        for one in standing:
            period, noted = self._noted.get(_about(one), ("", 0))
            noted = noted if period == one.period else 0
            found += [one._replace(percent=mark) for mark in MARKS if noted < mark <= one.percent]
        return found

    def _of_quotas(self) -> Iterator[QuotaAlert]:
        for share in self._shares():
            key = share.key
            yield QuotaAlert(
                *(key.tenant, key.plan, key.name, key.period, share.percent()),
                limit=share.limit,
                used=min(share.limit, share.used_by_all),
                resets_at=share.period.ends_at,
                found_at=self._clock.now(),
            )

    def _of_spend_limits(self) -> Iterator[SpendAlert]:
        for tenant, one in self._spendings().items():
            yield SpendAlert(
                *(tenant, one.period, one.percent()),
                limit=one.limit,
                spent=format(one.spent, "f"),
                currency=one.currency,
                resets_at=one.ends_at,
                found_at=self._clock.now(),
            )

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


def _about(alert: Alert) -> tuple[str, ...]:
    """What comes to its marks anew in each period."""
    if isinstance(alert, QuotaAlert):
        return alert.tenant, alert.plan, alert.quota
    return alert.tenant, alert.limit
