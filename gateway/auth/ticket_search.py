"""Looks for tickets that may come, or never will: by one read every now and then for all who wait, however many."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from gateway.errors import Unavailable

log = logging.getLogger("gateway.auth")
LOOK_AGAIN_SECONDS: Final = 0.2
MOST_WAITING: Final = 1000
"""Whoever asks needs no credential for it, so there is a bound."""


class Search:
    """``read`` gives those that there are; ``is_over`` says whether the others will not come any more.

    Reads begin ``LOOK_AGAIN_SECONDS`` after the one before has ended, and only while somebody waits.
    """

    def __init__(
        self,
        read: Callable[[Sequence[str]], Awaitable[Mapping[str, str]]],
        *,
        is_over: Callable[[], Awaitable[bool]],
        most: int = MOST_WAITING,
    ) -> None:
        self._read = read
        self._is_over = is_over
        self._most = most
        self._waiting: dict[asyncio.Future[str | None], str] = {}
        self._reading: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    async def find(self, key: str) -> str | None:
        """The ticket, once it is there. None: it is over, or ``give_up`` was called. Raises Unavailable."""
        if len(self._waiting) >= self._most:
            raise Unavailable("Too many tickets are looked for at once.")
        answer: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._waiting[answer] = key
        if self._reading is None:
            self._reading = asyncio.get_running_loop().create_task(self._run(), name="tickets looked for")
        try:
            return await answer
        finally:
            self._waiting.pop(answer, None)

    def give_up(self) -> None:
        """Let all who wait look elsewhere."""
        self._answer(list(self._waiting), {})

    async def _run(self) -> None:
        try:
            while self._waiting:
                await self._look()
                await asyncio.sleep(LOOK_AGAIN_SECONDS)
        finally:
            self._reading = None

    async def _look(self) -> None:
        asked = dict(self._waiting)
        try:
            found = await self._read(list(dict.fromkeys(asked.values())))
            self._answer([answer for answer, key in asked.items() if key in found], found)
            if await self._is_over():
                # Whoever has come since has not been looked for yet.
                self._answer(list(asked), {})
        except Unavailable as error:
            self._fail(asked, error)
        except Exception as error:
            # Whatever it was, those who wait must not wait for ever, and the next read may go well.
            log.exception("tickets could not be looked for")
            self._fail(asked, Unavailable(str(error)))

    def _answer(self, answers: Sequence[asyncio.Future[str | None]], found: Mapping[str, str]) -> None:
        for answer in answers:
            key = self._waiting.pop(answer, None)
            if key is not None and not answer.done():
                answer.set_result(found.get(key))

    def _fail(self, asked: Mapping[asyncio.Future[str | None], str], error: Unavailable) -> None:
        for answer in asked:
            if self._waiting.pop(answer, None) is not None and not answer.done():
                answer.set_exception(error)
