"""Requests that cannot be served as they are: wrong, not here, too large, too slow to arrive."""

from __future__ import annotations

from gateway.errors.refusal import GatewayError


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
