"""A read's pace where its plan has quotas: what the rates let through, as far as the quotas go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from gateway.limits.pace import PLENTY, Hindrance, Waiter
from gateway.limits.quota import Share

_SOON_MS: Final = 1_000


class Rates(Protocol):
    """The pace under the plan's rates; ``pace.Pace`` is one."""

    def room(self, *, replayed: bool) -> int: ...

    def bytes_room(self) -> int: ...

    def spend(self, records: int, replayed: int, data_bytes: int) -> None: ...

    def wait(self, waiter: Waiter) -> None: ...

    def forget(self, waiter: Waiter) -> None: ...

    def hindrance(self) -> Hindrance | None: ...

    def close(self) -> None: ...


class QuotaPace:
    """The same port as ``pace.Pace``. ``rates`` None: the plan limits none of them."""

    __slots__ = ("_bytes_unseen", "_data_bytes", "_lacking", "_rates", "_records", "_records_unseen", "_told", "is_due")

    def __init__(self, rates: Rates | None, shares: Sequence[Share]) -> None:
        self._rates = rates
        self._records = [one for one in shares if one.key.name.startswith("records")]
        self._data_bytes = [one for one in shares if one not in self._records]
        self._lacking: Share | None = None
        self._told: dict[Share, tuple[str, int]] = {}
        self.is_due = False
        """Enough was sent since ``quota_news`` for there to be some."""
        self._records_unseen = self._bytes_unseen = 0
        self._look_again()

    def _look_again(self) -> None:
        """A hundredth of a quota from now."""
        self._records_unseen = min((one.limit // 100 for one in self._records), default=PLENTY)
        self._bytes_unseen = min((one.limit // 100 for one in self._data_bytes), default=PLENTY)

    def room(self, *, replayed: bool) -> int:
        """Records that may be sent now; 0: ``wait``. Raises QuotaExceeded where a quota is used up."""
        self._lacking = None
        room = PLENTY if self._rates is None else self._rates.room(replayed=replayed)
        for share in self._records:
            # Looked at and not asked: every write of every read comes by here.
            left = share.in_hand
            if left <= 0:
                return self._without(share)
            if left < room:
                room = left
        return room

    def bytes_room(self) -> int:
        """Bytes of data that may be sent now; of what is above 0 one record may take more."""
        room = PLENTY if self._rates is None else self._rates.bytes_room()
        for share in self._data_bytes:
            left = share.in_hand
            if left <= 0:
                return self._without(share)
            if left < room:
                room = left
        return room

    def _without(self, share: Share) -> int:
        share.left()
        self._lacking = share
        return 0

    def spend(self, records: int, replayed: int, data_bytes: int) -> None:
        """So much was sent."""
        count = records + replayed
        for share in self._records:
            share.spend(count)
        for share in self._data_bytes:
            share.spend(data_bytes)
        self._records_unseen -= count
        self._bytes_unseen -= data_bytes
        if self._records_unseen <= 0 or self._bytes_unseen <= 0:
            self.is_due = True
        if self._rates is not None:
            self._rates.spend(records, replayed, data_bytes)

    def wait(self, waiter: Waiter) -> None:
        """Call ``waiter.wake`` once when there may be room again, or when a quota is used up."""
        if self._lacking is not None:
            if self._rates is not None:
                # Its turn is no use to it.
                self._rates.forget(waiter)
            self._lacking.wait(waiter)
        elif self._rates is not None:
            self._rates.wait(waiter)

    def forget(self, waiter: Waiter) -> None:
        """Wake it no more."""
        for share in (*self._records, *self._data_bytes):
            share.forget(waiter)
        if self._rates is not None:
            self._rates.forget(waiter)

    def hindrance(self) -> Hindrance | None:
        """Why there was no room when it was last asked for."""
        if self._lacking is not None:
            # There is a quota, and its next portion is on the way: nothing to tell.
            unit = self._lacking.key.name.partition("_")[0]
            return Hindrance(self._lacking.key.name, self._lacking.limit, unit, _SOON_MS, is_over=False)
        return None if self._rates is None else self._rates.hindrance()

    def quota_news(self) -> dict[str, object] | None:
        """``{limit, unit, used_percent, resets_at}``, once for each quota and period at 50 and at 80 percent."""
        self.is_due = False
        self._look_again()
        for share in (*self._records, *self._data_bytes):
            period, told = self._told.get(share, ("", 0))
            news = share.news(told if period == share.key.period else 0)
            if news is not None:
                self._told[share] = (share.key.period, news[0])
                return news[1]
        return None

    def close(self) -> None:
        """The read is over. Idempotent."""
        if self._rates is not None:
            self._rates.close()
