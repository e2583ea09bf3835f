"""Tickets: what a page may put into an address instead of a token. One read each, one connection at a time."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, Protocol

import msgspec

from gateway.clock import Clock
from gateway.errors import TicketInUse, TokenExpired, TokenInvalid, Unavailable
from gateway.model import Principal

log = logging.getLogger("gateway.auth")
OPEN_SECONDS: Final = 30
"""How long a fresh ticket waits for its first connection."""

RETURN_SECONDS: Final = 300
"""How long after its last connection ended a ticket may come back."""

HOLD_SECONDS: Final = 10
"""How long a connection that nobody renews counts as open: what a killed node leaves behind."""

RENEW_SECONDS: Final = 3.0
_TEXT: Final = re.compile(r"[A-Za-z0-9_-]{32}")


class Ticket(msgspec.Struct, frozen=True):
    """What a ticket stands for. ``origin`` None: for requests without an Origin only."""

    principal: Principal
    stream: str
    origin: str | None


class TicketStore(Protocol):
    """Where tickets are kept, by key: for one process, or for all nodes. Every method may raise Unavailable."""

    async def put(self, key: str, data: bytes) -> None:
        """Keep a new ticket for ``OPEN_SECONDS``."""
        ...

    async def look(self, key: str) -> bytes | None:
        """What was put; None where there is none any more."""
        ...

    async def take(self, key: str, hold: str) -> bool | None:
        """Open a connection by it, named ``hold``. False: another one is open; None: there is no such ticket."""
        ...

    async def keep(self, holds: Sequence[tuple[str, str]]) -> None:
        """The connections of these (key, hold) are still open."""
        ...

    async def release(self, key: str, hold: str) -> None:
        """The connection is over; the ticket may come back for ``RETURN_SECONDS``."""
        ...


class Tickets:
    """Issues and takes tickets; keeps alive those whose connections are open here."""

    def __init__(self, store: TicketStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._open: dict[str, str] = {}

    async def issue(self, principal: Principal, stream: str, origin: str | None) -> str:
        """A new ticket, good for ``OPEN_SECONDS``. Raises Unavailable."""
        text = secrets.token_urlsafe(24)
        await self._store.put(_key(text), msgspec.json.encode(_spelt(Ticket(principal, stream, origin))))
        return text

    async def look(self, text: str, *, stream: str, origin: str | None) -> Principal:
        """Who the ticket speaks for, where it is good for this read. Raises TokenInvalid, TokenExpired, Unavailable."""
        if not _TEXT.fullmatch(text):
            raise TokenInvalid("ticket_unknown")
        data = await self._store.look(_key(text))
        if data is None:
            raise TokenInvalid("ticket_unknown")
        ticket = msgspec.json.decode(data, type=Ticket)
        if ticket.stream != stream:
            raise TokenInvalid("ticket_for_another_stream")
        if ticket.origin != origin:
            raise TokenInvalid("ticket_for_another_origin")
        if self._clock.now() >= ticket.principal.expires_at:
            raise TokenExpired("The access token that the ticket stands for is over.")
        return ticket.principal

    @asynccontextmanager
    async def held(self, text: str) -> AsyncIterator[None]:
        """One connection by the ticket, open until the block is left. Raises TicketInUse, TokenInvalid, Unavailable."""
        await self.take(text)
        try:
            yield
        finally:
            await self.give_back(text)

    async def take(self, text: str) -> None:
        """Begin what ``held`` is for a block; raises the same."""
        key, hold = _key(text), secrets.token_hex(8)
        taken = await self._store.take(key, hold)
        if taken is None:
            raise TokenInvalid("ticket_unknown")
        if not taken:
            raise TicketInUse(retry_after_ms=1_000)
        self._open[key] = hold

    async def give_back(self, text: str) -> None:
        """The connection that was taken here is over."""
        key = _key(text)
        # Shielded: a connection that is cut off cancels its task, and the ticket must be free all the same.
        await asyncio.shield(self._release(key, self._open.pop(key)))

    async def _release(self, key: str, hold: str) -> None:
        try:
            await self._store.release(key, hold)
        except Unavailable as error:
            log.debug("a ticket lapses by itself: %s", error)

    async def run(self) -> None:
        """Renew what is open, until cancelled."""
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            if not self._open:
                continue
            try:
                await self._store.keep(list(self._open.items()))
            except Unavailable as error:
                # Whether Redis is there is the prober's to say, once; the reads go on.
                log.debug("tickets not renewed: %s", error)


class MemoryTickets:
    """Tickets of one process: for a gateway without Redis."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._kept: dict[str, _Kept] = {}

    async def put(self, key: str, data: bytes) -> None:
        now = self._clock.monotonic()
        for old in [name for name, one in self._kept.items() if one.until <= now]:
            del self._kept[old]
        self._kept[key] = _Kept(data, now + OPEN_SECONDS)

    async def look(self, key: str) -> bytes | None:
        kept = self._find(key)
        return None if kept is None else kept.data

    async def take(self, key: str, hold: str) -> bool | None:
        kept, now = self._find(key), self._clock.monotonic()
        if kept is None:
            return None
        if kept.hold is not None and kept.held_until > now:
            return False
        kept.renew(hold, now)
        return True

    async def keep(self, holds: Sequence[tuple[str, str]]) -> None:
        now = self._clock.monotonic()
        for key, hold in holds:
            kept = self._find(key)
            if kept is not None and kept.hold == hold:
                kept.renew(hold, now)

    async def release(self, key: str, hold: str) -> None:
        kept = self._find(key)
        if kept is not None and kept.hold == hold:
            kept.hold, kept.until = None, self._clock.monotonic() + RETURN_SECONDS

    def _find(self, key: str) -> _Kept | None:
        kept = self._kept.get(key)
        return None if kept is None or kept.until <= self._clock.monotonic() else kept


class _Kept:
    """One ticket and its connection."""

    __slots__ = ("data", "held_until", "hold", "until")

    def __init__(self, data: bytes, until: float) -> None:
        self.data = data
        self.until = until
        self.hold: str | None = None
        self.held_until = 0.0

    def renew(self, hold: str, now: float) -> None:
        self.hold = hold
        self.held_until = now + HOLD_SECONDS
        self.until = self.held_until + RETURN_SECONDS


def _key(text: str) -> str:
    """What the ticket is kept by: whoever can read the store cannot use what is in it."""
    return hashlib.sha256(text.encode()).hexdigest()


def _spelt(ticket: Ticket) -> dict[str, Any]:
    return {"principal": ticket.principal.spelt(), "stream": ticket.stream, "origin": ticket.origin}
