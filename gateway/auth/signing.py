"""The built-in issuer's signing keys: which one signs now, and which ones still verify."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

from gateway.auth.issuer import ALGORITHM, public_jwk
from gateway.auth.keys import KeySet, KeySource, VerifyingKey
from gateway.clock import Clock
from gateway.errors import ConfigurationProblems, Unavailable

ASK_SECONDS: Final = 1.0
"""Shortest time between two looks into the database that tokens with unknown keys cause."""

_LOG = logging.getLogger("gateway.auth")


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key on P-256. ``signs_from`` is in epoch seconds; it verifies before that already."""

    kid: str
    private_key: EllipticCurvePrivateKey
    signs_from: int


def last_uses(moments: Iterable[int], *, longest_seconds: int) -> list[float]:
    """For keys that sign from these moments on, in order: until when a token of each may live. The last has no end."""
    following = [*moments][1:]
    return [*(float(moment + longest_seconds) for moment in following), math.inf]


class SigningKeys:
    """The keys that the database holds, as a source for the verifier and for whoever signs.

    A key verifies from when it is there and signs from its moment on, so that every node knows it before any uses it;
    it verifies until the longest token life after the next one's moment. Each is exact to the second on every node.
    """

    def __init__(self, *, clock: Clock, longest_seconds: int) -> None:
        self._clock = clock
        self._longest_seconds = longest_seconds
        self._taken: list[SigningKey] = []
        self._keys: list[SigningKey] = []
        self._current: KeySet | None = None
        self._ends_at = math.inf
        self._asking = asyncio.Lock()
        self._asked_at = -math.inf
        self.ask: Callable[[], Awaitable[None]] | None = None
        """Looks into the database and takes what is there."""

    def take(self, keys: Iterable[SigningKey]) -> None:
        """Replace all of them. Where nothing changed, the verifier's set stays the same object."""
        sorted_keys = sorted(keys, key=lambda key: (key.signs_from, key.kid))
        if [(key.kid, key.signs_from) for key in sorted_keys] != [(key.kid, key.signs_from) for key in self._taken]:
            self._taken = sorted_keys
            self._build()

    def _build(self) -> None:
        now = self._clock.now()
        ends = last_uses((key.signs_from for key in self._taken), longest_seconds=self._longest_seconds)
        used = [(key, end) for key, end in zip(self._taken, ends, strict=False) if end > now]
        self._keys = [key for key, _ in used]
        self._ends_at = min((end for _, end in used), default=math.inf)
        self._current = KeySet(tuple(map(_verifying, self._keys))) if used else None

    def current(self) -> KeySet | None:
        """See ``KeySource``."""
        if self._clock.now() >= self._ends_at:
            self._build()
        return self._current

    async def look_for(self, kid: str | None, *, algorithm: str) -> None:
        """See ``KeySource``: another node may have made a key a moment ago."""
        async with self._asking:
            now = self._clock.monotonic()
            if self.ask is not None and now - self._asked_at >= ASK_SECONDS:
                self._asked_at = now
                try:
                    await self.ask()
                except (Unavailable, ConfigurationProblems) as error:
                    _LOG.info("signing keys not looked for: %s", error)
        if self.current() is None:
            raise Unavailable("The issuer's keys cannot be had now.")

    def signer(self) -> SigningKey:
        """The key that signs now. Raises Unavailable where there is none."""
        now = self._clock.now()
        for key in reversed(self._keys):
            if key.signs_from <= now:
                return key
        raise Unavailable("There is no key to sign with now.")

    def jwks(self) -> dict[str, list[dict[str, str]]]:
        """The public keys that verify now, as a JWKS document: the one that comes next among them."""
        self.current()
        return {"keys": [public_jwk(key.private_key) for key in self._keys]}


class Joined:
    """Keys that never change beside those of another source."""

    def __init__(self, fixed: KeySet, source: KeySource) -> None:
        self._fixed = fixed
        self._source = source
        self._joined: tuple[KeySet | None, KeySet] = (None, fixed)

    def current(self) -> KeySet:
        """See ``KeySource``."""
        found = self._source.current()
        if found is not self._joined[0]:
            self._joined = (found, self._fixed if found is None else KeySet((*self._fixed.keys, *found.keys)))
        return self._joined[1]

    async def look_for(self, kid: str | None, *, algorithm: str) -> None:
        """See ``KeySource``."""
        await self._source.look_for(kid, algorithm=algorithm)


def _verifying(key: SigningKey) -> VerifyingKey:
    return VerifyingKey(key.private_key.public_key(), kid=key.kid, algorithms=frozenset({ALGORITHM}))
