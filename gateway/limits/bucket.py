"""Token buckets in whole numbers: the fixed point that a rate is counted in, and a bucket of one process."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Final

LARGEST: Final = 4 * 10**15
"""What a full bucket may come to in parts of a token: Redis counts in doubles, which are exact up to 2^53."""

_FINEST: Final = 10**12
_COARSE: Final = 10**4
MICROSECONDS: Final = 1_000_000
LONGEST_BURST_SECONDS: Final = 365 * 86_400


@dataclass(frozen=True, slots=True)
class Rate:
    """So many tokens a second, and at most ``capacity`` of them saved up.

    A token is counted as ``unit`` parts, as many as the capacity leaves room for, of which ``per_us`` come back each
    microsecond: what that rounds is below one part in a hundred for a burst of a year's worth, and below one in a
    million for bursts of up to a minute.
    """

    unit: int
    per_us: int
    capacity: int

    @classmethod
    def of(cls, rate: int | float, burst: int | float) -> Rate:
        """A plan's rate per second. A burst counts in whole tokens, and is at most what comes back in a year."""
        return _counted(rate, burst)

    def share(self, of: int) -> Rate:
        """What one of ``of`` processes may give by itself: the whole part of an equal share, at least 1 a second."""
        per_second = max(1, self.per_us * MICROSECONDS // self.unit // max(1, of))
        # A rate below one a second is not raised by being shared.
        mine = min(Fraction(per_second), self.per_second)
        return Rate.of(float(mine) if mine < 1 else per_second, max(1, self.capacity // max(1, of)))

    @property
    def per_second(self) -> Fraction:
        """Tokens a second, exactly as they are counted."""
        return Fraction(self.per_us * MICROSECONDS, self.unit)

    def tokens_in(self, microseconds: int) -> int:
        """Whole tokens that come back in this time."""
        return self.per_us * microseconds // self.unit

    def time_of(self, tokens: int) -> int:
        """Microseconds in which so many tokens come back, rounded up."""
        return -(-tokens * self.unit // self.per_us)


@lru_cache(maxsize=4096)
def _counted(rate: int | float, burst: int | float) -> Rate:
    exact = Fraction(rate).limit_denominator(1000)
    capacity = max(1, min(int(burst), int(exact * LONGEST_BURST_SECONDS)))
    unit = _FINEST
    while unit > 1 and capacity * unit > LARGEST:
        unit //= 10
    if exact * unit < _COARSE * MICROSECONDS:
        unit = min(_FINEST, LARGEST // capacity)
    return Rate(unit, max(1, round(exact * unit / MICROSECONDS)), capacity)


class Bucket:
    """A bucket of this process alone. Time is in microseconds; a jump gives at most a burst and what was owed."""

    __slots__ = ("_at_us", "_parts", "rate")

    def __init__(self, rate: Rate, *, level: int, now_us: int) -> None:
        self.rate = rate
        self._parts = min(level, rate.capacity) * rate.unit
        self._at_us = now_us

    def level(self, *, now_us: int) -> int:
        """Whole tokens there are; below zero what is owed."""
        rate = self.rate
        passed = max(0, now_us - self._at_us)
        self._at_us = now_us
        full = rate.capacity * rate.unit
        self._parts = min(full, self._parts + passed * rate.per_us)
        return self._parts // rate.unit

    def spend(self, tokens: int) -> None:
        """Take so many, whether they are there or not."""
        self._parts -= tokens * self.rate.unit

    def wait_us(self, tokens: int = 1) -> int:
        """From the last look on, until there are so many."""
        lacking = tokens * self.rate.unit - self._parts
        return max(0, -(-lacking // self.rate.per_us))
