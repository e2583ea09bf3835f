"""Callers who are not let in: no good credential, or not allowed what they ask for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gateway.errors.refusal import GatewayError


class Unauthorized(GatewayError):
    """No acceptable credential (RFC 6750 §3)."""

    code = "token_invalid"
    status = 401
    close_code = 4401
    reconnect = False
    title = "Unauthorized"
    action = "Get a new access token and send it as Authorization: Bearer."


class TokenMissing(Unauthorized):
    """No credential at all."""

    code = "token_missing"
    title = "Access token required"
    action = "Send an access token as Authorization: Bearer."


class TokenInvalid(Unauthorized):
    """One message for every reason a token is refused, so that it is no oracle; ``reason`` is for logs and metrics."""

    code = "token_invalid"
    title = "Access token refused"

    def __init__(self, reason: str = "unspecified", *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(headers=headers)
        self.reason = reason


class TokenExpired(Unauthorized):
    """The token was good and its time is over."""

    code = "token_expired"
    title = "Access token expired"
    reason = "expired"


class Forbidden(GatewayError):
    """Known, and not allowed."""

    code = "forbidden"
    status = 403
    close_code = 4403
    reconnect = False
    title = "Forbidden"
    action = "Ask the provider for access."


class InsufficientScope(Forbidden):
    """The token lacks a scope that the contract asks for (RFC 6750 ``insufficient_scope``)."""

    code = "insufficient_scope"
    title = "Scope missing"
    action = "Request a token that holds the scope named in the detail."

    def __init__(
        self,
        detail: str = "",
        *,
        scopes: Sequence[str] = (),
        headers: Mapping[str, str] | None = None,
        extensions: Mapping[str, object] | None = None,
    ) -> None:
        """``scopes``: all that the resource asks for (RFC 6750 §3.1), not only what is missing."""
        super().__init__(detail, headers=headers, extensions=extensions)
        self.scopes = tuple(scopes)


class ClaimMissing(Forbidden):
    """The contract filters rows by a claim (or tenant attribute) that is not there or not usable."""

    code = "claim_missing"
    title = "Claim missing"
    action = "Have the claim named in the detail added to your tokens."


class TransportNotOffered(Forbidden):
    """The contract does not offer the stream over this protocol."""

    code = "transport_not_offered"
    title = "Protocol not offered"
    action = "Read the stream over one of the protocols named in the detail."


class NotEntitled(Forbidden):
    """The stream is public, the tenant has no entitlement in force."""

    code = "not_entitled"
    title = "Not entitled"
    action = "Order the product that holds this stream."


class TenantSuspended(Forbidden):
    """The tenant is suspended."""

    code = "tenant_suspended"
    title = "Tenant suspended"
    action = "Contact the provider; access returns when the suspension is lifted."


class ReplayNotAllowed(Forbidden):
    """The contract does not let a read start in the past like this."""

    code = "replay_not_allowed"
    title = "Replay not allowed"
    action = "Start with from=latest or from a cursor."


class OriginNotAllowed(Forbidden):
    """A browser's Origin that the application does not list."""

    code = "origin_not_allowed"
    title = "Origin not allowed"
    action = "Have the page's origin added to the application."


class AccessWithdrawn(Forbidden):
    """Access ended while the stream was open."""

    code = "access_withdrawn"
    title = "Access withdrawn"
    action = "Contact the provider."


class WrongApplication(Forbidden):
    """The token is good, and belongs to another application than the one that opened the read."""

    code = "wrong_application"
    title = "Another application's read"
    action = "Send a token of the application that opened the read."


class TicketInUse(GatewayError):
    """A ticket is one connection at a time, and that one is open."""

    code = "ticket_in_use"
    status = 409
    close_code = 4429
    reconnect = True
    title = "Ticket in use"
    action = "Come back after the time given, or get another ticket."


class GrantRefused(GatewayError):
    """The fresh token would not be let into the read that it is to go on with; the read is as it was."""

    code = "grant_refused"
    status = 409
    close_code = 4403
    reconnect = False
    title = "Fresh token refused"
    action = "Send a token that may read the stream; the read goes on under the one before until that ends."


class OAuthRefusal(Exception):
    """Why the built-in issuer gives no token, in the words of RFC 6749 §5.2, which has a body of its own for it."""

    def __init__(
        self, error: str, description: str, *, status: int = 400, retry_after_seconds: int | None = None
    ) -> None:
        super().__init__(f"{error}: {description}")
        self.error = error
        self.description = description
        self.status = status
        self.retry_after_seconds = retry_after_seconds
