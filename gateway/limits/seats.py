"""What this node holds of seats, by shard, and what of it Redis has still to be told. Asks nobody."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple, Protocol

from gateway.errors import GatewayError
from gateway.limits.parts import PARTS, part_of, part_tag
from gateway.limits.standing import count_of
from gateway.model import Grant

LIMIT: Final = "connections"
KEYS_AT_ONCE: Final = 200
MEMBERS_AT_ONCE: Final = 1_000
_PREFIX: Final = "gateway:limits:1:seats"

Key = tuple[str, str]
"""Tenant and plan."""


class Holder(Protocol):
    """The open read that a seat is for."""

    grant: Grant

    def end(self, error: GatewayError | None) -> None:
        """The seat is taken back."""
        ...


class Seat:
    """One open read's place under its cap. ``holder`` None: it is being opened, or over.

    ``grant`` is what it was last found to stand under. ``is_taken``: it is given. ``is_told``: Redis has perhaps heard
    of it.
    """

    __slots__ = ("grant", "holder", "is_ending", "is_taken", "is_told", "key", "name")

    def __init__(self, name: str, grant: Grant) -> None:
        self.name = name
        self.key: Key = (grant.tenant, grant.plan.name)
        self.grant: Grant | None = grant
        self.holder: Holder | None = None
        self.is_taken = self.is_told = self.is_ending = False

    def bind(self, holder: Holder) -> None:
        """From now on the cap is the one of what the holder is granted, and the holder is told to go."""
        self.holder = holder


class Held:
    """The seats of one tenant's plan, the oldest first, and the cap by what was last granted there; None: it has none.

    ``taken``: how many of them are given, and not only wanted.
    """

    __slots__ = ("cap", "key", "seats", "taken")

    def __init__(self, key: Key) -> None:
        self.key = key
        self.taken = 0
        self.cap: int | None = None
        self.seats: dict[str, Seat] = {}


class Told(NamedTuple):
    """What is told of one tenant's plan. ``held`` None: no more than what is free. ``asked``: seats being taken."""

    key: Key
    freed: list[str]
    cap: int | None = None
    held: list[str] | None = None
    asked: Sequence[str] = ()

    def spelt(self) -> tuple[object, ...]:
        """As ``tell_seats.lua`` reads it."""
        absent = False
        cap, held = absent if self.cap is None else self.cap, absent if self.held is None else self.held
        return (cap, self.freed, held, self.asked)


