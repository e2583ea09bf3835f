"""Closes periods: drafts when they are over, final statements after the grace, in order, if nothing stands against.

Nothing is remembered between runs that is not in the database, but where there was nothing to do: a close that was
missed is made by the next run, and of two processes that close the same period at once one finds it done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from gateway.billing.calendar import Known, is_in_force, reaches_back, waiting
from gateway.billing.drafting import Drafting, statement_id
from gateway.billing.errors import StatementConflict
from gateway.billing.period import Period
from gateway.billing.rating import RatingRefused
from gateway.billing.rows import Rows
from gateway.billing.statement import content_digest
from gateway.billing.store import Kept, StatementStore, too_late
from gateway.catalog.chronicle import Held
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


@dataclass(slots=True)
class _Nothing:
    """Periods of a tenant of which there is nothing to say, by their beginnings, and what that stands on: the history
    of its plans, and all its usage (None: that was not looked at before them)."""

    held: tuple[Held, ...] = ()
    usage: Rows | None = None
    looked_at: float = 0.0
    starts: set[int] = field(default_factory=set)


class Closing:
    """Every method blocks. Safe to run in several processes at once."""

    def __init__(self, store: StatementStore, drafting: Drafting, *, drifts: Drifts | None = None) -> None:
        self._store = store
        self._drafting = drafting
        self._drifts = drifts
        self._nothing: dict[str, _Nothing] = {}

    def due(
        self, known: Known, *, now: float, tenants: Iterable[str] | None = None, asked: str | None = None
    ) -> list[tuple[str, Period]]:
        """Every period that is over and has no final statement, by tenant and time.

        ``asked`` is the label of a month to look at even where it was before the catalog first told of a tenant; others
        of that time are those whose drafts an operator has approved.
        """
        ends, adjusted = self._store.last_ends(), self._store.tenants_with_adjustments()
        everybody = known.held.keys() | ends.keys() | adjusted
        wanted = sorted(everybody if tenants is None else everybody & set(tenants))
        approved = self._store.approved_drafts()
        found: list[tuple[str, Period]] = []
        for tenant in wanted:
            nothing = self._nothing_of(tenant, known, now=now, is_adjusted=tenant in adjusted)
            zone = known.zone(tenant)
            earlier = [Period.spanning(start, end, zone=zone) for start, end in approved.get(tenant, ())]
            if asked is not None and reaches_back(tenant, month := Period.parse(asked, zone=zone), known, now=now):
                earlier.append(month)
            periods = waiting(tenant, known, last_end=ends.get(tenant), now=now, asked=earlier)
            found += [(tenant, period) for period in periods if period.start not in nothing]
        return found

    def _nothing_of(self, tenant: str, known: Known, *, now: float, is_adjusted: bool) -> set[int]:
        """Which periods of a tenant need no other look, by their beginnings: there was nothing to say of them, and
        nothing has come since. It is looked after usage that came late no more often than drafts are made again."""
        seen = self._nothing.get(tenant)
        if seen is None:
            return set()
        held = tuple(known.held.get(tenant, ()))
        if seen.usage is not None and not is_adjusted and held == seen.held:
            if now - seen.looked_at < DRAFT_SECONDS:
                return seen.starts
            if self._drafting.usage(tenant, start=0, end=int(now)) == seen.usage:
                seen.looked_at = now
                return seen.starts
        # The usage first, then the periods: what comes in between is seen by the next look.
        usage = self._drafting.usage(tenant, start=0, end=int(now))
        self._nothing[tenant] = _Nothing(held, usage, looked_at=now)
        return set()

    def run(
        self,
        *,
        now: float,
        tenant: str | None = None,
        until: str | None = None,
        goes_on: Callable[[], bool] = lambda: True,
    ) -> Iterator[Closed]:
        """Bring every period that is over as far as it may go, one after the other as they are asked for.

        ``until`` is the label of the last period to close, which may be a month before the catalog first told of the
        tenant: naming it is what asks for it. ``goes_on`` is asked before each period.
        """
        known = self._drafting.known(tenant=tenant)
        tenants = None if tenant is None else [tenant]
        held_up: set[str] = set()
        if until is not None:
            for passed in self._passed(known, until, now=now, tenants=tenants):
                held_up.add(passed.tenant)
                yield passed
        for name, period in self.due(known, now=now, tenants=tenants, asked=until):
            if name in held_up or (until is not None and period.label > until):
                continue
            if not goes_on():
                break
            needs_approval = self._drafting.rules.needs_approval
            if period.label != until:
                # What nobody names now stands on the approval alone.
                needs_approval = needs_approval or reaches_back(name, period, known, now=now)
            result = self._close(name, period, known, now=now, needs_approval=needs_approval)
            if result.outcome not in ("final", "empty"):
                # The next one stands on this one: its number, its advances, its credit.
                held_up.add(name)
            yield result

    def _passed(self, known: Known, month: str, *, now: float, tenants: Sequence[str] | None) -> Iterator[Closed]:
        """Tenants with a plan in a month that has no statement, and can have none: a later one is final."""
        for tenant, last_end in sorted(self._store.last_ends().items()):
            period = Period.parse(month, zone=known.zone(tenant))
            if (tenants is None or tenant in tenants) and period.start < last_end:
                closed = self._store.closed(tenant=tenant)
                is_there = any(one.starts_at < period.end and period.start < one.ends_at for one in closed)
                if not is_there and is_in_force(tenant, period, known):
                    later = next(one for one in closed if period.end <= one.starts_at)
                    yield Closed(tenant, period, "refused", None, (too_late(later),))

    def draft(self, tenant: str, period: Period, *, now: float) -> Kept | None:
        """Make, or make again, the draft of a period that is over. None where there is nothing to say, or where it has
        a final statement already, or can have none.

        It may be a month before the catalog first told of the tenant, too: then only an approval, or a close that names
        the month, makes it final.
        """
        known = self._drafting.known(tenant=tenant)
        due = [one for _, one in self.due(known, now=now, tenants=[tenant])]
        if period not in due:
            last_end = self._store.last_ends().get(tenant, period.start)
            if period.start < last_end or not reaches_back(tenant, period, known, now=now):
                return None
        return self._draft(tenant, period, known, now=now, pending=[one for one in due if one.end <= period.start])

    def preview(self, tenant: str, period: Period, *, now: float) -> Kept:
        """A draft of any stretch of time, which never becomes final; of a closed period that waits for its statement,
        that draft. Raises RatingRefused."""
        found = self.draft(tenant, period, now=now)
        if found is not None:
            return found
        known = self._drafting.known(tenant=tenant)
        pending = self._pending(tenant, period, known, now=now) if period.is_month else ()
        made = self._drafting.preview(tenant, period, known, now=now, pending=pending)
        told = made.bill.period
        return self._store.keep(made.body(), starts_at=told.start, ends_at=told.end)

    def _pending(self, tenant: str, period: Period, known: Known, *, now: float) -> list[Period]:
        """What has no final statement yet and will have one before ``period``; of months to come the last alone, which
        is all that it takes to know what will have been asked in advance."""
        last_end = self._store.last_ends().get(tenant)
        approved = self._store.approved_drafts(tenant=tenant).get(tenant, ())
        asked = [Period.spanning(start, end, zone=known.zone(tenant)) for start, end in approved]
        before = waiting(tenant, known, last_end=last_end, now=period.start, asked=asked)
        return [one for one in before if one.end <= period.start and (one.start <= now or one.end == period.start)]

    def _draft(
        self, tenant: str, period: Period, known: Known, *, now: float, pending: Sequence[Period] = ()
    ) -> Kept | None:
        made = self._drafting.draft(tenant, period, known, now=now, pending=pending)
        if made is None:
            return None
        return self._store.keep(made.body(), starts_at=period.start, ends_at=period.end, seals=made.sealed())

    def _close(self, tenant: str, period: Period, known: Known, *, now: float, needs_approval: bool) -> Closed:
        kept = self._store.peek(statement_id(tenant, period))
        if kept is not None and kept.is_closed:
            return Closed(tenant, period, "final", kept)
        waits = self._waits(kept, period, now=now, needs_approval=needs_approval)
        if waits is not None and kept is not None and now - kept.made_at < DRAFT_SECONDS:
            return Closed(tenant, period, waits[0], kept, waits[1])
        try:
            kept = self._draft(tenant, period, known, now=now)
        except RatingRefused as error:
            return Closed(tenant, period, "refused", None, (str(error),))
        if kept is None:
            if waits is None:
                self._nothing.setdefault(tenant, _Nothing()).starts.add(period.start)
            return Closed(tenant, period, "empty")
        if kept.is_closed:
            return Closed(tenant, period, "final", kept)
        waits = self._waits(kept, period, now=now, needs_approval=needs_approval) or self._drift(tenant, period)
        if waits is not None:
            return Closed(tenant, period, waits[0], kept, waits[1])
        return self._finalize(kept, period, now=now, needs_approval=needs_approval)

    def _finalize(self, kept: Kept, period: Period, *, now: float, needs_approval: bool) -> Closed:
        prefix = self._drafting.rules.number_prefix
        try:
            final = self._store.finalize(kept, now=int(now), prefix=prefix, needs_approval=needs_approval)
        except StatementConflict as error:
            return Closed(kept.tenant, period, "conflict", kept, (str(error),))
        return Closed(kept.tenant, period, "final", final)

    def _waits(self, kept: Kept | None, period: Period, *, now: float, needs_approval: bool) -> _Reasons | None:
        """What a final statement waits for, as far as it is quickly told."""
        rules = self._drafting.rules
        if now < period.end + rules.grace_seconds:
            until = format_rfc3339((period.end + rules.grace_seconds) * 1000)
            return "grace", (f"it may change until {until}",)
        watermark = self._drafting.watermark(period, now=now)
        if watermark.complete_until < period.end:
            told = format_rfc3339(watermark.complete_until * 1000)
            if not watermark.complete_until:
                return "incomplete", (
                    "nobody can say up to when usage is complete: no source was heard yet, or the ledger is being made"
                    " again from its topic; see gateway usage sources",
                )
            return "incomplete", (
                f"usage is complete up to {told} only",
                *(
                    f"source {one} has told nothing up to the end; if it is lost: --lost {one}"
                    for one in self._drafting.behind(period)
                ),
            )
        if needs_approval and kept is not None and kept.approved_content != content_digest(kept.body):
            return "approval", (f"an operator has to approve it: gateway billing approve {kept.id}",)
        return None

    def _drift(self, tenant: str, period: Period) -> _Reasons | None:
        found = [] if self._drifts is None else list(self._drifts(tenant, period.start, period.end))
        return ("drift", tuple(found[:_DRIFTS_SHOWN])) if found else None
