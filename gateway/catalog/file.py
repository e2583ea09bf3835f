"""catalog.yaml → catalog: products, plans and tenants of one or several files, or every problem with its line."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any, Literal, cast
from urllib.parse import urlsplit
from zoneinfo import available_timezones

from gateway.catalog.catalog import Catalog, Key
from gateway.catalog.currencies import read_currency
from gateway.catalog.exposure import NAME, NAME_ALLOWED
from gateway.catalog.masks import read_masks
from gateway.catalog.pricing_terms import KEYS as PRICING_KEYS
from gateway.catalog.pricing_terms import parse_pricing, places_of_charges
from gateway.catalog.problems import Problems
from gateway.catalog.section import Section
from gateway.catalog.source import Node, listed, read_yaml
from gateway.catalog.validation import (
    Known,
    application_key,
    catalog_problems,
    entitlement_key,
    validate_catalog,
)
from gateway.errors import ConfigurationProblems
from gateway.limits.scopes import EACH_APPLICATION, PACED, SCOPES, STREAMS
from gateway.limits.standing import rate_of
from gateway.model import Application, Entitlement, Plan, Product, Tenant

__all__ = ["RATES", "load_catalog", "validate_catalog"]

RATES = (
    "requests_per_second",
    "connections",
    "records_per_second",
    "bytes_per_second",
    "replay_records_per_second",
)
QUOTAS = ("records_per_day", "records_per_month", "bytes_per_day", "bytes_per_month")
MOST = 10**15
"""No limit of a plan is above this: whoever wants more writes ``unlimited``."""

_PLAN_KEYS = ("name", "revision", "title", "currency", "limits", *PRICING_KEYS)
_TENANT_KEYS = (
    "name",
    "title",
    "status",
    "time_zone",
    "attributes",
    "spend_limit",
    "credit",
    "applications",
    "entitlements",
)
_ENTITLEMENT_KEYS = ("product", "plan", "revision", "from", "to")
_MAX_REVISION = 1_000_000
_STATUSES = ("active", "suspended")
_CLIENT_ID = re.compile(r"[\x21-\x7e]{1,255}")
_ORIGIN = re.compile(r"https?://(?:[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?")
_MAX_ATTRIBUTE_VALUES = 1_000


def load_catalog(
    *paths: Path,
    contracts: Collection[str] | None = None,
    issuers: Sequence[str] | None = None,
    takes_bare_plans: bool = False,
) -> Catalog:
    """Read the catalog that the files make up together. Raises ConfigurationProblems with all that is wrong in them.

    ``contracts`` (the streams that exist) and ``issuers`` (the configured ones) are checked against where given.
    ``takes_bare_plans``: a file may be one plan, without the list that it would stand in.
    """
    reading = _Reading()
    for path in paths:
        root = read_yaml(path, reading.problems)
        if root is not None:
            reading.read(listed(root, key="plans") if takes_bare_plans else root)
    catalog = Catalog.build(
        reading.products,
        reading.plans,
        reading.tenants,
        issuers=issuers or (),
        accounts=reading.accounts,
        places=reading.places,
    )
    known = Known(products=reading.names["product"], plans=reading.names["plan"])
    lines = reading.problems.lines + catalog_problems(catalog, contracts, issuers, known=known)
    if lines:
        raise ConfigurationProblems(lines)
    return catalog


class _Reading:
    """What was read so far, over all files."""

    def __init__(self) -> None:
        self.problems = Problems()
        self.products: list[Product] = []
        self.plans: list[Plan] = []
        self.tenants: list[Tenant] = []
        self.accounts: dict[str, dict[str, str]] = {}
        self.places: dict[Key, str] = {}
        self.names: dict[str, set[str]] = {"product": set(), "plan": set(), "tenant": set()}

    def read(self, node: Node) -> None:
        root = Section(node, "", self.problems, keys=("products", "plans", "tenants"))
        self._objects(root, "products", ("name", "title", "streams", "masks"), self._product)
        self._objects(root, "plans", _PLAN_KEYS, self._plan)
        self._objects(root, "tenants", _TENANT_KEYS, self._tenant)

    def _objects(self, root: Section, kind: str, keys: Sequence[str], read: Callable[[Section, str], None]) -> None:
        for item in root.items(kind, allowed=f"a list of {kind}"):
            singular = kind.removesuffix("s")
            named = item.value.get("name") if isinstance(item.value, dict) else None
            label = named.value if named is not None and isinstance(named.value, str) else ""
            section = Section(item, f"{singular} {label[:63]}".rstrip(), self.problems, keys=keys)
            if isinstance(item.value, dict):
                # A name that is refused still says in later problems whose they are.
                name = section.text("name", pattern=NAME, allowed=NAME_ALLOWED) or label[:63]
                self.names[singular].add(name)
                read(section, name)

    def _product(self, section: Section, name: str) -> None:
        key = ("product", name)
        self._declare(section, key)
        streams = section.texts(
            "streams", accepts=lambda stream: NAME.fullmatch(stream) is not None, allowed=NAME_ALLOWED, required=True
        )
        node = section.get("streams")
        listed = node.value if node is not None and isinstance(node.value, tuple) else ()
        self.places.update({(*key, item.value): item.place for item in listed if isinstance(item.value, str)})
        if node is not None and node.value == ():
            section.refuse("streams", allowed="at least one stream")
        masks, places = read_masks(section, streams=streams)
        self.places.update({(*key, "masks", *member): place for member, place in places.items()})
        self.products.append(Product(name, section.text("title"), streams, masks))

    def _plan(self, section: Section, name: str) -> None:
        revision = section.whole("revision", low=1, high=_MAX_REVISION)
        key = ("plan", name, str(revision))
        self._declare(section, key)
        if (limited := section.node.at("limits", STREAMS)) is not None:
            self.places.update({(*key, stream): limited.key_place(stream) for stream in limited.key_lines})
        self.places.update({(*key, *member): place for member, place in places_of_charges(section).items()})
        self.plans.append(
            Plan(
                name=name,
                revision=revision,
                title=section.text("title"),
                currency=read_currency(section),
                limits=_limits(section),
                pricing=parse_pricing(section),
            )
        )

    def _tenant(self, section: Section, name: str) -> None:
        self._declare(section, ("tenant", name))
        zone = section.text("time_zone", allowed="an IANA time zone such as Europe/Berlin")
        if zone and zone not in _zones():
            section.refuse("time_zone", allowed="an IANA time zone such as Europe/Berlin", choices=sorted(_zones()))
        account = {key: value for key in ("spend_limit", "credit") if (value := section.decimal(key)) is not None}
        if account:
            self.accounts[name] = account
        status = section.text("status", default="active", choices=_STATUSES)
        self.tenants.append(
            Tenant(
                name=name,
                title=section.text("title"),
                status=cast(Literal["active", "suspended"], status),
                time_zone=zone if zone in _zones() else "UTC",
                attributes=_attributes(section),
                applications=tuple(self._applications(section, name)),
                entitlements=tuple(self._entitlements(section, name)),
            )
        )

    def _applications(self, tenant: Section, name: str) -> list[Application]:
        found: list[Application] = []
        keys = ("client_id", "title", "issuer", "origins", "billable")
        for item in tenant.items("applications", allowed="a list of applications"):
            section = Section(item, tenant.path("applications"), self.problems, keys=keys)
            if not isinstance(item.value, dict):
                continue
            application = Application(
                client_id=section.text("client_id", pattern=_CLIENT_ID, allowed="1 to 255 printable ASCII characters"),
                tenant=name,
                title=section.text("title"),
                issuer=section.text("issuer", default="") or None,
                origins=section.texts(
                    "origins", accepts=_is_origin, allowed="origins such as https://app.example:8443, lower case"
                ),
                billable=section.flag("billable", default=True),
            )
            key = application_key(application)
            # The first place stays: the rule about double client ids names both lines, the second from the section.
            if key in self.places and application.client_id:
                what = f"tenant {name}: client_id given twice for one issuer, first in {self.places[key]}"
                allowed = "a client_id once for each issuer, over all tenants"
                self.problems.add(section.place("client_id"), what, got=application.client_id, allowed=allowed)
                continue
            self.places[key] = item.place
            self.places[(*key, "issuer")] = section.place("issuer")
            found.append(application)
        return found

    def _entitlements(self, tenant: Section, name: str) -> list[Entitlement]:
        found: list[Entitlement] = []
        for item in tenant.items("entitlements", allowed="a list of {product, plan, revision, from, to}"):
            section = Section(item, tenant.path("entitlements"), self.problems, keys=_ENTITLEMENT_KEYS)
            if not isinstance(item.value, dict):
                continue
            start, end = section.day("from", required=True), section.day("to")
            if start and end and end <= start:
                section.refuse("to", allowed=f"a date after {start}: the entitlement ends when that day begins")
                end = None
            product, plan = section.text("product"), section.text("plan")
            revision = section.whole("revision", low=1, high=_MAX_REVISION) if "revision" in section else None
            if start is None or not product or not plan:
                continue
            entitlement = Entitlement(tenant=name, product=product, plan=plan, start=start, end=end, revision=revision)
            key = entitlement_key(entitlement)
            if key in self.places:
                what = f"tenant {name}: entitlement to {product} overlaps the one in {self.places[key]}"
                self.problems.add(section.place("from"), what, got=start, allowed="dates apart")
                continue
            self.places[key] = item.place
            self.places[(*key, "product")] = section.place("product")
            self.places[(*key, "plan")] = section.place("plan")
            self.places[(*key, "revision")] = section.place("revision")
            found.append(entitlement)
        return found

    def _declare(self, section: Section, key: Key) -> None:
        """Keep the place of an object; a second one of that name is a problem."""
        if key in self.places:
            what = f"{key[0]} given twice, first in {self.places[key]}"
            allowed = "each name once" if len(key) == 2 else "each revision of a name once"
            self.problems.add(section.place("name"), what, got=" ".join(key[1:]), allowed=allowed)
        else:
            self.places[key] = section.node.place


def _limits(plan: Section) -> dict[str, Any]:
    limits = plan.section("limits", keys=(*RATES, *QUOTAS, *SCOPES))
    if limits is None:
        plan.refuse("limits", allowed=f"a mapping with {', '.join(RATES)}")
        return {}
    found: dict[str, Any] = {}
    for key in RATES:
        found[key] = _count(limits, key) if key == "connections" else _rate(limits, key)
    for key in QUOTAS:
        if limits.get(key) is not None:
            found[key] = _count(limits, key)
        else:
            limits.refuse_nulls(key)
    limits.refuse_nulls(*SCOPES)
    streams = {
        stream: _tighter(Section(node, f"{limits.path(STREAMS)}.{stream}", limits.problems, keys=PACED), found)
        for stream, node in limits.members(STREAMS, allowed="a mapping of streams to their tighter rates")
    }
    if streams:
        found[STREAMS] = streams
    each = limits.section(EACH_APPLICATION, keys=PACED) if EACH_APPLICATION in limits else None
    if each is not None:
        found[EACH_APPLICATION] = _tighter(each, found)
    return found


def _tighter(section: Section, plan: Mapping[str, Any]) -> dict[str, Any]:
    """Rates of a part of a plan, none of them above the plan's own."""
    found = {key: _rate(section, key) for key in PACED if key in section}
    if not found and isinstance(section.node.value, dict):
        allowed = f"at least one of {', '.join(PACED)}"
        section.problems.add(section.node.place, section.name, got=section.node.value, allowed=allowed)
    for key in found:
        tighter, whole = rate_of(found, key), rate_of(plan, key)
        if tighter is None or (whole is not None and tighter[0] > whole[0]):
            section.refuse(key, allowed="a rate that is not above the plan's own")
    return found


