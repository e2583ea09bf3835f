"""Which of its plans a tenant's request counts against."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from gateway.limits.standing import rate_of
from gateway.model import Plan, Principal

if TYPE_CHECKING:
    from gateway.catalog.catalog import Catalog


def plan_of(principal: Principal, stream: str | None, catalog: Catalog, *, now: float) -> tuple[str, Plan] | None:
    """The tenant, and the plan by which it reads the stream; for any other request, its most generous one.

    None: no organisation, or one without an entitlement in force, which has no plan that could say anything.
    """
    found = catalog.application(principal.issuer, principal.client_id)
    if found is None:
        return None
    tenant = found[0].name
    right = None if stream is None else catalog.right(tenant, stream, now=now)
    if right is not None:
        return tenant, right.plan
    plans = [one.plan for one in catalog.rights(tenant, now=now)]
    return (tenant, max(plans, key=_requests)) if plans else None


def _requests(plan: Plan) -> tuple[float, str]:
    rate = rate_of(plan.limits, "requests_per_second")
    return (math.inf if rate is None else rate[0], plan.name)
