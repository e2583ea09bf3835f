"""Billing periods: half-open calendar months in a tenant's zone, stretches of days, and shares of months in seconds."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime
from typing import NamedTuple
from zoneinfo import ZoneInfo

from gateway.units import parse_rfc3339

_MONTH = re.compile(r"([0-9]{4})-([0-9]{2})")
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_FIRST_YEAR, _LAST_YEAR = 1971, 9998


class Share(NamedTuple):
    """``part`` seconds out of ``whole``: how much of what a plan says per month falls to a stretch of time.

    More than one where the stretch is longer than a month.
    """

    part: int
    whole: int

    @property
    def is_whole(self) -> bool:
        """Whether it is exactly one month's worth."""
        return self.part == self.whole


@dataclass(frozen=True, slots=True)
class Period:
    """A half-open stretch ``start`` ≤ t < ``end`` in epoch seconds, as a zone's calendar draws it.

    ``label`` is ``2026-07`` for a calendar month, else ``2026-07-10/2026-07-20`` or two moments in UTC.
    """

    zone: str
    start: int
    end: int
    label: str

    @classmethod
    def month(cls, year: int, month: int, *, zone: str) -> Period:
        """A calendar month in the zone. A month with a change of clocks is longer or shorter by it."""
        following = (year + 1, 1) if month == 12 else (year, month + 1)
        return cls(
            zone, midnight(date(year, month, 1), zone), midnight(date(*following, 1), zone), f"{year:04}-{month:02}"
        )

    @classmethod
    def holding(cls, moment: float, *, zone: str) -> Period:
        """The calendar month in which an epoch second falls."""
        local = datetime.fromtimestamp(moment, ZoneInfo(zone))
        return cls.month(local.year, local.month, zone=zone)

    @classmethod
    def parse(cls, text: str, *, zone: str) -> Period:
        """``2026-07`` → that month. Raises ValueError."""
        match = _MONTH.fullmatch(text)
        if not match or not 1 <= int(match[2]) <= 12 or not _FIRST_YEAR <= int(match[1]) <= _LAST_YEAR:
            raise ValueError(f"{text!r} is not a month such as 2026-07")
        return cls.month(int(match[1]), int(match[2]), zone=zone)

    @classmethod
    def between(cls, start: str, end: str, *, zone: str) -> Period:
        """From and to, half-open, each a month, a day in the zone or an RFC 3339 time. Raises ValueError.

        A month or a day means its beginning, so that 2026-07 to 2026-08 is July. What is one whole calendar month is
        that month.
        """
        first, last = parse_moment(start, zone=zone), parse_moment(end, zone=zone)
        return cls.spanning(first, last, zone=zone, label=f"{start}/{end}")

    @classmethod
    def spanning(cls, start: int, end: int, *, zone: str, label: str = "") -> Period:
        """From one epoch second to another. Raises ValueError where the end is not after the start."""
        if end <= start:
            raise ValueError("the end must lie after the beginning")
        month = cls.holding(start, zone=zone)
        if (month.start, month.end) == (start, end):
            return month
        moments = (datetime.fromtimestamp(moment, ZoneInfo(zone)).isoformat() for moment in (start, end))
        return cls(zone, start, end, label or "/".join(moments))

    @property
    def is_month(self) -> bool:
        """Whether it is exactly one calendar month."""
        return _MONTH.fullmatch(self.label) is not None

    @property
    def seconds(self) -> int:
        """Its length."""
        return self.end - self.start

    def holds(self, moment: float) -> bool:
        """Whether an epoch second falls within."""
        return self.start <= moment < self.end

    def next(self) -> Period:
        """The calendar month after a month. Raises ValueError for another stretch."""
        self._require_month()
        return Period.holding(self.end, zone=self.zone)

    def previous(self) -> Period:
        """The calendar month before a month. Raises ValueError for another stretch."""
        self._require_month()
        return Period.holding(self.start - 1, zone=self.zone)

    def months(self) -> Iterator[Period]:
        """The calendar months it touches, in order, each whole."""
        month = Period.holding(self.start, zone=self.zone)
        while month.start < self.end:
            yield month
            month = month.next()

    def share(self, seconds: tuple[tuple[int, int], ...]) -> Share:
        """What stretches ``(start, end)`` within the period are of the months they lie in, added up.

        In one month it is seconds of seconds; over several the parts of each are brought to one whole.
        """
        total = Share(0, 1)
        for month in self.months():
            part = sum(max(0, min(end, month.end) - max(start, month.start)) for start, end in seconds)
            if self.is_month:
                return Share(part, month.seconds)
            whole = math.lcm(total.whole, month.seconds)
            total = Share(total.part * (whole // total.whole) + part * (whole // month.seconds), whole)
        return total

    def _require_month(self) -> None:
        if not self.is_month:
            raise ValueError(f"{self.label} is not a calendar month")


def midnight(day: date, zone: str) -> int:
    """When a day begins in a zone, epoch seconds. Where clocks skip midnight it is the moment of the skip; where
    midnight comes twice, the first."""
    return int(datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(zone)).timestamp())


def parse_moment(text: str, *, zone: str) -> int:
    """A month or day (its beginning in the zone) or an RFC 3339 time → epoch seconds. Raises ValueError."""
    if _MONTH.fullmatch(text):
        return Period.parse(text, zone=zone).start
    if not _DAY.fullmatch(text):
        return parse_rfc3339(text) // 1000
    day = date.fromisoformat(text)
    if not _FIRST_YEAR <= day.year <= _LAST_YEAR:
        raise ValueError(f"{text!r} is not a day of the years {_FIRST_YEAR} to {_LAST_YEAR}")
    return midnight(day, zone)
