"""Which months of a tenant wait for their statement, by what is known of its plans and since when."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.billing.inforce import Revisions, terms_of
from gateway.billing.period import Period
from gateway.billing.terms import Term
from gateway.catalog.catalog import Catalog
from gateway.catalog.chronicle import Held

_ZONES_APART: Final = 26 * 3600
"""The same day begins within so many seconds everywhere on earth."""


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of plans and tenants at one moment."""

    catalog: Catalog
    revisions: Revisions
    held: Mapping[str, Sequence[Held]]

    def zone(self, tenant: str) -> str:
        """The tenant's time zone; UTC for one that the catalog has no more."""
        found = self.catalog.tenant(tenant)
        return "UTC" if found is None else found.time_zone

    def terms(self, tenant: str) -> tuple[Term, ...]:
        """Which revision of which plan was in force when."""
        return terms_of(self.held.get(tenant, ()), self.revisions, zone=self.zone(tenant))

    def first_told(self, tenant: str) -> int | None:
        """When the catalog first told of the tenant, epoch seconds; None where it never did."""
        return min((one.known_from for one in self.held.get(tenant, ())), default=None)

    def first_start(self, tenant: str) -> int | None:
        """The beginning of the first month that is closed by itself: that in which the catalog first told of it."""
        told = self.first_told(tenant)
        return None if told is None else Period.holding(told, zone=self.zone(tenant)).start


def waiting(
    tenant: str, known: Known, *, last_end: int | None, now: float, asked: Iterable[Period] = ()
) -> Iterator[Period]:
    """The tenant's periods that are over and have no final statement, oldest first.

    The first one is that in which the catalog first told of the tenant; ``asked`` are months before it that an operator
    wants. After a change of the tenant's zone a period reaches from where the last ended to the end of the month.
    """
    first = known.first_start(tenant)
    if first is None and last_end is None:
        return
    for period in sorted(set(asked), key=lambda one: one.start):
        if first is not None and period.end <= first and (last_end is None or last_end <= period.start):
            yield period
            last_end = period.end
    zone = known.zone(tenant)
    start = first if last_end is None else last_end
    if start is None:
        return
    if first is not None and first - start > _ZONES_APART:
        # What lies between was before the deployment knew the tenant, and nobody asked for it.
        start = first
    while True:
        month = Period.holding(start, zone=zone)
        if month.end > now:
            return
        yield Period.spanning(start, month.end, zone=zone)
        start = month.end


def reaches_back(tenant: str, period: Period, known: Known, *, now: float) -> bool:
    """Whether it is a whole month, over, before the first that is closed by itself, in which the catalog says that an
    entitlement of the tenant was in force: one that an operator may ask for."""
    first = known.first_start(tenant)
    if first is None or not period.is_month or period.end > now or period.end > first:
        return False
    return is_in_force(tenant, period, known)


def is_in_force(tenant: str, period: Period, known: Known) -> bool:
    """Whether any plan holds for the tenant at some moment of a period."""
    return any(
        term.start < period.end and (term.end is None or period.start < term.end) for term in known.terms(tenant)
    )
