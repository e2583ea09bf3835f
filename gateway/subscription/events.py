"""What the control events of a stream say: the same members on SSE, WebSocket and NDJSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from gateway.errors import GatewayError
from gateway.limits.pace import Hindrance
from gateway.limits.scopes import limits_on
from gateway.model import Grant
from gateway.units import format_rfc3339

REASON_CHARACTERS: Final = 2000
RECONNECT_MS: Final = 1000
"""What a goodbye that invites to come back says when the error knows no better."""


def goodbye(error: GatewayError, *, cursor: str | None = None) -> dict[str, object]:
    """The last event: why, whether to come back, when, and from where."""
    reason = error.detail
    members: dict[str, object] = {
        "code": error.code,
        "close_code": error.close_code,
        "reason": reason if len(reason) <= REASON_CHARACTERS else reason[: REASON_CHARACTERS - 1] + "…",
        "reconnect": error.reconnect,
    }
    if error.reconnect:
        members["retry_after_ms"] = RECONNECT_MS if error.retry_after_ms is None else error.retry_after_ms
    if cursor is not None:
        members["cursor"] = cursor
    return {**error.extensions, **members}


def welcome(grant: Grant, *, session: str, heartbeat_seconds: float) -> dict[str, Any]:
    """The first frame of a WebSocket or NDJSON read; the cursor is added by the framing."""
    return {
        "session": session,
        "expires_at": format_rfc3339(grant.expires_at * 1000),
        "heartbeat_ms": round(heartbeat_seconds * 1000),
        "limits": limits_on(grant.plan.limits, grant.contract.stream),
    }


def auth_expiring(grant: Grant, *, session: str) -> dict[str, Any]:
    """The token ends soon: when, and where a fresh one is taken."""
    return {"expires_at": format_rfc3339(grant.expires_at * 1000), "refresh": f"/v1/sessions/{session}/token"}


def checkpoint(
    *, behind_ms: int, retention_in_ms: int | None, quota: Mapping[str, object] | None = None
) -> dict[str, Any]:
    """Progress without records, and the heartbeat. ``retention_in_ms`` is None at the head and where it is unknown."""
    said: dict[str, Any] = {"behind_ms": behind_ms, "retention_in_ms": retention_in_ms}
    return said if quota is None else {**said, "quota": dict(quota)}


def throttled(hindrance: Hindrance, *, behind_ms: int, retention_in_ms: int | None) -> dict[str, Any]:
    """The plan's rate paces the stream: which, at how much, and when it goes on."""
    return {
        "limit": hindrance.rate,
        "unit": hindrance.limit,
        "resume_in_ms": hindrance.resume_in_ms,
        "behind_ms": behind_ms,
        "retention_in_ms": retention_in_ms,
    }
