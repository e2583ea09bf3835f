"""What a plan gives a tenant for a day or month: shared by all nodes in portions, and never given twice."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple
from zoneinfo import ZoneInfo

from gateway.clock import Clock
from gateway.errors import QuotaExceeded
from gateway.limits.pace import Waiter
from gateway.limits.period import Length, Period, period_of, wait_ms
from gateway.limits.standing import Standing, count_of
from gateway.units import format_rfc3339

QUOTAS: Final[Mapping[str, Length]] = {
    "records_per_day": "day",
    "records_per_month": "month",
    "bytes_per_day": "day",
    "bytes_per_month": "month",
}
NEWS_PERCENT: Final = (50, 80)
"""At so much of a quota each open read is told once."""

FIRST_SHARE: Final = 1_000
"""A node borrows at first one part in so many of a quota, then more as it needs it."""

LEAST: Final = {"records": 64, "bytes": 65_536}
"""And no less than this while there is plenty, so that small quotas need no more questions than large ones."""

LAST_PART: Final = 10
"""When less than one part in so many is left, nodes say more often what they have, and give back what they do not
use: then another one may need it."""

QUICK_SECONDS: Final = 5.0
"""A portion that is used up faster than this was too small: what is in hand has to outlast a Redis that stumbles."""

REST_SECONDS: Final = 10.0
LAST_REST_SECONDS: Final = 1.0
"""After so long without use a portion is given back: usually, and in the last part."""


class QuotaKey(NamedTuple):
    """Whose quota, of which plan, by its name in the catalog, for which period."""

    tenant: str
    plan: str
    name: str
    period: str


class Ask(NamedTuple):
    """What a node says of one quota: of what it was given in the period (``given``) it has used ``used``, whatever it
    said before; and it wants ``want`` more."""

    key: QuotaKey
    limit: int
    ends_at: float
    given: int
    used: int
    want: int


class Told(NamedTuple):
    """The answer. ``given`` is this node's in all, ``others`` is what the others were given in all, of which they may
    still come to give back ``loose``. ``is_sure`` False: not all of them are known yet, and nothing more was given."""

    given: int
    others: int
    loose: int
    is_sure: bool = True


class Share:
    """What this node has of one tenant's quota; goes on from period to period. All reads of the plan use it.

    ``in_hand`` is what may be delivered at once; below 0, what was delivered beyond it.
    """

    __slots__ = (
        "_clock",
        "_loose",
        "_on_need",
        "_portion",
        "_told_at",
        "_used_then",
        "_usual_rest_seconds",
        "_waiters",
        "given",
        "in_hand",
        "is_over",
        "key",
        "length",
        "limit",
        "others",
        "period",
        "zone",
    )

    def __init__(
        self,
        tenant: str,
        plan: str,
        name: str,
        *,
        limit: int,
        zone: ZoneInfo,
        clock: Clock,
        on_need: Callable[[Share], None],
        rest_seconds: float = REST_SECONDS,
    ) -> None:
        """``on_need`` is called where more is wanted; whoever hears it asks, and calls ``take``. What was not used for
        ``rest_seconds`` is given back."""
        self.limit = limit
        self.zone = zone
        self.length: Length = QUOTAS[name]
        self._clock = clock
        self._usual_rest_seconds = rest_seconds
        self._on_need = on_need
        self._waiters: list[Waiter] = []
        self._begin(tenant, plan, name)

    def _begin(self, tenant: str, plan: str, name: str) -> None:
        now = self._clock.now()
        self.period: Period = period_of(self.length, self.zone, now=now)
        self.key = QuotaKey(tenant, plan, name, self.period.name)
        self.given = 0
        self.in_hand = 0
        self.others = 0
        self._loose = 0
        self.is_over = False
        self._portion = self._first_portion()
        self._told_at = -math.inf
        self._used_then = 0

    def _first_portion(self) -> int:
        return max(self.limit // FIRST_SHARE, LEAST[self.key.name.partition("_")[0]])

    @property
    def used(self) -> int:
        """By this node in this period."""
        return self.given - self.in_hand

    @property
    def used_by_all(self) -> int:
        """As far as it is known here."""
        return self.others - self._loose + self.used

    # ---- the reads' side -----------------------------------------------------------------------------------------

    def left(self) -> int:
        """How much may be delivered now; 0: wait. Raises QuotaExceeded where it is used up."""
        if self.in_hand > 0:
            return self.in_hand
        if self.is_over:
            raise self.exceeded()
        self._on_need(self)
        return 0

    def spend(self, amount: int) -> None:
        """It was delivered, even if it was more than there was."""
        self.in_hand -= amount
        if self.in_hand * 2 < self._portion:
            self._on_need(self)

    def wait(self, waiter: Waiter) -> None:
        """Wake it, once, when there may be room or none is to come."""
        if waiter not in self._waiters:
            self._waiters.append(waiter)
        self._on_need(self)

    def forget(self, waiter: Waiter) -> None:
        """It does not wait any more."""
        if waiter in self._waiters:
            self._waiters.remove(waiter)

    def exceeded(self) -> QuotaExceeded:
        """The refusal, with the moment from which there is a new quota."""
        resets_at = self.period.ends_at
        unit, _, length = self.key.name.partition("_per_")
        return QuotaExceeded(
            f"The plan's {self.limit} {unit} of this {length} are used up.",
            retry_after_ms=wait_ms(resets_at, now=self._clock.now()),
            extensions={
                "limit": self.limit,
                "unit": self.key.name,
                "resets_at": format_rfc3339(round(resets_at * 1000)),
            },
        )

    def percent(self) -> int:
        """How much of it is used up."""
        return min(100, 100 * max(0, self.used_by_all) // self.limit)

    def news(self, told_percent: int) -> tuple[int, dict[str, object]] | None:
        """What to tell a read that was told ``told_percent`` last: what it has been told then, and the words."""
        percent = self.percent()
        passed = max((one for one in NEWS_PERCENT if one <= percent), default=0)
        if passed <= told_percent:
            return None
        words: dict[str, object] = {
            "limit": self.limit,
            "unit": self.key.name,
            "used_percent": percent,
            "resets_at": format_rfc3339(round(self.period.ends_at * 1000)),
        }
        return passed, words

    def standing(self) -> Standing:
        """For partners."""
        return Standing(
            self.key.name,
            self.limit,
            window_seconds=self.period.ends_at - self.period.starts_at,
            remaining=max(0, self.limit - self.used_by_all),
            resets_in_seconds=max(0.0, self.period.ends_at - self._clock.now()),
            resets_at=self.period.ends_at,
            period=self.period.name,
        )

    # ---- the asking side -----------------------------------------------------------------------------------------

    def renew(self, limit: int, zone: ZoneInfo) -> None:
        """The plan says so from now on."""
        if limit != self.limit:
            self.limit, self.is_over = limit, False
            self._portion = self._first_portion()
        if zone.key != self.zone.key:
            self.zone = zone
            here = period_of(self.length, zone, now=self._clock.now())
            if here.name == self.period.name:
                # The same day or month by another clock: what was used of it stays used.
                self.period = here
            else:
                self._turn()

    def turn(self) -> bool:
        """Begin the next period where this one is over. True: it has begun."""
        # Every request comes by here, and every share twice a second: no calendar.
        if self.period.starts_at <= self._clock.now() < self.period.ends_at:
            return False
        return self._turn()

    def _turn(self) -> bool:
        self._begin(self.key.tenant, self.key.plan, self.key.name)
        self._wake()
        return True

    @property
    def is_known(self) -> bool:
        """Whether there was an answer in this period."""
        return self._told_at > -math.inf

    def told_before(self, moment: float) -> bool:
        """Whether the last answer is older than ``moment`` (monotonic seconds)."""
        return self._told_at < moment

    @property
    def is_last_part(self) -> bool:
        """Little is left of the whole."""
        return (self.limit - self.others - self.given) * LAST_PART < self.limit

    def is_due(self, now: float) -> bool:
        """Whether there is something to ask or to say at ``now`` (monotonic seconds), though nobody called."""
        if self._waiters:
            return True
        return (self.in_hand > 0 or self.used != self._used_then) and now - self._told_at >= self._rest_seconds

    @property
    def _rest_seconds(self) -> float:
        return min(LAST_REST_SECONDS, self._usual_rest_seconds) if self.is_last_part else self._usual_rest_seconds

    def ask(self, *, nodes: int, now: float, is_last: bool = False) -> Ask:
        """What to say now. What was not used for a while is given back, and all of it where this is the ``is_last``."""
        used, wanted = self.used, 0
        given = max(self.given, used)
        if is_last or (now - self._told_at >= self._rest_seconds and used == self._used_then and not self._waiters):
            given = used
        elif self._waiters or self.in_hand * 2 < self._portion:
            wanted = self._wanted(nodes, now)
        return Ask(self.key, self.limit, self.period.ends_at, given, used, wanted)

    def _wanted(self, nodes: int, now: float) -> int:
        if now - self._told_at < QUICK_SECONDS:
            self._portion = min(self._portion * 2, max(self._portion, self.limit // 10))
        remaining = max(1, self.limit - self.others - self.given)
        # Towards the end each takes a part of what is left only, so that all are done at the same time.
        return max(1, min(self._portion, math.ceil(remaining / (2 * max(1, nodes)))) - max(0, self.in_hand))

    def take(self, ask: Ask, told: Told, *, now: float) -> None:
        """The answer to ``ask``; meanwhile more may have been used."""
        if ask.key != self.key:
            return
        self.in_hand += told.given - self.given
        self.given, self.others, self._loose = told.given, told.others, told.loose
        self._told_at, self._used_then = now, ask.used
        used_up = told.given + told.others >= self.limit
        self.is_over = self.in_hand <= 0 and used_up and told.is_sure and not told.loose
        if self.in_hand > 0 or self.is_over:
            self._wake()

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.wake()


class Held(NamedTuple):
    """What one node was given and has used of a quota."""

    key: QuotaKey
    ends_at: float
    node: str
    given: int
    used: int


def share_out(ask: Ask, *, others: int, loose: int) -> Told:
    """The rule that every store of quotas follows: more only where it is there, and never less than was used."""
    room = max(0, ask.limit - others - ask.given)
    return Told(ask.given + min(ask.want, room), others, loose)


def quotas_of(limits: Mapping[str, Any]) -> dict[str, int]:
    """A plan's quotas by name; unlimited ones are none."""
    return {name: limit for name in QUOTAS if (limit := count_of(limits, name)) is not None}
