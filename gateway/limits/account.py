"""A tenant under a plan on this node: its leases, who waits for them, and when to ask for more."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Iterable
from itertools import islice
from typing import Final, Protocol

from gateway.limits.bucket import Rate
from gateway.limits.lease import STEP_US, Lease
from gateway.limits.lending import Ask, Given
from gateway.limits.pace import PLENTY, Hindrance, Pace, Waiter

EVERY_US: Final = 45_000
"""A node asks for a tenant at most so often, whatever it uses: about 22 times a second."""

HELD_US: Final = 5_000_000
"""What is held is reported so often, and given back where nothing was used meanwhile."""

TURN_US: Final = 250_000
"""A turn that was not used in this time goes to others."""

_LOOKED_AT: Final = 16
_SKIPPED: Final = 64
_ROUNDS: Final = 8
_UNITS: Final = ("bytes", "requests", "records")


class Lender(Protocol):
    """Who brings an account's questions to the store."""

    @property
    def is_away(self) -> bool:
        """Nobody can be asked now."""
        ...

    def now_us(self) -> int:
        """Microseconds on a clock that never goes back."""
        ...

    def nodes(self) -> int:
        """Gateways alive, as last known."""
        ...

    def ask(self, account: Account, *, urgent: bool) -> None:
        """Call ``account.question`` soon, and ``account.answer`` or ``account.unanswered`` afterwards."""
        ...

    def report_later(self, account: Account) -> None:
        """Call ``account.report`` in ``HELD_US``, and again whenever it says."""
        ...


