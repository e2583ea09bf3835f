"""Where statements are asked for: on the event loop, looked up and drawn in threads, few at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from gateway.billing.closing import Closing
from gateway.billing.errors import StatementRefused
from gateway.billing.period import Period
from gateway.billing.rating import RatingRefused
from gateway.billing.store import Kept, StatementStore
from gateway.clock import Clock

AT_ONCE: Final = 2
"""Statements that are made or drawn together; more wait, so that the threads stay free for those who read."""

FORMS: Final = ("json", "csv", "html", "pdf")

Run = Callable[..., Awaitable[Any]]
"""Runs a short question to the database in a thread, with its arguments."""


class StatementOffice:
    """Answers for partners and operators; whose statements may be seen is decided before it is asked here."""

    def __init__(self, store: StatementStore, closing: Closing, *, run: Run, clock: Clock) -> None:
        self._store = store
        self._closing = closing
        self._run = run
        self._clock = clock
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def page(
        self, *, tenant: str | None, limit: int, before: int | None = None
    ) -> tuple[list[dict[str, Any]], int | None]:
        """Statements without their usage rows, the newest first, and where the next page goes on."""
        found: list[Kept] = await self._run(self._store.page, tenant=tenant, limit=limit + 1, before=before)
        shown = [{name: value for name, value in one.shown().items() if name != "usage"} for one in found[:limit]]
        return shown, found[limit - 1].made if len(found) > limit else None

    async def document(self, reference: str, *, tenant: str | None, form: str) -> bytes:
        """One statement by number or id, in one of FORMS. Raises StatementNotFound and Unavailable."""
        kept: Kept = await self._run(self._store.find, reference, tenant=tenant)
        async with self._turns:
            return await asyncio.to_thread(spell, kept.shown(), form)

    async def preview(self, tenant: str, *, zone: str, start: int, end: int) -> dict[str, Any]:
        """A draft of a stretch of time, epoch seconds. Raises StatementRefused, Unavailable."""
        try:
            period = Period.spanning(start, end, zone=zone)
            async with self._turns:
                kept = await asyncio.to_thread(self._closing.preview, tenant, period, now=self._clock.now())
        except (RatingRefused, ValueError) as error:
            raise StatementRefused(str(error)) from error
        return kept.shown()


def spell(statement: Mapping[str, Any], form: str) -> bytes:
    """A statement, as it is shown, in one of FORMS: the same bytes each time."""
    # Here and not above: what draws PDFs is a tenth of a second of a process's start.
    if form == "pdf":
        from gateway.billing.report import pdf

        return pdf.spell(statement)
    from gateway.billing.report import csvtext, html, jsontext

    spellings = {"json": jsontext.spell, "csv": csvtext.spell, "html": html.spell}
    return spellings[form](statement)
