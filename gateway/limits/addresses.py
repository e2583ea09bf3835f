"""Refused credentials by address: who brings too many is not listened to for a while. Pure but for its clock."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Final

from gateway.auth.buckets import Buckets
from gateway.clock import Clock
from gateway.errors import TooManyAttempts

CUSTOMER_BITS: Final = 64
"""Of an IPv6 address, what one customer has: counting single addresses would count nothing."""

MOST_ADDRESSES: Final = 20_000
"""Remembered at most; the one that was refused longest ago is forgotten first."""


class Addresses:
    """So many refused credentials at once, then as many in a minute; of each process by itself.

    An address that is ``exempt`` is never held up: a proxy on it that is not trusted would stand for all partners.
    """

    def __init__(self, *, per_minute: int, exempt: Sequence[str], clock: Clock, most: int = MOST_ADDRESSES) -> None:
        """``per_minute`` 0: none is held up. Raises ValueError where ``exempt`` holds no address or network."""
        self._clock = clock
        self._exempt = [ipaddress.ip_network(one, strict=False) for one in exempt]
        self._refusals = None
        if per_minute:
            self._refusals = Buckets(capacity=per_minute, per_second=per_minute / 60, most=most)
        self.turned_away = 0
        """Requests whose credential was not looked at."""

    @property
    def has_some(self) -> bool:
        """Whether anything was refused that still counts: without it ``check`` lets everybody through."""
        return self._refusals is not None and len(self._refusals) > 0

    def check(self, address: str | None) -> None:
        """Raises TooManyAttempts where too much of what came from there was refused."""
        if self._refusals is None:
            return
        seconds = self._refusals.wait(network_of(address), now=self._clock.monotonic())
        if seconds:
            self.turned_away += 1
            raise TooManyAttempts(
                "Too many credentials from this address were refused.", retry_after_ms=round(seconds * 1000) + 1
            )

    def refused(self, address: str | None) -> None:
        """A credential from there was none."""
        if self._refusals is not None and not self._is_exempt(address):
            self._refusals.take(network_of(address), now=self._clock.monotonic())

    def _is_exempt(self, address: str | None) -> bool:
        try:
            found = ipaddress.ip_address(address or "")
        except ValueError:
            # A socket file, or a server that does not say: it would stand for everybody too.
            return True
        if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
            found = found.ipv4_mapped
        return any(found.version == one.version and found in one for one in self._exempt)


def network_of(address: str | None) -> str:
    """What is counted together: an IPv4 address, or the network that one customer has of IPv6."""
    try:
        found = ipaddress.ip_address(address or "")
    except ValueError:
        return address or "-"
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(ipaddress.IPv6Network((int(found), CUSTOMER_BITS), strict=False))
    return str(found)
