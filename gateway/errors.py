"""Every refusal a partner can meet, as one tree; each class is a row of the table in docs/reference/errors.md.

::

    GatewayError
    ├── BadRequest                 400  4400  fix the request
    │   ├── UnknownParameter       400  4400
    │   ├── InvalidParameter       400  4400
    │   ├── InvalidCursor          400  4400
    │   └── AmbiguousCredentials   400  4400
    ├── Unauthorized               401  4401  come with a token, or another one
    │   ├── TokenMissing
    │   ├── TokenInvalid
    │   └── TokenExpired
    ├── Forbidden                  403  4403  somebody has to grant something
    │   ├── InsufficientScope, ClaimMissing, TransportNotOffered, NotEntitled
    │   └── TenantSuspended, ReplayNotAllowed, OriginNotAllowed, AccessWithdrawn, WrongApplication
    ├── NotFound                   404  4400  StreamNotFound, SessionNotFound
    ├── MethodNotAllowed           405, NotAcceptable 406, UpgradeRequired 426
    ├── TicketInUse                409  4429  one connection at a time
    ├── GrantRefused               409  4403  a fresh token that a running read cannot go on with
    ├── RequestTimeout             408  4400  the request did not arrive in time
    ├── PayloadTooLarge 413, UriTooLong 414, HeadersTooLarge 431        send less
    ├── Gone                       410  4410  StreamRetired, StreamEnded, CursorExpired
    ├── RateLimited                429  4429  come back after the time given
    │   └── TooManyConnections, QuotaExceeded, TooManyAttempts, TooManyViews
    ├── TooSlow                         4408
    └── Unavailable                503  4503  come back later; Draining
        Internal                   500  4500

A class says: ``code`` (stable slug), ``status`` (HTTP), ``close_code`` (WebSocket), ``reconnect`` (may the same
request be tried again as it is), ``title`` and ``action`` (what the partner does now). An instance adds ``detail`` and
``retry_after_ms``; ``headers`` go into the HTTP answer, ``extensions`` are further members of the body
(``CursorExpired`` has ``earliest``). Raise these from anywhere on the partner's path; the edges spell them as problem
bodies (RFC 9457), ``goodbye`` events and close codes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence


class GatewayError(Exception):
    """A refusal with everything a partner needs to act on it."""

    code = "internal"
    status = 500
    close_code = 4500
    reconnect = True
    title = "Internal error"
    action = "Try again later; give the correlation id to the operator if it stays."
    usual_retry_ms: int | None = None

    def __init__(
        self,
        detail: str = "",
        *,
        retry_after_ms: int | None = None,
        headers: Mapping[str, str] | None = None,
        extensions: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(detail or self.title)
        self.detail = detail or self.title
        self.retry_after_ms = self.usual_retry_ms if retry_after_ms is None else retry_after_ms
        self.headers = dict(headers or {})
        self.extensions = dict(extensions or {})


class Internal(GatewayError):
    """Our own fault."""


class BadRequest(GatewayError):
    """The request cannot be understood or served as it is."""

    code = "bad_request"
    status = 400
    close_code = 4400
    reconnect = False
    title = "Bad request"
    action = "Correct the request as the detail says."


class UnknownParameter(BadRequest):
    """A query parameter that this route does not know."""

    code = "unknown_parameter"
    title = "Unknown parameter"
    action = "Remove or correct the parameter; the detail lists those allowed here."


class InvalidParameter(BadRequest):
    """A parameter whose value is outside what is allowed."""

    code = "invalid_parameter"
    title = "Invalid parameter"
    action = "Correct the value; the detail says what is allowed."


class InvalidCursor(BadRequest):
    """Forged, truncated, or made for another stream: one message for all, so that nothing can be probed."""

    code = "invalid_cursor"
    title = "Invalid cursor"
    action = "Use a cursor exactly as this stream gave it, or start again with from=earliest or from=<time>."


class AmbiguousCredentials(BadRequest):
    """More than one credential, or one where none may be."""

    code = "ambiguous_credentials"
    title = "Ambiguous credentials"
    action = "Send exactly one credential: the Authorization header with a bearer token."


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


class NotFound(GatewayError):
    """No such thing here."""

    code = "not_found"
    status = 404
    close_code = 4400
    reconnect = False
    title = "Not found"
    action = "Check the address; GET /v1/streams lists what you may read."


class SessionNotFound(NotFound):
    """No open read of this name that the caller may know of."""

    code = "session_not_found"
    title = "Session not found"
    action = "Take the session's name from Gateway-Session or the welcome; a read that has ended is opened anew."


class StreamNotFound(NotFound):
    """Absent and not visible answer alike."""

    code = "stream_not_found"
    title = "Stream not found"


class MethodNotAllowed(GatewayError):
    """The route exists, the method does not."""

    code = "method_not_allowed"
    status = 405
    close_code = 4400
    reconnect = False
    title = "Method not allowed"
    action = "Use one of the methods in the Allow header."


class UpgradeRequired(GatewayError):
    """An address that speaks WebSocket only was asked without an upgrade (RFC 9110 §15.5.22)."""

    code = "upgrade_required"
    status = 426
    close_code = 4400
    reconnect = False
    title = "Upgrade required"
    action = "Open the address with a WebSocket client, or read the stream over another protocol."


class NotAcceptable(GatewayError):
    """Nothing in Accept that this route serves."""

    code = "not_acceptable"
    status = 406
    close_code = 4400
    reconnect = False
    title = "Not acceptable"
    action = "Accept one of the media types named in the detail."


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


class RequestTimeout(GatewayError):
    """The request did not arrive in the time allowed."""

    code = "request_timeout"
    status = 408
    close_code = 4400
    title = "Request timeout"
    action = "Connect again and send the whole request at once."


class PayloadTooLarge(GatewayError):
    """A request body over the bound."""

    code = "payload_too_large"
    status = 413
    close_code = 4400
    reconnect = False
    title = "Payload too large"
    action = "Send a smaller body; the detail says the bound."


class UriTooLong(GatewayError):
    """A request target over the bound."""

    code = "uri_too_long"
    status = 414
    close_code = 4400
    reconnect = False
    title = "URI too long"
    action = "Shorten the query; the detail says the bound."


class HeadersTooLarge(GatewayError):
    """A header line, all headers together, or their number over the bound (RFC 6585)."""

    code = "headers_too_large"
    status = 431
    close_code = 4400
    reconnect = False
    title = "Headers too large"
    action = "Send fewer or shorter headers; the detail says the bound."


class Gone(GatewayError):
    """It was there and will not come back."""

    code = "gone"
    status = 410
    close_code = 4410
    reconnect = False
    title = "Gone"
    action = "Move on as the detail says."


class StreamRetired(Gone):
    """The contract's lifecycle is retired."""

    code = "stream_retired"
    title = "Stream retired"
    action = "Read the successor named in the detail, if there is one."