class Account:
    """Everything runs on the loop; nothing waits but ``take``. It has at most one timer and one open question."""

    __slots__ = (
        "_answered",
        "_asked_us",
        "_asking",
        "_lender",
        "_marked",
        "_places",
        "_question",
        "_question_us",
        "_queue",
        "_readers",
        "_rounds",
        "_timer",
        "_turns",
        "_turns_us",
        "_when_us",
        "is_crowded",
        "is_filed",
        "key",
        "leases",
        "number",
        "plan",
        "tenant",
    )

    def __init__(self, lender: Lender, key: str, *, tenant: str, plan: str) -> None:
        self.key = key
        self.tenant = tenant
        self.plan = plan
        self.leases: dict[str, Lease] = {}
        self.is_crowded = False
        self.is_filed = False
        self.number = 0
        self._lender = lender
        self._readers = 0
        self._queue: deque[Pace] = deque()
        self._turns: dict[Pace, tuple[tuple[Lease, ...], tuple[Lease, ...]]] = {}
        self._turns_us = 0
        self._places = 0
        self._rounds = 0
        self._marked = False
        self._asking = False
        self._asked_us: int | None = None
        self._question: list[Ask] | None = None
        self._question_us = 0
        self._answered: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._when_us = 0

    def lease(self, name: str, limit: str, told: tuple[int | float, int | float]) -> Lease:
        """The lease of one limit, at the rate and burst the plan has now."""
        rate = Rate.of(*told)
        lease = self.leases.get(name)
        if lease is None:
            lease = self.leases[name] = Lease(name, limit, rate, told[0])
            if self._lender.is_away:
                lease.go_alone(self._lender.nodes(), now_us=self._lender.now_us())
        elif lease.rate != rate:
            lease.change(rate, told[0])
        return lease

    def join(self) -> None:
        """One more read."""
        self._readers += 1

    @property
    def is_idle(self) -> bool:
        """Nobody reads, nothing is held or used, nothing is open: it may be forgotten."""
        now_us = self._lender.now_us()
        return not (
            self._readers
            or self._asking
            or self._timer is not None
            or self.is_filed
            or any(
                lease.left > 0 or lease.late or lease.remaining(now_us=now_us) < lease.rate.capacity
                for lease in self.leases.values()
            )
        )

    # ---- reads ---------------------------------------------------------------------------------------------------

    def room(self, pace: Pace, lease: Lease, turn: int) -> int:
        """What a read may have of a lease, where that takes a second look."""
        if lease.left <= 0:
            self._follow()
            lease.ripen(now_us=self._lender.now_us())
        if self._turns and not self._queue:
            self._lapse(self._lender.now_us())
        if turn > 0:
            room = min(lease.left, turn)
        elif self.is_crowded and lease.is_scarce:
            # What a turn leaves over is not for whoever comes first.
            room = 0
        else:
            room = lease.left - lease.promised
        if room <= 0:
            pace.lacks = lease
            lease.is_wanted = True
            self.mark()
            return 0
        return room

    def spend(self, leases: Iterable[Lease], count: int) -> None:
        """Take so many of each, whether they are there or not."""
        for lease in leases:
            lease.left -= count
            if lease.left < lease.low:
                self.mark()

    def enqueue(self, pace: Pace, waiter: Waiter) -> None:
        """Wake ``waiter`` when it is this read's turn."""
        if pace not in self._turns or not pace.place:
            self._places += 1
            pace.place = self._places
        self._end_turn(pace)
        pace.waiter = waiter
        for leases in pace.needs():
            for lease in leases:
                lease.is_wanted = True
        # Who had a turn and found nothing left, since a record took more than was there, keeps the place it had.
        index = len(self._queue)
        while index and self._queue[index - 1].place > pace.place:
            index -= 1
        self._queue.insert(index, pace)
        self.is_crowded = True
        self.mark()
        self._wake_in(max(STEP_US, pace.lacks.ripe_in_us(now_us=self._lender.now_us()) or STEP_US))

    def forget(self, pace: Pace) -> None:
        """It waits no more, and leaves its turn to others."""
        if pace.waiter is not None:
            pace.waiter = None
            self._queue.remove(pace)
        self._end_turn(pace)

    def leave(self, pace: Pace) -> None:
        """The read is over."""
        self.forget(pace)
        if pace.lacks is not GONE:
            pace.lacks = GONE
            self._readers -= 1

    def take_turn(self, pace: Pace, records: int, data_bytes: int) -> None:
        """A read has used so much of its turn."""
        promised = self._turns.get(pace)
        if promised is None:
            pace.turn = pace.byte_turn = 0
            return
        pace.place = 0
        records, data_bytes = min(pace.turn, records), min(pace.byte_turn, data_bytes)
        _promise(promised, -records, -data_bytes)
        pace.turn -= records
        pace.byte_turn -= data_bytes
        if not pace.turn or not pace.byte_turn:
            self._end_turn(pace)

    def _end_turn(self, pace: Pace) -> None:
        promised = self._turns.pop(pace, None)
        if promised is not None:
            _promise(promised, -pace.turn, -pace.byte_turn)
        pace.turn = pace.byte_turn = 0
        self.is_crowded = bool(self._queue or self._turns)

    def _lapse(self, now_us: int) -> None:
        if self._turns and now_us - self._turns_us > TURN_US:
            for pace in list(self._turns):
                self._end_turn(pace)

    def _hand_out(self, now_us: int) -> None:
        """Give turns to those who wait, the first first, each an equal part."""
        self._lapse(now_us)
        if not self._turns:
            self._turns_us = now_us
        waiting, skipped, woken = len(self._queue), deque[Pace](), list[Waiter]()
        self._rounds += 1
        # Who is far behind others that get nothing is looked at now and then: he may wait for something else.
        most_skipped = waiting if self._rounds % _ROUNDS == 0 else _SKIPPED
        while self._queue and len(skipped) < most_skipped:
            pace = self._queue.popleft()
            needs = pace.needs()
            free, free_bytes = (
                min((lease.left - lease.promised for lease in leases), default=PLENTY) for leases in needs
            )
            if free <= 0 or free_bytes <= 0:
                skipped.append(pace)
                continue
            if any(lease.is_scarce for leases in needs for lease in leases):
                pace.turn, pace.byte_turn = max(1, free // waiting), max(1, free_bytes // waiting)
                _promise(needs, pace.turn, pace.byte_turn)
                self._turns[pace] = needs
            waiter, pace.waiter = pace.waiter, None
            if waiter is not None:
                woken.append(waiter)
        self._queue.extendleft(reversed(skipped))
        self.is_crowded = bool(self._queue or self._turns)
        for waiter in woken:
            waiter.wake()

    def hindrance(self, lease: Lease) -> Hindrance:
        """What a read meets that finds no room in this lease."""
        now_us = self._lender.now_us()
        unit = next(unit for unit in _UNITS if unit in lease.limit)
        resume_in_ms = max(1, math.ceil(lease.resume_in_us(now_us=now_us) / 1000))
        return Hindrance(lease.limit, lease.told_rate, unit, resume_in_ms, lease.is_over(now_us=now_us))

    # ---- requests ------------------------------------------------------------------------------------------------

    async def take(self, lease: Lease) -> int:
        """Take one. 0: taken; else milliseconds until there may be one. Waits only for an answer that is on its way."""
        while True:
            if lease.left <= 0:
                self._follow()
                lease.ripen(now_us=self._lender.now_us())
            if lease.left > 0:
                lease.left -= 1
                if lease.left < lease.low:
                    self.mark()
                return 0
            now_us = self._lender.now_us()
            lease.is_wanted = True
            self.mark()
            if lease.is_over(now_us=now_us):
                return max(1, math.ceil(lease.resume_in_us(now_us=now_us) / 1000))
            lease.waiting += 1
            try:
                await self._next_answer()
            finally:
                lease.waiting -= 1

    def _next_answer(self) -> asyncio.Future[None]:
        if self._answered is None:
            self._answered = asyncio.get_running_loop().create_future()
        return asyncio.shield(self._answered)

    def _tell_answered(self) -> None:
        answered, self._answered = self._answered, None
        if answered is not None and not answered.done():
            answered.set_result(None)

    # ---- asking --------------------------------------------------------------------------------------------------

    def mark(self) -> None:
        """There is less than there should be: ask when it is time to."""
        if self._marked or self._asking:
            return
        self._follow()
        if self._lender.is_away:
            return
        self._marked = True
        self._ask_when_due(self._lender.now_us())

    def _ask_when_due(self, now_us: int) -> None:
        short = [
            lease for lease in self.leases.values() if lease.is_wanted and (lease.left < lease.low or lease.waiting)
        ]
        if not short:
            self._marked = False
            return
        due_in_us = min(lease.ask_in_us(now_us=now_us) for lease in short)
        if self._asked_us is not None:
            due_in_us = max(due_in_us, self._asked_us + EVERY_US - now_us)
        if due_in_us > 0:
            self._wake_in(due_in_us)
            return
        self._asking = True
        self._lender.ask(self, urgent=bool(self._queue or any(lease.left <= 0 for lease in short)))

    def question(self, number: int) -> list[Ask]:
        """What to ask now; an unanswered question is put again under its number, as long as it is remembered there."""
        now_us = self._lender.now_us()
        if self._question is not None and now_us - self._question_us < HELD_US:
            return self._question
        leases = [lease for lease in self.leases.values() if lease.is_wanted]
        idle = not self._marked
        if idle:
            for lease in leases:
                if lease.used or lease.late:
                    idle = False
                    break
        self.number = number
        self._question_us = self._asked_us = now_us
        self._question = [lease.ask(now_us=now_us, gives_back=idle) for lease in leases]
        return self._question

    def answer(self, given: list[Given]) -> None:
        """The answer to the question."""
        now_us = self._lender.now_us()
        self._question = None
        self._asking = self._marked = False
        for one in given:
            lease = self.leases.get(one.name)
            if lease is not None:
                lease.take(one, now_us=now_us)
        self._tell_answered()
        self._look(now_us)

    def unanswered(self) -> None:
        """Nobody could be asked."""
        self._asking = self._marked = False
        self._follow()
        self._tell_answered()
        self._look(self._lender.now_us())

    def follow(self) -> None:
        """The store is away, or there again: those who wait are looked after in another way."""
        self._follow()
        self._look(self._lender.now_us())

    def _follow(self) -> None:
        """Go alone while the store is away, and back when it is there."""
        away = self._lender.is_away
        for lease in self.leases.values():
            if lease.is_alone == away:
                return
            now_us = self._lender.now_us()
            if away:
                lease.go_alone(self._lender.nodes(), now_us=now_us)
            else:
                lease.go_shared(now_us=now_us)

    # ---- the timer -----------------------------------------------------------------------------------------------

    def _look(self, now_us: int) -> None:
        """See what has come, who may go on, whether to ask, and when to look again."""
        for lease in self.leases.values():
            if lease.is_coming:
                lease.ripen(now_us=now_us)
        if self._queue:
            self._hand_out(now_us)
        if self._lender.is_away:
            self._marked = False
        elif not self._asking:
            if self._marked or self._is_short():
                self._marked = True
                self._ask_when_due(now_us)
            if not self.is_filed:
                self.is_filed = True
                self._lender.report_later(self)
        if self._queue:
            # Tokens may be there that are promised; whoever does not use his turn in time loses it.
            lacking = {pace.lacks for pace in islice(self._queue, _LOOKED_AT)}
            self._wake_in(min(max(STEP_US, lease.ripe_in_us(now_us=now_us) or 5 * STEP_US) for lease in lacking))

    def _is_short(self) -> bool:
        for lease in self.leases.values():
            if lease.left < lease.low and lease.is_wanted and (self._queue or lease.used):
                return True
        return False

    def report(self) -> int | None:
        """Tell what is held, if that was not told for long. When to look again, in microseconds; None: nothing is."""
        if self._asking or self._lender.is_away or not any(lease.has_something for lease in self.leases.values()):
            self.is_filed = self._asking
            return HELD_US if self._asking else None
        due_in_us = (self._asked_us or 0) + HELD_US - self._lender.now_us()
        if due_in_us > 0:
            return due_in_us
        self._asking = True
        self._lender.ask(self, urgent=False)
        return HELD_US

    def _wake_in(self, delay_us: int) -> None:
        when_us = self._lender.now_us() + delay_us
        if self._timer is not None:
            if self._when_us <= when_us:
                return
            self._timer.cancel()
        self._when_us = when_us
        self._timer = asyncio.get_running_loop().call_later(delay_us / 1_000_000, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._follow()
        self._look(self._lender.now_us())

    def close(self) -> list[Ask]:
        """Take no more part. What is held is given back by the question returned; empty: there is nothing."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._tell_answered()
        now_us = self._lender.now_us()
        held = [lease for lease in self.leases.values() if not lease.is_alone and (lease.left or lease.unripe())]
        return [lease.ask(now_us=now_us, gives_back=True) for lease in held]


def _promise(needs: tuple[tuple[Lease, ...], tuple[Lease, ...]], records: int, data_bytes: int) -> None:
    for leases, count in zip(needs, (records, data_bytes), strict=True):
        for lease in leases:
            lease.promised += count


GONE: Final = Lease("", "records", Rate.of(1, 1), 1)
"""What a read lacks that is over."""
