"""Open reads of a tenant's plan, counted over all nodes: each holds a seat that lapses unless its node renews it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import logging
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from gateway.clock import Clock
from gateway.counters import Counters
from gateway.errors import GatewayError, TooManyConnections
from gateway.limits.breaker import Away
from gateway.limits.parts import part_of, part_tag
from gateway.limits.scripts import Call, Script, Scripts, Whole
from gateway.limits.standing import count_of
from gateway.model import Grant

log = logging.getLogger("gateway.limits")
LIMIT: Final = "connections"
RETRY_MS: Final = 5_000
KEYS_AT_ONCE: Final = 200
TAKES_AT_ONCE: Final = 200
MEMBERS_AT_ONCE: Final = 1_000
_PREFIX: Final = "gateway:limits:1:seats"

Key = tuple[str, str]
"""Tenant and plan."""


class Timing(NamedTuple):
    """How long things last, in seconds.

    ``seat`` is how long one lasts that nobody renews: what a killed node leaves behind. Each is renewed every ``beat``.
    After Redis has lost its data every node tells its seats anew within a beat; for ``settle`` it may know too few of
    them. ``change`` after the catalog changed, open reads have taken over what it says.
    """

    seat: float = 9.0
    beat: float = 3.0
    settle: float = 3.5
    change: float = 0.25


class Holder(Protocol):
    """The open read that a seat is for."""

    grant: Grant

    def end(self, error: GatewayError | None) -> None:
        """The seat is taken back."""
        ...


class Seat:
    """One open read's place under its cap. ``holder`` None: it is being opened."""

    __slots__ = ("grant", "holder", "is_taken", "is_told", "key", "name")

    def __init__(self, name: str, grant: Grant) -> None:
        self.name = name
        self.key: Key = (grant.tenant, grant.plan.name)
        self.grant: Grant | None = grant
        self.holder: Holder | None = None
        self.is_taken = False
        self.is_told = False

    def bind(self, holder: Holder) -> None:
        """From now on the cap is the one of what the holder is granted, and the holder is told to go."""
        self.holder = holder
        self.grant = None

    def held_by(self) -> Grant | None:
        """What it stands under now."""
        return self.grant if self.holder is None else self.holder.grant


