"""Access on streams that are already open: looked at anew whenever what may be read by whom has changed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from gateway.errors import AccessWithdrawn, GatewayError, StreamEnded, StreamRetired, TokenInvalid, Unavailable
from gateway.model import Grant, Principal, Transport
from gateway.subscription.registry import Registry
from gateway.subscription.subscription import Subscription

BATCH: Final = 200
"""Streams looked at before others get their turn on the loop."""

Decide = Callable[[Principal, str, Transport], Grant]
"""What policy allows a principal on a stream over a protocol now; raises the GatewayError that says why nothing."""


class Watch:
    """Ends streams whose access is withdrawn, and lets the others go on under what is granted now."""

    def __init__(self, registry: Registry, decide: Decide) -> None:
        self._registry = registry
        self._decide = decide
        self._changed = asyncio.Event()

    def ring(self) -> None:
        """Something has changed: every stream is looked at soon."""
        self._changed.set()

    async def run(self) -> None:
        """Look whenever the bell rang, until cancelled."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            for number, subscription in enumerate(self._registry.subscriptions()):
                if number % BATCH == BATCH - 1:
                    await asyncio.sleep(0)
                self._look_at(subscription)

    def _look_at(self, subscription: Subscription) -> None:
        if subscription.ended is not False:
            return
        held = subscription.grant
        try:
            grant = self._decide(held.principal, held.contract.stream, subscription.transport)
            if grant != held:
                self._registry.renew(subscription, grant)
        except GatewayError as error:
            subscription.end(_withdrawn(error))

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
