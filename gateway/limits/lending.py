"""How an account lends its tokens to the processes that ask: pure. ``lua/borrow.lua`` is its twin in Redis.

An account belongs to a tenant and a plan and holds a bucket for each of its limits. A process asks for tokens of
several buckets at once; what is there it gets now, and what is not it may get later: a dated share of the tokens that
are still to come, so that processes are served in the order in which they asked. Tokens that were lent count as taken
until the borrower has reported them used, or has not been heard of for ``NODE_US``: what is in a bucket and what is
lent of it is never more than one burst, and where that is small, ``LEAST_US`` for each borrower.

An exchange has a number. Asked again under the same number, the account says again what it said: that is how a lost
answer costs nothing, and an answer or a question that comes twice counts once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import msgspec

from gateway.limits.bucket import Rate

NODE_US: Final = 30_000_000
"""A borrower that was not heard of for so long is forgotten, with what it held."""

CHUNK_US: Final = 100_000
"""Of tokens that are still to come, all who ask together are promised about so much at a time."""

LEAST_US: Final = 20_000
"""Tokens to come are promised up to a burst in all, what is lent included; but to whom asks at least so much, since
what others hold they may have used by now."""

AHEAD_US: Final = 5_000_000
"""Nobody is promised tokens that begin to come later than this."""


class Ask(NamedTuple):
    """What a process says of one limit. All counts are whole tokens.

    ``held``: what it has and keeps; ``credit``: what it gives back, below zero what it owes; ``late``: what it let
    through by itself while nobody could be asked, which is charged as far as there is something; ``start``: what a
    bucket begins with of which nothing is known.
    """

    name: str
    rate: Rate
    held: int = 0
    want: int = 0
    credit: int = 0
    late: int = 0
    start: int = 0

    def spelt(self) -> tuple[object, ...]:
        """The same, flat, as ``borrow.lua`` reads it."""
        rate = self.rate
        return (
            self.name,
            rate.unit,
            rate.per_us,
            rate.capacity,
            self.held,
            self.want,
            self.credit,
            self.late,
            self.start,
        )


class Given(NamedTuple):
    """What it gets: ``now`` tokens at once and ``later`` ones evenly between ``from_us`` and ``until_us`` from now.

    Nothing of either: ask again in ``retry_us``. ``level`` is what is left in the bucket, below zero what is promised.
    """

    name: str
    now: int
    later: int
    from_us: int
    until_us: int
    retry_us: int
    level: int


@dataclass(slots=True)
class Level:
    """One bucket: its parts at a moment, and the rate they are counted in."""

    parts: int
    at_us: int
    rate: Rate


class Promise(NamedTuple):
    """What was given of one limit, with the moments of the shared clock."""

    name: str
    now: int
    later: int
    from_at_us: int
    until_at_us: int
    retry_at_us: int
    level: int


@dataclass(slots=True)
class Borrower:
    """One process as the account knows it. ``loans``: by limit, tokens held and when the last promise ends."""

    seen_us: int
    number: int
    loans: dict[str, tuple[int, int]]
    said: list[Promise]


@dataclass(slots=True)
class Account:
    """All that is kept of a tenant under a plan."""

    levels: dict[str, Level] = field(default_factory=dict)
    borrowers: dict[str, Borrower] = field(default_factory=dict)

    def lend(self, node: str, number: int, asks: list[Ask], *, now_us: int) -> list[Given]:
        """One exchange with ``node``. ``number`` differs from that of the exchange before, or it is that one again."""
        mine = self.borrowers.get(node)
        if mine is not None and mine.number == number:
            mine.seen_us = now_us
            return [_dated(promise, now_us) for promise in mine.said]
        self._forget(now_us)
        loans = dict(mine.loans) if mine is not None else {}
        said = [self._lend_one(node, ask, loans, now_us) for ask in asks]
        self.borrowers[node] = Borrower(now_us, number, loans, said)
        return [_dated(promise, now_us) for promise in said]

    def is_idle(self, *, now_us: int) -> bool:
        """Whether it is as good as one of which nothing is known."""
        full = all(
            level.parts + max(0, now_us - level.at_us) * level.rate.per_us >= level.rate.capacity * level.rate.unit
            for level in self.levels.values()
        )
        return full and all(abs(now_us - one.seen_us) > NODE_US for one in self.borrowers.values())

    def _forget(self, now_us: int) -> None:
        for name in [name for name, one in self.borrowers.items() if abs(now_us - one.seen_us) > NODE_US]:
            del self.borrowers[name]

    def _lend_one(self, node: str, ask: Ask, loans: dict[str, tuple[int, int]], now_us: int) -> Promise:
        rate, name = ask.rate, ask.name
        others = busy = 0
        for other, borrower in self.borrowers.items():
            if other != node and name in borrower.loans:
                held, until = borrower.loans[name]
                others += held
                busy += until > now_us
        lent = others + loans.get(name, (0, 0))[0]
        parts = self._come_back(ask, lent, now_us) + ask.credit * rate.unit
        if ask.late > 0:
            parts = max(min(parts, 0), parts - ask.late * rate.unit)
        parts = min(parts, rate.capacity * rate.unit)
        now = later = begins = ends = retry = 0
        if ask.want > 0:
            now = min(ask.want, max(0, parts // rate.unit))
            parts -= now * rate.unit
            begins = max(0, -(parts // rate.per_us))
            if now < ask.want and begins > AHEAD_US:
                retry, begins = begins - AHEAD_US, 0
            elif now < ask.want:
                chunk = -(-rate.per_us * CHUNK_US // (rate.unit * (busy + 1)))
                spare = rate.capacity - others - ask.held - now
                later = min(ask.want - now, chunk, max(spare, -(-rate.per_us * LEAST_US // rate.unit)))
                parts -= later * rate.unit
                ends = max(0, -(parts // rate.per_us))
            else:
                begins = 0
        self.levels[name] = Level(parts, now_us, rate)
        loans[name] = (ask.held + now + later, now_us + ends)
        return Promise(name, now, later, now_us + begins, now_us + ends, now_us + retry, parts // rate.unit)

    def _come_back(self, ask: Ask, lent: int, now_us: int) -> int:
        """The bucket's parts, with what came back since; never so much that with the loans it is over the burst."""
        rate = ask.rate
        full = max(0, rate.capacity - lent) * rate.unit
        level = self.levels.get(ask.name)
        if level is None:
            return min(full, ask.start * rate.unit)
        parts = level.parts
        if level.rate.unit != rate.unit:
            parts = parts * rate.unit // level.rate.unit
        passed = max(0, now_us - level.at_us)
        return min(full, parts + passed * rate.per_us)


def _dated(promise: Promise, now_us: int) -> Given:
    return Given(
        promise.name,
        promise.now,
        promise.later,
        max(0, promise.from_at_us - now_us),
        max(0, promise.until_at_us - now_us),
        max(0, promise.retry_at_us - now_us),
        promise.level,
    )


def encode_exchanges(exchanges: Iterable[tuple[int, list[Ask]]]) -> bytes:
    """Exchanges with several accounts as ``borrow.lua`` reads them: MessagePack."""
    return msgspec.msgpack.encode([(number, [ask.spelt() for ask in asks]) for number, asks in exchanges])


_given = msgspec.msgpack.Decoder(list[list[Given]])


def decode_given(data: bytes) -> list[list[Given]]:
    """What ``borrow.lua`` answered, by account. Raises msgspec.DecodeError."""
    return _given.decode(data)
