"""Whom the built-in issuer gives tokens to: clients that show a secret, and not too many tries at it."""

from __future__ import annotations

import asyncio
import math
import secrets
from collections import OrderedDict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from gateway.auth.buckets import Buckets
from gateway.auth.client_secrets import ClientSecret, ClientSecrets
from gateway.auth.issuer import BUILTIN, sign_token
from gateway.auth.signing import SigningKeys
from gateway.clock import Clock
from gateway.errors import OAuthRefusal, Unavailable
from gateway.limits.addresses import network_of
from gateway.model import Principal

FAILURES_OF_ADDRESS: Final = 20
FAILURES_OF_CLIENT: Final = 10
"""So many wrong secrets at once, from an address and for a client; then one every ``RECOVERY_SECONDS``."""

RECOVERY_SECONDS: Final = 6.0
MOST_WAITING: Final = 32
"""Requests whose secret waits to be hashed; what comes on top is told to come back."""

_THREADS: Final = 2
_KNOWN_GOOD: Final = 10_000


class Authority:
    """Checks secrets and signs tokens. Nothing it is asked costs the event loop more than a signature."""

    def __init__(self, keys: SigningKeys, *, issuer: str, audience: str, token_seconds: int, clock: Clock) -> None:
        self.keys = keys
        self.issuer = issuer
        self.token_seconds = token_seconds
        self._audience = audience
        self._clock = clock
        self._secrets = ClientSecrets()
        self._waiting = 0
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="secrets")
        self._addresses = Buckets(capacity=FAILURES_OF_ADDRESS, per_second=1 / RECOVERY_SECONDS)
        self._clients = Buckets(capacity=FAILURES_OF_CLIENT, per_second=1 / RECOVERY_SECONDS)
        self._known_good: OrderedDict[tuple[str, str], None] = OrderedDict()

    def take(self, found: Iterable[ClientSecret]) -> None:
        """Replace all secrets."""
        self._secrets = ClientSecrets(found)

    async def authenticate(self, client_id: str, secret: str, *, address: str | None) -> None:
        """Return where the secret is one of the client's. Raises OAuthRefusal, Unavailable.

        A client that nobody knows costs the time of a wrong secret and is told the same. Who already came with a good
        secret from an address is not held up there by others who guess at the same client elsewhere.
        """
        place = network_of(address)
        is_known = (client_id, place) in self._known_good
        # A try is charged before and given back where it was good: many at once count like one after the other.
        self._charge(client_id, place, is_known=is_known)
        if self._waiting >= MOST_WAITING:
            self._give_back(client_id, place, is_known=is_known)
            raise Unavailable("Too many ask for tokens now.", retry_after_ms=1_000)
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            is_right = await loop.run_in_executor(
                self._threads, lambda: self._secrets.is_secret(secret, client_id=client_id)
            )
        finally:
            self._waiting -= 1
        if not is_right:
            raise OAuthRefusal("invalid_client", "The client is unknown or its secret is wrong.", status=401)
        self._give_back(client_id, place, is_known=is_known)
        self._known_good[client_id, place] = None
        self._known_good.move_to_end((client_id, place))
        if len(self._known_good) > _KNOWN_GOOD:
            self._known_good.popitem(last=False)

    def _charge(self, client_id: str, place: str, *, is_known: bool) -> None:
        now = self._clock.monotonic()
        wait = self._addresses.take(place, now=now)
        if not wait and not is_known:
            wait = self._clients.take(client_id, now=now)
            if wait:
                self._addresses.give_back(place, now=now)
        if wait:
            told = "Too many wrong secrets; come back after the time given."
            raise OAuthRefusal("temporarily_unavailable", told, status=429, retry_after_seconds=math.ceil(wait))

    def _give_back(self, client_id: str, place: str, *, is_known: bool) -> None:
        now = self._clock.monotonic()
        self._addresses.give_back(place, now=now)
        if not is_known:
            self._clients.give_back(client_id, now=now)

    def principal(self, client_id: str, scopes: Iterable[str]) -> Principal:
        """Who a token made now would speak for."""
        return Principal(
            issuer=BUILTIN,
            client_id=client_id,
            subject=client_id,
            scopes=frozenset(scopes),
            token_id=secrets.token_urlsafe(16),
            expires_at=int(self._clock.now()) + self.token_seconds,
            claims={},
        )

    def mint(self, client_id: str, scopes: Iterable[str]) -> str:
        """A signed token. Raises Unavailable where there is no key to sign with, OAuthRefusal for one too long."""
        key = self.keys.signer()
        try:
            return sign_token(
                key.private_key,
                kid=key.kid,
                issuer=self.issuer,
                audience=self._audience,
                issued_at=int(self._clock.now()),
                client_id=client_id,
                scope=" ".join(sorted(scopes)),
                ttl_seconds=self.token_seconds,
            )
        except ValueError:
            raise OAuthRefusal("invalid_scope", "So many scopes are no token; ask for some of them.") from None

    async def close(self) -> None:
        """End the threads; what waits is not begun."""
        await asyncio.to_thread(self._threads.shutdown, cancel_futures=True)
