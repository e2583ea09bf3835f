"""Which revision of which plan was in force for a tenant when, out of what the catalog said when."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from gateway.billing.period import midnight
from gateway.billing.terms import Term
from gateway.catalog.chronicle import Held, Published
from gateway.model import Plan

Plans = Mapping[tuple[str, int], Plan]


class Revisions:
    """Every revision ever published, by plan."""

    def __init__(self, published: Iterable[Published]) -> None:
        self._by_name: dict[str, list[Published]] = {}
        for one in published:
            self._by_name.setdefault(one.plan.name, []).append(one)
        self.plans: Plans = {
            (one.plan.name, one.plan.revision): one.plan for known in self._by_name.values() for one in known
        }

    def stretches(self, plan: str) -> list[tuple[Plan, int | None, int | None]]:
        """The newest revision and from when to when it was that, half-open; None has no bound.

        What was published first counts for the time before, too: of several at once the newest.
        """
        known = sorted(self._by_name.get(plan, ()), key=lambda one: (one.published_ms, one.plan.revision))
        # Of what was published at the same moment the last counts; an older revision that came late never does.
        newest: list[Published] = []
        for one in known:
            if newest and one.published_ms == newest[-1].published_ms:
                newest[-1] = one
            elif not newest or one.plan.revision > newest[-1].plan.revision:
                newest.append(one)
        starts: list[int | None] = [None, *(one.published_ms // 1000 for one in newest[1:])]
        return [(one.plan, start, end) for one, (start, end) in zip(newest, pairwise([*starts, None]), strict=True)]


def terms_of(held: Sequence[Held], revisions: Revisions, *, zone: str) -> tuple[Term, ...]:
    """The terms of one tenant, in order. An entitlement's dates are days of the tenant's zone."""
    found: set[tuple[int, int | None, str, int]] = set()
    for one in held:
        start = midnight(one.starts_on, zone)
        end = None if one.ends_on is None else midnight(one.ends_on, zone)
        if not one.is_first:
            start = max(start, one.known_from)
        end = _earlier(end, one.known_until)
        for plan, since, until in _revisions_of(one, revisions):
            first = start if since is None else max(start, since)
            last = _earlier(end, until)
            if last is None or first < last:
                found.add((first, last, plan.name, plan.revision))
    ordered = sorted(found, key=lambda one: (one[2], one[0], one[3], one[1] is None, one[1] or 0))
    return tuple(Term(revisions.plans[name, revision], start, end) for start, end, name, revision in ordered)


def _revisions_of(one: Held, revisions: Revisions) -> list[tuple[Plan, int | None, int | None]]:
    if one.revision is None:
        return revisions.stretches(one.plan)
    plan = revisions.plans.get((one.plan, one.revision))
    return [] if plan is None else [(plan, None, None)]


def _earlier(one: int | None, other: int | None) -> int | None:
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)