class Connections:
    """Gives seats and takes them back, on the event loop's thread.

    Without Redis, and while it is away, a node lets in its share of the cap: what is open stays, and nothing opens up.
    A cap that has come down takes the newest seats first, whichever node they are on.
    """

    def __init__(
        self,
        scripts: Scripts | None,
        *,
        node: str,
        nodes: Callable[[], int],
        clock: Clock,
        counters: Counters,
        timing: Timing = Timing(),  # noqa: B008 - a value
    ) -> None:
        """``nodes``: how many there are now, this one included."""
        self._scripts = scripts
        self._whole = Whole()
        self._node = f"-{node}-"
        self._nodes = nodes
        self._clock = clock
        self._timing = timing
        self._counters = counters
        self._numbers = itertools.count(1)
        self._seats: dict[Key, dict[str, Seat]] = {}
        self._free: dict[Key, list[str]] = {}
        self._news = asyncio.Event()
        self._changed = False
        self._asking: list[tuple[Seat, Call, asyncio.Future[Any]]] = []
        self._sending: asyncio.Task[None] | None = None
        # Run twice they do the same: a seat is a name, and not a number that is counted up.
        self._take, self._keep, self._count = (
            Script(name, repeatable=True) for name in ("take_seat", "keep_seats", "count_seats")
        )

    def __len__(self) -> int:
        """How many are held here."""
        return sum(map(len, self._seats.values()))

    def by_key(self) -> dict[Key, int]:
        """How many are held here, by tenant and plan."""
        return {key: len(seats) for key, seats in self._seats.items()}

    async def take(self, grant: Grant) -> Seat:
        """A seat for one more read. Raises TooManyConnections. Whoever has it calls ``release``."""
        seat = Seat(f"{round(self._clock.now() * 1000):015d}{self._node}{next(self._numbers)}", grant)
        cap = count_of(grant.plan.limits, LIMIT)
        # Here at once: of several that open at the same time each counts for the others.
        self._add(seat)
        try:
            if cap is not None and not await self._is_free(seat, cap):
                raise _refusal(cap)
        except BaseException:
            # Also where nobody waits any more: what was perhaps taken is given back.
            self.release(seat)
            raise
        # From now on it is renewed; before, that would have been the taking of it.
        seat.is_taken = True
        return seat

    async def _is_free(self, seat: Seat, cap: int) -> bool:
        within_share = len(self._seats[seat.key]) <= self._share(cap)
        if self._scripts is None:
            return within_share
        seat.is_told = True
        while True:
            # They stay among those to be told of: a renewal that is on its way may come after this and bring them back.
            freed = self._free.get(seat.key, ())
            arguments: list[str | int] = [
                *(seat.name, _ms(self._timing.seat), cap, _ms(self._timing.settle), int(within_share))
            ]
            try:
                answer = await self._ask(seat, Call(_keys(seat.key), [*arguments, *freed]))
            except Away:
                return within_share
            if answer[0] != 2:
                return bool(answer[0])
            # Redis has just begun to know who is there.
            await asyncio.sleep(int(answer[2]) / 1000)

    async def _ask(self, seat: Seat, call: Call) -> Any:
        """What the script says, in one round trip with all who ask meanwhile: many open at once after an outage."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._asking.append((seat, call, answer))
        if self._sending is None:
            self._sending = asyncio.ensure_future(self._send())
        return await answer

    async def _send(self) -> None:
        try:
            while self._asking and self._scripts is not None:
                batch, self._asking = self._asking[:TAKES_AT_ONCE], self._asking[TAKES_AT_ONCE:]
                try:
                    found = await self._whole(self._scripts.each(self._take, [call for _, call, _ in batch]))
                except Away as error:
                    found = [error] * len(batch)
                for (seat, _, answer), one in zip(batch, found, strict=True):
                    if answer.done():
                        # Nobody waits any more, and only now it is too late to be taken after it was given back.
                        self._put_back(seat.key, [seat.name])
                    else:
                        answer.set_exception(one) if isinstance(one, Away) else answer.set_result(one)
        finally:
            self._sending = None

    def _share(self, cap: int) -> int:
        return cap if self._scripts is None else max(1, cap // max(1, self._nodes()))

    def release(self, seat: Seat) -> None:
        """The read is over. Idempotent."""
        self._remove(seat)
        seat.holder = seat.grant = None

    def ring(self) -> None:
        """The catalog has changed: look at all caps soon."""
        self._changed = True
        self._news.set()

    def _add(self, seat: Seat) -> None:
        self._seats.setdefault(seat.key, {})[seat.name] = seat

    def _remove(self, seat: Seat) -> None:
        seats = self._seats.get(seat.key, {})
        if seats.pop(seat.name, None) is None:
            return
        if not seats:
            del self._seats[seat.key]
        if seat.is_told:
            # Without a cap nobody else has ever heard of it.
            self._put_back(seat.key, [seat.name])

    def _put_back(self, key: Key, freed: list[str]) -> None:
        if freed:
            self._free.setdefault(key, []).extend(freed)
            self._news.set()

    async def used(self, key: Key) -> int:
        """How many are open of a plan with a cap, over all nodes; while Redis is away, here."""
        with contextlib.suppress(Away):
            if self._scripts is not None:
                return int((await self._whole(self._scripts.run(self._count, [Call(_keys(key)[1:], [])])))[0])
        return len(self._seats.get(key, ()))

    async def run(self) -> None:
        """Renew the seats, give free ones back, and close what is above its cap, until cancelled."""
        loop = asyncio.get_running_loop()
        beat_at = loop.time()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(beat_at):
                    await self._news.wait()
            if self._changed:
                self._changed = False
                # Open reads are told of their new plans in turns of their own.
                await asyncio.sleep(self._timing.change)
                beat_at = loop.time()
            self._news.clear()
            if loop.time() < beat_at:
                await self._tell(only_freed=True)
                continue
            beat_at = loop.time() + self._timing.beat
            self._move()
            if self._scripts is None:
                self._close_above_cap()
            else:
                await self._tell(only_freed=False)

    def _move(self) -> None:
        """Seats whose read goes on under another plan count there."""
        for seat in [seat for seats in self._seats.values() for seat in seats.values()]:
            grant = seat.held_by()
            if grant is not None and (grant.tenant, grant.plan.name) != seat.key:
                self._remove(seat)
                seat.key = (grant.tenant, grant.plan.name)
                self._add(seat)

    def _cap(self, key: Key) -> int | None:
        """By what the reads there are granted now; the newest of them knows best."""
        for seat in reversed(self._seats.get(key, {}).values()):
            grant = seat.held_by()
            if grant is not None:
                return count_of(grant.plan.limits, LIMIT)
        return None

    def _close_above_cap(self) -> None:
        for key, seats in list(self._seats.items()):
            cap = self._cap(key)
            if cap is not None:
                for name in sorted(seats)[cap:]:
                    self._close(key, name, cap)

    def _close(self, key: Key, name: str, cap: int) -> None:
        seat = self._seats.get(key, {}).get(name)
        if seat is not None and seat.holder is not None:
            self._counters.count_limited(LIMIT, plan=key[1])
            seat.holder.end(_refusal(cap))

    async def _tell(self, *, only_freed: bool) -> None:
        """Renew what is held, unless ``only_freed``, and give back what is free."""
        freed, self._free = self._free, {}
        keys = set(freed) if only_freed else freed.keys() | self._seats.keys()
        wanted = []
        for key in keys:
            cap = None if only_freed else self._cap(key)
            held: list[str] = []
            for seat in () if cap is None else self._seats[key].values():
                if seat.is_taken:
                    seat.is_told = True
                    held.append(seat.name)
            if held or key in freed:
                wanted.append(_Told(key, cap or 0, freed.get(key, []), held))
        if self._scripts is None:
            return
        life = _ms(self._timing.seat)
        for batch in _batches(wanted):
            call = Call(_keys(*(one.key for one in batch)), [life, self._node, _spelt(batch)])
            try:
                answer = (await self._whole(self._scripts.run(self._keep, [call])))[0]
            except Away as error:
                # What is free lapses by itself. Whether Redis is there is others' to say.
                log.debug("seats not renewed: %s", error)
                continue
            for index, above in zip(answer[::2], answer[1::2], strict=True):
                for name in above:
                    self._close(batch[index].key, name.decode(), batch[index].cap)

    async def settled(self) -> None:
        """Return when nothing is asked of Redis any more; who asks anew is not waited for."""
        if self._sending is not None:
            await asyncio.wait([self._sending])
        await self._whole.settled()

    async def close(self) -> None:
        """Give all seats back, so that other nodes need not wait until they lapse."""
        await self.settled()
        for seat in [seat for seats in self._seats.values() for seat in seats.values()]:
            self.release(seat)
        await self._tell(only_freed=True)


class _Told:
    """What is told of one tenant's plan."""

    __slots__ = ("cap", "freed", "held", "key")

    def __init__(self, key: Key, cap: int, freed: list[str], held: list[str]) -> None:
        self.key = key
        self.cap = cap
        self.freed = freed
        self.held = held

    def __len__(self) -> int:
        return len(self.freed) + len(self.held)


