"""How a connection ends, in two kinds: come back later, or do not come back as you are; both say why."""

from __future__ import annotations

import email.utils
import time
from collections.abc import Mapping
from typing import Any, Final

from gateway.client import jsontext
from gateway.client.event import Event

FINAL_CLOSE_CODES: Final = frozenset({1002, 1003, 1007, 1008, 1009, 4400, 4401, 4403, 4409, 4410})
"""WebSocket close codes after which the same request would end the same way."""

_PASSING_STATUSES: Final = frozenset({408, 425, 429})
_QUOTED_CHARACTERS: Final = 300


class ConnectionEnd(Exception):
    """The connection is over; ``reason`` is one line for people."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class StreamInterrupted(ConnectionEnd):
    """It may be tried again; ``retry_after_ms``: not sooner than this, None where the server did not say."""

    def __init__(self, reason: str, *, retry_after_ms: int | None = None) -> None:
        super().__init__(reason)
        self.retry_after_ms = retry_after_ms


class StreamRefused(ConnectionEnd):
    """The same request would be refused again; the members are those of the server's problem (RFC 9457)."""

    def __init__(
        self,
        title: str,
        *,
        detail: str = "",
        action: str = "",
        code: str = "",
        status: int | None = None,
        correlation_id: str = "",
    ) -> None:
        super().__init__(f"{title}: {detail}" if detail and detail != title else title)
        self.title = title
        self.detail = detail
        self.action = action
        self.code = code
        self.status = status
        self.correlation_id = correlation_id


def outcome_of_answer(status: int, headers: Mapping[str, str], body: bytes) -> ConnectionEnd:
    """What an HTTP answer other than the one asked for means. Header names in lower case."""
    problem = _problem(headers, body)
    correlation_id = _string(problem, "correlation_id") or headers.get("x-correlation-id", "")
    title = _string(problem, "title") or f"HTTP {status}"
    detail = _string(problem, "detail")
    if not problem:
        detail = " ".join(body.decode("utf-8", "replace").split())[:_QUOTED_CHARACTERS]
    if 300 <= status < 400:
        detail = f"the server points to {headers.get('location', 'nowhere')}; redirects are not followed"
    retry_after_ms = _retry_after_ms(headers, problem)
    if retry_after_ms is not None or status in _PASSING_STATUSES or status >= 500:
        reason = ": ".join(part for part in (f"{status} {title}", detail) if part)
        return StreamInterrupted(reason, retry_after_ms=retry_after_ms)
    return StreamRefused(
        title,
        detail=detail,
        action=_string(problem, "action"),
        code=_string(problem, "code"),
        status=status,
        correlation_id=correlation_id,
    )


def outcome_of_goodbye(event: Event) -> ConnectionEnd:
    """What a ``goodbye`` asks for."""
    try:
        data = event.data
    except ValueError:
        data = None
    if not isinstance(data, dict):
        return StreamInterrupted("goodbye")
    code, detail = _string(data, "code"), _string(data, "reason")
    if data.get("reconnect", data.get("close_code") not in FINAL_CLOSE_CODES) is not False:
        reason = ": ".join(part for part in (f"goodbye {code}".strip(), detail) if part)
        return StreamInterrupted(reason, retry_after_ms=_milliseconds(data))
    action, correlation_id = _string(data, "action"), _string(data, "correlation_id")
    return StreamRefused(
        f"goodbye {code}".strip(), detail=detail, action=action, code=code, correlation_id=correlation_id
    )


def outcome_of_close(code: int | None, reason: str) -> ConnectionEnd:
    """What a WebSocket's close says where no goodbye came before it."""
    said = f"closed with {code} {reason}".strip() if code is not None else "the connection was cut"
    return StreamRefused(said) if code in FINAL_CLOSE_CODES else StreamInterrupted(said)


def _problem(headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
    if "json" not in headers.get("content-type", ""):
        return {}
    try:
        problem = jsontext.parse(body.decode("utf-8", "replace"))
    except ValueError:
        # Cut off or not JSON after all: the status alone has to say it.
        return {}
    return problem if isinstance(problem, dict) else {}


def _string(members: Mapping[str, Any], name: str) -> str:
    value = members.get(name)
    return value if isinstance(value, str) else ""


def _milliseconds(members: Mapping[str, Any]) -> int | None:
    value = members.get("retry_after_ms")
    return max(0, int(value)) if isinstance(value, int | float) and abs(value) < 1e12 else None


def _retry_after_ms(headers: Mapping[str, str], problem: Mapping[str, Any]) -> int | None:
    """The problem's own milliseconds, else ``Retry-After`` (RFC 9110 §10.2.3: seconds or a date)."""
    told = _milliseconds(problem)
    value = headers.get("retry-after", "").strip()
    if told is not None or not value:
        return told
    if value.isascii() and value.isdigit():
        return int(value[:9]) * 1000
    try:
        moment = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0, int((moment.timestamp() - time.time()) * 1000))
