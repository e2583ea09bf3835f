"""What one topic's log no longer holds, read from Kafka again: one fetch for all readers who are near each other.

A *track* is a short log of its own, with its own encoded views. It begins at the vector of its first reader and grows
from Kafka when one of its readers has come to its end, never by itself; so a reader that takes nothing costs nothing.
Whoever is to read what a track holds, or will hold next, reads it there: where readers of one part of the past meet,
whatever their shapes, they go on together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

from gateway.hub.log import PAGE_RECORDS
from gateway.hub.track import NEAR_RECORDS, History, Track, beyond, offset_in
from gateway.model import Vector

PAST_BYTES: Final = 64 * 1024 * 1024
"""Most bytes of a topic's tracks, records and encoded, beside what their readers have yet to take."""

_WINDOW_SHARE: Final = 4
"""The part of these that one track may have. A reader that falls further behind the first one reads on its own, or with
others who are as late."""

RESTING_TRACKS: Final = 8
REST_SECONDS: Final = 30.0
"""So many tracks without readers a topic, for so long: who pulls comes back for the next page."""


class Past:
    """The tracks of one topic."""

    def __init__(
        self,
        history: History,
        *,
        most_bytes: int = PAST_BYTES,
        page_records: int = PAGE_RECORDS,
        on_fill: Callable[[], None],
    ) -> None:
        """``on_fill`` is called when more memory is used than before."""
        self._history = history
        self._page_records = page_records
        self._most_bytes = most_bytes
        self._on_fill = on_fill
        self._tracks: dict[Track, None] = {}
        self._earliest: Vector = ()
        self._resting: dict[Track, asyncio.TimerHandle] = {}

    @property
    def bytes(self) -> int:
        return sum(track.bytes for track in self._tracks)

    def __len__(self) -> int:
        return len(self._tracks)

    def track(self, vector: Vector) -> Track:
        """The track to read on at ``vector``: the one that has most of what follows, made where there is none."""
        best, most = None, 0
        for track in self._tracks:
            worth = track.worth(vector)
            # Of two that are worth the same the older one, so that their readers end up in one.
            if worth is not None and (best is None or worth > most):
                best, most = track, worth
        return best or self._begin(vector)

    def _begin(self, vector: Vector) -> Track:
        begun = Track(self, self._history, start=self._start_for(vector), page_records=self._page_records)
        for track in list(self._tracks):
            if begun.worth(track.log.head_vector) is not None:
                # It has hardly begun, and its readers can come to the new one as well.
                self._end(track)
        self._tracks[begun] = None
        return begun

    def _start_for(self, vector: Vector) -> Vector:
        """Where a new track begins: at ``vector``, or so far before it that those who are near can come to it too."""
        start = vector
        for track in self._tracks:
            first = track.first_vector
            if not track.is_over and beyond(first, vector) <= NEAR_RECORDS:
                # What Kafka no longer had when it was asked last is not to be asked for again.
                lower = tuple(
                    min(here, max(first[p], offset_in(self._earliest, p))) if p < len(first) else here
                    for p, here in enumerate(start)
                )
                if beyond(vector, lower) <= NEAR_RECORDS:
                    start = lower
        return start

    def note_earliest(self, earliest: Vector) -> None:
        self._earliest = earliest

    def up_to_next(self, start: Vector, until: Vector) -> Vector:
        """See ``Keeper``: whoever comes to where another track begins goes on there, with what that has fetched."""
        for track in self._tracks:
            first = track.first_vector
            if track.is_over or len(first) != len(start) or not _lies_between(start, first, until):
                continue
            until = tuple(map(min, until, first))
        return until

    def end_all(self) -> None:
        """Nobody enters what is held now any more: it is of another history, or of no use."""
        for track in list(self._tracks):
            self._end(track)

    def _end(self, track: Track) -> None:
        track.is_over = True
        if track in self._resting:
            self._drop(track)

    def woke(self, track: Track) -> None:
        timer = self._resting.pop(track, None)
        if timer is not None:
            timer.cancel()

    def rest(self, track: Track) -> None:
        if track not in self._tracks or track in self._resting:
            return
        self._resting[track] = asyncio.get_running_loop().call_later(REST_SECONDS, self._drop, track)
        if track.is_over:
            self._drop(track)
        elif len(self._resting) > RESTING_TRACKS:
            self._drop(next(iter(self._resting)))

    def _drop(self, track: Track) -> None:
        self._resting.pop(track).cancel()
        del self._tracks[track]
        track.views.close()

    # ---- memory --------------------------------------------------------------------------------------------------

    def make_room(self, track: Track, *, fresh: int) -> None:
        """See ``Keeper``: keep to the bounds."""
        track.trim(self._most_bytes // _WINDOW_SHARE, fresh=fresh)
        self._give_up(self.bytes - self._most_bytes, passed_by=min)
        self._on_fill()

    def shrink(self, by_bytes: int) -> int:
        """Drop what it takes of tracks without readers, of what all have passed, of what the first have passed: who is
        later reads it again. Returns what that freed."""
        freed = self._give_up(by_bytes, passed_by=min)
        return freed + self._give_up(by_bytes - freed, passed_by=max)

    def _give_up(self, by_bytes: int, *, passed_by: Callable[[Iterable[int]], int]) -> int:
        freed = 0
        for track in list(self._resting):
            if freed < by_bytes:
                freed += track.bytes
                self._drop(track)
        for track in self._tracks:
            if freed < by_bytes:
                freed += track.give_up(by_bytes - freed, passed_by=passed_by)
        return freed

    def trim_idle_views(self) -> None:
        """Let go of encoded bytes that nobody asked for since the last call."""
        for track in self._tracks:
            track.views.trim_idle()


def _lies_between(start: Vector, middle: Vector, until: Vector) -> bool:
    """Whether ``middle`` is behind ``start`` in no partition, and ahead of it in one that is to be read."""
    return all(map(int.__le__, start, middle)) and any(
        at < there and at < end for at, there, end in zip(start, middle, until, strict=True)
    )