class Shard:
    """Tenants that are in one part of Redis: those of them that hold something here.

    ``number`` is what Redis files this node's seats under, ``seen`` when it last heard of this node.
    """

    def __init__(self, part: int) -> None:
        self.here = f"{_PREFIX}:{part_tag(part)}:here"
        self.above = f"{_PREFIX}:{part_tag(part)}:above"
        self.number = self.seen = 0
        self.held: dict[Key, Held] = {}
        self.freed: dict[Key, list[str]] = {}
        self.telling: dict[Key, Told] = {}
        self._waiting: asyncio.Future[None] | None = None
        self.changed: dict[Key, None] = {}
        """To be told whole, and looked at."""
        self.later: dict[Key, None] = {}
        """The same, the next time that all are looked at."""

    def note(self, number: int, seen: int) -> bool:
        """What an answer says. True: Redis does not know any more what is held here."""
        if number == self.number:
            self.seen = max(self.seen, seen)
            return False
        is_first = not self.number
        self.number, self.seen = number, seen
        if not is_first:
            self.tell_anew()
        return not is_first

    def tell_anew(self) -> None:
        """Tell all that is held under a cap."""
        self.changed.update((key, None) for key, held in self.held.items() if held.cap is not None)

    def add(self, seat: Seat) -> Held:
        """One more."""
        held = self.held.get(seat.key)
        if held is None:
            held = self.held[seat.key] = Held(seat.key)
        # One tuple for all of a tenant's seats.
        seat.key = held.key
        is_first = not held.seats
        held.seats[seat.name] = seat
        held.taken += seat.is_taken
        if seat.grant is not None:
            self._grant(held, seat.grant, is_first=is_first)
        return held

    def give(self, seat: Seat) -> None:
        """It is taken: from now on it is told; before, that would have been the taking of it."""
        seat.is_taken = True
        self.held[seat.key].taken += 1

    def _grant(self, held: Held, grant: Grant, *, is_first: bool = False) -> None:
        cap = count_of(grant.plan.limits, LIMIT)
        if cap != held.cap:
            held.cap = cap
            if not is_first:
                self.changed[held.key] = None

    def remove(self, seat: Seat) -> bool:
        """One less. True: Redis has to be told. Nobody minds one that is gone already."""
        held = self.held.get(seat.key)
        if held is None or held.seats.pop(seat.name, None) is None:
            return False
        held.taken -= seat.is_taken
        if not held.seats:
            del self.held[seat.key]
        if seat.is_told:
            # Without a cap nobody else has ever heard of it.
            self.put_back(seat)
        return seat.is_told

    def put_back(self, seat: Seat) -> None:
        """Tell that it is free."""
        self.freed.setdefault(seat.key, []).append(seat.name)

    def free(self, key: Key) -> list[str]:
        """Seats that are free, and of which Redis may not know it yet."""
        telling = self.telling.get(key)
        return [*(() if telling is None else telling.freed), *self.freed.get(key, ())]

    async def settled(self, key: Key) -> None:
        """Return when all that is held of it is not just being told: a seat taken meanwhile would be undone."""
        while (telling := self.telling.get(key)) is not None and telling.held is not None:
            if self._waiting is None:
                self._waiting = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._waiting)

    def look(self) -> None:
        """See under which plans the reads stand now: a seat counts under its read's, and its cap is what that says."""
        self.changed.update(self.later)
        self.later.clear()
        moved: list[tuple[Seat, Holder]] = []
        for held in self.held.values():
            for seat in held.seats.values():
                holder = seat.holder
                # The same one as a rule: one look at each of ten thousand has to be cheap.
                if holder is not None and holder.grant is not seat.grant:
                    moved.append((seat, holder))
        for seat, holder in moved:
            grant = seat.grant = holder.grant
            if (grant.tenant, grant.plan.name) == seat.key:
                self._grant(self.held[seat.key], grant)
                continue
            self.remove(seat)
            seat.key = (grant.tenant, grant.plan.name)
            seat.is_told = False
            self.add(seat)
            self.changed[seat.key] = None

    def next_told(self, *, is_whole: bool) -> list[Told]:
        """Some of what is to be told, which is taken off what is: no more than Redis can do without keeping others
        waiting. Empty: that is all. ``is_whole`` False: no more than what is free."""
        found: list[Told] = []
        size = 0
        while len(found) < KEYS_AT_ONCE and size < MEMBERS_AT_ONCE:
            if is_whole and self.changed:
                key = next(iter(self.changed))
                del self.changed[key]
                one = self._whole(key)
            elif self.freed:
                key = next(iter(self.freed))
                one = Told(key, self.freed.pop(key))
            else:
                break
            found.append(one)
            size += len(one.freed) + len(one.held or ())
        return found

    def _whole(self, key: Key) -> Told:
        held = self.held.get(key)
        cap = None if held is None else held.cap
        names: list[str] = []
        asked: list[str] = []
        # Without a cap nobody else has to hear of them.
        for seat in held.seats.values() if held is not None and cap is not None else ():
            if seat.is_taken:
                seat.is_told = True
                names.append(seat.name)
            elif seat.is_told:
                asked.append(seat.name)
        return Told(key, self.freed.pop(key, []), cap, names, asked)

    def begin(self, batch: list[Told]) -> None:
        """It is being told."""
        self.telling = {one.key: one for one in batch}

    def finish(self, *, is_told: bool) -> None:
        """It was told, or perhaps not: then all of it is told once more."""
        if not is_told:
            self.changed.update((key, None) for key in self.telling)
        self.telling = {}
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    def above_caps(self) -> Iterator[tuple[Seat, int]]:
        """The newest of what has changed, for a node that is alone."""
        changed, self.changed = self.changed, {}
        for key in changed:
            held = self.held.get(key)
            if held is not None and held.cap is not None:
                for name in sorted(held.seats)[held.cap :]:
                    yield held.seats[name], held.cap


class Seats:
    """All shards."""

    def __init__(self) -> None:
        self.shards = tuple(Shard(part) for part in range(PARTS))

    def of(self, key: Key) -> Shard:
        """The shard of a tenant."""
        return self.shards[part_of(key[0])]

    def __len__(self) -> int:
        return sum(self.by_key().values())

    def __iter__(self) -> Iterator[Held]:
        for shard in self.shards:
            yield from shard.held.values()

    def by_key(self) -> dict[Key, int]:
        """How many are held, by tenant and plan."""
        return {held.key: len(held.seats) for held in self}


def seats_key(key: Key) -> str:
    """Where Redis has a tenant's seats; names stay out of it."""
    digest = hashlib.sha256("\0".join(key).encode()).hexdigest()[:32]
    return f"{_PREFIX}:{part_tag(part_of(key[0]))}:{digest}"
