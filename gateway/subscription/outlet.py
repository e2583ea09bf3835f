"""Where a subscription's bytes go: the port to the connections of all protocols and kinds of server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from gateway.errors import GatewayError
from gateway.hub.block import Slice
from gateway.subscription.encode import Framing


class Outlet(Protocol):
    """Where a subscription's bytes go: one per protocol and kind of server."""

    framing: Framing

    @property
    def paused(self) -> bool:
        """No more for now; ``on_resume`` is called when there is room again."""
        ...

    on_resume: Callable[[], None] | None
    on_close: Callable[[], None] | None
    """Called when the client has gone."""

    def write(self, piece: Slice) -> None:
        """Shared bytes of a view. Never waits."""
        ...

    def say(self, data: bytes) -> None:
        """Bytes for this reader alone: a control event in the outlet's framing."""
        ...

    def accepted_monotonic(self) -> float:
        """When the client was last known to take bytes, while paused."""
        ...

    def unsent(self) -> int:
        """Bytes that were written and are still in this process, or never left it."""
        ...

    def finish(self, error: GatewayError | None) -> None:
        """End the response in order; ``error`` gives the close code. None: the client has gone."""
        ...

    def abort(self) -> None:
        """Drop the connection."""
        ...
