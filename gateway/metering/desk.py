"""Where usage is asked for: questions on the event loop, answers out of the ledger, few at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any, Final, NamedTuple

from gateway.clock import Clock
from gateway.metering.question import MOST_ROWS, Question, parse_next
from gateway.metering.report import Page, UsageSource, read_page
from gateway.usage import MEASURES

AT_ONCE: Final = 2
"""Questions that are looked up together; more wait, so that the database's threads stay free for those who let in."""

Run = Callable[..., Awaitable[Any]]
"""Runs blocking work in a thread, with its arguments."""


class Answer(NamedTuple):
    """A page, and up to when it is complete."""

    page: Page
    complete_until: int | None


class UsageDesk:
    """Answers for partners and operators; whose usage may be seen is decided before it is asked here."""

    def __init__(self, source: UsageSource, *, run: Run, clock: Clock) -> None:
        self._source = source
        self._run = run
        self._clock = clock
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def answer(self, question: Question, *, tenant: str | None, measures: tuple[str, ...] = MEASURES) -> Answer:
        """One page. Raises Unavailable where the ledger cannot be asked."""
        async with self._turns:
            answer: Answer = await self._run(self._look_up, question, tenant, measures)
            return answer

    async def answers(
        self, question: Question, *, tenant: str | None, measures: tuple[str, ...] = MEASURES
    ) -> AsyncIterator[Answer]:
        """All pages, one after the other; at least one."""
        question = replace(question, limit=MOST_ROWS)
        while True:
            answer = await self.answer(question, tenant=tenant, measures=measures)
            yield answer
            if answer.page.next is None:
                return
            question = replace(question, after=parse_next(answer.page.next, question.by))

    def _look_up(self, question: Question, tenant: str | None, measures: tuple[str, ...]) -> Answer:
        # Asked first: what comes in while the rows are read makes the answer better than it says, never worse.
        complete_until = self._source.complete_until(now=self._clock.now()) or None
        return Answer(read_page(self._source, question, tenant=tenant, measures=measures), complete_until)
