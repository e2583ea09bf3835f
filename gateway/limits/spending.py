"""Tenants that have spent what they set themselves as a limit: nothing more is delivered to them in the period."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from gateway.clock import Clock
from gateway.errors import QuotaExceeded
from gateway.model import Grant
from gateway.units import format_rfc3339


@dataclass(frozen=True, slots=True)
class Stop:
    """A spend limit that is reached. ``limit`` is decimal text, ``ends_at`` the period's end in epoch seconds."""

    limit: str
    currency: str
    ends_at: int


class SpendStops:
    """Who is stopped now, as last told by whoever adds up."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._stops: Mapping[str, Stop] = {}

    def take(self, stops: Mapping[str, Stop]) -> None:
        """These, by tenant, and no others."""
        self._stops = stops

    def check(self, grant: Grant) -> None:
        """Raises QuotaExceeded where the grant's tenant is stopped. What is never priced may go on."""
        refusal = self.refusal(grant)
        if refusal is not None:
            raise refusal

    def refusal(self, grant: Grant) -> QuotaExceeded | None:
        """The same, to end a read with."""
        stop = self._stops.get(grant.tenant)
        left_seconds = 0.0 if stop is None else stop.ends_at - self._clock.now()
        if stop is None or left_seconds <= 0 or not grant.billable:
            return None
        return QuotaExceeded(
            f"Your organisation's spend limit of {stop.limit} {stop.currency} for this period is reached.",
            retry_after_ms=max(1_000, math.ceil(left_seconds * 1000)),
            extensions={
                "limit": stop.limit,
                "unit": f"{stop.currency} spent",
                "resets_at": format_rfc3339(stop.ends_at * 1000),
            },
        )
