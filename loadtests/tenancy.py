"""Catalogs of many tenants, each with one application under one plan, for load tests of limits and metering."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from loadtests.stage import STREAM
from tests.parts.gateway import UNLIMITED, catalog


def client(tenant: str) -> str:
    """The client id of a tenant's only application."""
    return f"{tenant}-app"


def tenancy(plans: Mapping[str, Mapping[str, Any]], tenants: Mapping[str, str]) -> dict[str, Any]:
    """A catalog of these ``plans`` by name, each with limits that differ from unlimited, and of ``tenants``: name and
    plan."""
    document = catalog([STREAM])
    plan, tenant = document["plans"][0], document["tenants"][0]
    return document | {
        "plans": [plan | {"name": name, "limits": UNLIMITED | dict(limits)} for name, limits in plans.items()],
        "tenants": [
            tenant
            | {
                "name": name,
                "applications": [{"client_id": client(name), "title": name}],
                "entitlements": [{"product": "all", "plan": of, "from": "2020-01-01"}],
            }
            for name, of in tenants.items()
        ],
    }
