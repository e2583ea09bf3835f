"""What a reader may and must have seen of a topic: pure, and the judge of the whole test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

Series = tuple[str, int]
"""A producer's run of numbers in one partition: 0, 1, 2, … in the order of the partition."""


@dataclass
class Truth:
    """What is in a topic. ``life`` counts how often it was made; the rest is of the present life.

    ``acknowledged``: how many of a series Kafka has; ``deleted``: up to which number retention took it.
    """

    topic: str
    life: int = 1
    acknowledged: dict[Series, int] = field(default_factory=dict)
    deleted: dict[Series, int] = field(default_factory=dict)

    def begin_life(self) -> None:
        """The topic is made anew: nothing is in it."""
        self.life += 1
        self.acknowledged, self.deleted = {}, {}


@dataclass
class Counts:
    """What came, and what was wrong with it. Only ``duplicates`` and ``gaps`` may be other than 0 on a good day.

    ``lost``: passed over and not excused by a gap. ``reordered``: came after a later one of its series. ``foreign``:
    of another topic, of an aborted transaction, of a life that is over, or a record with another one's uid.
    ``repeated``: came again without a resume before it. ``needless_gaps``: said of what was there. ``duplicates``: came
    again after a resume.
    """

    records: int = 0
    lost: int = 0
    reordered: int = 0
    foreign: int = 0
    repeated: int = 0
    needless_gaps: int = 0
    duplicates: int = 0
    gaps: int = 0

    def add(self, other: Counts) -> None:
        for one in fields(self):
            setattr(self, one.name, getattr(self, one.name) + getattr(other, one.name))

    @property
    def wrong(self) -> int:
        """0 where every promise was kept."""
        return self.lost + self.reordered + self.foreign + self.repeated + self.needless_gaps


class Identities:
    """Every record has one uid, whoever reads it, wherever, however often."""

    def __init__(self) -> None:
        self._place_of: dict[str, tuple[Any, ...]] = {}
        self._uid_of: dict[tuple[Any, ...], str] = {}

    def agree(self, uid: str, place: tuple[Any, ...]) -> bool:
        return self._place_of.setdefault(uid, place) == place and self._uid_of.setdefault(place, uid) == uid


class Ledger:
    """One reader's side of the truth. It judges, counts, and goes on behind what was wrong."""

    def __init__(self, truth: Truth, *, identities: Identities) -> None:
        self._truth = truth
        self._identities = identities
        self._life = truth.life
        self._next: dict[Series, int] = {}
        self._holes: dict[Series, set[int]] = {}
        # Of each series the last number repeated since the resume; absent once something new has come.
        self._repeating: dict[Series, int] | None = None
        self._fresh: set[Series] = set()
        # Of each series the number up to which a gap excuses what did not come.
        self._excused: dict[Series, int] = {}
        self.counts = Counts()

    def resume(self) -> None:
        """The reader opens again: until something new of a series comes, what came before may come again."""
        self._repeating, self._fresh = {}, set()

    def record(self, data: Mapping[str, Any], *, uid: str) -> bool:
        """Judge one record; whether it is new to this reader."""
        counts = self.counts
        counts.records += 1
        if data["topic"] != self._truth.topic or data.get("void"):
            counts.foreign += 1
            return False
        if data["life"] != self._life:
            # A new life may show before it is known for one; then the gap is still to come, and these come again.
            if data["life"] != self._truth.life:
                counts.foreign += 1
            return False
        series, number = (str(data["series"]), int(data["p"])), int(data["n"])
        if not self._identities.agree(uid, (self._truth.topic, self._life, *series, number)):
            counts.foreign += 1
        return self._place(series, number)

    def _place(self, series: Series, number: int) -> bool:
        counts, expected = self.counts, self._next.get(series, 0)
        if number >= expected:
            self._pass_over(series, expected, number)
            self._next[series] = number + 1
            self._fresh.add(series)
            return True
        if number in self._holes.get(series, ()):
            self._holes[series].discard(number)
            counts.lost -= 1
            counts.reordered += 1
            return True
        if self._repeating is None or series in self._fresh:
            counts.repeated += 1
        elif number <= self._repeating.get(series, -1):
            counts.reordered += 1
        else:
            self._repeating[series] = number
            counts.duplicates += 1
        return False

    def _pass_over(self, series: Series, expected: int, number: int) -> None:
        """What lies between: excused by a gap that was told, or lost."""
        from_here = max(expected, min(number, self._excused.get(series, 0)))
        if number > from_here:
            self.counts.lost += number - from_here
            self._holes.setdefault(series, set()).update(range(from_here, number))

    def gap(self, reason: str) -> None:
        """Judge what the reader was told: a gap is right where something is missing for that reason."""
        self.counts.gaps += 1
        if reason == "history_changed" and self._life != self._truth.life:
            self._life = self._truth.life
            self._next, self._holes, self._excused = {}, {}, {}
            return
        deleted = self._truth.deleted
        if reason == "retention" and any(limit > self._next.get(series, 0) for series, limit in deleted.items()):
            self._excused = dict(deleted)
            return
        self.counts.needless_gaps += 1

    def has(self, target: Mapping[Series, int], *, life: int) -> bool:
        """Whether the reader is in this life and as far in every series, by records or by gaps that excuse them."""
        if self._life != life:
            return False
        return all(max(self._next.get(series, 0), self._excused.get(series, 0)) >= n for series, n in target.items())

    def give_up(self, target: Mapping[Series, int], *, life: int) -> int:
        """What has not come is lost, and the ledger goes on behind it; how much that was."""
        if self._life != life:
            self._life, self._next, self._holes, self._excused = life, {}, {}, {}
        missing = 0
        for series, number in target.items():
            expected = max(self._next.get(series, 0), self._excused.get(series, 0))
            if number > expected:
                missing += number - expected
                self._holes.setdefault(series, set()).update(range(expected, number))
                self._next[series] = number
        self.counts.lost += missing
        return missing

    def take_counts(self) -> Counts:
        """What was counted since the last time."""
        taken, self.counts = self.counts, Counts()
        return taken
