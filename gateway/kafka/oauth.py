"""Tokens for SASL OAUTHBEARER: client credentials at a token endpoint (RFC 6749 §4.4), kept until shortly before their
end."""

from __future__ import annotations

import asyncio
import base64
import json
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass, field
from http import HTTPStatus
from http.client import HTTPException
from typing import Any, Final

from aiokafka.abc import AbstractTokenProvider

from gateway.clock import Clock
from gateway.kafka.faults import NoToken

ASK_SECONDS: Final = 2.0
_ANSWER_BYTES: Final = 64 * 1024
_UNTOLD_LIFETIME_SECONDS: Final = 60.0
# A token is used for new connections only; it must not end while one is being made.
_SPARE_SHARE: Final = 0.2
_WORD_CHARACTERS: Final = 60


@dataclass(frozen=True, slots=True)
class TokenEndpoint:
    """Where tokens come from and who asks for them."""

    url: str
    client_id: str
    client_secret: str = field(repr=False)
    scope: str | None = None


class TokenSource(AbstractTokenProvider):  # type: ignore[misc]  # aiokafka is untyped to mypy
    """One cluster's tokens: all connections share one, and it is asked for once, however many want it."""

    def __init__(self, endpoint: TokenEndpoint, *, clock: Clock) -> None:
        self._endpoint = endpoint
        self._clock = clock
        self._token = ""
        self._fresh_until = 0.0
        self._asking = asyncio.Lock()

    async def token(self) -> str:
        """A token with some time left. Raises NoToken, and the next call asks again."""
        async with self._asking:
            if self._clock.monotonic() >= self._fresh_until:
                asked = self._clock.monotonic()
                self._token, lifetime_seconds = await asyncio.to_thread(_ask, self._endpoint)
                self._fresh_until = asked + lifetime_seconds * (1 - _SPARE_SHARE)
            return self._token

    def forget(self) -> None:
        """The brokers refused it: the next connection comes with another."""
        self._fresh_until = 0.0


class _Straight(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the secret to whom nobody named."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def _ask(endpoint: TokenEndpoint) -> tuple[str, float]:
    """A token and for how long it is good. Blocks."""
    form = {"grant_type": "client_credentials"} | ({"scope": endpoint.scope} if endpoint.scope else {})
    # RFC 6749 §2.3.1: both halves are form-encoded before they are joined.
    user, secret = (urllib.parse.quote_plus(part) for part in (endpoint.client_id, endpoint.client_secret))
    request = urllib.request.Request(  # noqa: S310 - the settings let http and https pass only
        endpoint.url,
        data=urllib.parse.urlencode(form).encode(),
        headers={
            "Authorization": f"Basic {base64.b64encode(f'{user}:{secret}'.encode()).decode()}",
            "Accept": "application/json",
        },
    )
    opener = urllib.request.build_opener(_Straight)
    try:
        with opener.open(request, timeout=ASK_SECONDS) as answer:
            body = answer.read(_ANSWER_BYTES)
    except urllib.error.HTTPError as refusal:
        with refusal:
            raise NoToken(_refusal(refusal.code, refusal.read(_ANSWER_BYTES))) from None
    except (OSError, HTTPException) as error:
        raise NoToken(f"{getattr(error, 'reason', None) or error or type(error).__name__}") from error
    return _token_in(body)


def _refusal(status: int, body: bytes) -> str:
    told = _members(body).get("error")
    # Only the short code of RFC 6749 §5.2: descriptions may hold what was sent.
    word = told[:_WORD_CHARACTERS] if isinstance(told, str) and told.isascii() and told.isprintable() else None
    advice = ": correct sasl_oauth_client_id and sasl_oauth_client_secret" if status in _NOT_KNOWN else ""
    return f"it answers {status}" + (f" {word}" if word else "") + advice


_NOT_KNOWN: Final = (HTTPStatus.BAD_REQUEST, HTTPStatus.UNAUTHORIZED)


def _token_in(body: bytes) -> tuple[str, float]:
    members = _members(body)
    token, lifetime = members.get("access_token"), members.get("expires_in", _UNTOLD_LIFETIME_SECONDS)
    if not isinstance(token, str) or not token.isascii() or not token.isprintable() or not token:
        raise NoToken("its answer holds no access_token")
    if isinstance(lifetime, bool) or not isinstance(lifetime, int | float) or lifetime <= 0:
        lifetime = _UNTOLD_LIFETIME_SECONDS
    return token, float(lifetime)


def _members(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
