"""How a tenant stands with one limit, and how that is said in HTTP fields and in JSON."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from gateway.units import format_rfc3339

DRAFT: Final = "draft-ietf-httpapi-ratelimit-headers-11"
"""What the fields follow; policies are named as in the catalog."""

_MOST: Final = 999_999_999_999_999
"""RFC 9651 has no larger integer. What is above it is told as this much: nobody meets the difference."""

_UNITS: Final = {
    "requests": "",
    "connections": ';qu="concurrent-requests"',
    "bytes": ';qu="content-bytes"',
    "records": ';gateway-unit="records"',
}
"""Requests are what is meant where no unit is named. The draft's registry has no word for records, and lets services
add parameters of their own."""


@dataclass(frozen=True, slots=True)
class Standing:
    """``limit`` None: unlimited. ``window_seconds``: what the limit is for, None for what is held and given back.

    ``burst`` is of rates alone. ``remaining`` is what may be had at once, None where nobody knows. ``resets_at`` (epoch
    seconds) and ``resets_in_seconds`` are when all of it is there again; the former and ``period`` are of quotas alone.
    """

    name: str
    limit: int | float | None
    window_seconds: float | None = None
    burst: int | float | None = None
    remaining: int | None = None
    resets_in_seconds: float | None = None
    resets_at: float | None = None
    period: str | None = None

    @property
    def unit(self) -> str:
        """What is counted: requests, connections, records or bytes."""
        return next((unit for unit in _UNITS if unit in self.name), "requests")


def fields(standings: Iterable[Standing]) -> list[tuple[bytes, bytes]]:
    """``RateLimit-Policy`` and ``RateLimit``: lists of strings with parameters (RFC 9651). Nothing where nothing is
    limited, since an empty list is no field."""
    policies: list[str] = []
    states: list[str] = []
    for one in standings:
        if one.limit is None:
            continue
        policies.append(_policy_of(one.name, one.limit, one.window_seconds, one.burst))
        if one.remaining is not None:
            states.append(f'"{one.name}";r={_told(one.remaining)}' + _window_of(one))
    found: list[tuple[bytes, bytes]] = []
    if policies:
        found.append((b"ratelimit-policy", ", ".join(policies).encode("ascii")))
    if states:
        found.append((b"ratelimit", ", ".join(states).encode("ascii")))
    return found


@lru_cache(maxsize=1024)
def _policy_of(name: str, limit: int | float, window_seconds: float | None, burst: int | float | None) -> str:
    """The policy's own item: the same for all who have the plan."""
    standing = Standing(name, limit, window_seconds, burst)
    quota, window = _policy(standing)
    return f'"{name}";q={_told(quota)}{_UNITS[standing.unit]}' + (f";w={_told(window)}" if window is not None else "")


def _told(number: int) -> int:
    return min(_MOST, max(0, number))


def _policy(standing: Standing) -> tuple[int, int | None]:
    """Whole numbers for a rate: as long a window as its burst takes to come back, and what that rate gives in it."""
    limit = standing.limit or 0
    if standing.window_seconds is None:
        return math.floor(limit), None
    if standing.burst is None:
        return math.floor(limit), round(standing.window_seconds)
    window = max(1, math.ceil(standing.burst / limit))
    return max(1, math.floor(limit * window)), window


def _window_of(standing: Standing) -> str:
    """For how long no more than what remains may be used: of a rate, until the next one is there."""
    if standing.limit and standing.burst is not None:
        return f";t={math.ceil(1 / standing.limit)}"
    seconds = standing.resets_in_seconds
    return "" if seconds is None else f";t={_told(math.ceil(seconds))}"


def spelt(standing: Standing) -> dict[str, Any]:
    """One entry of ``GET /v1/limits``."""
    told: dict[str, Any] = {"limit": "unlimited" if standing.limit is None else standing.limit}
    if standing.burst is not None:
        told["burst"] = standing.burst
    if standing.remaining is not None:
        told["remaining"] = max(0, standing.remaining)
        if standing.limit is not None and standing.burst is None:
            told["used"] = max(0, math.floor(standing.limit) - standing.remaining)
    if standing.resets_at is not None:
        told["period"] = standing.period
        told["used_percent"] = used_percent(standing)
        told["resets_at"] = format_rfc3339(round(standing.resets_at * 1000))
    elif standing.resets_in_seconds is not None:
        told["resets_in_ms"] = max(0, math.ceil(standing.resets_in_seconds * 1000))
    return told


def used_percent(standing: Standing) -> int | None:
    """Of a limit, rounded down, 100 at most; None where it is not known."""
    if standing.limit is None or standing.remaining is None:
        return None
    limit = math.floor(standing.limit)
    return min(100, 100 * (limit - max(0, standing.remaining)) // max(1, limit))


def rate_of(limits: Mapping[str, Any], name: str) -> tuple[int | float, int | float] | None:
    """A plan's rate and burst; None: unlimited."""
    found = limits.get(name, "unlimited")
    return (found["rate"], found["burst"]) if isinstance(found, Mapping) else None


def count_of(limits: Mapping[str, Any], name: str) -> int | None:
    """A plan's count (connections, a quota); None: unlimited."""
    found = limits.get(name, "unlimited")
    return found if isinstance(found, int) else None
