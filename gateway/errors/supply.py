"""What cannot be given: gone for good, more than the plan allows, or away for a while."""

from __future__ import annotations

from gateway.errors.refusal import GatewayError


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
