"""Refusals that only the management port knows."""

from __future__ import annotations

from gateway.errors import GatewayError, NotFound, TokenInvalid, TokenMissing

_BEAR = (
    "Send one of the tokens of the setting admin.tokens as Authorization: Bearer; with none there /admin/ is closed."
)


class AdminTokenMissing(TokenMissing):
    """No credential at all, where an operator's is wanted."""

    title = "Admin token required"
    action = _BEAR


class AdminTokenInvalid(TokenInvalid):
    """None of ours. A partner's token is one of those."""

    title = "Admin token refused"
    action = _BEAR


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
