"""What tenants have spent of what they set themselves as a limit: told on the way, and the end of delivery at it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from gateway.clock import Clock
from gateway.errors import QuotaExceeded
from gateway.limits.period import wait_ms
from gateway.limits.quota import NEWS_PERCENT
from gateway.model import Grant
from gateway.units import format_rfc3339

UNKNOWN: Final[Mapping[str, Any]] = dict.fromkeys(
    ("currency", "spent", "used_percent", "period", "resets_at", "as_of", "complete_until")
)
"""Told of a spend limit as long as nothing was added up."""


@dataclass(frozen=True, slots=True)
class Spending:
    """What a tenant has spent of its limit in the period named ``period``, which ends at ``ends_at``.

    ``limit`` is the catalog's decimal text. It was added up at ``as_of``, of all deliveries before ``complete_until``
    and of some after it. All times are epoch seconds.
    """

    limit: str
    spent: Decimal
    currency: str
    period: str
    ends_at: int
    as_of: int
    complete_until: int

    @property
    def is_reached(self) -> bool:
        """Whether nothing more may be delivered."""
        return self.spent >= Decimal(self.limit)

    def percent(self) -> int:
        """How much of the limit is spent: rounded down, 100 at most."""
        limit = Decimal(self.limit)
        if self.is_reached:
            return 100
        return max(0, int(100 * self.spent / limit)) if limit > 0 else 0

    def news(self, told_percent: int) -> tuple[int, dict[str, object]] | None:
        """What to tell a read that was told ``told_percent`` last, as ``quota.Share.news`` does."""
        percent = self.percent()
        passed = max((one for one in NEWS_PERCENT if one <= percent), default=0)
        if passed <= told_percent:
            return None
        return passed, {"limit": self.limit, "unit": self.unit, "used_percent": percent, "resets_at": self.resets_at}

    @property
    def unit(self) -> str:
        """What is counted, for partners."""
        return f"{self.currency} spent"

    @property
    def resets_at(self) -> str:
        """When a new period begins, RFC 3339."""
        return format_rfc3339(self.ends_at * 1000)

    def spelt(self) -> dict[str, Any]:
        """As ``GET /v1/limits`` tells it: money as text."""
        return {
            "limit": self.limit,
            "currency": self.currency,
            "spent": format(self.spent, "f"),
            "used_percent": self.percent(),
            "period": self.period,
            "resets_at": self.resets_at,
            "as_of": format_rfc3339(self.as_of * 1000),
            "complete_until": format_rfc3339(self.complete_until * 1000),
        }


class Spendings:
    """What is known of tenants with a spend limit, as last told by whoever adds up."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._known: Mapping[str, Spending] = {}

    def take(self, known: Mapping[str, Spending]) -> None:
        """This, by tenant, and nothing else."""
        self._known = known

    def all(self) -> Mapping[str, Spending]:
        """By tenant, of periods that have not ended."""
        now = self._clock.now()
        return {tenant: one for tenant, one in self._known.items() if now < one.ends_at}

    def of(self, tenant: str) -> Spending | None:
        """None: it has no limit, or nothing was added up yet in its present period."""
        found = self._known.get(tenant)
        return found if found is not None and self._clock.now() < found.ends_at else None

    def check(self, grant: Grant) -> None:
        """Raises QuotaExceeded where the grant's tenant has reached its limit. What is never priced may go on."""
        refusal = self.refusal(grant)
        if refusal is not None:
            raise refusal

    def refusal(self, grant: Grant) -> QuotaExceeded | None:
        """The same, to end a read with."""
        found = self.of(grant.tenant)
        if found is None or not found.is_reached or not grant.billable:
            return None
        return QuotaExceeded(
            f"Your organisation's spend limit of {found.limit} {found.currency} for this period is reached.",
            retry_after_ms=wait_ms(found.ends_at, now=self._clock.now()),
            extensions={"limit": found.limit, "unit": found.unit, "resets_at": found.resets_at},
        )


def told_of(limit: str | None, spending: Spending | None) -> dict[str, Any] | None:
    """A tenant's ``spend_limit`` as ``GET /v1/limits`` tells it; None without one. ``limit`` is the catalog's."""
    if limit is None:
        return None
    return {"limit": limit, **UNKNOWN} if spending is None else spending.spelt()