class StreamEnded(Gone):
    """An open stream that has nothing more to give, ever."""

    code = "stream_ended"
    title = "Stream ended"


class CursorExpired(Gone):
    """``on_gap=error`` and the records after the cursor are gone."""

    code = "cursor_expired"
    title = "Cursor expired"
    action = "Go on from the earliest cursor in the answer, knowing that records between are lost."


class RateLimited(GatewayError):
    """More than the plan allows in this time: requests, or what a kind of this names. The same is good later."""

    code = "rate_limited"
    status = 429
    close_code = 4429
    title = "Too many requests"
    action = "Come back after the time given, and ask less often; GET /v1/limits says how often the plan lets you."
    usual_retry_ms = 5000


class TooManyAttempts(RateLimited):
    """Too many refused credentials from the caller's address; whose they were is not looked at any more for a while."""

    code = "too_many_attempts"
    title = "Too many refused credentials"
    action = "Come back after the time given, with a token that is good."


class TooManyConnections(RateLimited):
    """One more open read than the plan allows, over all nodes."""

    code = "too_many_connections"
    title = "Too many connections"
    action = "Close a read you do not need, or come back after the time given."


class QuotaExceeded(RateLimited):
    """What the plan gives for the day or month is used up, or what the tenant may spend in it."""

    code = "quota_exceeded"
    title = "Quota used up"
    action = "Come back when the period is over, with the last cursor; or ask the provider for more."


class TooManyViews(RateLimited):
    """One more filter or set of fields than a tenant, or a stream, may have open on one node."""

    code = "too_many_views"
    title = "Too many different filters"
    action = "Close reads you do not need, or use the same filter and fields in several."


class TooSlow(GatewayError):
    """The client accepted no byte for the time allowed."""

    code = "too_slow"
    status = 408
    close_code = 4408
    title = "Reader too slow"
    action = "Reconnect with the last cursor and read faster, or read less: filter, fields, pull."


class Unavailable(GatewayError):
    """What the read needs is away; it will be back."""

    code = "unavailable"
    status = 503
    close_code = 4503
    title = "Temporarily unavailable"
    action = "Try again after the time given."
    usual_retry_ms = 1000


class Draining(Unavailable):
    """This node is being stopped; another one serves."""

    code = "draining"
    title = "Node is draining"
    action = "Reconnect with the last cursor."


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


class ConfigurationProblems(Exception):
    """Everything wrong with settings, contracts or catalog, found in one go; the operator's error, exit code 2.

    ``problems`` are complete lines: where (file:line or setting), the value, what is allowed, the nearest valid name.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems
