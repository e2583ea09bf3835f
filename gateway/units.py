"""Readings and spellings of quantities: RFC 3339 times, ISO 8601 durations, sizes for people."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache

_DURATION = re.compile(r"P(?:(\d+)W)?(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+)S)?)?")
_RFC3339 = re.compile(r"(\d{4}-\d{2}-\d{2})[Tt](\d{2}:\d{2}:\d{2})(\.\d{1,9})?([Zz]|[+-]\d{2}:\d{2})")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def parse_duration(text: str) -> int:
    """An ISO 8601 duration of weeks, days, hours, minutes and seconds (``P7D``, ``PT36H``) → whole seconds.

    Months and years are refused: their length depends on the day one asks. Raises ValueError.
    """
    match = _DURATION.fullmatch(text)
    if not match or not any(match.groups()) or text.endswith("T"):
        raise ValueError(f"{text!r} is not a duration of weeks, days, hours, minutes or seconds such as P7D or PT36H")
    weeks, days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return (((weeks * 7 + days) * 24 + hours) * 60 + minutes) * 60 + seconds


def parse_rfc3339(text: str) -> int:
    """An RFC 3339 date-time → epoch milliseconds, rounded down. Raises ValueError."""
    match = _RFC3339.fullmatch(text)
    if not match:
        raise ValueError(f"{text!r} is not an RFC 3339 time such as 2026-11-22T10:00:00Z")
    day, clock, fraction, zone = match.groups()
    moment = datetime.fromisoformat(f"{day}T{clock}{'+00:00' if zone in 'zZ' else zone}")
    whole = moment - _EPOCH
    millis = int(((fraction or ".0")[1:] + "000")[:3])
    return (whole.days * 86_400 + whole.seconds) * 1000 + millis


def format_rfc3339(millis: int) -> str:
    """Epoch milliseconds → RFC 3339 in UTC with three decimals, for the years 1 to 9999; beyond them the nearest."""
    millis = min(max(millis, -62_135_596_800_000), 253_402_300_799_999)
    seconds, rest = divmod(millis, 1000)
    return f"{_second_of(seconds)}.{rest:03d}Z"


@lru_cache(maxsize=256)
def _second_of(seconds: int) -> str:
    days, second = divmod(seconds, 86_400)
    return f"{date_of(days)}T{second // 3600:02d}:{second // 60 % 60:02d}:{second % 60:02d}"


def date_of(days: int) -> str:
    """Days since the epoch → ``YYYY-MM-DD``."""
    return datetime.fromordinal(_EPOCH.toordinal() + days).date().isoformat()
