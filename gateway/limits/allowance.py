"""What reads under the same limits may send in one round: one look at the limits for all of them, and one subtraction.

Plans differ in how many rates and quotas they have, and each delivery would pay for each of them. So whoever comes
first in a round of the pump takes all that there is for now, and gives back what was not used when the round is over.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final, Protocol

from gateway.limits.scopes import scope_of
from gateway.model import Grant

FEW: Final = 2
"""With no more reads than this each asks for itself: taking all and giving it back would cost more."""


class Together(Protocol):
    """The pace of all of them; ``pace.Pace`` and ``quota_pace.QuotaPace`` are some."""

    def room(self, *, replayed: bool) -> int: ...

    def bytes_room(self) -> int: ...

    def spend(self, records: int, replayed: int, data_bytes: int) -> None: ...

    def close(self) -> None: ...

    @property
    def is_due(self) -> bool: ...

    def quota_news(self) -> dict[str, object] | None: ...


class Allowance:
    """``records`` and ``bytes`` may be sent now, and are lowered by whoever sends: live records only. Where either is
    not above 0 ``open`` has to be asked first, and where that says no, the read's own pace.

    ``news`` changes when it is time for each read to look for news of a quota.
    """

    __slots__ = ("_bytes", "_family", "_pace", "_records", "bytes", "key", "news", "reads", "records")

    def __init__(self, family: Family, key: Hashable, pace: Together) -> None:
        self.key = key
        self.reads = 0
        self.records = self.bytes = 0
        self.news = 0
        self._records = self._bytes = 0
        self._family = family
        self._pace = pace

    def open(self) -> bool:
        """Take what there is. False: nothing, or it is not worth it. Raises QuotaExceeded."""
        if self.records > 0 and self.bytes > 0:
            return True
        self._family.settle()
        if self.reads <= FEW:
            return False
        records, data_bytes = self._pace.room(replayed=False), self._pace.bytes_room()
        if records <= 0 or data_bytes <= 0:
            return False
        self.records = self._records = records
        self.bytes = self._bytes = data_bytes
        self._family.taken_by(self)
        return True

    def settle(self) -> None:
        """Tell the limits what was used."""
        records, data_bytes = self._records - self.records, self._bytes - self.bytes
        self.records = self.bytes = self._records = self._bytes = 0
        if not records and not data_bytes:
            return
        self._pace.spend(records, 0, data_bytes)
        if self._pace.is_due:
            self._pace.quota_news()
            self.news += 1

    def step_aside(self) -> None:
        """Somebody asks the limits for itself: what is taken of them here, or under wider ones, goes back before."""
        self._family.settle()

    def leave(self) -> None:
        """One read less."""
        self.reads -= 1
        if not self.reads:
            self._family.settle()
            self._pace.close()
            self._family.forget(self)


class Family:
    """The allowances that a tenant has under a plan. They overlap, so that only one has taken something at a time."""

    __slots__ = ("_allowances", "_key", "by_key", "holder")

    def __init__(self, allowances: Allowances, key: Hashable) -> None:
        self._allowances = allowances
        self._key = key
        self.by_key: dict[Hashable, Allowance] = {}
        self.holder: Allowance | None = None

    def taken_by(self, allowance: Allowance) -> None:
        """It has taken all there is, until ``settle``."""
        self.holder = allowance
        self._allowances.taken.append(self)

    def settle(self) -> None:
        """Nobody has taken anything any more."""
        holder, self.holder = self.holder, None
        if holder is not None:
            holder.settle()

    def forget(self, allowance: Allowance) -> None:
        """Nobody reads under it."""
        del self.by_key[allowance.key]
        if not self.by_key:
            self._allowances.forget(self._key)


class Paces(Protocol):
    """Where a pace comes from; ``admission.Admission`` is one."""

    def pace(self, grant: Grant) -> Together | None:
        """For a read under the grant; None: nothing limits it."""
        ...


class Allowances:
    """All of a process, on its event loop's thread."""

    def __init__(self, paces: Paces) -> None:
        self.taken: list[Family] = []
        self._paces = paces
        self._families: dict[Hashable, Family] = {}

    def __len__(self) -> int:
        """How many there are."""
        return sum(len(family.by_key) for family in self._families.values())

    def join(self, grant: Grant) -> Allowance | None:
        """For one read more under this grant, until it calls ``Allowance.leave``. None: nothing limits it."""
        family_key = (grant.tenant, grant.plan.name)
        family = self._families.get(family_key)
        key = scope_of(grant)
        found = None if family is None else family.by_key.get(key)
        if found is None:
            pace = self._paces.pace(grant)
            if pace is None:
                return None
            if family is None:
                family = self._families[family_key] = Family(self, family_key)
            found = family.by_key[key] = Allowance(family, key, pace)
        found.reads += 1
        return found

    def settle(self) -> None:
        """A round is over: what was taken and not used goes back."""
        if self.taken:
            for family in self.taken:
                family.settle()
            self.taken.clear()

    def forget(self, key: Hashable) -> None:
        """Nobody of the family reads."""
        del self._families[key]
