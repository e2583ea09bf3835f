"""Who may read what now: a pure function of principal, contract, catalog and time; a grant, or one reason against it.

The order of the conditions decides what a refusal tells. Before a stream is known to be visible to the tenant (public,
or held by an entitlement in force) every refusal is the same 404; what is missing is named only afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from gateway.errors import (
    ClaimMissing,
    GatewayError,
    InsufficientScope,
    NotEntitled,
    StreamNotFound,
    StreamRetired,
    TenantSuspended,
    TokenInvalid,
    TransportNotOffered,
    Unavailable,
)
from gateway.model import (
    Application,
    Contract,
    Entitlement,
    FieldType,
    Grant,
    Masks,
    Plan,
    Principal,
    RowMatch,
    Tenant,
    Transport,
)

if TYPE_CHECKING:
    from gateway.catalog.catalog import Catalog, Right

NO_SUCH_STREAM = "There is no stream of this name that you may read."
OPERATOR_RETRY_MS: Final = 60_000


@dataclass(frozen=True, slots=True)
class Readable:
    """A stream that a principal may read now, by what right, and what is hidden of it."""

    contract: Contract
    entitlement: Entitlement
    plan: Plan
    masks: Masks = ()


class Case:
    """What a decision looks at. ``contract``, ``found`` (tenant and application) and ``right`` are None where there is
    none."""

    __slots__ = ("_rows", "catalog", "contract", "found", "now", "principal", "right", "transport")

    def __init__(
        self,
        principal: Principal,
        contract: Contract | None,
        catalog: Catalog,
        *,
        transport: Transport | None,
        now: float,
    ) -> None:
        """``transport`` None: over whichever."""
        self.principal = principal
        self.contract = contract
        self.catalog = catalog
        self.transport = transport
        self.now = now
        self.found: tuple[Tenant, Application] | None = catalog.application(principal.issuer, principal.client_id)
        self.right: Right | None = None
        if self.found is not None and contract is not None:
            self.right = catalog.right(self.found[0].name, contract.stream, now=now)
        self._rows: RowMatch | None = None

    def rows(self) -> RowMatch | None:
        """The row filter bound to what the reader holds; None where it holds nothing that the filter could take."""
        row = self.contract.row_filter if self.contract is not None else None
        if self._rows is None and row is not None:
            values = _values(self._held(), row.type)
            self._rows = None if values is None else RowMatch(row.pointer, values)
        return self._rows

    def _held(self) -> Any:
        """The value that the row filter compares with, None where there is none."""
        row = self.contract.row_filter if self.contract is not None else None
        if row is None:
            return None
        if row.claim is not None:
            return self.principal.claims.get(row.claim)
        return self.found[0].attributes.get(row.attribute or "") if self.found is not None else None

    def masks(self) -> Masks:
        """What the right hides of the stream."""
        if self.right is None or self.contract is None:
            return ()
        return self.right.masks.get(self.contract.stream, ())


def _no_application(case: Case) -> GatewayError | None:
    return None if case.found is not None else TokenInvalid("unknown_application")


def _suspended(case: Case) -> GatewayError | None:
    return None if case.found is None or case.found[0].status == "active" else TenantSuspended()


def _no_contract(case: Case) -> GatewayError | None:
    if case.contract is None or case.contract.lifecycle == "draft":
        return StreamNotFound(NO_SUCH_STREAM)
    return None


def _unentitled(case: Case) -> GatewayError | None:
    if case.right is not None:
        return None
    if case.contract is None or case.contract.visibility != "public":
        return StreamNotFound(NO_SUCH_STREAM)
    return _retired(case) or NotEntitled("No entitlement of your organisation to this stream is in force.")


def _retired(case: Case) -> GatewayError | None:
    contract = case.contract
    if contract is None or contract.lifecycle != "retired":
        return None
    successor = f"; its successor is {contract.successor}" if contract.successor else ""
    return StreamRetired(f"The stream {contract.stream} is retired{successor}.")


def _not_published(case: Case) -> GatewayError | None:
    return _no_contract(case) or _retired(case)


def _lacks_scopes(case: Case) -> GatewayError | None:
    contract, held = case.contract, case.principal.scopes
    if contract is None or held.issuperset(contract.scopes):
        return None
    missing = [scope for scope in contract.scopes if scope not in held]
    plural = "s" if len(missing) > 1 else ""
    return InsufficientScope(f"The token lacks the scope{plural} {', '.join(missing)}.", scopes=contract.scopes)


def _not_offered(case: Case) -> GatewayError | None:
    contract, transport = case.contract, case.transport
    if contract is None or transport is None or transport in contract.transports:
        return None
    return TransportNotOffered(f"This stream is offered over {', '.join(contract.transports)}, not {transport}.")


def _no_rows(case: Case) -> GatewayError | None:
    row = case.contract.row_filter if case.contract is not None else None
    if row is None or case.rows() is not None:
        return None
    holder = f"claim {row.claim}" if row.claim is not None else f"tenant attribute {row.attribute}"
    return ClaimMissing(f"The {holder} must hold a {row.type} or a list of them; it is missing or something else.")


def _unmaskable(case: Case) -> GatewayError | None:
    if case.contract is None or case.contract.is_json or not case.masks():
        return None
    # Masks are applied to contracts that are JSON; one that has changed since must not show what they hide.
    return Unavailable("This stream cannot be given as your access asks for it.", retry_after_ms=OPERATOR_RETRY_MS)


Needed = Literal["found", "contract", "right"]


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition of the rule. ``refusal`` says why a case does not meet it, None where it does; without what it
    ``needs`` of the case it says nothing."""

    name: str
    refusal: Callable[[Case], GatewayError | None]
    needs: tuple[Needed, ...] = ("contract",)


