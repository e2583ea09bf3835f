"""Rules between the catalog's objects: references, uniqueness, dates that overlap, one plan and masks a stream."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

from gateway.catalog.catalog import Catalog, Key
from gateway.catalog.currencies import check_currencies
from gateway.catalog.masks import check_masks, spell_masks
from gateway.catalog.problems import Problems, problem_line
from gateway.errors import ConfigurationProblems
from gateway.limits.scopes import STREAMS
from gateway.model import Application, Entitlement, Masks, Tenant


@dataclass(frozen=True, slots=True)
class Known:
    """Names that exist though the catalog at hand does not hold them, say because their definition is broken."""

    products: Collection[str] = ()
    plans: Collection[str] = ()


def application_key(application: Application) -> Key:
    """The key of an application in places, tables and diffs."""
    return ("application", application.issuer or "", application.client_id)


def entitlement_key(entitlement: Entitlement) -> Key:
    """The key of an entitlement in places, tables and diffs."""
    return ("entitlement", entitlement.tenant, entitlement.product, entitlement.start.isoformat())


def validate_catalog(
    catalog: Catalog, contracts: Collection[str] | None = None, issuers: Sequence[str] | None = None
) -> None:
    """Raise ConfigurationProblems with everything that ``catalog_problems`` finds."""
    problems = catalog_problems(catalog, contracts, issuers)
    if problems:
        raise ConfigurationProblems(problems)


def catalog_problems(
    catalog: Catalog,
    contracts: Collection[str] | None = None,
    issuers: Sequence[str] | None = None,
    *,
    known: Known | None = None,
) -> list[str]:
    """Problem lines of a catalog, each with the place it was read at where that is known.

    ``contracts`` are the streams that exist (None: not checked), ``issuers`` the configured ones (None: not checked).
    """
    known = known or Known()
    problems = Problems()
    _check_products(catalog, contracts, problems)
    _check_limited_streams(catalog, contracts, problems)
    products = sorted({product.name for product in catalog.products} | set(known.products))
    plans = sorted({plan.name for plan in catalog.plans} | set(known.plans))
    streams_of = {product.name: product.streams for product in catalog.products}
    masks_of = {product.name: product.masks for product in catalog.products}
    for tenant in catalog.tenants:
        for entitlement in tenant.entitlements:
            key = entitlement_key(entitlement)
            if entitlement.product not in products:
                place = _place(catalog, key, "product")
                problems.add(place, f"tenant {tenant.name}: product", got=entitlement.product, choices=products)
            if entitlement.plan not in plans:
                place = _place(catalog, key, "plan")
                problems.add(place, f"tenant {tenant.name}: plan", got=entitlement.plan, choices=plans)
        _check_overlaps(catalog, tenant, problems)
        _check_one_revision_a_plan(catalog, tenant, problems)
        _check_one_right_a_stream(catalog, tenant, streams_of, masks_of, problems)
    check_currencies(catalog, problems)
    _check_applications(catalog, issuers, problems)
    return problems.lines


def unmatched_applications(catalog: Catalog, issuers: Sequence[str]) -> list[str]:
    """A line for each application that no token matches, since it names none of the several issuers. No problem: the
    catalog may be there before somebody says whose tokens they are."""
    if len(issuers) < 2:
        return []
    return [
        problem_line(
            _place(catalog, application_key(application)),
            f"tenant {tenant.name}: application {application.client_id}: no token matches it without an issuer,"
            " several are configured",
            got=None,
            choices=issuers,
        )
        for tenant in catalog.tenants
        for application in tenant.applications
        if application.issuer is None
    ]


def _check_products(catalog: Catalog, contracts: Collection[str] | None, problems: Problems) -> None:
    if contracts is None:
        return
    for product in catalog.products:
        for stream in product.streams:
            if stream not in contracts:
                place = _place(catalog, ("product", product.name), stream)
                what = f"product {product.name}: no contract for the stream"
                problems.add(place, what, got=stream, choices=sorted(contracts))
    if isinstance(contracts, Mapping):
        check_masks(catalog, contracts, problems)


def _check_limited_streams(catalog: Catalog, contracts: Collection[str] | None, problems: Problems) -> None:
    """A slip of the pen would leave the stream without its limit. Revisions before the newest cannot be changed, and
    their streams may go."""
    if contracts is None:
        return
    for plan in {plan.name: plan for plan in catalog.plans}.values():
        for stream in plan.limits.get(STREAMS, {}):
            if stream not in contracts:
                place = _place(catalog, ("plan", plan.name, str(plan.revision)), stream)
                what = f"plan {plan.name}: limits.{STREAMS}: no contract for the stream"
                problems.add(place, what, got=stream, choices=sorted(contracts))


def _check_overlaps(catalog: Catalog, tenant: Tenant, problems: Problems) -> None:
    by_product: dict[str, list[Entitlement]] = {}
    for entitlement in tenant.entitlements:
        by_product.setdefault(entitlement.product, []).append(entitlement)
    for product, entitlements in by_product.items():
        for earlier, later in _overlapping(entitlements):
            place = _place(catalog, entitlement_key(later), other=entitlement_key(earlier))
            what = f"tenant {tenant.name}: entitlement to {product} overlaps the one {_dates(earlier)}"
            problems.add(place, what, got=later.start, allowed="dates apart, each from the day the other ends")


def _check_one_right_a_stream(
    catalog: Catalog,
    tenant: Tenant,
    streams_of: Mapping[str, tuple[str, ...]],
    masks_of: Mapping[str, Mapping[str, Masks]],
    problems: Problems,
) -> None:
    """One plan and the same masks: of two, nobody could say which one holds."""
    by_stream: dict[str, list[Entitlement]] = {}
    for entitlement in tenant.entitlements:
        for stream in streams_of.get(entitlement.product, ()):
            by_stream.setdefault(stream, []).append(entitlement)
    for stream, entitlements in by_stream.items():
        for earlier, later in _overlapping(entitlements):
            if earlier.plan != later.plan and earlier.product != later.product:
                place = _place(catalog, entitlement_key(later), "plan", other=entitlement_key(earlier))
                what = (
                    f"tenant {tenant.name}: stream {stream} through two plans,"
                    f" {earlier.product} at {earlier.plan} and {later.product} at {later.plan}"
                )
                problems.add(place, what, got=later.plan, allowed=f"one plan a stream, here {earlier.plan}")
            first, second = (masks_of[one.product].get(stream, ()) for one in (earlier, later))
            if first != second:
                place = _place(catalog, entitlement_key(later), "product", other=entitlement_key(earlier))
                what = (
                    f"tenant {tenant.name}: stream {stream} under two different masks,"
                    f" {spell_masks(first)} by {earlier.product} and {spell_masks(second)} by {later.product}"
                )
                problems.add(place, what, got=later.product, allowed="the same masks in both products, or dates apart")


def _check_one_revision_a_plan(catalog: Catalog, tenant: Tenant, problems: Problems) -> None:
    """Limits and charges apply once for a tenant and plan: of two revisions at once, nobody could say whose."""
    by_plan: dict[str, list[Entitlement]] = {}
    for entitlement in tenant.entitlements:
        by_plan.setdefault(entitlement.plan, []).append(entitlement)
    for plan, entitlements in by_plan.items():
        for earlier, later in _overlapping(entitlements):
            if earlier.revision != later.revision and earlier.product != later.product:
                place = _place(catalog, entitlement_key(later), "revision", other=entitlement_key(earlier))
                what = f"tenant {tenant.name}: plan {plan} at two revisions, for {earlier.product} and {later.product}"
                allowed = f"the same one for both, here {earlier.revision or 'none'}"
                problems.add(place, what, got=later.revision, allowed=allowed)


def _overlapping(entitlements: Iterable[Entitlement]) -> list[tuple[Entitlement, Entitlement]]:
    """Pairs of neighbours in time that share a day."""
    found: list[tuple[Entitlement, Entitlement]] = []
    running: list[Entitlement] = []
    for entitlement in sorted(entitlements, key=lambda one: one.start):
        running = [one for one in running if one.end is None or one.end > entitlement.start]
        found.extend((one, entitlement) for one in running[-4:])
        running.append(entitlement)
    return found


def _check_applications(catalog: Catalog, issuers: Sequence[str] | None, problems: Problems) -> None:
    only = issuers[0] if issuers is not None and len(issuers) == 1 else ""
    first: dict[tuple[str, str], tuple[Tenant, str]] = {}
    for tenant in catalog.tenants:
        for application in tenant.applications:
            key = application_key(application)
            place = _place(catalog, key)
            name = f"tenant {tenant.name}: application {application.client_id}"
            if issuers is not None and application.issuer is not None and application.issuer not in issuers:
                place_of_issuer = _place(catalog, key, "issuer")
                problems.add(place_of_issuer, f"{name}: issuer", got=application.issuer, choices=issuers)
            identity = (application.issuer or only, application.client_id)
            if identity in first:
                other, other_place = first[identity]
                what = f"{name}: client_id is taken by tenant {other.name} ({other_place})"
                allowed = "a client_id once for each issuer, over all tenants"
                problems.add(place, what, got=application.client_id, allowed=allowed)
            first.setdefault(identity, (tenant, place))


def _dates(entitlement: Entitlement) -> str:
    end: date | None = entitlement.end
    return f"from {entitlement.start}" + (f" to {end}" if end else " without end")


def _place(catalog: Catalog, key: Key, member: str = "", *, other: Key = ()) -> str:
    """Where the object (its member, if the place of that is known) was read; else where the other one was."""
    places = catalog.places
    return places.get((*key, member)) or places.get(key) or places.get(other) or "catalog"
