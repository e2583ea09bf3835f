"""Open reads of a tenant's plan, counted over all nodes: each holds a seat, which counts while its node is there."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from gateway.clock import Clock
from gateway.counters import Counters
from gateway.errors import TooManyConnections
from gateway.limits.breaker import Away
from gateway.limits.scripts import Call, Script, Scripts, Whole
from gateway.limits.seats import LIMIT, Key, Seat, Seats, Shard, Told, seats_key
from gateway.limits.standing import count_of
from gateway.model import Grant

log = logging.getLogger("gateway.limits")
RETRY_MS: Final = 5_000
SILENT_SECONDS: Final = 10.0
TAKES_AT_ONCE: Final = 200
_TAKEN: Final = 1
_LATER: Final = 2


class Timing(NamedTuple):
    """How long things last, in seconds.

    ``life`` is how long a node lasts that says nothing: what a killed one held is free after it. Each says that it is
    there every ``beat``. After Redis has lost its data every node tells its seats anew within a beat; for ``settle`` it
    may know too few of them. ``change`` after the catalog changed, open reads have taken over what it says. Within
    ``sweep`` everything is told once more, whatever may have been lost on the way.
    """

    life: float = 8.0
    beat: float = 2.0
    settle: float = 3.5
    change: float = 0.25
    sweep: float = 120.0


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
        self._node = node
        self._nodes = nodes
        self._clock = clock
        self._timing = timing
        self._counters = counters
        self._numbers = itertools.count(1)
        self._seats = Seats()
        self._news = asyncio.Event()
        self._is_changed = self._is_urgent = False
        self._silent_until = -math.inf
        self._asking: list[tuple[Seat, Call, asyncio.Future[tuple[int, int]]]] = []
        self._sending: asyncio.Task[None] | None = None
        self._round, self._due = itertools.cycle(self._seats.shards), 0.0
        # Keys outlast their nodes, and what is told to sweep.
        kept = max(3 * timing.sweep, 2 * timing.life)
        self._common = (node, _ms(timing.life), _ms(kept))
        # Run twice they do the same: a seat is a name, and not a number that is counted up.
        self._take, self._tells, self._beats, self._count = (
            Script(name, repeatable=True, after="presence")
            for name in ("take_seat", "tell_seats", "beat_seats", "count_seats")
        )
        self._leave = Script("leave_seats", repeatable=True)

    def __len__(self) -> int:
        """How many are held here."""
        return len(self._seats)

    def by_key(self) -> dict[Key, int]:
        """How many are held here, by tenant and plan."""
        return self._seats.by_key()

    # ---- one seat ------------------------------------------------------------------------------------------------

    async def take(self, grant: Grant) -> Seat:
        """A seat for one more read. Raises TooManyConnections. Whoever has it calls ``release``."""
        seat = Seat(f"{round(self._clock.now() * 1000):015d}-{self._node}-{next(self._numbers)}", grant)
        cap = count_of(grant.plan.limits, LIMIT)
        shard = self._seats.of(seat.key)
        # Here at once: of several that open at the same time each counts for the others.
        shard.add(seat)
        try:
            if cap is not None and not await self._is_free(shard, seat, cap):
                raise _refusal(cap)
        except BaseException:
            # Also where nobody waits any more: what was perhaps taken is given back.
            self.release(seat)
            raise
        shard.give(seat)
        return seat

    async def _is_free(self, shard: Shard, seat: Seat, cap: int) -> bool:
        if self._scripts is None:
            return self._is_within_share(shard, seat, cap)
        while True:
            await shard.settled(seat.key)
            seat.is_told = True
            try:
                answer, unsure_ms = await self._ask(seat, self._call(shard, seat, cap))
            except Away:
                shard.changed[seat.key] = None
                return self._is_within_share(shard, seat, cap)
            if answer != _LATER:
                return answer == _TAKEN
            # Redis has just begun to know who is there.
            await asyncio.sleep(unsure_ms / 1000)

    def _is_within_share(self, shard: Shard, seat: Seat, cap: int) -> bool:
        share = cap if self._scripts is None else max(1, cap // max(1, self._nodes()))
        return len(shard.held[seat.key].seats) <= share

    def _call(self, shard: Shard, seat: Seat, cap: int) -> Call:
        is_within_share, held = self._is_within_share(shard, seat, cap), shard.held[seat.key].taken
        # What is free stays among what is to be told: something that is on its way may come after this and undo it.
        arguments: list[str | int] = [
            cap,
            _ms(self._timing.settle),
            int(is_within_share),
            held,
            seat.name,
            *shard.free(seat.key),
        ]
        return Call([shard.here, seats_key(seat.key)], [*self._common, shard.seen, *arguments])

    async def _ask(self, seat: Seat, call: Call) -> tuple[int, int]:
        """What the script says, in one round trip with all who ask meanwhile: many open at once after an outage."""
        answer: asyncio.Future[tuple[int, int]] = asyncio.get_running_loop().create_future()
        self._asking.append((seat, call, answer))
        if self._sending is None:
            self._sending = asyncio.ensure_future(self._send())
        return await answer

    async def _send(self) -> None:
        try:
            while self._asking:
                batch, self._asking = self._asking[:TAKES_AT_ONCE], self._asking[TAKES_AT_ONCE:]
                try:
                    found = await self._each(self._take, [call for _, call, _ in batch])
                except Exception as error:
                    # Whatever it was, those who wait must not wait for ever, and an open is no worse off than without.
                    log.exception("seats could not be asked for")
                    found = [Away(str(error))] * len(batch)
                for (seat, _, answer), one in zip(batch, found, strict=True):
                    shard = self._seats.of(seat.key)
                    if not isinstance(one, Away):
                        self._note(shard, one[1], one[2])
                    if answer.done():
                        # Nobody waits any more, and only now it is too late to be taken after it was given back.
                        shard.put_back(seat)
                        self._news.set()
                    else:
                        answer.set_exception(one) if isinstance(one, Away) else answer.set_result((one[0], one[3]))
        finally:
            self._sending = None

    async def _each(self, script: Script, calls: Sequence[Call]) -> list[Any]:
        return [] if self._scripts is None else await self._whole(self._scripts.each(script, calls))

    def _note(self, shard: Shard, number: bytes, seen: bytes) -> None:
        if shard.note(int(number), int(seen)):
            self._hurry()

    def release(self, seat: Seat) -> None:
        """The read is over. Idempotent."""
        if self._seats.of(seat.key).remove(seat):
            self._news.set()
        seat.holder = seat.grant = None

    async def used(self, key: Key) -> int:
        """How many are open of a plan with a cap, over all nodes; while Redis is away, here."""
        shard = self._seats.of(key)
        with contextlib.suppress(Away):
            if self._scripts is not None:
                call = Call([shard.here, seats_key(key)], [*self._common, 0])
                return int((await self._whole(self._scripts.run(self._count, [call])))[0])
        held = shard.held.get(key)
        return 0 if held is None else len(held.seats)

    # ---- all seats -----------------------------------------------------------------------------------------------

    def ring(self) -> None:
        """The catalog has changed: look at all caps soon."""
        self._is_changed = True
        self._news.set()

    def _hurry(self) -> None:
        self._is_urgent = True
        self._news.set()

    async def run(self) -> None:
        """Say that this node is there, tell what has changed, and close what is above its cap, until cancelled."""
        loop = asyncio.get_running_loop()
        beat_at = loop.time()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(beat_at):
                    await self._news.wait()
            if self._is_changed:
                self._is_changed = False
                # Open reads are told of their new plans in turns of their own.
                await asyncio.sleep(self._timing.change)
                beat_at = loop.time()
            self._news.clear()
            is_whole, self._is_urgent = self._is_urgent, False
            if loop.time() >= beat_at:
                beat_at = loop.time() + self._timing.beat
                is_whole = True
                await self._attempt(self._look())
                await self._attempt(self._beat())
            await self._attempt(self._tell(is_whole=is_whole))

    async def _attempt(self, step: Awaitable[None]) -> None:
        """One step of a round; no other step, and no later round, depends on how it goes."""
        try:
            await step
        except Exception:  # noqa: BLE001 - without beats no seat of this node would count, and caps would open up
            self._complain("a round of the seats failed, and the next one comes")
            self._is_urgent = True

    def _complain(self, what: str) -> None:
        """One line now and then: what goes wrong for one may go wrong for ten thousand, at every beat."""
        now = self._clock.monotonic()
        if now >= self._silent_until:
            self._silent_until = now + SILENT_SECONDS
            log.exception(what)

    async def _look(self) -> None:
        for shard in self._seats.shards:
            shard.look()
            if self._scripts is None:
                for seat, cap in shard.above_caps():
                    self._close(shard, seat, cap)
            # With very many seats the loop gets its turn between shards.
            await asyncio.sleep(0)

    async def _beat(self) -> None:
        if self._scripts is None:
            return
        shards = self._seats.shards
        calls = [Call([shard.here, shard.above], [*self._common, shard.seen]) for shard in shards]
        for shard, answer in zip(shards, await self._each(self._beats, calls), strict=True):
            if isinstance(answer, Away):
                # Whether Redis is there is others' to say.
                log.debug("not told that this node is there: %s", answer)
                continue
            self._note(shard, answer[0], answer[1])
            if answer[2:]:
                keys = {seats_key(key): key for key in shard.held}
                shard.changed.update((keys[name], None) for raw in answer[2:] if (name := raw.decode()) in keys)
        self._due += len(shards) * self._timing.beat / self._timing.sweep
        while self._due >= 1:
            self._due -= 1
            next(self._round).tell_anew()

    async def _tell(self, *, is_whole: bool) -> None:
        """Say what is free, and with ``is_whole`` all that is held where something has changed."""
        if self._scripts is None:
            return
        for shard in self._seats.shards:
            while batch := shard.next_told(is_whole=is_whole):
                if not await self._is_told(shard, batch):
                    break

    async def _is_told(self, shard: Shard, batch: list[Told]) -> bool:
        keys = [shard.here, shard.above, *(seats_key(one.key) for one in batch)]
        spelt = msgspec.msgpack.encode([one.spelt() for one in batch])
        answer: Any = None
        shard.begin(batch)
        try:
            (answer,) = await self._each(self._tells, [Call(keys, [*self._common, shard.seen, spelt])])
        finally:
            is_told = answer is not None and not isinstance(answer, Away)
            shard.finish(is_told=is_told)
        if not is_told:
            log.debug("seats not told: %s", answer)
            return False
        self._note(shard, answer[0], answer[1])
        for index, names in zip(answer[2::2], answer[3::2], strict=True):
            one = batch[index]
            held = shard.held.get(one.key)
            for name in names:
                seat = None if held is None else held.seats.get(name.decode())
                if seat is not None and one.cap is not None:
                    self._close(shard, seat, one.cap)
        return True

    def _close(self, shard: Shard, seat: Seat, cap: int) -> None:
        if seat.holder is None:
            # It is still being opened.
            shard.later[seat.key] = None
        elif not seat.is_ending:
            seat.is_ending = True
            try:
                seat.holder.end(_refusal(cap))
            except Exception:  # noqa: BLE001 - the others above their caps end all the same
                self._complain("a read above its cap could not be ended")
                # It is tried again the next time that all are looked at.
                seat.is_ending = False
                shard.later[seat.key] = None
            else:
                self._counters.count_limited(LIMIT, plan=seat.key[1])

    # ---- life ----------------------------------------------------------------------------------------------------

    async def settled(self) -> None:
        """Return when nothing is asked of Redis any more; who asks anew is not waited for."""
        if self._sending is not None:
            await asyncio.wait([self._sending])
        await self._whole.settled()

    async def close(self) -> None:
        """Give all seats back, so that other nodes need not wait until they are free by themselves."""
        await self.settled()
        for held in list(self._seats):
            for seat in list(held.seats.values()):
                self.release(seat)
        await self._each(self._leave, [Call([shard.here], [self._node]) for shard in self._seats.shards])


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _refusal(cap: int) -> TooManyConnections:
    plural = "" if cap == 1 else "s"
    return TooManyConnections(
        f"The plan allows {cap} open read{plural} at a time, over all protocols and nodes.", retry_after_ms=RETRY_MS
    )
