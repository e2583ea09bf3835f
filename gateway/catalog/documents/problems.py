"""Refusals and close codes as the documents tell them, read off the tree of errors."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from gateway import errors
from gateway.catalog.documents.events import Schema, members
from gateway.errors import GatewayError

ONLY_WITHIN_A_STREAM: Final = frozenset(("too_slow", "access_withdrawn", "stream_ended"))
"""Codes that end an open stream and never answer a request."""

PROBLEM: Final[Schema] = members(
    {
        "type": {"type": "string", "description": "The code as a URI; it identifies and is not meant to be fetched."},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "What was wrong with this request."},
        "code": {"type": "string", "description": "A stable word: branch on this one."},
        "action": {"type": "string", "description": "What to do now."},
        "correlation_id": {"type": "string", "description": "Name it when you ask for help."},
        "retry_after_ms": {"type": "integer", "minimum": 0, "description": "When coming back makes sense."},
        "close_code": {"type": "integer", "description": "What a WebSocket closes with for this refusal."},
    },
    ("type", "title", "status", "detail", "code", "action", "correlation_id"),
    description="A refusal (RFC 9457). Some codes add members: `cursor_expired` has `earliest`.",
)


@cache
def refusals() -> tuple[type[GatewayError], ...]:
    """Every kind of refusal, one for each code, by status and code."""
    found: dict[str, type[GatewayError]] = {}
    for one in vars(errors).values():
        if isinstance(one, type) and issubclass(one, GatewayError):
            known = found.setdefault(one.code, one)
            if issubclass(known, one):
                # Of several with one code the most general speaks for all.
                found[one.code] = one
    return tuple(sorted(found.values(), key=lambda one: (one.status, one.code)))


def codes_by_status() -> dict[int, list[type[GatewayError]]]:
    """What HTTP answers may refuse with."""
    found: dict[int, list[type[GatewayError]]] = {}
    for one in refusals():
        if one.code not in ONLY_WITHIN_A_STREAM:
            found.setdefault(one.status, []).append(one)
    return found


def refusal_rows() -> list[dict[str, Any]]:
    """The table of refusals."""
    return [
        {
            "code": one.code,
            "status": one.status,
            "closeCode": one.close_code,
            "reconnect": one.reconnect,
            "title": one.title,
            "action": one.action,
        }
        for one in refusals()
    ]


def close_code_rows() -> list[dict[str, Any]]:
    """The close codes of WebSockets, with the codes that a goodbye gives for each."""
    found: dict[int, list[str]] = {}
    for one in refusals():
        found.setdefault(one.close_code, []).append(one.code)
    return [{"closeCode": close_code, "codes": sorted(codes)} for close_code, codes in sorted(found.items())]