def _batches(wanted: list[_Told]) -> Iterator[list[_Told]]:
    """By shard, none so large that Redis would keep others waiting."""
    wanted.sort(key=lambda one: _shard(one.key))
    for _, group in itertools.groupby(wanted, key=lambda one: _shard(one.key)):
        batch: list[_Told] = []
        size = 0
        for one in group:
            if batch and (size + len(one) > MEMBERS_AT_ONCE or len(batch) >= KEYS_AT_ONCE):
                yield batch
                batch, size = [], 0
            batch.append(one)
            size += len(one)
        yield batch


def _spelt(batch: list[_Told]) -> bytes:
    return msgspec.msgpack.encode([(one.cap, one.freed, one.held) for one in batch])


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _refusal(cap: int) -> TooManyConnections:
    plural = "" if cap == 1 else "s"
    return TooManyConnections(
        f"The plan allows {cap} open read{plural} at a time, over all protocols and nodes.", retry_after_ms=RETRY_MS
    )


@lru_cache(maxsize=65_536)
def _shard(key: Key) -> int:
    return part_of(key[0])


def _keys(*keys: Key) -> list[str]:
    """The shard's own key, then theirs, which are all in it; tenants' names stay out of Redis."""
    return [f"{_PREFIX}:{part_tag(_shard(keys[0]))}:since", *map(_seats_key, keys)]


@lru_cache(maxsize=65_536)
def _seats_key(key: Key) -> str:
    digest = hashlib.sha256("\0".join(key).encode()).hexdigest()[:32]
    return f"{_PREFIX}:{part_tag(_shard(key))}:{digest}"
