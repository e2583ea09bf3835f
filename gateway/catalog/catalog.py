"""The commercial catalog as one value: products, plans and tenants with the indexes that a decision needs."""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from zoneinfo import ZoneInfo

from gateway.model import Application, Entitlement, Masks, Plan, Product, Tenant

Key = tuple[str, ...]
"""Names an object over files, database and diffs: its kind, then its names. ``("application", issuer, client_id)``."""


@dataclass(frozen=True, slots=True)
class Right:
    """An entitlement resolved: the plan and streams behind it, what it hides of them by stream, its dates as epoch
    seconds, half-open."""

    entitlement: Entitlement
    plan: Plan
    streams: frozenset[str]
    starts_at: float
    ends_at: float
    masks: Mapping[str, Masks] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Index:
    applications: Mapping[tuple[str, str], tuple[Tenant, Application]] = field(default_factory=dict)
    rights: Mapping[str, tuple[Right, ...]] = field(default_factory=dict)
    tenants: Mapping[str, Tenant] = field(default_factory=dict)
    plans: Mapping[str, Plan] = field(default_factory=dict)
    origins: frozenset[str] = frozenset()
    turns: tuple[tuple[float, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Catalog:
    """Make one with ``Catalog.build``; its order is canonical, so equal content is an equal value.

    ``accounts`` holds a tenant's money settings (``spend_limit``, ``credit``: decimal text) by tenant name.
    ``places`` says where an object was read (``file:line``) and does not count for equality.
    """

    products: tuple[Product, ...] = ()
    plans: tuple[Plan, ...] = ()
    tenants: tuple[Tenant, ...] = ()
    accounts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    issuers: tuple[str, ...] = ()
    places: Mapping[Key, str] = field(default_factory=dict, compare=False, repr=False)
    _index: _Index = field(default_factory=_Index, compare=False, repr=False)

    @classmethod
    def build(
        cls,
        products: Iterable[Product] = (),
        plans: Iterable[Plan] = (),
        tenants: Iterable[Tenant] = (),
        *,
        issuers: Sequence[str] = (),
        accounts: Mapping[str, Mapping[str, str]] | None = None,
        places: Mapping[Key, str] | None = None,
    ) -> Catalog:
        """Sort and index. ``issuers`` are the names in ``auth.issuers``.

        An application that names no issuer belongs to the only one configured; where there are several (or none), no
        token matches it.
        """
        sorted_products = tuple(sorted(products, key=lambda product: product.name))
        sorted_plans = tuple(sorted(plans, key=lambda plan: (plan.name, plan.revision)))
        sorted_tenants = tuple(sorted(map(_sorted_tenant, tenants), key=lambda tenant: tenant.name))
        latest = {plan.name: plan for plan in sorted_plans}
        by_revision = {(plan.name, plan.revision): plan for plan in sorted_plans}
        holds = {product.name: (frozenset(product.streams), product.masks) for product in sorted_products}
        applications = {
            (issuer, application.client_id): (tenant, application)
            for tenant in sorted_tenants
            for application in tenant.applications
            if (issuer := effective_issuer(application, issuers)) is not None
        }
        rights = {tenant.name: _rights(tenant, latest, by_revision, holds) for tenant in sorted_tenants}
        return cls(
            products=sorted_products,
            plans=sorted_plans,
            tenants=sorted_tenants,
            accounts=dict(accounts or {}),
            issuers=tuple(issuers),
            places=dict(places or {}),
            _index=_Index(
                applications=applications,
                rights=rights,
                tenants={tenant.name: tenant for tenant in sorted_tenants},
                plans=latest,
                origins=frozenset(
                    origin for tenant in sorted_tenants for one in tenant.applications for origin in one.origins
                ),
                turns=tuple(sorted((one.starts_at, name) for name, several in rights.items() for one in several)),
            ),
        )

    def application(self, issuer: str, client_id: str) -> tuple[Tenant, Application] | None:
        """The application that a token's (issuer name, client_id) names, and its tenant."""
        return self._index.applications.get((issuer, client_id))

    @property
    def origins(self) -> frozenset[str]:
        """Every origin that any application lists."""
        return self._index.origins

    def tenant(self, name: str) -> Tenant | None:
        """A tenant by name."""
        return self._index.tenants.get(name)

    def says_the_same(self, other: Catalog, *, tenant: str) -> bool:
        """Whether both hold the same of a tenant: itself, its applications, what it may read, by what plan and how much
        of it."""
        mine, theirs = self._index.tenants.get(tenant), other._index.tenants.get(tenant)
        if mine is None or theirs is None:
            return mine is theirs
        return (
            mine == theirs
            and self.issuers == other.issuers
            and self._index.rights[tenant] == other._index.rights[tenant]
            # To Python 1, 1.0 and true are equal; to a row filter they are not.
            and repr(mine.attributes) == repr(theirs.attributes)
        )

    def plan(self, name: str) -> Plan | None:
        """A plan's newest revision."""
        return self._index.plans.get(name)

    def entitlements_for(self, tenant: str, stream: str) -> tuple[Right, ...]:
        """All of a tenant's entitlements that hold the stream: past, in force and to come."""
        return tuple(right for right in self._index.rights.get(tenant, ()) if stream in right.streams)

    def rights(self, tenant: str, *, now: float) -> tuple[Right, ...]:
        """A tenant's entitlements in force at ``now`` (epoch seconds)."""
        return tuple(right for right in self._index.rights.get(tenant, ()) if right.starts_at <= now < right.ends_at)

    def right(self, tenant: str, stream: str, *, now: float) -> Right | None:
        """The entitlement in force at ``now`` (epoch seconds) for the stream, None where there is none."""
        for right in self._index.rights.get(tenant, ()):
            if stream in right.streams and right.starts_at <= now < right.ends_at:
                return right
        return None

    def unbroken_until(self, tenant: str, stream: str, right: Right) -> float:
        """Until when the tenant may read on without a break: where another entitlement begins no later than one ends,
        the end of the last of them."""
        end = right.ends_at
        if end < math.inf:
            for following in sorted(self.entitlements_for(tenant, stream), key=lambda one: one.starts_at):
                if following.starts_at <= end:
                    end = max(end, following.ends_at)
        return end

    def turning(self, *, after: float, until: float) -> frozenset[str]:
        """Tenants of whom some entitlement begins in ``after`` < time ≤ ``until`` (epoch seconds)."""
        turns = self._index.turns
        return frozenset(tenant for _, tenant in turns[_place(turns, after) : _place(turns, until)])

    def next_turn(self, *, after: float) -> float:
        """When the next entitlement begins, whosever it is; infinity where none does."""
        turns = self._index.turns
        place = _place(turns, after)
        return turns[place][0] if place < len(turns) else math.inf


def _place(turns: Sequence[tuple[float, str]], moment: float) -> int:
    """The first that begins after ``moment``."""
    return bisect.bisect_right(turns, moment, key=lambda turn: turn[0])


def effective_issuer(application: Application, issuers: Sequence[str]) -> str | None:
    """The issuer whose tokens name the application, None where none does."""
    if application.issuer is not None:
        return application.issuer
    return issuers[0] if len(issuers) == 1 else None


def _sorted_tenant(tenant: Tenant) -> Tenant:
    return Tenant(
        name=tenant.name,
        title=tenant.title,
        status=tenant.status,
        time_zone=tenant.time_zone,
        attributes=tenant.attributes,
        applications=tuple(sorted(tenant.applications, key=lambda one: (one.issuer or "", one.client_id))),
        entitlements=tuple(sorted(tenant.entitlements, key=lambda one: (one.product, one.start))),
    )


def _rights(
    tenant: Tenant,
    latest: Mapping[str, Plan],
    by_revision: Mapping[tuple[str, int], Plan],
    holds: Mapping[str, tuple[frozenset[str], Mapping[str, Masks]]],
) -> tuple[Right, ...]:
    zone = ZoneInfo(tenant.time_zone)

    def plan_of(one: Entitlement) -> Plan | None:
        return latest.get(one.plan) if one.revision is None else by_revision.get((one.plan, one.revision))

    return tuple(
        Right(
            entitlement=entitlement,
            plan=plan,
            streams=holds[entitlement.product][0],
            masks=holds[entitlement.product][1],
            starts_at=_midnight(entitlement.start, zone),
            ends_at=_midnight(entitlement.end, zone) if entitlement.end is not None else math.inf,
        )
        for entitlement in tenant.entitlements
        if (plan := plan_of(entitlement)) is not None and entitlement.product in holds
    )


def _midnight(day: date, zone: ZoneInfo) -> float:
    """When the day begins in the zone. Where clocks skip midnight, Python's fold 0 gives the moment of the skip."""
    return datetime(day.year, day.month, day.day, tzinfo=zone).timestamp()
