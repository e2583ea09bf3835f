"""Which scopes the built-in issuer may put into a tenant's tokens: a pure function of contracts, catalog and time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from gateway.model import Contract, Tenant

if TYPE_CHECKING:
    from gateway.catalog.catalog import Catalog


def issuable_scopes(tenant: Tenant, contracts: Iterable[Contract], catalog: Catalog, *, now: float) -> frozenset[str]:
    """The scopes that the contracts ask for of the streams that the tenant is entitled to at ``now``."""
    return frozenset(
        scope
        for contract in contracts
        if contract.lifecycle in ("published", "deprecated")
        and catalog.right(tenant.name, contract.stream, now=now) is not None
        for scope in contract.scopes
    )
