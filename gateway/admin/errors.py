"""Refusals that only the management port knows."""

from __future__ import annotations

from gateway.errors import GatewayError, NotFound


class TenantNotFound(NotFound):
    """No tenant of this name."""

    code = "tenant_not_found"
    title = "Tenant not found"
    action = "Name a tenant of the catalog; gateway apply makes them."


class ReloadRefused(GatewayError):
    """Contracts, catalog, keys or certificates are not valid as a whole, so nothing was taken."""

    code = "reload_refused"
    status = 409
    close_code = 4400
    reconnect = False
    title = "Reload refused"
    action = "Correct what problems lists, and reload again."
