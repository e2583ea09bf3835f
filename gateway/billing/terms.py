"""Terms: which revision of which plan was in force for a tenant when, and which share of a period that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from gateway.billing.period import Period, Share
from gateway.billing.pricing import Pricing, pricing_of
from gateway.model import Plan


@dataclass(frozen=True, slots=True)
class Term:
    """A plan's revision in force for a tenant, half-open, epoch seconds; ``end`` None has no end known.

    One for each stretch in which an entitlement of the tenant names the plan; several at once count once.
    """

    plan: Plan
    start: int
    end: int | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """A plan's revision and the stretches of a period in which it was in force; none: usage came under it all the
    same, and it counts with a whole period's quantities but without its fixed amounts."""

    plan: Plan
    pricing: Pricing
    spans: tuple[tuple[int, int], ...]
    share: Share

    @property
    def shown_share(self) -> Share | None:
        """The share where it is not simply one."""
        return None if self.share.is_whole else self.share


def parts_in(terms: Sequence[Term], period: Period) -> list[Part]:
    """What was in force in a period, once for each revision: of one plan the newest revision at every moment."""
    cut = [
        (term.plan, max(term.start, period.start), period.end if term.end is None else min(term.end, period.end))
        for term in terms
    ]
    spans: dict[tuple[str, int], list[tuple[int, int]]] = {}
    found = {(plan.name, plan.revision): plan for plan, _, _ in cut}
    for name in sorted({plan.name for plan, _, _ in cut}):
        held = [(plan.revision, start, end) for plan, start, end in cut if plan.name == name and start < end]
        moments = sorted({moment for _, start, end in held for moment in (start, end)})
        for start, end in pairwise(moments):
            revisions = [revision for revision, first, last in held if first <= start and end <= last]
            if revisions:
                _extend(spans.setdefault((name, max(revisions)), []), start, end)
    return [
        Part(found[key], pricing_of(found[key]), tuple(held), period.share(tuple(held)))
        for key, held in sorted(spans.items())
    ]


def _extend(spans: list[tuple[int, int]], start: int, end: int) -> None:
    if spans and spans[-1][1] == start:
        spans[-1] = (spans[-1][0], end)
    else:
        spans.append((start, end))
