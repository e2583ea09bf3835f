"""Tickets of all nodes: in Redis, and in the database for as long as Redis is away or has lost what it knew.

A ticket is ruled by one place: by Redis until it has a row in the database, then by that row, also when Redis is back.
Rows are made by who knows a ticket without asking: who issued it, who has a connection open by it, who had one last.
Nobody may claim such a row before every node has had the time to find Redis away and to say which connections are open:
``settle_seconds``. A ticket that is issued meanwhile is in the database from the start, and its text says so. Once
Redis is back, tickets with an open connection return to it; the others come to their end where they are.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any, Final, Protocol, TypeVar

from gateway.auth.ticket_rows import Row, TicketRows
from gateway.auth.ticket_search import LOOK_AGAIN_SECONDS, Search
from gateway.auth.tickets import OPEN_SECONDS, RENEW_SECONDS, RETURN_SECONDS, Held, Ticket, TicketStore, is_spare
from gateway.clock import Clock
from gateway.errors import Unavailable

log = logging.getLogger("gateway.auth")
SETTLE_SECONDS: Final = 1.5
"""So long after all have tried to renew what is open, each node has found Redis away and written down what is open."""

ASK_AGAIN_SECONDS: Final = 0.5
"""A call that failed alone is no outage: Redis is away where the next one, after this time, fails too."""

MOST_RECENT: Final = 4096
"""So many tickets without a connection a node remembers, for when Redis forgets them."""

T = TypeVar("T")


class NamedStore(TicketStore, Protocol):
    """Redis, as far as it is needed here."""

    async def restore(self, held: Sequence[Held]) -> Collection[str]:
        """Put tickets whose connections are open; the keys of those that are there then. Raises Unavailable."""
        ...

    async def memory(self) -> str:
        """Another name than before: what was put before is lost. Raises Unavailable."""
        ...


class Work(Protocol):
    """Runs what blocks in a thread; ``database.workers.Workers.run`` is one. Raises Unavailable."""

    async def __call__(self, work: Callable[..., T], /, *arguments: Any, **named: Any) -> T: ...


class SharedTickets:
    """See ``tickets.TicketStore``. ``run`` has to run for the database's part."""

    def __init__(
        self,
        redis: NamedStore,
        rows: TicketRows,
        *,
        work: Work,
        clock: Clock,
        renew_seconds: float = RENEW_SECONDS,
    ) -> None:
        """``renew_seconds``: how often ``keep`` is called, on every node."""
        self._renew_seconds = renew_seconds
        self.settle_seconds = renew_seconds + SETTLE_SECONDS
        self._redis = redis
        self._rows = rows
        self._work = work
        self._clock = clock
        self._bell = asyncio.Event()
        self._is_away = self._has_lost = False
        self._ask_at = self._trouble_at = -math.inf
        self._memory: str | None = None
        self._recent: OrderedDict[str, tuple[Ticket, float]] = OrderedDict()
        self._open: dict[str, Held] = {}
        # Of those that are open here: what Redis has no word of, what the database has a row of, and what of that was
        # not moved by this node: whoever did may be without Redis still.
        self._unknown: set[str] = set()
        self._moved: set[str] = set()
        self._stays: set[str] = set()
        self._unreleased: set[tuple[str, str]] = set()
        self._taking: set[str] = set()
        self._in_rows: frozenset[str] = frozenset()
        self._search = Search(self._read_rows, is_over=self._is_search_over)

    async def put(self, key: str, ticket: Ticket) -> None:
        if is_spare(key):
            now_ms = self._now_ms()
            row = Row(key, ticket.encode().decode(), now_ms + OPEN_SECONDS * 1000)
            await self._work(self._rows.add, [row], now_ms=now_ms)
            return
        await self._ask(lambda: self._redis.put(key, ticket))
        self._remember(key, ticket, OPEN_SECONDS)

    async def look(self, key: str) -> Ticket | None:
        while True:
            if not is_spare(key):
                with contextlib.suppress(Unavailable):
                    ticket = None if key in self._in_rows else await self._ask(lambda: self._redis.look(key))
                    if ticket is not None:
                        return ticket
                    await self._ask(self._check_memory)
            is_known = is_spare(key) or key in self._in_rows
            if not is_known and not self._is_away and self._is_settled():
                return None
            if is_known:
                data = await self._work(self._rows.look, key, now_ms=self._now_ms())
            else:
                # Perhaps about to be moved by whichever node knows it, perhaps anybody's invention.
                data = await self._search.find(key)
            if data is not None:
                self._in_rows |= {key}
                return Ticket.decode(data)
            if is_spare(key) or (self._is_settled() and key not in self._in_rows):
                return None
            if is_known:
                # Back in Redis meanwhile.
                self._in_rows -= {key}
                await asyncio.sleep(LOOK_AGAIN_SECONDS)

    async def take(self, held: Held) -> bool | None:
        for _ in range(2):
            if is_spare(held.key) or held.key in self._in_rows:
                taken = await self._take_row(held)
                if taken is not None or is_spare(held.key):
                    return taken
                self._in_rows -= {held.key}
            try:
                taken = await self._ask(lambda: self._redis.take(held))
                if taken is None:
                    await self._ask(self._check_memory)
            except Unavailable:
                await self._wait_to_ask()
                continue
            if taken:
                self._recent.pop(held.key, None)
                self._open[held.key] = held
            if taken is not None or self._is_settled():
                return taken
            # It was there when it was looked at: Redis has forgotten it since.
            break
        await self._move([self._row_of(held.key, held.ticket, OPEN_SECONDS)])
        return await self._take_row(held)

    async def keep(self, held: Sequence[Held]) -> Collection[str]:
        self._open = {one.key: one for one in held}
        self._moved.intersection_update(self._open)
        self._stays.intersection_update(self._open)
        ours = [one for one in held if not self._is_moved(one.key)]
        with contextlib.suppress(Unavailable):
            if ours:
                self._unknown.update(await self._ask(lambda: self._redis.keep(ours)))
            await self._ask(self._check_memory)
        if self._unknown:
            self._bell.set()
        return ()

    async def release(self, held: Held) -> None:
        if self._open.get(held.key) in (None, held):
            is_moved = self._is_moved(held.key)
            self._open.pop(held.key, None)
            self._moved.discard(held.key)
            self._stays.discard(held.key)
        else:
            is_moved = True
        if is_moved:
            self._unreleased.add((held.key, held.hold))
            await self._release_rows([(held.key, held.hold)])
            return
        self._remember(held.key, held.ticket, RETURN_SECONDS)
        await self._ask(lambda: self._redis.release(held))

    # ---- Redis -------------------------------------------------------------------------------------------------------

    async def _ask(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Redis' answer. Raises Unavailable, at once for a while after it gave none."""
        if self._clock.monotonic() < self._ask_at:
            raise Unavailable("Redis is away.")
        try:
            answer = await ask()
        except Unavailable as error:
            log.debug("Redis has no answer about tickets: %s", error)
            if not self._is_away:
                self._is_away = True
                self._note_trouble()
            self._ask_at = self._clock.monotonic() + ASK_AGAIN_SECONDS
            raise
        if self._is_away:
            self._is_away = False
            # Those who look for a ticket may find it there.
            self._search.give_up()
        return answer

    async def _wait_to_ask(self) -> None:
        await asyncio.sleep(max(0.0, self._ask_at - self._clock.monotonic()))

    async def _check_memory(self) -> None:
        name = await self._redis.memory()
        if self._memory not in (None, name):
            self._has_lost = True
            self._note_trouble()
        self._memory = name

    def _note_trouble(self) -> None:
        self._trouble_at = self._clock.monotonic()
        self._bell.set()

    def _is_settled(self) -> bool:
        """Whether what was known anywhere when last there was trouble has a row."""
        return self._clock.monotonic() >= self._trouble_at + self.settle_seconds

    def _remember(self, key: str, ticket: Ticket, seconds: float) -> None:
        self._recent[key] = (ticket, self._clock.monotonic() + seconds)
        self._recent.move_to_end(key)
        if len(self._recent) > MOST_RECENT:
            self._recent.popitem(last=False)

    # ---- the database ------------------------------------------------------------------------------------------------

    def _is_moved(self, key: str) -> bool:
        return is_spare(key) or key in self._moved

    def _now_ms(self) -> int:
        return round(self._clock.now() * 1000)

    def _row_of(self, key: str, ticket: Ticket, seconds: float, hold: str | None = None) -> Row:
        now_ms = self._now_ms()
        claimable_ms = now_ms + round(self.settle_seconds * 1000)
        return Row(key, ticket.encode().decode(), now_ms + round(seconds * 1000), claimable_ms, hold)

    async def _read_rows(self, keys: Sequence[str]) -> dict[str, str]:
        return await self._work(self._rows.look_all, keys, now_ms=self._now_ms())

    async def _is_search_over(self) -> bool:
        if self._is_settled():
            return True
        if self._is_away:
            # For all who look, so that they hear of it when Redis is back.
            with contextlib.suppress(Unavailable):
                await self._ask(self._check_memory)
        return False

    async def _move(self, rows: Sequence[Row]) -> None:
        await self._work(self._rows.add, rows, now_ms=self._now_ms())
        self._in_rows |= {row.key for row in rows}
        self._moved.update(row.key for row in rows if row.hold is not None and row.key in self._open)

    async def _take_row(self, held: Held) -> bool | None:
        self._taking.add(held.hold)
        try:
            while True:
                claim = await self._work(self._rows.take, held.key, held.hold, now_ms=self._now_ms())
                if claim.taken:
                    self._recent.pop(held.key, None)
                    self._open[held.key] = held
                    self._moved.add(held.key)
                if not claim.wait_ms:
                    return claim.taken
                await asyncio.sleep(claim.wait_ms / 1000)
        finally:
            self._taking.discard(held.hold)

    async def _release_rows(self, holds: Sequence[tuple[str, str]]) -> None:
        await self._work(self._rows.release, holds, now_ms=self._now_ms())
        self._unreleased.difference_update(holds)

    async def run(self) -> None:
        """Make rows of what Redis does not know any more, and keep those of this node, until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._renew_seconds):
                    await self._bell.wait()
            self._bell.clear()
            try:
                await self.catch_up()
            except Unavailable as error:
                # The prober says that the database is away, once; the next round goes on where this one ended.
                log.debug("tickets not moved: %s", error)
            except Exception:
                # The next round may go well; with none, tickets would lapse unheard.
                log.exception("tickets could not be moved")

    async def catch_up(self) -> None:
        """One round of ``run``. Raises Unavailable."""
        if self._is_away:
            await self._wait_to_ask()
            with contextlib.suppress(Unavailable):
                await self._ask(self._check_memory)
        if self._unreleased:
            await self._release_rows(list(self._unreleased))
        await self._move_what_is_lost()
        here = await self._work(self._rows.keys, now_ms=self._now_ms())
        if not here and not self._in_rows:
            return
        self._in_rows = here
        # Another node has moved it: that a connection is open by it here, only this node can say.
        open_here = [one for one in self._open.values() if one.key in here and not self._is_moved(one.key)]
        ours = await self._work(self._rows.keep, [(one.key, one.hold) for one in open_here], now_ms=self._now_ms())
        stamped = {one.key for one in open_here if one.key in self._open}
        self._moved |= stamped
        self._stays |= stamped
        # What was claimed for somebody who had left by then, or ended while it was moved, is nobody's.
        known = {one.hold for one in self._open.values()} | self._taking
        self._unreleased.update((key, hold) for key, hold in ours if hold not in known)
        if not self._is_away and self._is_settled():
            await self._return()

    async def _move_what_is_lost(self) -> None:
        is_all_lost = self._is_away or self._has_lost
        lost = [
            one for key, one in self._open.items() if not self._is_moved(key) and (is_all_lost or key in self._unknown)
        ]
        rows = [self._row_of(one.key, one.ticket, OPEN_SECONDS, one.hold) for one in lost]
        now = self._clock.monotonic()
        for key in [key for key, (_, until) in self._recent.items() if until <= now]:
            del self._recent[key]
        if is_all_lost:
            free = [(key, *kept) for key, kept in self._recent.items() if key not in self._in_rows]
            rows += [self._row_of(key, ticket, until - now) for key, ticket, until in free]
        self._has_lost = False
        self._unknown.clear()
        if rows:
            try:
                await self._move(rows)
            except Unavailable:
                self._has_lost = is_all_lost
                self._unknown.update(one.key for one in lost)
                raise

    async def _return(self) -> None:
        """Back to Redis with those whose connections are open here; the others end where they are."""
        staying = self._stays | {key for key in self._moved if is_spare(key)}
        moved = [one for key, one in self._open.items() if key in self._moved and key not in staying]
        if not moved:
            return
        with contextlib.suppress(Unavailable):
            there = await self._ask(lambda: self._redis.restore(moved))
            back = [one for one in moved if one.key in there]
            await self._work(self._rows.drop, [(one.key, one.hold) for one in back])
            self._in_rows -= {one.key for one in back}
            self._moved.difference_update(one.key for one in back if self._open.get(one.key) is one)
