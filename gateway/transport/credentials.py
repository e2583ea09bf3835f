"""The one credential of a request: a bearer token, as a header or a WebSocket subprotocol, or a ticket."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal
from urllib.parse import parse_qsl

from starlette.types import Scope

from gateway.auth.jose import Malformed, decode_base64url
from gateway.auth.tokens import parse_bearer
from gateway.errors import AmbiguousCredentials, TokenInvalid, TokenMissing
from gateway.subscription.request import parse_query

BEARER_SUBPROTOCOL: Final = "bearer."
MAX_SUBPROTOCOL_BYTES: Final = 6000
"""Longest token that may come as a subprotocol: all subprotocols share one header line."""

TOKEN_PARAMETERS: Final = frozenset(
    {
        "access_token",
        "auth_token",
        "authorization",
        "bearer",
        "bearer_token",
        "id_token",
        "jwt",
        "refresh_token",
        "token",
        "x-access-token",
    }
)
"""Names under which clients send tokens in addresses, where logs, histories and Referer headers would keep them."""

_TICKET: Final = re.compile(rb"(?:^|&)ticket=")
# A JWS has three parts, the last one empty where nobody signed it; a JWE has five. All begin with a JSON object.
_TOKEN: Final = re.compile(r"\s*(?:bearer\s+)?eyJ[\w-]*(?:\.[\w-]*){2,4}\s*", re.ASCII | re.IGNORECASE)


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


@lru_cache(maxsize=1024)
def check_address(query: bytes) -> None:
    """Raises AmbiguousCredentials where an access token stands in the query, by its name or by its look.

    Nothing of it is said again. Good queries are remembered: one that holds a token never is.
    """
    for name, value in parse_qsl(query.decode("latin-1"), keep_blank_values=True):
        if _TOKEN.fullmatch(name):
            raise AmbiguousCredentials("An access token does not belong into the address; send it as a header.")
        if name.lower() in TOKEN_PARAMETERS or _TOKEN.fullmatch(value):
            shown = "".join(character if character.isprintable() else "?" for character in name[:80])
            raise AmbiguousCredentials(
                f"The parameter {shown} holds an access token, which does not belong into the address; "
                "send it as a header."
            )


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
