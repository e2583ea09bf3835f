"""The demo's partners: a token for every tenant of the catalog, and the file that tells programs where all is."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from gateway.auth.minter import Minter
from gateway.catalog.catalog import Catalog
from gateway.catalog.contracts import Contracts

REPORT = "demo.json"

CLAIMS: Mapping[str, Mapping[str, Any]] = MappingProxyType({"acme": {"airport": "ORD"}})
"""What tokens hold beside the scopes, by tenant: acme is the airport of Chicago, globex is none."""


@dataclass(frozen=True, slots=True)
class Partner:
    """A tenant's application with a token that works. ``token_path`` holds the same token for commands to read."""

    tenant: str
    client_id: str
    token: str
    token_path: Path


def invite_partners(
    catalog: Catalog, contracts: Contracts, minter: Minter, *, directory: Path, ttl_seconds: int
) -> list[Partner]:
    """A partner for each tenant with an application, by name; its token holds the scopes of all contracts.

    Of several applications it is the first that lists origins, so that the token is good in a browser too. Tokens are
    written into ``directory`` with mode 0600.
    """
    scope = " ".join(sorted({scope for contract in contracts.values() for scope in contract.scopes}))
    partners = []
    for tenant in catalog.tenants:
        if not tenant.applications:
            continue
        application = next((one for one in tenant.applications if one.origins), tenant.applications[0])
        claims = CLAIMS.get(tenant.name)
        token = minter.mint(application.client_id, scope=scope, ttl_seconds=ttl_seconds, claims=claims)
        path = directory / f"{tenant.name}.token"
        write_private(path, token)
        partners.append(Partner(tenant.name, application.client_id, token, path))
    return partners


OPERATOR = "operator.token"
"""The file with a bearer for ``/admin/``."""


def report(
    partners: list[Partner],
    *,
    base_url: str,
    admin_url: str,
    kafka: str,
    redis_url: str,
    database_url: str,
    admin_token: str,
) -> dict[str, Any]:
    """The content of demo.json. The portal's addresses are null: this version has none."""
    return {
        "base_url": base_url,
        "admin_url": admin_url,
        "portal_url": None,
        "kafka": kafka,
        "redis_url": redis_url,
        "database_url": database_url,
        "admin_token": admin_token,
        "tenants": {
            partner.tenant: {"client_id": partner.client_id, "token": partner.token, "login_url": None}
            for partner in partners
        },
    }


def write_report(directory: Path, document: Mapping[str, Any]) -> None:
    """Write demo.json, whole or not at all."""
    write_private(directory / REPORT, json.dumps(document, indent=2) + "\n")


def remove_reports(directory: Path) -> None:
    """Take away what names a demo that does not run: demo.json and the token files."""
    for path in (directory / REPORT, *directory.glob("*.token")):
        path.unlink(missing_ok=True)


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read; whoever sees it under its name sees all of it."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    draft.replace(path)