MEMBERSHIP: Final = (Condition("application", _no_application, ()), Condition("tenant", _suspended, ("found",)))
ACCESS: Final = (
    Condition("contract", _no_contract, ()),
    Condition("entitlement", _unentitled, ("found", "contract")),
    Condition("lifecycle", _not_published),
    Condition("scopes", _lacks_scopes),
    Condition("transport", _not_offered),
    Condition("row_filter", _no_rows),
    Condition("masks", _unmaskable, ("contract", "right")),
)
CONDITIONS: Final = MEMBERSHIP + ACCESS
"""In the order in which the first that is not met is the answer."""


def decide(
    principal: Principal, contract: Contract | None, catalog: Catalog, *, transport: Transport, now: float
) -> Grant:
    """What the principal may read of the contract over the transport at ``now`` (epoch seconds).

    ``contract`` is None where no stream has the name that was asked for. Raises the GatewayError that says why not.
    """
    case = Case(principal, contract, catalog, transport=transport, now=now)
    _refuse(CONDITIONS, case)
    if contract is None or case.found is None or case.right is None:
        raise StreamNotFound(NO_SUCH_STREAM)
    return Grant(
        principal=principal,
        tenant=case.found[0].name,
        application=case.found[1].client_id,
        contract=contract,
        plan=case.right.plan,
        rows=case.rows(),
        entitled_until=catalog.unbroken_until(case.found[0].name, contract.stream, case.right),
        masks=case.masks(),
        billable=case.found[1].billable,
    )


def member(principal: Principal, catalog: Catalog) -> tuple[Tenant, Application]:
    """The tenant and application of a principal. Raises TokenInvalid where there is none, TenantSuspended."""
    case = Case(principal, None, catalog, transport=None, now=0)
    _refuse(MEMBERSHIP, case)
    if case.found is None:
        raise TokenInvalid("unknown_application")
    return case.found


def readable(principal: Principal, contracts: Iterable[Contract], catalog: Catalog, *, now: float) -> list[Readable]:
    """The streams that ``decide`` would grant now over one transport at least, by name; deprecated ones included.

    Raises TokenInvalid and TenantSuspended as ``decide`` does.
    """
    member(principal, catalog)
    found: list[Readable] = []
    for contract in contracts:
        case = Case(principal, contract, catalog, transport=None, now=now)
        if case.right is not None and _first_refusal(ACCESS, case) is None:
            found.append(Readable(contract, case.right.entitlement, case.right.plan, case.masks()))
    return sorted(found, key=lambda one: one.contract.stream)


def _refuse(conditions: Iterable[Condition], case: Case) -> None:
    """Raise the first refusal, if there is one."""
    refusal = _first_refusal(conditions, case)
    if refusal is not None:
        try:
            raise refusal
        finally:
            # It knows this frame: if that knew it too, both would wait for the garbage collector.
            del refusal


def _first_refusal(conditions: Iterable[Condition], case: Case) -> GatewayError | None:
    return next((refusal for one in conditions if (refusal := one.refusal(case)) is not None), None)


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
