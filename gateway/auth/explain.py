"""Why a reader may or may not: the conditions of the policy one by one, each with its verdict and what it rests on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Literal

from msgspec import structs

from gateway.auth.policy import CONDITIONS, Case
from gateway.auth.revocation import Revocations
from gateway.errors import GatewayError
from gateway.model import Contract, Principal, RowMatch, Transport

if TYPE_CHECKING:
    from gateway.catalog.catalog import Catalog, Right

Outcome = Literal["met", "not met", "assumed", "unknown"]
_SHOWN_VALUES: Final = 20


@dataclass(frozen=True, slots=True)
class Verdict:
    """One condition. ``told`` is what it rests on, for the operator; ``refusal`` what a partner is answered."""

    condition: str
    outcome: Outcome
    told: str
    refusal: GatewayError | None = None


@dataclass(frozen=True, slots=True)
class Explanation:
    """Every condition in the order in which they are looked at."""

    verdicts: tuple[Verdict, ...]

    @property
    def refusal(self) -> GatewayError | None:
        """What an open would be answered now: the first refusal, None where there is none."""
        return next((one.refusal for one in self.verdicts if one.refusal is not None), None)


def explain(
    principal: Principal,
    contract: Contract | None,
    catalog: Catalog,
    revocations: Revocations,
    *,
    transport: Transport | None,
    now: float,
    scopes_are_known: bool = True,
) -> Explanation:
    """What ``Revocations.check`` and ``decide`` say of this read at ``now``, condition by condition.

    ``transport`` None: over whichever the contract offers. Where nobody knows the token's scopes, it is taken to hold
    those that the contract asks for, and the verdict says so.
    """
    if not scopes_are_known and contract is not None:
        principal = structs.replace(principal, scopes=frozenset(contract.scopes))
    case = Case(principal, contract, catalog, transport=transport, now=now)
    verdicts = (_revoked(case, revocations), *_verdicts(case))
    if not scopes_are_known:
        verdicts = tuple(
            _assumed(one) if one.condition == "scopes" and one.outcome == "met" else one for one in verdicts
        )
    return Explanation(verdicts)


def _assumed(scopes: Verdict) -> Verdict:
    needed, _, _ = scopes.told.partition(";")
    return Verdict(scopes.condition, "assumed", f"{needed}; assumed that the token has them")


def _verdicts(case: Case) -> Iterator[Verdict]:
    for condition in CONDITIONS:
        missing = [name for name in condition.needs if getattr(case, name) is None]
        if missing:
            yield Verdict(condition.name, "unknown", f"without {_NAMES[missing[0]]} there is nothing to look at")
            continue
        refusal = condition.refusal(case)
        yield Verdict(condition.name, "met" if refusal is None else "not met", TOLD[condition.name](case), refusal)


def _revoked(case: Case, revocations: Revocations) -> Verdict:
    tenant = case.found[0].name if case.found is not None else None
    try:
        revocations.check(case.principal, tenant, now=case.now)
    except GatewayError as error:
        return Verdict("revocations", "not met", error.detail or "its token or subject is revoked", error)
    holder = f"application {case.principal.client_id}" + (f", tenant {tenant}" if tenant else "")
    return Verdict("revocations", "met", f"none holds of subject {case.principal.subject}, {holder}")


def _application(case: Case) -> str:
    name = f"{case.principal.client_id} of issuer {case.principal.issuer}"
    if case.found is None:
        return f"no application is {name}"
    return f"{name} is {case.found[1].title!r} of tenant {case.found[0].name}"


def _tenant(case: Case) -> str:
    assert case.found is not None
    return f"{case.found[0].name} is {case.found[0].status}"


def _contract(case: Case) -> str:
    contract = case.contract
    if contract is None:
        return "no contract of this stream name is loaded"
    return f"{contract.stream} {contract.version} is {contract.lifecycle}, visibility {contract.visibility}"


def _entitlement(case: Case) -> str:
    assert case.found is not None
    assert case.contract is not None
    tenant = case.found[0]
    rights = case.catalog.entitlements_for(tenant.name, case.contract.stream)
    listed = "; ".join(_right(right, now=case.now) for right in rights)
    return f"{listed} (days of {tenant.time_zone})" if listed else "no product that the tenant is entitled to holds it"


def _right(right: Right, *, now: float) -> str:
    one = right.entitlement
    end = f"to {one.end} exclusive" if one.end else "without end"
    standing = "in force" if right.starts_at <= now < right.ends_at else "over" if now >= right.ends_at else "to come"
    return f"{one.product} at {right.plan.name} revision {right.plan.revision} from {one.start} {end}: {standing}"


def _lifecycle(case: Case) -> str:
    assert case.contract is not None
    dates = (("deprecated on", case.contract.deprecated_on), ("sunset on", case.contract.sunset_on))
    told = [f"{name} {day}" for name, day in dates if day is not None]
    successor = [f"successor {case.contract.successor}"] if case.contract.successor else []
    return ", ".join([case.contract.lifecycle, *told, *successor])


def _scopes(case: Case) -> str:
    assert case.contract is not None
    needed, held = " ".join(case.contract.scopes) or "none", " ".join(sorted(case.principal.scopes)) or "none"
    return f"needed: {needed}; the token has: {held}"


def _transport(case: Case) -> str:
    assert case.contract is not None
    return f"offered: {', '.join(case.contract.transports)}; asked for: {case.transport or 'any of them'}"


def _row_filter(case: Case) -> str:
    assert case.contract is not None
    row = case.contract.row_filter
    if row is None:
        return "none: every record"
    holder = f"claim {row.claim}" if row.claim is not None else f"tenant attribute {row.attribute}"
    rows = case.rows()
    if rows is None:
        return f"{row.pointer} must be what {holder} holds, a {row.type} or a list of them, and it holds none"
    return f"{row.pointer} must be {_values(rows)}, by {holder}"


def _values(rows: RowMatch) -> str:
    values = sorted(map(repr, rows.values))
    more = f" and {len(values) - _SHOWN_VALUES} more" if len(values) > _SHOWN_VALUES else ""
    return ("one of " if len(values) > 1 else "") + ", ".join(values[:_SHOWN_VALUES]) + more


def _masks(case: Case) -> str:
    assert case.right is not None
    masks = ", ".join(f"{pointer} {rule}" for pointer, rule in case.masks())
    return f"{masks}, by {case.right.entitlement.product}" if masks else "none: every field of the contract"


_NAMES: Final = {"found": "a tenant", "contract": "a contract", "right": "an entitlement in force"}
TOLD: Final[Mapping[str, Callable[[Case], str]]] = {
    "application": _application,
    "tenant": _tenant,
    "contract": _contract,
    "entitlement": _entitlement,
    "lifecycle": _lifecycle,
    "scopes": _scopes,
    "transport": _transport,
    "row_filter": _row_filter,
    "masks": _masks,
}


def moment(now: float) -> str:
    """A time for people."""
    return datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
