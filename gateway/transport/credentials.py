"""The one credential of a request: a bearer token, as a header or a WebSocket subprotocol, or a ticket."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

from starlette.types import Scope

from gateway.auth.jose import Malformed, decode_base64url
from gateway.auth.tokens import parse_bearer
from gateway.errors import AmbiguousCredentials, TokenInvalid, TokenMissing
from gateway.subscription.request import parse_query

BEARER_SUBPROTOCOL: Final = "bearer."
MAX_SUBPROTOCOL_BYTES: Final = 6000
"""Longest token that may come as a subprotocol: all subprotocols share one header line."""

_TICKET: Final = re.compile(rb"(?:^|&)ticket=")


@dataclass(frozen=True, slots=True)
class Credential:
    """What was sent, and as what."""

    kind: Literal["token", "ticket"]
    text: str


def credential_of(scope: Scope) -> Credential:
    """The request's one credential. Raises TokenMissing, AmbiguousCredentials, TokenInvalid."""
    headers = [value for name, value in scope["headers"] if name == b"authorization"]
    offered = [one for one in scope.get("subprotocols") or () if one.startswith(BEARER_SUBPROTOCOL)]
    tickets = parse_query(scope["query_string"], repeatable=("filter",)).get("ticket", []) if has_ticket(scope) else []
    sent = len(headers) + len(offered) + len(tickets)
    if not sent:
        raise TokenMissing("The request holds no access token.")
    if sent > 1:
        raise AmbiguousCredentials("The request holds more than one credential.")
    if tickets:
        return Credential("ticket", tickets[0])
    if offered:
        return Credential("token", _unwrapped(offered[0].removeprefix(BEARER_SUBPROTOCOL)))
    return Credential("token", parse_bearer(headers[0].decode("latin-1")))


def has_ticket(scope: Scope) -> bool:
    """Whether the address names one."""
    return _TICKET.search(scope["query_string"]) is not None


def _unwrapped(text: str) -> str:
    """The token within a subprotocol: base64url of it, as other gateways have it, or the JWT as it is, which its dots
    tell apart."""
    if "." in text:
        if len(text) > MAX_SUBPROTOCOL_BYTES:
            raise TokenInvalid("too_long")
        return text
    if len(text) > MAX_SUBPROTOCOL_BYTES * 4 // 3 + 4:
        raise TokenInvalid("too_long")
    try:
        token = decode_base64url(text.encode("ascii"))
        if len(token) > MAX_SUBPROTOCOL_BYTES:
            raise TokenInvalid("too_long")
        return token.decode("ascii")
    except (Malformed, UnicodeError):
        raise TokenInvalid("not_base64url") from None