def _count(limits: Section, key: str) -> int | str:
    node = limits.get(key)
    if node is not None and node.value == "unlimited":
        return "unlimited"
    value = node.value if node is not None else None
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MOST:
        limits.refuse(key, allowed=f"a whole number from 1 to {MOST}, or unlimited")
        return 1
    return value


def _rate(limits: Section, key: str) -> dict[str, int | float] | str:
    """``{"rate", "burst"}``; a burst that is not said is one second's worth, at least 1, or nothing could pass."""
    node = limits.get(key)
    if node is not None and node.value == "unlimited":
        return "unlimited"
    if node is None or not isinstance(node.value, dict):
        rate = _number(node)
        if rate is None:
            limits.refuse(key, allowed=f"a number above 0 and up to {MOST}, unlimited, or {{rate, burst}}")
            return "unlimited"
        return {"rate": rate, "burst": max(rate, 1)}
    section = Section(node, limits.path(key), limits.problems, keys=("rate", "burst"))
    rate, burst = _number(section.get("rate")), _number(section.get("burst"))
    if rate is None:
        section.refuse("rate", allowed=f"a number above 0 and up to {MOST}")
    if "burst" in section and (burst is None or burst < 1):
        section.refuse("burst", allowed=f"a number from 1 to {MOST}")
    return {"rate": rate or 1, "burst": burst or max(rate or 1, 1)}


def _number(node: Node | None) -> int | float | None:
    value = node.value if node is not None else None
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0.001 <= value <= MOST:
        return None
    return int(value) if value == int(value) else value


def _attributes(tenant: Section) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, node in tenant.members("attributes", allowed="a mapping of names to values"):
        values = node.value if isinstance(node.value, tuple) else (node,)
        scalar = all(isinstance(value.value, str | int | float | bool | date) for value in values)
        if not scalar or not 0 < len(values) <= _MAX_ATTRIBUTE_VALUES:
            allowed = f"a text, number, true or false, or a list of 1 to {_MAX_ATTRIBUTE_VALUES} of them"
            tenant.problems.add(node.place, f"{tenant.path('attributes')}.{name}", got=node.value, allowed=allowed)
            continue
        found[name] = node.plain()
    return found


def _is_origin(text: str) -> bool:
    if not _ORIGIN.fullmatch(text):
        return False
    try:
        port = urlsplit(text).port
    except ValueError:
        return False
    return port is None or port > 0


@cache
def _zones() -> frozenset[str]:
    return frozenset(available_timezones())
