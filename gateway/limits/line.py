"""The reads of one account that wait for room, and whose turn it is. Pure."""

from __future__ import annotations

from collections import deque
from typing import Final, Protocol

from gateway.limits.lease import Lease

TURN_US: Final = 250_000
"""A turn that was not used in this time goes to others."""

_SKIPPED: Final = 64
_ROUNDS: Final = 8

Needs = tuple[tuple[Lease, ...], tuple[Lease, ...]]
"""Leases that must have something for a read to go on: of records, and of bytes."""


class Waiter(Protocol):
    """Who waits for room."""

    def wake(self) -> None:
        """There may be room again. Called once, from the event loop; must not raise."""
        ...


class Waiting(Protocol):
    """A read as the line sees it; ``pace.Pace`` is one. ``turn`` and ``byte_turn`` are what it may take in its turn."""

    turn: int
    byte_turn: int
    place: int
    lacks: Lease
    waiter: Waiter | None

    def needs(self) -> Needs:
        """What it waits for."""
        ...


class Line:
    """First come, first served, each an equal part of what there is.

    Turns are given only of what comes at its rate: while there is plenty, whoever has something to send takes it.
    Where many wait, a turn is worth a step of the lease and they come round less often: a hundred reads that are woken
    for one record each would cost their neighbours more than all that they get.
    """

    __slots__ = ("_places", "_rounds", "_turns", "_turns_us", "is_crowded", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[Waiting] = deque()
        self.is_crowded = False
        """Whether somebody waits or has a turn, so that others have to look twice."""
        self._turns: dict[Waiting, Needs] = {}
        self._turns_us = 0
        self._places = 0
        self._rounds = 0

    def room(self, lease: Lease, turn: int, *, now_us: int) -> int:
        """What a read with this turn (0: none) may have of the lease."""
        if self._turns and not self.waiting:
            self._lapse(now_us)
        if turn > 0:
            return min(lease.left, turn)
        if self.is_crowded and lease.is_scarce:
            # What a turn leaves over is not for whoever comes first.
            return 0
        return lease.left - lease.promised

    def join(self, read: Waiting, waiter: Waiter) -> None:
        """It waits from now on."""
        if read not in self._turns or not read.place:
            self._places += 1
            read.place = self._places
        self._end_turn(read)
        read.waiter = waiter
        # Who had a turn and found nothing left, since a record took more than was there, keeps the place it had.
        index = len(self.waiting)
        while index and self.waiting[index - 1].place > read.place:
            index -= 1
        self.waiting.insert(index, read)
        self.is_crowded = True

    def forget(self, read: Waiting) -> None:
        """It waits no more, and leaves its turn to others."""
        if read.waiter is not None:
            read.waiter = None
            self.waiting.remove(read)
        self._end_turn(read)

    def use(self, read: Waiting, records: int, data_bytes: int) -> None:
        """It has used so much of its turn."""
        promised = self._turns.get(read)
        if promised is None:
            read.turn = read.byte_turn = 0
            return
        read.place = 0
        records, data_bytes = min(read.turn, records), min(read.byte_turn, data_bytes)
        _promise(promised, -records, -data_bytes)
        read.turn -= records
        read.byte_turn -= data_bytes
        if not read.turn or not read.byte_turn:
            self._end_turn(read)

    def _end_turn(self, read: Waiting) -> None:
        promised = self._turns.pop(read, None)
        if promised is not None:
            _promise(promised, -read.turn, -read.byte_turn)
        read.turn = read.byte_turn = 0
        self.is_crowded = bool(self.waiting or self._turns)

    def _lapse(self, now_us: int) -> None:
        if self._turns and now_us - self._turns_us > TURN_US:
            for read in list(self._turns):
                self._end_turn(read)

    def hand_out(self, *, now_us: int) -> None:
        """Give turns to those who wait, the first first, and wake them."""
        self._lapse(now_us)
        for read in [read for read in self._turns if not read.place]:
            # It has had what it wanted of its turn.
            self._end_turn(read)
        if not self._turns:
            self._turns_us = now_us
        count, woken = len(self.waiting), list[Waiter]()
        skipped: deque[Waiting] = deque()
        # Turns only take: what was not there for one is not there for the next who needs the same.
        spent: set[Needs] = set()
        served: set[Needs] = set()
        self._rounds += 1
        # Who is far behind others that get nothing is looked at now and then: he may wait for something else.
        most_skipped = count if self._rounds % _ROUNDS == 0 else _SKIPPED
        while self.waiting and len(skipped) < most_skipped:
            read = self.waiting.popleft()
            needs = read.needs()
            if needs not in spent and self._give_turn(read, needs, count, is_first=needs not in served):
                served.add(needs)
                waiter, read.waiter = read.waiter, None
                if waiter is not None:
                    woken.append(waiter)
            else:
                spent.add(needs)
                skipped.append(read)
        self.waiting.extendleft(reversed(skipped))
        self.is_crowded = bool(self.waiting or self._turns)
        for waiter in woken:
            waiter.wake()

    def _give_turn(self, read: Waiting, needs: Needs, count: int, *, is_first: bool) -> bool:
        turns = [_turn_of(leases, count) for leases in needs]
        if not all(turns):
            return False
        leases = [*needs[0], *needs[1]]
        if any(lease.is_scarce for lease in leases):
            if not is_first and any(lease.left - lease.promised < lease.step for lease in leases):
                # The rest of a step is kept for the next one: whoever got it would come round as late as the others.
                return False
            read.turn, read.byte_turn = turns
            _promise(needs, read.turn, read.byte_turn)
            self._turns[read] = needs
        return True


_ANY: Final = 1 << 60
"""Of what is not needed there is enough."""


def _turn_of(leases: tuple[Lease, ...], count: int) -> int:
    """What one of ``count`` reads may have of what is free of each of them; 0: nothing."""
    turn = _ANY
    for lease in leases:
        free = lease.left - lease.promised
        if free <= 0:
            return 0
        turn = min(turn, max(free // count, min(free, lease.step)))
    return turn


def _promise(needs: Needs, records: int, data_bytes: int) -> None:
    for leases, count in zip(needs, (records, data_bytes), strict=True):
        for lease in leases:
            # What is not limited is everybody's, and nobody keeps others from it.
            if lease.name:
                lease.promised += count
