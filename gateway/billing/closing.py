"""Closes periods: drafts when they are over, final statements after the grace, in order, if nothing stands against.

Nothing here is remembered between runs but what is in the database: a close that was missed is made by the next run,
and of two processes that close the same period at once one finds it done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from gateway.billing.drafting import Drafting, Known, statement_id
from gateway.billing.errors import StatementConflict
from gateway.billing.period import Period
from gateway.billing.rating import RatingRefused
from gateway.billing.statement import content_digest
from gateway.billing.store import Kept, StatementStore
from gateway.units import format_rfc3339

Outcome = Literal["final", "grace", "approval", "incomplete", "drift", "refused", "empty", "conflict"]
"""``final``: it has its number now. The others say why it has none: the grace is not over, an operator has to approve
it, usage is not complete, reconciliation found a drift, it cannot be rated, there is nothing to say, somebody changed
something meanwhile."""

Drifts = Callable[[str, int, int], Sequence[str]]
"""What reconciliation found for a tenant between two epoch seconds; anything blocks its statement."""

DRAFT_SECONDS: Final = 600
"""How old the draft of a period gets that waits for something, before it is made again."""

_DRIFTS_SHOWN: Final = 20
_Reasons = tuple[Outcome, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Closed:
    """What became of one period. ``reasons`` are lines for people."""

    tenant: str
    period: Period
    outcome: Outcome
    statement: Kept | None = None
    reasons: tuple[str, ...] = ()


class Closing:
    """Every method blocks. Safe to run in several processes at once."""

    def __init__(self, store: StatementStore, drafting: Drafting, *, drifts: Drifts | None = None) -> None:
        self._store = store
        self._drafting = drafting
        self._drifts = drifts
        self._empty: set[tuple[str, int]] = set()

    def due(self, known: Known, *, now: float, tenants: Iterable[str] | None = None) -> list[tuple[str, Period]]:
        """Every period that is over and has no final statement, by tenant and time."""
        ends = self._store.last_ends()
        everybody = known.held.keys() | ends.keys() | self._store.tenants_with_adjustments()
        wanted = sorted(everybody if tenants is None else everybody & set(tenants))
        return [
            (tenant, period)
            for tenant in wanted
            for period in self._drafting.periods(tenant, known, last_end=ends.get(tenant), now=now)
            if (tenant, period.start) not in self._empty
        ]

    def run(
        self,
        *,
        now: float,
        tenant: str | None = None,
        until: str | None = None,
        goes_on: Callable[[], bool] = lambda: True,
    ) -> Iterator[Closed]:
        """Bring every period that is over as far as it may go, one after the other as they are asked for.

        ``until`` is the label of the last period to close. ``goes_on`` is asked before each period.
        """
        known = self._drafting.known(tenant=tenant)
        held_up: set[str] = set()
        for name, period in self.due(known, now=now, tenants=None if tenant is None else [tenant]):
            if name in held_up or (until is not None and period.label > until):
                continue
            if not goes_on():
                break
            result = self._close(name, period, known, now=now)
            if result.outcome not in ("final", "empty"):
                # The next one stands on this one: its number, its advances, its credit.
                held_up.add(name)
            yield result

    def draft(self, tenant: str, period: Period, *, now: float) -> Kept | None:
        """Make, or make again, the draft of a period that is over. None where there is nothing to say, or where it has
        a final statement already."""
        known = self._drafting.known(tenant=tenant)
        if (tenant, period) not in self.due(known, now=now, tenants=[tenant]):
            return None
        return self._draft(tenant, period, known, now=now)

    def preview(self, tenant: str, period: Period, *, now: float) -> Kept:
        """A draft of any stretch of time, which never becomes final; of a closed period that waits for its statement,
        that draft. Raises RatingRefused."""
        found = self.draft(tenant, period, now=now)
        if found is not None:
            return found
        made = self._drafting.preview(tenant, period, self._drafting.known(tenant=tenant), now=now)
        told = made.bill.period
        return self._store.keep(made.body(), starts_at=told.start, ends_at=told.end)

    def _draft(self, tenant: str, period: Period, known: Known, *, now: float) -> Kept | None:
        made = self._drafting.draft(tenant, period, known, now=now)
        if made is None:
            return None
        body = made.body()
        return self._store.keep(body, starts_at=period.start, ends_at=period.end)

    def _close(self, tenant: str, period: Period, known: Known, *, now: float) -> Closed:
        kept = self._store.peek(statement_id(tenant, period))
        if kept is not None and kept.is_closed:
            return Closed(tenant, period, "final", kept)
        waits = self._waits(kept, period, now=now)
        if waits is not None and kept is not None and now - kept.made_at < DRAFT_SECONDS:
            return Closed(tenant, period, waits[0], kept, waits[1])
        try:
            kept = self._draft(tenant, period, known, now=now)
        except RatingRefused as error:
            return Closed(tenant, period, "refused", None, (str(error),))
        if kept is None:
            if waits is None:
                self._empty.add((tenant, period.start))
            return Closed(tenant, period, "empty")
        if kept.is_closed:
            return Closed(tenant, period, "final", kept)
        waits = self._waits(kept, period, now=now) or self._drift(tenant, period)
        if waits is not None:
            return Closed(tenant, period, waits[0], kept, waits[1])
        return self._finalize(kept, period, now=now)

    def _finalize(self, kept: Kept, period: Period, *, now: float) -> Closed:
        rules = self._drafting.rules
        try:
            final = self._store.finalize(
                kept, now=int(now), prefix=rules.number_prefix, needs_approval=rules.needs_approval
            )
        except StatementConflict as error:
            return Closed(kept.tenant, period, "conflict", kept, (str(error),))
        return Closed(kept.tenant, period, "final", final)

    def _waits(self, kept: Kept | None, period: Period, *, now: float) -> _Reasons | None:
        """What a final statement waits for, as far as it is quickly told."""
        rules = self._drafting.rules
        if now < period.end + rules.grace_seconds:
            until = format_rfc3339((period.end + rules.grace_seconds) * 1000)
            return "grace", (f"it may change until {until}",)
        watermark = self._drafting.watermark(period, now=now)
        if watermark.complete_until < period.end:
            told = format_rfc3339(watermark.complete_until * 1000)
            return "incomplete", (
                f"usage is complete up to {told} only",
                *(
                    f"source {one} has told nothing up to the end; if it is lost: --lost {one}"
                    for one in self._drafting.behind(period)
                ),
            )
        if rules.needs_approval and kept is not None and kept.approved_content != content_digest(kept.body):
            return "approval", (f"an operator has to approve it: gateway billing approve {kept.id}",)
        return None

    def _drift(self, tenant: str, period: Period) -> _Reasons | None:
        found = [] if self._drifts is None else list(self._drifts(tenant, period.start, period.end))
        return ("drift", tuple(found[:_DRIFTS_SHOWN])) if found else None
