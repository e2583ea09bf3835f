"""Token buckets by key: so many at once, then so many a second. Pure but for the clock it is asked with."""

from __future__ import annotations

from collections import OrderedDict


class Buckets:
    """A bucket for each key, full at first. Bounded: of too many keys the one longest untouched is forgotten."""

    def __init__(self, *, capacity: int, per_second: float, most: int = 10_000) -> None:
        self._capacity = capacity
        self._per_second = per_second
        self._most = most
        self._kept: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        """How many keys are remembered."""
        return len(self._kept)

    def take(self, key: str, *, now: float) -> float:
        """Take one. 0.0: taken; else the seconds until there is one, and nothing is taken. ``now`` is monotonic."""
        level = self._level(key, now)
        if level < 1:
            return (1 - level) / self._per_second
        self._keep(key, level - 1, now)
        return 0.0

    def wait(self, key: str, *, now: float) -> float:
        """What ``take`` would say, without taking."""
        if key not in self._kept:
            return 0.0
        level = self._level(key, now)
        return 0.0 if level >= 1 else (1 - level) / self._per_second

    def give_back(self, key: str, *, now: float) -> None:
        """Return one that was taken and need not have been."""
        self._keep(key, min(self._capacity, self._level(key, now) + 1), now)

    def _level(self, key: str, now: float) -> float:
        level, then = self._kept.get(key, (float(self._capacity), now))
        return min(self._capacity, level + (now - then) * self._per_second)

    def _keep(self, key: str, level: float, now: float) -> None:
        if level >= self._capacity:
            self._kept.pop(key, None)
            return
        self._kept[key] = (level, now)
        self._kept.move_to_end(key)
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)
