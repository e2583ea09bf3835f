"""The built-in issuer's addresses: tokens for client credentials (RFC 6749 §4.4), its metadata (RFC 8414), its keys."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, unquote_plus

from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from gateway.auth.authority import Authority
from gateway.auth.scopes import issuable_scopes
from gateway.auth.tokens import MAX_TEXT_LENGTH
from gateway.errors import BadRequest, Forbidden, OAuthRefusal, PayloadTooLarge, TokenInvalid, Unavailable
from gateway.subscription.request import parse_nothing
from gateway.transport.bodies import read_body
from gateway.transport.cors import origin_of, own_origin
from gateway.transport.gate import Gate
from gateway.transport.negotiate import demand
from gateway.transport.problems import REALM

TOKEN_PATH: Final = "/oauth/token"  # noqa: S105 - an address
JWKS_PATH: Final = "/oauth/jwks"
METADATA_PATH: Final = "/.well-known/oauth-authorization-server"
GRANT_TYPE: Final = "client_credentials"
MAX_PARAMETERS: Final = 50

_FORM: Final = "application/x-www-form-urlencoded"


@dataclass(frozen=True, slots=True)
class _Client:
    """Who asks, and what is to prove it."""

    client_id: str
    secret: str


async def token(gate: Gate, scope: Scope, receive: Receive, send: Send) -> None:
    """POST: a token, or a refusal in the words of RFC 6749 §5.2."""
    sent = [value.decode("latin-1") for name, value in scope["headers"] if name == b"authorization"]
    try:
        status, body = 200, await _token(gate, _authority(gate), scope, receive, sent)
        headers: dict[str, str] = {}
        gate.counters.tokens_issued["issued"] += 1
    except OAuthRefusal as refusal:
        status, body, headers = _told(refusal)
        scope["state"]["access_fields"]["reason"] = refusal.error
        gate.counters.tokens_issued[refusal.error] += 1
    await _answer(send, body, {"cache-control": "no-store", "pragma": "no-cache"} | headers, status=status)


async def _token(
    gate: Gate, authority: Authority, scope: Scope, receive: Receive, authorization: list[str]
) -> dict[str, object]:
    try:
        form = await _form(scope, receive)
        client = _client(authorization, form)
        if "grant_type" not in form:
            raise OAuthRefusal("invalid_request", "grant_type is missing.")
        if form["grant_type"] != GRANT_TYPE:
            raise OAuthRefusal("unsupported_grant_type", f"Known is {GRANT_TYPE}.")
        address = scope["client"][0] if scope.get("client") else None
        await authority.authenticate(client.client_id, client.secret, address=address)
        scope["state"]["access_fields"].update(client_id=client.client_id)
        scopes = _scopes(gate, authority, client.client_id, form.get("scope"), origin=origin_of(scope))
        minted = authority.mint(client.client_id, scopes)
    except PayloadTooLarge as error:
        raise OAuthRefusal("invalid_request", error.detail, status=413) from error
    except BadRequest as error:
        raise OAuthRefusal("invalid_request", error.detail) from error
    except Unavailable as error:
        seconds = -(-(error.retry_after_ms or 1_000) // 1_000)
        refusal = OAuthRefusal("temporarily_unavailable", error.detail, status=503, retry_after_seconds=seconds)
        raise refusal from error
    expires_in = authority.token_seconds
    granted = " ".join(sorted(scopes))
    return {"access_token": minted, "token_type": "Bearer", "expires_in": expires_in, "scope": granted}


def _scopes(
    gate: Gate, authority: Authority, client_id: str, asked: str | None, *, origin: str | None
) -> frozenset[str]:
    """What the token will hold. Only who showed the secret learns why there is none."""
    now, snapshot = gate.now(), gate.snapshot()
    principal = authority.principal(client_id, ())
    found = snapshot.catalog.application(principal.issuer, client_id)
    if found is None:
        raise OAuthRefusal("unauthorized_client", "No application of this name is in the catalog.")
    tenant, application = found
    if origin not in (None, own_origin(gate.public_url()), *application.origins):
        raise OAuthRefusal("unauthorized_client", "The application does not list the page's origin.", status=403)
    if tenant.status != "active":
        raise OAuthRefusal("unauthorized_client", "The organisation is suspended.")
    try:
        snapshot.check_revoked(principal, now=now)
    except (TokenInvalid, Forbidden):
        raise OAuthRefusal("unauthorized_client", "The provider has withdrawn the access.") from None
    allowed = issuable_scopes(tenant, snapshot.contracts.values(), snapshot.catalog, now=now)
    if asked is None:
        return allowed
    wanted = frozenset(asked.split(" ")) - {""}
    if not wanted <= allowed:
        raise OAuthRefusal("invalid_scope", "A scope is asked for that no stream of the organisation needs.")
    return wanted


async def _form(scope: Scope, receive: Receive) -> Mapping[str, str]:
    """The body's parameters, each once; one without a value counts as left out (RFC 6749 §3.2)."""
    request = Request(scope, receive)
    if scope["query_string"]:
        raise OAuthRefusal("invalid_request", "Parameters go into the body, none into the address.")
    kinds = request.headers.getlist("content-type")
    if len(kinds) != 1 or kinds[0].partition(";")[0].strip().lower() != _FORM:
        raise OAuthRefusal("invalid_request", f"The body has to be {_FORM}.")
    body = await read_body(request)
    try:
        pairs = parse_qsl(
            body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MAX_PARAMETERS, separator="&"
        )
    except ValueError:
        raise OAuthRefusal("invalid_request", f"The body is not a form of up to {MAX_PARAMETERS} parameters.") from None
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names):
        raise OAuthRefusal("invalid_request", "A parameter is there more than once.")
    return {name: value for name, value in pairs if value}


