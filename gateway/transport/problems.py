"""Refusals as partners see them: RFC 9457 problem bodies over HTTP, ``goodbye`` and a close code over WebSocket."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from functools import lru_cache

from starlette.types import Scope, Send

from gateway.errors import AmbiguousCredentials, GatewayError, InsufficientScope, TokenMissing, Unauthorized
from gateway.subscription.events import goodbye

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:streaming-gateway:problem:"
"""A problem's ``type`` is this and its code: an identifier that outlives any host the documentation is served from."""

REALM = "streaming-gateway"
SUBPROTOCOL = "gateway.v1"
DETAIL_CHARACTERS = 2000
"""Details quote what the partner sent; longer ones are cut, so that an answer stays smaller than a header's bound."""

_encode = json.JSONEncoder(default=str).encode
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f]+")


def problem(
    error: GatewayError, *, correlation_id: str, resource_metadata: str | None = None
) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """One refusal → status, headers with lower-case names, and the JSON body in ASCII.

    ``resource_metadata`` is where a client finds who gives out tokens; it is said where one is wanting.
    """
    body = _body(error, correlation_id).encode("ascii")
    headers = {
        "content-type": MEDIA_TYPE,
        "content-length": str(len(body)),
        "cache-control": "no-store",
        "x-correlation-id": correlation_id,
    }
    if error.retry_after_ms is not None:
        headers["retry-after"] = str(max(0, -(-error.retry_after_ms // 1000)))
    challenge = _challenge(error, resource_metadata)
    if challenge:
        headers["www-authenticate"] = challenge
    if error.headers:
        own = {name.lower(): value for name, value in error.headers.items()}
        # The body's length and type are ours to say; everything else an error may say better.
        headers |= {name: value for name, value in own.items() if name not in ("content-length", "content-type")}
    return error.status, encode_headers(headers.items()), body


def _body(error: GatewayError, correlation_id: str) -> str:
    if error.extensions:
        return _encode(problem_members(error, correlation_id=correlation_id))
    # Member by member as ``problem_members`` has them: most refusals are said in the same words over and over.
    rest = f'"correlation_id": {_encode(correlation_id)}'
    if error.retry_after_ms is not None:
        rest += f', "retry_after_ms": {error.retry_after_ms}'
    if error.close_code:
        rest += f', "close_code": {error.close_code}'
    return f"{_opening(error.code, error.title, error.status, error.detail, error.action)}, {rest}}}"


@lru_cache(maxsize=256)
def _opening(code: str, title: str, status: int, detail: str, action: str) -> str:
    """What does not change from one error like this to the next, without the closing brace."""
    members = {"type": TYPE_PREFIX + code, "title": title, "status": status, "detail": _bounded(detail)}
    return _encode({**members, "code": code, "action": action})[:-1]


def problem_members(error: GatewayError, *, correlation_id: str) -> dict[str, object]:
    """The body's members: those of RFC 9457 §3.1, ours, then the error's own extensions (which replace none)."""
    members: dict[str, object] = {
        "type": TYPE_PREFIX + error.code,
        "title": error.title,
        "status": error.status,
        "detail": _bounded(error.detail),
        "code": error.code,
        "action": error.action,
        "correlation_id": correlation_id,
    }
    if error.retry_after_ms is not None:
        members["retry_after_ms"] = error.retry_after_ms
    if error.close_code:
        members["close_code"] = error.close_code
    return {**error.extensions, **members}


async def send_problem(
    send: Send, error: GatewayError, correlation_id: str, *, resource_metadata: str | None = None
) -> None:
    """Answer an HTTP request that has not been answered yet."""
    status, headers, body = problem(error, correlation_id=correlation_id, resource_metadata=resource_metadata)
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def refuse_websocket(
    scope: Scope, send: Send, error: GatewayError, correlation_id: str, *, resource_metadata: str | None = None
) -> None:
    """Refuse an upgrade that has not been accepted yet.

    A browser (it sends ``Origin``) shows its page neither status nor body of a refused upgrade, so there the upgrade
    is accepted only to say goodbye and close. Others get the HTTP answer; from a server without the ASGI extension
    for it, its own 403.
    """
    if any(name == b"origin" for name, _ in scope["headers"]):
        subprotocol = SUBPROTOCOL if SUBPROTOCOL in scope.get("subprotocols", ()) else None
        await send({"type": "websocket.accept", "subprotocol": subprotocol, "headers": []})
        await end_websocket(send, error)
    elif "websocket.http.response" in (scope.get("extensions") or {}):
        status, headers, body = problem(error, correlation_id=correlation_id, resource_metadata=resource_metadata)
        await send({"type": "websocket.http.response.start", "status": status, "headers": headers})
        await send({"type": "websocket.http.response.body", "body": body})
    else:
        await send({"type": "websocket.close", "code": error.close_code, "reason": error.code})


async def end_websocket(send: Send, error: GatewayError, *, cursor: str | None = None) -> None:
    """Say goodbye on an accepted WebSocket and close it with the error's code; the reason is the slug (≤ 123 bytes)."""
    frame = {"type": "goodbye", **goodbye(error, cursor=cursor)}
    await send({"type": "websocket.send", "text": json.dumps(frame, default=str)})
    await send({"type": "websocket.close", "code": error.close_code, "reason": error.code})


def encode_headers(headers: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    """Header pairs → bytes that no value can break out of: controls become a space, other than ASCII a ``?``.

    A name that is no token (RFC 9110 §5.6.2) is left out: the answer matters more than a header nobody could read.
    """
    return [
        (encoded, value.encode("ascii") if value.isalnum() and value.isascii() else _encode_value(value))
        for name, value in headers
        if (encoded := _encode_name(name)) is not None
    ]


@lru_cache(maxsize=256)
def _encode_name(name: str) -> bytes | None:
    return name.lower().encode("ascii") if _HEADER_NAME.fullmatch(name) else None


@lru_cache(maxsize=256)
def _encode_value(value: str) -> bytes:
    return _CONTROLS.sub(" ", value).strip().encode("ascii", "replace")


def _challenge(error: GatewayError, resource_metadata: str | None) -> str | None:
    """``WWW-Authenticate`` (RFC 6750 §3, RFC 9728 §5.1): no error code for a request that came without credentials."""
    parameters = {"realm": REALM}
    if isinstance(error, TokenMissing):
        pass
    elif isinstance(error, Unauthorized):
        parameters |= {"error": "invalid_token", "error_description": error.title}
    elif isinstance(error, InsufficientScope):
        parameters["error"] = "insufficient_scope"
        if error.scopes:
            parameters["scope"] = " ".join(error.scopes)
    elif isinstance(error, AmbiguousCredentials):
        parameters["error"] = "invalid_request"
    else:
        return None
    if resource_metadata is not None:
        parameters["resource_metadata"] = resource_metadata
    return "Bearer " + ", ".join(f'{name}="{value}"' for name, value in parameters.items())


def _bounded(text: str) -> str:
    return text if len(text) <= DETAIL_CHARACTERS else text[: DETAIL_CHARACTERS - 1] + "…"
