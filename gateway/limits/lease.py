"""What this process holds of one limit: tokens to spend at once, and tokens that are still to come. Pure."""

from __future__ import annotations

from typing import Final

from gateway.limits.bucket import MICROSECONDS, Bucket, Rate
from gateway.limits.lending import Ask, Given

SHARE_US: Final = 100_000
"""A process that is busy holds about what comes back in this time."""

LIGHT_US: Final = 5_000_000
"""One that is not holds what it uses in this time, if that is more, up to a quarter of the burst."""

AHEAD_US: Final = 30_000
"""So long before promised tokens are all there the next ones are asked for."""

STEP_US: Final = 10_000
"""Whoever waits for tokens to come is woken for so much time's worth at once, at least for one."""


class Lease:
    """Tokens of one limit. ``left`` may be spent now, and goes below zero where more was sent than was there.

    Below ``low`` it is time to ask for more. ``promised`` are kept for reads whose turn it is.
    """

    __slots__ = (
        "_base",
        "_borrowed_us",
        "_coming",
        "_level",
        "_level_us",
        "_local",
        "_local_left",
        "_retry_us",
        "_share",
        "_target",
        "is_wanted",
        "late",
        "left",
        "limit",
        "low",
        "name",
        "promised",
        "rate",
        "step",
        "told_rate",
        "use_per_second",
        "waiting",
    )

    def __init__(self, name: str, limit: str, rate: Rate, told_rate: int | float) -> None:
        self.name = name
        self.limit = limit
        self.rate = rate
        self.told_rate = told_rate
        self.left = 0
        self.promised = 0
        self.waiting = 0
        self.late = 0
        self.use_per_second = 0.0
        self._base = 0
        self._borrowed_us: int | None = None
        self._coming: list[tuple[int, int, int, int]] = []
        self._retry_us = 0
        self._level = rate.capacity
        self._level_us: int | None = None
        self._local: Bucket | None = None
        self._local_left = 0
        self.is_wanted = False
        """Whether it was ever asked for: what nobody needs is not borrowed."""
        self._resize()

    def change(self, rate: Rate, told_rate: int | float, *, now_us: int) -> None:
        """The plan has changed; what is held stays, up to the new burst. A lease that was alone is to go so again."""
        self.ripen(now_us=now_us)
        self._local = None
        self.rate, self.told_rate = rate, told_rate
        self._resize()
        if self.left > rate.capacity:
            self._base -= self.left - rate.capacity
            self.left = rate.capacity

    def _resize(self) -> None:
        rate = self.rate
        self._share = self._target = max(1, min(rate.capacity, rate.tokens_in(SHARE_US)))
        self.low = (self._share + 1) // 2
        self.step = max(1, min(rate.capacity, rate.tokens_in(STEP_US)))
        """A turn's worth where many wait."""

    # ---- what there is -------------------------------------------------------------------------------------------

    @property
    def is_known(self) -> bool:
        """Whether an answer has told how much there is."""
        return self._level_us is not None

    @property
    def is_coming(self) -> bool:
        """Whether there will be more without asking."""
        return bool(self._coming) or self._local is not None

    @property
    def is_scarce(self) -> bool:
        """Whether more comes only at the rate, so that it is to be shared out."""
        return self.is_coming or self._level <= 0

    @property
    def has_something(self) -> bool:
        """Whether it holds tokens that others could use."""
        return self.left > 0 or bool(self._coming)

    @property
    def has_much(self) -> bool:
        """Whether others would miss it: more than the eighth part of a burst."""
        return (self.left + self.unripe()) * 8 > self.rate.capacity

    def unripe(self) -> int:
        """Tokens that are promised to this process and not there yet."""
        if not self._coming:
            return 0
        return sum(amount - had for _, _, amount, had in self._coming)

    def is_over(self, *, now_us: int) -> bool:
        """The limit is reached: nothing left, and what comes, comes at its rate."""
        if self.left > 0:
            return False
        return bool(
            self._local is not None or self._coming or self._retry_us > now_us or self._level_now(now_us=now_us) < 0
        )

    def is_spent(self, *, now_us: int) -> bool:
        """As far as is known here, there is nothing to be had anywhere: what was sent has taken it all, or more."""
        return self.left <= 0 and self.is_known and self._guess(now_us) + self.left < 1

    def ripen(self, *, now_us: int) -> None:
        """Add to ``left`` what has come by now."""
        if self._local is not None:
            self._settle_local(now_us)
            return
        if not self._coming:
            return
        still: list[tuple[int, int, int, int]] = []
        for begins, ends, amount, had in self._coming:
            if now_us >= ends:
                ripe = amount
            else:
                ripe = amount * max(0, now_us - begins) // max(1, ends - begins)
                still.append((begins, ends, amount, max(had, ripe)))
            self._gain(max(0, ripe - had))
        self._coming = still

    def _gain(self, tokens: int) -> None:
        # Never more at once than the burst: what nobody wanted in time is given up.
        tokens = min(tokens, max(0, self.rate.capacity - self.left))
        self.left += tokens
        self._base += tokens

    def ripe_in_us(self, *, now_us: int) -> int | None:
        """Until there is something worth waking for; None: nothing is coming."""
        if self.left > 0:
            return 0
        lacking = 1 - self.left
        if self._local is not None:
            self._settle_local(now_us)
            return max(STEP_US, self._local.wait_us())
        if not self._coming:
            return max(0, self._retry_us - now_us) or None
        for begins, ends, amount, had in self._coming:
            if amount - had >= lacking:
                moment = begins + -(-(had + lacking) * (ends - begins) // amount)
                return max(moment - now_us, STEP_US)
            lacking -= amount - had
        return max(STEP_US, self._coming[-1][1] - now_us)

    def resume_in_us(self, *, now_us: int) -> int:
        """About how long until something may be sent again, with what is owed and not told yet."""
        known = self.ripe_in_us(now_us=now_us) or 0
        elsewhere = self._guess(now_us) if self.is_known else 0
        lacking = 1 - self.left - self.unripe() - elsewhere
        if lacking <= 0 or self._local is not None:
            return known or STEP_US
        promised_us = max(0, self._coming[-1][1] - now_us) if self._coming else 0
        return max(known, promised_us + self.rate.time_of(lacking))

    def remaining(self, *, now_us: int) -> int:
        """What the tenant has left over all nodes, as far as this one can tell without asking."""
        return max(0, min(self.rate.capacity, self._guess(now_us) + max(0, self.left)))

    def _guess(self, now_us: int) -> int:
        return max(0, min(self.rate.capacity, self._level_now(now_us=now_us)))

    def _level_now(self, *, now_us: int) -> int:
        """What the last answer said, with what has come since unless others have taken it. Below 0: it is owed."""
        if self._level_us is None:
            return self.rate.capacity
        return self._level + (now_us - self._level_us) * self.rate.per_us // self.rate.unit

    # ---- borrowing -----------------------------------------------------------------------------------------------

    @property
    def used(self) -> int:
        """Tokens spent since the last question."""
        return self._base - self.left

    def ask_in_us(self, *, now_us: int) -> int:
        """When to ask for more, once there is less than ``low``: before what was promised runs out."""
        if self._retry_us > now_us:
            return self._retry_us - now_us
        return max(0, self._coming[-1][1] - AHEAD_US - now_us) if self._coming else 0

    def ask(self, *, now_us: int, gives_back: bool = False) -> Ask:
        """The question to put next; from now on the lease is as if it had been heard."""
        self.ripen(now_us=now_us)
        used = self.used
        passed_us = None if self._borrowed_us is None else max(1, now_us - self._borrowed_us)
        if passed_us is not None:
            weight = min(1.0, passed_us / LIGHT_US)
            self.use_per_second += (used * MICROSECONDS / passed_us - self.use_per_second) * weight
        self._borrowed_us = now_us
        late, self.late = self.late, 0
        start = self._guess(now_us)
        if gives_back:
            back = self.left + self.unripe()
            self.left = self._base = 0
            self._coming.clear()
            return Ask(self.name, self.rate, credit=back, late=late, start=start)
        light = min(max(1, self.rate.capacity // 4), -(-int(self.use_per_second * LIGHT_US) // MICROSECONDS))
        # Who has spent it all before he could ask again gets twice as much, while there is so much.
        hungry = min(self.rate.capacity, 2 * used) if self.left <= 0 else 0
        self._target = max(self._share, light, hungry, self.waiting)
        self.low = (max(self._share, light) + 1) // 2
        owed, self.left = min(0, self.left), max(0, self.left)
        self._base = self.left
        # What is promised for later is enough for now, whatever else there is to ask for.
        is_served = bool(self._coming) and self._coming[-1][1] - now_us > 2 * AHEAD_US
        want = 0 if is_served else max(0, self._target - self.left)
        return Ask(self.name, self.rate, self.left + self.unripe(), want, credit=owed, late=late, start=start)

    def take(self, given: Given, *, now_us: int) -> None:
        """The answer."""
        self._level, self._level_us = given.level, now_us
        self._retry_us = now_us + given.retry_us if given.retry_us else 0
        if given.now:
            self._gain(given.now)
        if given.later:
            self._coming.append((now_us + given.from_us, now_us + given.until_us, given.later, 0))
            self.ripen(now_us=now_us)

    # ---- alone ---------------------------------------------------------------------------------------------------

    @property
    def is_alone(self) -> bool:
        """Nobody can be asked: the lease fills by itself, at this node's share."""
        return self._local is not None

    def go_alone(self, nodes: int, *, now_us: int) -> None:
        """From now on this node's share of the rate. It begins with what was last known to be there, shared."""
        if self._local is not None:
            return
        self.ripen(now_us=now_us)
        rate = self.rate.share(nodes)
        known = self._guess(now_us)
        level = max(min(1, known), known // max(1, nodes))
        self._coming.clear()
        self._retry_us = 0
        self._local = Bucket(rate, level=min(rate.capacity, self.left + level), now_us=now_us)
        self._local_left = self.left
        self._settle_local(now_us)

    def _settle_local(self, now_us: int) -> None:
        bucket = self._local
        if bucket is None:
            return
        spent = self._local_left - self.left
        if spent:
            bucket.spend(spent)
            self.late += max(0, spent)
        before = self.left
        self.left = self._local_left = bucket.level(now_us=now_us)
        self._base += self.left - before

    def go_shared(self, *, now_us: int) -> None:
        """From now on what is borrowed. What was let through meanwhile is told with the next question."""
        if self._local is None:
            return
        self._settle_local(now_us)
        self._local = None
        owed = min(0, self.left)
        self._base += owed - self.left
        self.left = owed
