"""What one document shows: the streams of an audience, each with the plan it is read at."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from gateway.catalog.catalog import Catalog
from gateway.catalog.masks import shown
from gateway.model import Contract, Masks, Plan, Tenant

SHOWN_LIFECYCLES = ("published", "deprecated")


@dataclass(frozen=True, slots=True)
class Offer:
    """A stream as somebody may read it. ``plan`` is None where nobody in particular asks; ``contract`` is told without
    what ``masks`` hide of it."""

    contract: Contract
    plan: Plan | None = None
    masks: Masks = ()


@dataclass(frozen=True, slots=True)
class Audience:
    """Whom a document is for, by what it shows them: equal audiences read equal documents.

    ``offers`` are sorted by stream. ``is_tenant``: a tenant asked, so plans are known and limits can be shown.
    """

    offers: tuple[Offer, ...]
    is_tenant: bool = False

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for audiences whose documents are equal, as long as the contracts are."""
        plans = {id(one.plan): one.plan for one in self.offers}
        spelled = {number: _spelled(plan) for number, plan in plans.items()}
        return (self.is_tenant, tuple((one.contract.stream, spelled[id(one.plan)], one.masks) for one in self.offers))


def public_audience(contracts: Iterable[Contract]) -> Audience:
    """Everybody: the streams that say they are public."""
    shown = (one for one in contracts if one.lifecycle in SHOWN_LIFECYCLES and one.visibility == "public")
    return Audience(_sorted(Offer(one) for one in shown))


def tenant_audience(tenant: Tenant, contracts: Iterable[Contract], catalog: Catalog, *, now: float) -> Audience:
    """A tenant: the streams of its entitlements in force at ``now`` (epoch seconds), whatever scopes a token holds.

    The document is the tenant's and not the token's: it tells which scopes to ask for.
    """
    offers = (
        Offer(shown(contract, masks := right.masks.get(contract.stream, ())), right.plan, masks)
        for contract in contracts
        if contract.lifecycle in SHOWN_LIFECYCLES
        if (right := catalog.right(tenant.name, contract.stream, now=now)) is not None
    )
    return Audience(_sorted(offers), is_tenant=True)


def _sorted(offers: Iterable[Offer]) -> tuple[Offer, ...]:
    return tuple(sorted(offers, key=lambda one: one.contract.stream))


def _spelled(plan: Plan | None) -> str:
    """What documents show of a plan."""
    return "" if plan is None else json.dumps([plan.title, plan.limits], sort_keys=True, default=str)
