"""A tenant under a plan on this node: its leases, who waits for them, and when to ask for more."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable
from itertools import islice
from typing import Final, Protocol

from gateway.limits.bucket import Rate
from gateway.limits.lease import STEP_US, Lease
from gateway.limits.lending import Ask, Given
from gateway.limits.line import Line
from gateway.limits.pace import Hindrance, Pace, Waiter

EVERY_US: Final = 45_000
"""A node asks for a tenant at most so often, whatever it uses: about 22 times a second."""

HELD_US: Final = 5_000_000
"""What is held is reported so often, and given back where nothing was used meanwhile."""

LITTLE_HELD_US: Final = 20_000_000
"""Little of a burst is reported less often: most tenants are light, and most questions would be their reports."""

_LOOKED_AT: Final = 64
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
        "_question",
        "_question_us",
        "_readers",
        "_timer",
        "_when_us",
        "is_filed",
        "key",
        "leases",
        "line",
        "number",
        "plan",
        "tenant",
    )

    def __init__(self, lender: Lender, key: str, *, tenant: str, plan: str) -> None:
        self.key = key
        self.tenant = tenant
        self.plan = plan
        self.leases: dict[str, Lease] = {}
        self.line = Line()
        self.is_filed = False
        self.number = 0
        self._lender = lender
        self._readers = 0
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
        if lease is not None and lease.rate == rate:
            return lease
        now_us = self._lender.now_us()
        if lease is None:
            lease = self.leases[name] = Lease(name, limit, rate, told[0])
        else:
            if not self._lender.is_away:
                # All of them first: ``_follow`` stops at the first lease that is as it should be.
                self._follow()
            lease.change(rate, told[0], now_us=now_us)
        if self._lender.is_away:
            lease.go_alone(self._lender.nodes(), now_us=now_us)
        return lease

    def join(self) -> None:
        """One more read."""
        self._readers += 1

    @property
    def is_crowded(self) -> bool:
        """Whether reads wait for room."""
        return bool(self.line.waiting)

    @property
    def is_idle(self) -> bool:
        """Nobody reads, nothing is held or used, nothing is open: it may be forgotten."""
        if self._readers or self._asking or self._timer is not None or self.is_filed:
            return False
        now_us = self._lender.now_us()
        return not any(
            lease.left > 0 or lease.late or lease.remaining(now_us=now_us) < lease.rate.capacity
            for lease in self.leases.values()
        )

    # ---- reads ---------------------------------------------------------------------------------------------------

    def room(self, pace: Pace, lease: Lease, turn: int) -> int:
        """What a read may have of a lease, where that takes a second look."""
        now_us = self._lender.now_us()
        if lease.left <= 0:
            self._follow()
            lease.ripen(now_us=now_us)
        room = self.line.room(lease, turn, now_us=now_us)
        if room > 0:
            return room
        pace.lacks = lease
        lease.is_wanted = True
        self.mark()
        return 0

    def spend(self, leases: Iterable[Lease], count: int) -> None:
        """Take so many of each, whether they are there or not."""
        for lease in leases:
            lease.left -= count
            if lease.left < lease.low:
                self.mark()

    def enqueue(self, pace: Pace, waiter: Waiter) -> None:
        """Wake ``waiter`` when it is this read's turn."""
        self.line.join(pace, waiter)
        for leases in pace.needs():
            for lease in leases:
                lease.is_wanted = True
        self.mark()
        self._wake_in(max(STEP_US, pace.lacks.ripe_in_us(now_us=self._lender.now_us()) or STEP_US))

    def leave(self, pace: Pace) -> None:
        """The read is over."""
        self.line.forget(pace)
        if pace.lacks is not GONE:
            pace.lacks = GONE
            self._readers -= 1

    def hindrance(self, lease: Lease) -> Hindrance:
        """What a read meets that finds no room in this lease."""
        now_us = self._lender.now_us()
        unit = next(unit for unit in _UNITS if unit in lease.limit)
        resume_in_ms = max(1, math.ceil(lease.resume_in_us(now_us=now_us) / 1000))
        is_over = lease.is_over(now_us=now_us) or lease.is_spent(now_us=now_us)
        return Hindrance(lease.limit, lease.told_rate, unit, resume_in_ms, is_over)

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
        self._lender.ask(self, urgent=bool(self.line.waiting or any(lease.left <= 0 for lease in short)))

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
        if self.line.waiting:
            self.line.hand_out(now_us=now_us)
        if self._lender.is_away:
            self._marked = False
        elif not self._asking:
            if self._marked or self._is_short():
                self._marked = True
                self._ask_when_due(now_us)
            if not self.is_filed:
                self.is_filed = True
                self._lender.report_later(self)
        if self.line.waiting:
            # Tokens may be there that are promised; whoever does not use his turn in time loses it.
            lacking = {pace.lacks for pace in islice(self.line.waiting, _LOOKED_AT)}
            again_in_us = min(max(STEP_US, lease.ripe_in_us(now_us=now_us) or 5 * STEP_US) for lease in lacking)
            # Who stands behind those may lack something else.
            self._wake_in(again_in_us if len(self.line.waiting) <= _LOOKED_AT else min(again_in_us, 5 * STEP_US))

    def _is_short(self) -> bool:
        for lease in self.leases.values():
            if lease.left < lease.low and lease.is_wanted and (self.line.waiting or lease.used):
                return True
        return False

    def report(self) -> int | None:
        """Tell what is held, if that was not told for long. When to look again, in microseconds; None: nothing is."""
        if self._asking or self._lender.is_away or not any(lease.has_something for lease in self.leases.values()):
            self.is_filed = self._asking
            return HELD_US if self._asking else None
        held_us = HELD_US if any(lease.has_much for lease in self.leases.values()) else max(HELD_US, LITTLE_HELD_US)
        due_in_us = (self._asked_us or 0) + held_us - self._lender.now_us()
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


GONE: Final = Lease("", "records", Rate.of(1, 1), 1)
"""What a read lacks that is over."""
