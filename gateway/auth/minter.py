"""Tokens of the built-in issuer for whoever has its database: `gateway token` and the demo."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.auth.issuer import sign_token
from gateway.auth.issuer_store import IssuerStore
from gateway.auth.signing import SigningKeys
from gateway.clock import Clock


class Minter:
    """Signs with the key that signs now, as the token endpoint of every node does."""

    def __init__(self, store: IssuerStore, *, issuer: str, audience: str, longest_seconds: int, clock: Clock) -> None:
        """Blocks; makes the first key where there is none. Raises ConfigurationProblems and Unavailable."""
        store.ensure_key(now=clock.now())
        self._keys = SigningKeys(clock=clock, longest_seconds=longest_seconds)
        self._keys.take(store.load().keys)
        self._issuer = issuer
        self._audience = audience
        self._clock = clock

    def mint(
        self, client_id: str, *, scope: str = "", ttl_seconds: int = 3600, claims: Mapping[str, Any] | None = None
    ) -> str:
        """A signed RFC 9068 access token. Raises ValueError as ``issuer.sign_token`` does, Unavailable where no key
        signs now."""
        key = self._keys.signer()
        return sign_token(
            key.private_key,
            kid=key.kid,
            issuer=self._issuer,
            audience=self._audience,
            issued_at=int(self._clock.now()),
            client_id=client_id,
            scope=scope,
            ttl_seconds=ttl_seconds,
            claims=claims,
        )
