"""The catalog as flat objects by key, the common ground of file, database and diff; and back again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any, Literal

from gateway.catalog.catalog import Catalog, Key
from gateway.catalog.masks import masks_of, plain_masks
from gateway.catalog.problems import problem_line
from gateway.catalog.validation import application_key, catalog_problems, entitlement_key
from gateway.model import Application, Entitlement, Plan, Product, Tenant

KINDS = ("product", "plan", "tenant", "application", "entitlement")
"""In the order in which objects may refer to those before them."""

Fields = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Stored:
    """An object as the database holds it. ``is_suspended`` is an admin's suspension of a tenant, not the file's."""

    owner: str
    fields: Fields
    is_suspended: bool = False


def objects_of(catalog: Catalog) -> dict[Key, Fields]:
    """Every object of a catalog by key, its fields as plain data."""
    found: dict[Key, Fields] = {}
    for product in catalog.products:
        found["product", product.name] = {
            "title": product.title,
            "streams": list(product.streams),
            "masks": plain_masks(product.masks),
        }
    for plan in catalog.plans:
        found["plan", plan.name, str(plan.revision)] = {
            "title": plan.title,
            "currency": plan.currency,
            "limits": dict(plan.limits),
            "pricing": dict(plan.pricing),
        }
    for tenant in catalog.tenants:
        found["tenant", tenant.name] = {
            "title": tenant.title,
            "status": tenant.status,
            "time_zone": tenant.time_zone,
            "attributes": dict(tenant.attributes),
            "account": dict(catalog.accounts.get(tenant.name, {})),
        }
        for application in tenant.applications:
            found[application_key(application)] = {
                "tenant": application.tenant,
                "title": application.title,
                "origins": list(application.origins),
                "billable": application.billable,
            }
        for entitlement in tenant.entitlements:
            found[entitlement_key(entitlement)] = {
                "plan": entitlement.plan,
                "revision": entitlement.revision,
                "to": entitlement.end.isoformat() if entitlement.end else None,
            }
    return found


def catalog_of(
    stored: Mapping[Key, Stored], *, issuers: Sequence[str] = (), places: Mapping[Key, str] | None = None
) -> Catalog:
    """The catalog that stored objects make up; a tenant is suspended where the file or an admin says so.

    Applications and entitlements whose tenant is not among the objects are left out.
    """
    products: list[Product] = []
    plans: list[Plan] = []
    tenants: dict[str, Tenant] = {}
    accounts: dict[str, Mapping[str, str]] = {}
    applications: dict[str, list[Application]] = {}
    entitlements: dict[str, list[Entitlement]] = {}
    for key, one in stored.items():
        fields = one.fields
        match key:
            case ("product", name):
                masks = masks_of(fields["masks"])
                products.append(Product(name, fields["title"], tuple(fields["streams"]), masks))
            case ("plan", name, revision):
                plans.append(
                    Plan(name, int(revision), fields["title"], fields["currency"], fields["limits"], fields["pricing"])
                )
            case ("tenant", name):
                is_active = fields["status"] == "active" and not one.is_suspended
                status: Literal["active", "suspended"] = "active" if is_active else "suspended"
                tenants[name] = Tenant(name, fields["title"], status, fields["time_zone"], fields["attributes"])
                if fields["account"]:
                    accounts[name] = fields["account"]
            case ("application", issuer, client_id):
                applications.setdefault(fields["tenant"], []).append(
                    Application(
                        client_id=client_id,
                        tenant=fields["tenant"],
                        title=fields["title"],
                        issuer=issuer or None,
                        origins=tuple(fields["origins"]),
                        billable=fields["billable"],
                    )
                )
            case ("entitlement", tenant, product, start):
                end = date.fromisoformat(fields["to"]) if fields["to"] else None
                entitlements.setdefault(tenant, []).append(
                    Entitlement(tenant, product, fields["plan"], date.fromisoformat(start), end, fields["revision"])
                )
    whole = [
        replace(
            tenant,
            applications=tuple(applications.get(name, ())),
            entitlements=tuple(entitlements.get(name, ())),
        )
        for name, tenant in tenants.items()
    ]
    return Catalog.build(products, plans, whole, issuers=issuers, accounts=accounts, places=places)


def problems_of(stored: Mapping[Key, Stored], *, places: Mapping[Key, str]) -> list[str]:
    """Problem lines of the catalog that stored objects make up, and of those that belong to no tenant in it."""
    lines = catalog_problems(catalog_of(stored, places=places))
    for key, one in stored.items():
        tenant = one.fields["tenant"] if key[0] == "application" else key[1] if key[0] == "entitlement" else None
        if tenant is not None and ("tenant", tenant) not in stored:
            what = f"tenant {tenant} has objects owned by {one.owner} and cannot be removed"
            lines.append(problem_line("catalog", what, allowed="a tenant without them"))
        if key[0] == "entitlement" and (pinned := one.fields["revision"]) is not None:
            known = [other[2] for other in stored if other[:2] == ("plan", one.fields["plan"])]
            if known and str(pinned) not in known:
                place = places.get((*key, "revision"), "catalog")
                what = f"tenant {tenant}: revision of plan {one.fields['plan']}"
                lines.append(problem_line(place, what, got=pinned, allowed=", ".join(sorted(known, key=int))))
    return lines
