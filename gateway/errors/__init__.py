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
bodies (RFC 9457), ``goodbye`` events and close codes. ``ConfigurationProblems`` (the operator's) and ``OAuthRefusal``
(the built-in issuer's, RFC 6749 §5.2) stand outside the tree.

Import from here: the modules below only sort the tree by what went wrong.
"""

from __future__ import annotations

from gateway.errors.access import (
    AccessWithdrawn,
    ClaimMissing,
    Forbidden,
    GrantRefused,
    InsufficientScope,
    NotEntitled,
    OAuthRefusal,
    OriginNotAllowed,
    ReplayNotAllowed,
    TenantSuspended,
    TicketInUse,
    TokenExpired,
    TokenInvalid,
    TokenMissing,
    TransportNotOffered,
    Unauthorized,
    WrongApplication,
)
from gateway.errors.operator import ConfigurationProblems
from gateway.errors.refusal import GatewayError, Internal
from gateway.errors.request import (
    AmbiguousCredentials,
    BadRequest,
    HeadersTooLarge,
    InvalidCursor,
    InvalidParameter,
    MethodNotAllowed,
    NotAcceptable,
    NotFound,
    PayloadTooLarge,
    RequestTimeout,
    SessionNotFound,
    StreamNotFound,
    UnknownParameter,
    UpgradeRequired,
    UriTooLong,
)
from gateway.errors.supply import (
    CursorExpired,
    Draining,
    Gone,
    QuotaExceeded,
    RateLimited,
    StreamEnded,
    StreamRetired,
    TooManyAttempts,
    TooManyConnections,
    TooManyViews,
    TooSlow,
    Unavailable,
)

__all__ = [
    "AccessWithdrawn",
    "AmbiguousCredentials",
    "BadRequest",
    "ClaimMissing",
    "ConfigurationProblems",
    "CursorExpired",
    "Draining",
    "Forbidden",
    "GatewayError",
    "Gone",
    "GrantRefused",
    "HeadersTooLarge",
    "InsufficientScope",
    "Internal",
    "InvalidCursor",
    "InvalidParameter",
    "MethodNotAllowed",
    "NotAcceptable",
    "NotEntitled",
    "NotFound",
    "OAuthRefusal",
    "OriginNotAllowed",
    "PayloadTooLarge",
    "QuotaExceeded",
    "RateLimited",
    "ReplayNotAllowed",
    "RequestTimeout",
    "SessionNotFound",
    "StreamEnded",
    "StreamNotFound",
    "StreamRetired",
    "TenantSuspended",
    "TicketInUse",
    "TokenExpired",
    "TokenInvalid",
    "TokenMissing",
    "TooManyAttempts",
    "TooManyConnections",
    "TooManyViews",
    "TooSlow",
    "TransportNotOffered",
    "Unauthorized",
    "Unavailable",
    "UnknownParameter",
    "UpgradeRequired",
    "UriTooLong",
    "WrongApplication",
]
