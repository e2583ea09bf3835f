"""A request that was refused for its plan's rate, and the same one again: what it meets without another look at it.

Whoever asks too often asks the same over and over, and most of what a refusal costs is finding out again who it is and
what it wants. Nothing is ever granted here, and nothing is refused for longer than ``SAME_SECONDS`` without that look.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gateway.errors import RateLimited

SAME_SECONDS: Final = 5.0
"""So long what was found out holds where nobody says otherwise: an entitlement may end in this time, or a key go."""


class RefusedAgain:
    """``refusal``: asks the limit, and whatever else may have changed; None: this request has to be looked at."""

    __slots__ = ("_refusal", "headers", "on_refusal")

    def __init__(
        self, refusal: Callable[[], RateLimited | None], *, headers: Callable[[], list[tuple[bytes, bytes]]]
    ) -> None:
        self._refusal = refusal
        self.headers = headers
        """What every answer to this tenant says besides."""
        self.on_refusal: Callable[[str], None] | None = None
        """Told the code of each."""

    def refusal(self) -> RateLimited | None:
        """The error that the request would meet now, counted as one."""
        error = self._refusal()
        if error is not None and self.on_refusal is not None:
            self.on_refusal(error.code)
        return error
