"""Who may read what now: a pure function of principal, contract, catalog and time; a grant, or one reason against it.

The order of the checks decides what a refusal tells. Before a stream is known to be visible to the tenant (public, or
held by an entitlement in force) every refusal is the same 404; what is missing is named only afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from gateway.errors import (
    ClaimMissing,
    InsufficientScope,
    NotEntitled,
    StreamNotFound,
    StreamRetired,
    TenantSuspended,
    TokenInvalid,
    TransportNotOffered,
)
from gateway.model import (
    Application,
    Contract,
    Entitlement,
    FieldType,
    Grant,
    Plan,
    Principal,
    RowMatch,
    Tenant,
    Transport,
)

if TYPE_CHECKING:
    from gateway.catalog.catalog import Catalog, Right

NO_SUCH_STREAM = "There is no stream of this name that you may read."


@dataclass(frozen=True, slots=True)
class Readable:
    """A stream that a principal may read now, and by what right."""

    contract: Contract
    entitlement: Entitlement
    plan: Plan


def decide(
    principal: Principal, contract: Contract | None, catalog: Catalog, *, transport: Transport, now: float
) -> Grant:
    """What the principal may read of the contract over the transport at ``now`` (epoch seconds).

    ``contract`` is None where no stream has the name that was asked for. Raises the GatewayError that says why not.
    """
    tenant, application = member(principal, catalog)
    if contract is None or contract.lifecycle == "draft":
        raise StreamNotFound(NO_SUCH_STREAM)
    right = catalog.right(tenant.name, contract.stream, now=now)
    if right is None:
        _refuse_unentitled(contract)
    if contract.lifecycle == "retired":
        _refuse_retired(contract)
    if not principal.scopes.issuperset(contract.scopes):
        _refuse_scopes(principal, contract)
    if transport not in contract.transports:
        raise TransportNotOffered(f"This stream is offered over {', '.join(contract.transports)}, not {transport}.")
    return Grant(
        principal=principal,
        tenant=tenant.name,
        application=application.client_id,
        contract=contract,
        plan=right.plan,
        rows=_rows(principal, tenant, contract),
        entitled_until=right.ends_at,
    )


def member(principal: Principal, catalog: Catalog) -> tuple[Tenant, Application]:
    """The tenant and application of a principal. Raises TokenInvalid where there is none, TenantSuspended."""
    found = catalog.application(principal.issuer, principal.client_id)
    if found is None:
        raise TokenInvalid("unknown_application")
    if found[0].status != "active":
        raise TenantSuspended
    return found


def readable(principal: Principal, contracts: Iterable[Contract], catalog: Catalog, *, now: float) -> list[Readable]:
    """The streams that ``decide`` would grant now over one transport at least, by name; deprecated ones included.

    Raises TokenInvalid and TenantSuspended as ``decide`` does.
    """
    tenant, _ = member(principal, catalog)
    found: list[Readable] = []
    for contract in contracts:
        right = _usable_right(principal, tenant, contract, catalog, now)
        if right is not None:
            found.append(Readable(contract, right.entitlement, right.plan))
    return sorted(found, key=lambda one: one.contract.stream)


def _usable_right(
    principal: Principal, tenant: Tenant, contract: Contract, catalog: Catalog, now: float
) -> Right | None:
    if contract.lifecycle not in ("published", "deprecated") or not principal.scopes.issuperset(contract.scopes):
        return None
    row = contract.row_filter
    if row is not None and _values(_held(principal, tenant, contract), row.type) is None:
        return None
    return catalog.right(tenant.name, contract.stream, now=now)


def _refuse_unentitled(contract: Contract) -> NoReturn:
    if contract.visibility != "public":
        raise StreamNotFound(NO_SUCH_STREAM)
    if contract.lifecycle == "retired":
        _refuse_retired(contract)
    raise NotEntitled("No entitlement of your organisation to this stream is in force.")


def _refuse_retired(contract: Contract) -> NoReturn:
    successor = f"; its successor is {contract.successor}" if contract.successor else ""
    raise StreamRetired(f"The stream {contract.stream} is retired{successor}.")


def _refuse_scopes(principal: Principal, contract: Contract) -> NoReturn:
    missing = [scope for scope in contract.scopes if scope not in principal.scopes]
    plural = "s" if len(missing) > 1 else ""
    raise InsufficientScope(
        f"The token lacks the scope{plural} {', '.join(missing)}.",
        scopes=contract.scopes,
    )


def _rows(principal: Principal, tenant: Tenant, contract: Contract) -> RowMatch | None:
    row = contract.row_filter
    if row is None:
        return None
    values = _values(_held(principal, tenant, contract), row.type)
    if values is None:
        holder = f"claim {row.claim}" if row.claim is not None else f"tenant attribute {row.attribute}"
        raise ClaimMissing(f"The {holder} must hold a {row.type} or a list of them; it is missing or something else.")
    return RowMatch(row.pointer, values)


def _held(principal: Principal, tenant: Tenant, contract: Contract) -> Any:
    """The value that a row filter compares with, None where there is none."""
    row = contract.row_filter
    if row is None:
        return None
    return principal.claims.get(row.claim) if row.claim is not None else tenant.attributes.get(row.attribute or "")


def _values(held: Any, kind: FieldType) -> frozenset[str | int | float | bool] | None:
    """The values as a set; None where one of them is not of the filter's type, or there is none at all."""
    values = held if isinstance(held, list | tuple) else (held,)
    if not values or not all(_is_of(value, kind) for value in values):
        return None
    return frozenset(values)


def _is_of(value: Any, kind: FieldType) -> bool:
    if kind == "string":
        return isinstance(value, str)
    if kind == "boolean":
        return isinstance(value, bool)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if kind == "integer":
        return isinstance(value, int) or value.is_integer()
    return isinstance(value, int) or math.isfinite(value)
