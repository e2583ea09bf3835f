"""Tickets: what a page may put into an address instead of a token. One read each, one connection at a time."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import secrets
from collections.abc import Collection, Sequence
from typing import Final, NamedTuple, Protocol, Self

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
SPARE: Final = "s"
"""Before a ticket that was put where the usual place failed; by its length it is told apart."""

_TEXT: Final = re.compile(r"s?[A-Za-z0-9_-]{32}")
_TEXT_CHARACTERS: Final = 32


class Ticket(msgspec.Struct, frozen=True):
    """What a ticket stands for. ``origin`` None: for requests without an Origin only."""

    principal: Principal
    stream: str
    origin: str | None

    def check(self, *, stream: str, origin: str | None) -> None:
        """Raises TokenInvalid where the ticket is for another read."""
        if self.stream != stream:
            raise TokenInvalid("ticket_for_another_stream")
        if self.origin != origin:
            raise TokenInvalid("ticket_for_another_origin")

    def encode(self) -> bytes:
        """For a place that all nodes reach."""
        return msgspec.json.encode({"principal": self.principal.spelt(), "stream": self.stream, "origin": self.origin})

    @classmethod
    def decode(cls, data: bytes | str) -> Self:
        """What ``encode`` made of one."""
        return msgspec.json.decode(data, type=cls)


class Shown(NamedTuple):
    """A ticket that somebody has brought, and what it is kept by."""

    key: str
    ticket: Ticket


class Held(NamedTuple):
    """A connection that is open by a ticket; ``hold`` names it."""

    key: str
    hold: str
    ticket: Ticket


class TicketStore(Protocol):
    """Where tickets are kept, by key: for one process, or for all nodes. Every method may raise Unavailable."""

    async def put(self, key: str, ticket: Ticket) -> None:
        """Keep a new ticket for ``OPEN_SECONDS``."""
        ...

    async def look(self, key: str) -> Ticket | None:
        """What was put; None where there is none any more."""
        ...

    async def take(self, held: Held) -> bool | None:
        """Open a connection. False: another one is open; None: there is no such ticket."""
        ...

    async def keep(self, held: Sequence[Held]) -> Collection[str]:
        """These are all connections that are open here, still. Returns the keys of tickets that are not known."""
        ...

    async def release(self, held: Held) -> None:
        """The connection is over; the ticket may come back for ``RETURN_SECONDS``."""
        ...


class Tickets:
    """Issues and takes tickets; keeps alive those whose connections are open here."""

    def __init__(self, store: TicketStore, clock: Clock, *, renew_seconds: float = RENEW_SECONDS) -> None:
        self._store = store
        self._clock = clock
        self._renew_seconds = renew_seconds
        self._open: dict[str, Held] = {}

    async def issue(self, principal: Principal, stream: str, origin: str | None) -> str:
        """A new ticket, good for ``OPEN_SECONDS``. Raises Unavailable."""
        ticket, text = Ticket(principal, stream, origin), secrets.token_urlsafe(24)
        try:
            await self._store.put(_key(text), ticket)
        except Unavailable:
            # Another text: whether the first one was put is not known, and it must not be in two places.
            text = SPARE + secrets.token_urlsafe(24)
            await self._store.put(_key(text), ticket)
        return text

    async def look(self, text: str) -> Shown:
        """What the ticket stands for, not checked yet. Raises TokenInvalid, TokenExpired, Unavailable."""
        if not _TEXT.fullmatch(text):
            raise TokenInvalid("ticket_unknown")
        ticket = await self._store.look(_key(text))
        if ticket is None:
            raise TokenInvalid("ticket_unknown")
        if self._clock.now() >= ticket.principal.expires_at:
            raise TokenExpired("The access token that the ticket stands for is over.")
        return Shown(_key(text), ticket)

    async def take(self, shown: Shown) -> Held:
        """Open a connection by it, until ``give_back``. Raises TicketInUse, TokenInvalid, Unavailable."""
        held = Held(shown.key, secrets.token_hex(8), shown.ticket)
        taken = await self._store.take(held)
        if taken is None:
            raise TokenInvalid("ticket_unknown")
        if not taken:
            raise TicketInUse(retry_after_ms=1_000)
        self._open[held.key] = held
        return held

    async def give_back(self, held: Held) -> None:
        """The connection that was taken here is over."""
        if self._open.get(held.key) is held:
            del self._open[held.key]
        # Shielded: a connection that is cut off cancels its task, and the ticket must be free all the same.
        await asyncio.shield(self._release(held))

    async def _release(self, held: Held) -> None:
        try:
            await self._store.release(held)
        except Unavailable as error:
            log.debug("a ticket lapses by itself: %s", error)

    async def run(self) -> None:
        """Renew what is open, until cancelled."""
        while True:
            await asyncio.sleep(self._renew_seconds)
            try:
                await self._store.keep(list(self._open.values()))
            except Unavailable as error:
                # Whether Redis is there is the prober's to say, once; the reads go on.
                log.debug("tickets not renewed: %s", error)


class MemoryTickets:
    """Tickets of one process: for a gateway without Redis."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._kept: dict[str, _Kept] = {}

    async def put(self, key: str, ticket: Ticket) -> None:
        now = self._clock.monotonic()
        for old in [name for name, one in self._kept.items() if one.until <= now]:
            del self._kept[old]
        self._kept[key] = _Kept(ticket, now + OPEN_SECONDS)

    async def look(self, key: str) -> Ticket | None:
        kept = self._find(key)
        return None if kept is None else kept.ticket

    async def take(self, held: Held) -> bool | None:
        kept, now = self._find(held.key), self._clock.monotonic()
        if kept is None:
            return None
        if kept.hold is not None and kept.held_until > now:
            return False
        kept.renew(held.hold, now)
        return True

    async def keep(self, held: Sequence[Held]) -> Collection[str]:
        now = self._clock.monotonic()
        for one in held:
            kept = self._find(one.key)
            if kept is not None and kept.hold == one.hold:
                kept.renew(one.hold, now)
        return [one.key for one in held if one.key not in self._kept]

    async def release(self, held: Held) -> None:
        kept = self._find(held.key)
        if kept is not None and kept.hold == held.hold:
            kept.hold, kept.until = None, self._clock.monotonic() + RETURN_SECONDS

    def _find(self, key: str) -> _Kept | None:
        kept = self._kept.get(key)
        return None if kept is None or kept.until <= self._clock.monotonic() else kept


class _Kept:
    """One ticket and its connection."""

    __slots__ = ("held_until", "hold", "ticket", "until")

    def __init__(self, ticket: Ticket, until: float) -> None:
        self.ticket = ticket
        self.until = until
        self.hold: str | None = None
        self.held_until = 0.0

    def renew(self, hold: str, now: float) -> None:
        self.hold = hold
        self.held_until = now + HOLD_SECONDS
        self.until = self.held_until + RETURN_SECONDS


def is_spare(key: str) -> bool:
    """Whether what is kept by the key was never put into the usual place."""
    return key.startswith(SPARE)


def _key(text: str) -> str:
    """What the ticket is kept by: whoever can read the store cannot use what is in it."""
    digest = hashlib.sha256(text.encode()).hexdigest()
    return digest if len(text) == _TEXT_CHARACTERS else f"{SPARE}:{digest}"
