"""Access on streams that are already open: looked at anew whenever what may be read by whom has changed."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Callable
from typing import Final

from gateway.auth.reach import Moment, Reach
from gateway.clock import Clock
from gateway.errors import (
    AccessWithdrawn,
    GatewayError,
    Internal,
    StreamEnded,
    StreamRetired,
    TokenInvalid,
    Unavailable,
)
from gateway.model import Grant, Principal, Transport
from gateway.subscription.registry import Registry
from gateway.subscription.subscription import Subscription
from gateway.subscription.wheel import Timer, TimerWheel

log = logging.getLogger("gateway.subscription")
BATCH: Final = 200
"""Streams or tenants looked at before others get their turn on the loop."""

Decide = Callable[[Principal, str, Transport], Grant]
"""What policy allows a principal on a stream over a protocol now; raises the GatewayError that says why nothing."""


class Watch:
    """Ends streams whose access is withdrawn, and lets the others go on under what is granted now.

    Only those are decided on again that the change may touch, compared from the moment up to which all were: a tenant's
    withdrawal costs what that tenant reads, not what everybody does. The calendar is a change too: who goes on under
    the next entitlement, under another plan perhaps, does so when that begins.
    """

    def __init__(
        self, registry: Registry, decide: Decide, *, moment: Callable[[], Moment], clock: Clock, wheel: TimerWheel
    ) -> None:
        """``moment``: what may be read by whom now. What opens from here on is told to ``look_at``."""
        self._registry = registry
        self._decide = decide
        self._moment = moment
        self._clock = clock
        self._wheel = wheel
        self.seen = moment()
        """The moment by which every open stream was decided on."""
        self._seen_at = clock.now()
        self._turn: Timer | None = None
        self._changed = asyncio.Event()

    def ring(self) -> None:
        """Something has changed: what it touches is looked at soon."""
        self._changed.set()

    async def run(self) -> None:
        """Look whenever the bell rang, until cancelled."""
        while True:
            self._await_turn()
            await self._changed.wait()
            self._changed.clear()
            now, at = self._moment(), self._clock.now()
            turning = now.catalog.turning(after=self._seen_at, until=at)
            async for subscription in self._touched(Reach(self.seen, now), turning):
                self.look_at(subscription)
            # Not before all were looked at: a round that is broken off is made up for by the next.
            self.seen, self._seen_at = now, at

    def _await_turn(self) -> None:
        """Have the bell rung when the next entitlement begins."""
        if self._turn is not None:
            self._turn.cancel()
        following = self.seen.catalog.next_turn(after=self._seen_at)
        self._turn = None if following == math.inf else self._wheel.schedule(following - self._clock.now(), self.ring)

    async def _touched(self, reach: Reach, turning: frozenset[str]) -> AsyncIterator[Subscription]:
        """The streams that the change may touch; one may come twice."""
        for number, tenant in enumerate(self._registry.roster.tenants(), start=1):
            if number % BATCH == 0:
                await asyncio.sleep(0)
            if tenant in turning or reach.takes_in_tenant(tenant):
                for place, subscription in enumerate(self._registry.roster.of_tenant(tenant), start=1):
                    yield subscription
                    if place % BATCH == 0:
                        await asyncio.sleep(0)
        if reach.is_personal:
            for number, subscription in enumerate(self._registry.subscriptions(), start=1):
                if reach.takes_in(subscription.grant):
                    yield subscription
                if number % BATCH == 0:
                    await asyncio.sleep(0)

    def look_at(self, subscription: Subscription) -> None:
        """Decide anew on one stream; it ends, goes on as it was, or goes on under what it is granted now."""
        if subscription.ended is not False:
            return
        held = subscription.grant
        try:
            grant = self._decide(held.principal, held.contract.stream, subscription.transport)
            if grant != held:
                self._registry.renew(subscription, grant)
        except GatewayError as error:
            subscription.end(_withdrawn(error))
        except Exception as error:
            # Nobody may read on undecided, and one that fails must not be the reason that others do.
            log.error("access to a stream could not be decided", exc_info=error)
            subscription.end(Internal("The stream failed."))

    def refresh(self, subscription: Subscription, principal: Principal) -> None:
        """Go on under another token of the same application. Raises what a new open with it would meet."""
        held = subscription.grant
        self._registry.renew(subscription, self._decide(principal, held.contract.stream, subscription.transport))


def _withdrawn(error: GatewayError) -> GatewayError:
    """What the end of a stream is called whose open would be refused like this."""
    if isinstance(error, Unavailable) or (isinstance(error, TokenInvalid) and error.reason == "revoked"):
        return error
    if isinstance(error, StreamRetired):
        return StreamEnded(error.detail)
    return AccessWithdrawn(error.detail or "The provider has withdrawn the access.")
