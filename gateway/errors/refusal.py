"""What every refusal is made of: a code, a status, a close code, and what the partner does now."""

from __future__ import annotations

from collections.abc import Mapping


class GatewayError(Exception):
    """A refusal with everything a partner needs to act on it."""

    code = "internal"
    status = 500
    close_code = 4500
    reconnect = True
    title = "Internal error"
    action = "Try again later; give the correlation id to the operator if it stays."
    usual_retry_ms: int | None = None

    def __init__(
        self,
        detail: str = "",
        *,
        retry_after_ms: int | None = None,
        headers: Mapping[str, str] | None = None,
        extensions: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(detail or self.title)
        self.detail = detail or self.title
        self.retry_after_ms = self.usual_retry_ms if retry_after_ms is None else retry_after_ms
        self.headers = dict(headers or {})
        self.extensions = dict(extensions or {})


class Internal(GatewayError):
    """Our own fault."""