def _client(authorization: list[str], form: Mapping[str, str]) -> _Client:
    """The one set of client credentials. Raises OAuthRefusal."""
    if len(authorization) > 1 or (authorization and "client_secret" in form):
        raise OAuthRefusal("invalid_request", "Client credentials go into the header or into the body, not into both.")
    if {"client_assertion", "client_assertion_type"} & set(form):
        raise OAuthRefusal("invalid_client", "Client assertions are not taken.", status=401)
    if authorization:
        client = _basic(authorization[0])
        if form.get("client_id", client.client_id) != client.client_id:
            raise OAuthRefusal("invalid_request", "Header and body name two clients.")
        return client
    if "client_id" not in form or "client_secret" not in form:
        raise OAuthRefusal("invalid_client", "The request holds no client credentials.", status=401)
    return _checked(form["client_id"], form["client_secret"])


def _basic(header: str) -> _Client:
    """RFC 6749 §2.3.1: both halves are form-encoded before they are joined."""
    kind, _, text = header.partition(" ")
    try:
        if kind.lower() != "basic":
            raise ValueError
        decoded = base64.b64decode(text.strip(), validate=True).decode("ascii")
        client_id, colon, secret = decoded.partition(":")
        if not colon:
            raise ValueError
        return _checked(unquote_plus(client_id, errors="strict"), unquote_plus(secret, errors="strict"))
    except (ValueError, binascii.Error):
        raise OAuthRefusal("invalid_client", "The Authorization header is no Basic credential.", status=401) from None


def _checked(client_id: str, secret: str) -> _Client:
    if len(client_id) > MAX_TEXT_LENGTH or not client_id.isprintable():
        raise OAuthRefusal("invalid_client", "The client is unknown or its secret is wrong.", status=401)
    return _Client(client_id, secret)


def _told(refusal: OAuthRefusal) -> tuple[int, dict[str, object], dict[str, str]]:
    headers: dict[str, str] = {}
    if refusal.status == 401:
        # No 401 without a challenge (RFC 9110 §15.5.2), whichever way the client tried.
        headers["www-authenticate"] = f'Basic realm="{REALM}", charset="UTF-8"'
    if refusal.retry_after_seconds is not None:
        headers["retry-after"] = str(refusal.retry_after_seconds)
    return refusal.status, {"error": refusal.error, "error_description": refusal.description}, headers


async def metadata(gate: Gate, scope: Scope, receive: Receive, send: Send) -> None:
    """GET: what a client has to know of the issuer."""
    _check_plain(scope)
    authority, base = _authority(gate), gate.public_url()
    contracts = gate.snapshot().contracts.values()
    document = {
        "issuer": authority.issuer,
        "token_endpoint": base + TOKEN_PATH,
        "jwks_uri": base + JWKS_PATH,
        "scopes_supported": sorted(
            {
                name
                for one in contracts
                if one.visibility == "public" and one.lifecycle in ("published", "deprecated")
                for name in one.scopes
            }
        ),
        "response_types_supported": [],
        "grant_types_supported": [GRANT_TYPE],
        "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
    }
    await _answer(send, document, {"cache-control": "public, max-age=60", "vary": "Origin"})


async def jwks(gate: Gate, scope: Scope, receive: Receive, send: Send) -> None:
    """GET: the public keys, that of the next rotation among them."""
    _check_plain(scope)
    # Shorter than a rotation's notice: who keeps it that long knows a key before it signs.
    headers = {"cache-control": "public, max-age=30", "vary": "Origin"}
    await _answer(send, _authority(gate).keys.jwks(), headers)


def _check_plain(scope: Scope) -> None:
    demand([value for name, value in scope["headers"] if name == b"accept"], "application/json")
    parse_nothing(scope["query_string"])


def _authority(gate: Gate) -> Authority:
    authority = gate.authority
    if authority is None:
        raise Unavailable
    return authority


async def _answer(send: Send, document: Mapping[str, object], headers: Mapping[str, str], *, status: int = 200) -> None:
    body = json.dumps(document).encode("ascii")
    told = {"content-type": "application/json", "content-length": str(len(body)), **headers}
    raw = [(name.encode("ascii"), value.encode("latin-1")) for name, value in told.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
