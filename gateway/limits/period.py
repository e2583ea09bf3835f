"""The day or month that a quota is for, in a tenant's zone."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Final, Literal, NamedTuple
from zoneinfo import ZoneInfo

Length = Literal["day", "month"]
LONGEST_WAIT_MS: Final = 86_400_000
"""What a client is told to wait at most, though a period may last longer: a browser's timer of more than 24.8 days ends
at once, and whoever is given more meanwhile should not have to wait for the month to end."""


class Period(NamedTuple):
    """Half-open, in epoch seconds. ``name`` is as people write it: ``2026-11-23``, ``2026-11``."""

    name: str
    starts_at: float
    ends_at: float


def period_of(length: Length, zone: ZoneInfo, *, now: float) -> Period:
    """The period that holds ``now`` (epoch seconds)."""
    today = datetime.fromtimestamp(now, UTC).astimezone(zone)
    year, month, day = today.year, today.month, today.day
    if length == "day":
        tomorrow = datetime.fromordinal(today.toordinal() + 1)
        ends_at = _midnight(tomorrow.year, tomorrow.month, tomorrow.day, zone)
        return Period(f"{year:04d}-{month:02d}-{day:02d}", _midnight(year, month, day, zone), ends_at)
    following = (year + 1, 1) if month == 12 else (year, month + 1)
    return Period(f"{year:04d}-{month:02d}", _midnight(year, month, 1, zone), _midnight(*following, 1, zone))


def wait_ms(ends_at: float, *, now: float) -> int:
    """When a client whose period ends at ``ends_at`` (epoch seconds) should come back, in milliseconds from now."""
    return min(LONGEST_WAIT_MS, max(1_000, math.ceil((ends_at - now) * 1000)))


def _midnight(year: int, month: int, day: int, zone: ZoneInfo) -> float:
    """When the day begins in the zone. Where clocks skip midnight, fold 0 gives the moment of the skip."""
    return datetime(year, month, day, tzinfo=zone).timestamp()
