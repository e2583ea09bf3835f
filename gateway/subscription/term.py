"""How long a stream may last: the warning before its token ends, and the end itself."""

from __future__ import annotations

from typing import Final, Protocol

from gateway.clock import Clock
from gateway.errors import AccessWithdrawn, GatewayError, TokenExpired
from gateway.model import Grant
from gateway.subscription.wheel import Timer, TimerWheel

WARNING_SECONDS: Final = 60
"""How long before the token's end its bearer is told, or at once where less is left."""


class Bearer(Protocol):
    """The stream whose term it is."""

    def say_expiring(self) -> None:
        """The token ends soon."""
        ...

    def end(self, error: GatewayError | None) -> None:
        """The term is over."""
        ...


class Term:
    """The appointments that a grant makes: a warning, once, then the end with its reason. Late by a tick, not early."""

    __slots__ = ("_bearer", "_clock", "_grant", "_is_warned", "_timer", "_wheel")

    def __init__(self, wheel: TimerWheel, clock: Clock) -> None:
        self._wheel = wheel
        self._clock = clock
        self._bearer: Bearer | None = None
        self._grant: Grant | None = None
        self._is_warned = False
        self._timer: Timer | None = None

    def run(self, grant: Grant, bearer: Bearer) -> None:
        """From now on this grant counts, and no other."""
        held = self._grant
        self.close()
        self._grant, self._bearer = grant, bearer
        if held is None or held.principal is not grant.principal:
            self._is_warned = False
        self._look()

    def close(self) -> None:
        """Forget it all."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._grant = self._bearer = None

    def _look(self) -> None:
        grant, bearer = self._grant, self._bearer
        if grant is None or bearer is None:
            return
        now = self._clock.now()
        if now >= grant.expires_at:
            bearer.end(TokenExpired("The access token's time is over."))
            return
        if now >= grant.entitled_until:
            bearer.end(AccessWithdrawn("The entitlement of your organisation to this stream is over."))
            return
        following = min(grant.expires_at, grant.entitled_until)
        if not self._is_warned and now >= grant.expires_at - WARNING_SECONDS:
            self._is_warned = True
            bearer.say_expiring()
        elif not self._is_warned:
            following = min(following, grant.expires_at - WARNING_SECONDS)
        self._timer = self._wheel.schedule(following - now, self._look)
