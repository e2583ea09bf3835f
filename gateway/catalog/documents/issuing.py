"""What OAuth clients need before they have a token, as OpenAPI tells it: where to get one, and the built-in issuer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from gateway.catalog.documents.events import Schema, members

BASIC: Final = {"type": "http", "scheme": "basic", "description": "A client's name and secret (RFC 6749 §2.3.1)."}
"""The security scheme named ``client``."""

ERRORS: Final = (
    "invalid_request",
    "invalid_client",
    "unauthorized_client",
    "unsupported_grant_type",
    "invalid_scope",
    "temporarily_unavailable",
)
_TEXT: Final[Schema] = {"type": "string"}
_REFUSALS: Final = {
    "400": "The request is not one that gets a token (RFC 6749 §5.2).",
    "401": "The client is unknown, its secret is wrong, or there is none.",
    "403": "The application does not list the page's origin.",
    "413": "The body is larger than allowed.",
    "429": "Too many wrong secrets.",
    "503": "There is no token now.",
}


def issuing_paths() -> dict[str, Any]:
    """Paths by address; they need the headers of ``openapi`` and the scheme ``client``."""
    return {
        "/oauth/token": {"post": _token()},
        "/oauth/jwks": {"get": _plain("issuer-keys", "The issuer's public keys (RFC 7517).")},
        "/.well-known/oauth-authorization-server": {
            "get": _plain("issuer-metadata", "The issuer's metadata (RFC 8414).")
        },
    }


def resource_paths(refused: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata that every gateway has, whoever gives tokens for it; they need the headers of ``openapi``.

    ``refused`` are the other answers, by status.
    """
    texts: Schema = {"type": "array", "items": _TEXT}
    told = members(
        {
            "resource": {"type": "string", "format": "uri"},
            "authorization_servers": texts,
            "scopes_supported": texts,
            "bearer_methods_supported": texts,
        },
        ("resource",),
    )
    summary = "Who gives tokens for this gateway, and for which scopes (RFC 9728)."
    operation = _plain("resource-metadata", summary, told)
    operation["responses"] |= refused
    return {"/.well-known/oauth-protected-resource": {"get": operation}}


def _token() -> dict[str, Any]:
    asked = members(
        {
            "grant_type": {"type": "string", "enum": ["client_credentials"]},
            "scope": {"type": "string", "description": "Names with spaces; without it, all that there are for you."},
            "client_id": _TEXT,
            "client_secret": _TEXT,
        },
        ("grant_type",),
    )
    given = members(
        {
            "access_token": _TEXT,
            "token_type": {"type": "string", "enum": ["Bearer"]},
            "expires_in": {"type": "integer"},
            "scope": _TEXT,
        },
        ("access_token", "token_type", "expires_in", "scope"),
    )
    refused = members({"error": {"type": "string", "enum": list(ERRORS)}, "error_description": _TEXT}, ("error",))
    return {
        "operationId": "issue-token",
        "summary": "An access token for client credentials (RFC 6749 §4.4): by the header or in the body, never both.",
        "security": [{"client": []}, {}],
        "requestBody": {"required": True, "content": {"application/x-www-form-urlencoded": {"schema": asked}}},
        "responses": {
            "200": _answer("A token.", given),
            **{status: _answer(told, refused, *_more(status)) for status, told in _REFUSALS.items()},
        },
    }


def _more(status: str) -> tuple[str, ...]:
    return {"401": ("WWW-Authenticate",), "429": ("Retry-After",), "503": ("Retry-After",)}.get(status, ())


def _plain(name: str, summary: str, schema: Schema | None = None) -> dict[str, Any]:
    return {
        "operationId": name,
        "summary": summary,
        "security": [],
        "parameters": [{"$ref": "#/components/parameters/correlation-id"}],
        "responses": {"200": _answer("The document.", schema or {"type": "object"})},
    }


def _answer(description: str, schema: Schema, *headers: str) -> dict[str, Any]:
    named = ("X-Correlation-Id", "Cache-Control", *headers)
    return {
        "description": description,
        "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in named},
        "content": {"application/json": {"schema": schema}},
    }
