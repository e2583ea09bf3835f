"""One reader's way through history: through replays into the shared log, without a gap and without a repeat.

A reader opens at a vector. Where the log serves it, it walks there (see ``walk``). Where the vector is older than the
log, it walks along a track of the past, which it shares with whoever is near, until it reaches the vector of a chosen
index of the log; from one to the other it takes along what it has reached, and no more.

A reader that falls out of its log or track, or whose log was restarted, opens anew at the vector where it stands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, Literal

from gateway.counters import StreamCounters
from gateway.errors import GatewayError, Unavailable
from gateway.hub.block import UNBOUNDED, Block, Slice
from gateway.hub.past import Past
from gateway.hub.track import Track
from gateway.hub.view import SLICE_BYTES, SLICE_RECORDS, Route
from gateway.hub.views import Recipe, Views
from gateway.kafka.faults import OutOfRange
from gateway.model import Vector
from gateway.subscription.account import ReplayAccount
from gateway.subscription.runs import Runs, Spelling
from gateway.subscription.walk import PASSED, Walk

Mode = Literal["replay", "merge", "shared"]
REPLAY_RECORDS: Final = (250, 2000)
"""Records of a replay's first read, and of a later one at most: each takes no more than all before it together.

The first record is there soon, and a reader that leaves early has cost little.
"""
AHEAD_RECORDS: Final = 512
"""With fewer than these left to take, a reader has more fetched."""


class Reading:
    """Where one read stands, and the next bytes for it.

    ``take`` is synchronous and does a bounded amount of work. When it returns None, ``on_ready`` is called as soon as
    another call may give more, for what this object learns by itself (replay); the log's news come by the hub.
    ``failed`` is set where the read cannot go on.
    """

    __slots__ = (
        "_account",
        "_after_gap",
        "_ahead_records",
        "_asked",
        "_filtered",
        "_hidden",
        "_is_closed",
        "_last_time",
        "_live",
        "_on_ready",
        "_past",
        "_recipe",
        "_replay_records",
        "_runs",
        "_target",
        "_track",
        "_until",
        "_view",
        "_walk",
        "failed",
        "is_routed",
    )

    def __init__(
        self,
        live: Views,
        recipe: Recipe,
        *,
        start: Vector,
        past: Past,
        spelling: Spelling,
        on_ready: Callable[[], None],
        replay_records: tuple[int, int] = REPLAY_RECORDS,
        ahead_records: int = AHEAD_RECORDS,
        counters: StreamCounters | None = None,
    ) -> None:
        self._live = live
        self._recipe = recipe
        self._past = past
        self._on_ready = on_ready
        self._replay_records = replay_records
        self._ahead_records = ahead_records
        self._account = ReplayAccount(counters or StreamCounters(""))
        self._view = view = live.take(recipe)
        self._runs = Runs(view, spelling)
        self._track: Track | None = None
        self._asked = self._is_closed = False
        self._target = -1
        self._until: Vector = ()
        self._after_gap = False
        self._filtered = self._hidden = 0
        self._last_time: int | None = None
        self.failed: GatewayError | None = None
        self.is_routed = view.selector is not None and view.selector.route is not None
        self._walk: Walk = self._place(start)

    # ---- what a reader asks --------------------------------------------------------------------------------------

    def take(
        self,
        *,
        max_records: int = SLICE_RECORDS,
        max_bytes: int = SLICE_BYTES,
        max_data_bytes: int = UNBOUNDED,
        at_least_one: bool = True,
    ) -> Slice | None:
        """The next slice, or None where there is none now. A slice without body moved over what is not for us.

        ``at_least_one=False``: None also where the next record is larger than ``max_bytes``. With ``max_records`` 0
        only what is not for us is passed, and None with ``more`` says that a record is next.
        """
        walk = self._walk
        if self._runs:
            piece = self._runs.take(
                max_records=max_records,
                max_bytes=max_bytes,
                max_data_bytes=max_data_bytes,
                after_gap=self._after_gap,
                at_least_one=at_least_one,
            )
        else:
            if walk.is_lost:
                walk = self._go(self._place(walk.vector()))
            piece = walk.take(
                max_records=max_records,
                max_bytes=max_bytes,
                max_data_bytes=max_data_bytes,
                after_gap=self._after_gap,
                at_least_one=at_least_one,
            )
        if piece is not None and (piece.records or piece.gap is not None):
            # What follows an undecodable stretch directly belongs to it.
            self._after_gap = piece.gap is not None and piece.gap.reason == "undecodable"
        if self._track is None:
            return piece
        if piece is None and walk.is_at_end and not self._runs:
            return self._go_on(self._track)
        self._look_ahead(self._track)
        return piece

    def take_usual(self, max_records: int = SLICE_RECORDS, max_data_bytes: int = UNBOUNDED) -> Slice | None:
        """``take`` for streams: what all readers take is found by one look, where it is within the bounds."""
        walk = self._walk
        view = self._view
        if self._track is not None or walk.mode != "shared" or self._runs or self._after_gap:
            return self._take_within(max_records, max_data_bytes)
        piece = view.tail
        if piece is None or view.tail_index != walk.index:
            if walk.is_lost or not view.is_shared:
                return self._take_within(max_records, max_data_bytes)
            # Within the usual bounds, so that it is the same for whoever may have all of it.
            piece = view.take(walk.index)
        if piece is None or piece.gap is not None or piece.records > max_records or piece.data_bytes > max_data_bytes:
            return self._take_within(max_records, max_data_bytes)
        walk.index = piece.stop
        walk.trail = piece.trail
        walk.given += piece.records
        return piece

    def _take_within(self, max_records: int, max_data_bytes: int) -> Slice | None:
        # A slice is bounded anyway: what is wider than it is no bound, and slices without one are shared.
        return self.take(
            max_records=min(max_records, SLICE_RECORDS),
            max_data_bytes=UNBOUNDED if max_data_bytes >= SLICE_BYTES else max_data_bytes,
        )

    @property
    def mode(self) -> Mode:
        return "replay" if self._track is not None else self._walk.mode

    @property
    def replayed(self) -> int:
        """Records that were read from Kafka because this reader asked."""
        return self._account.records

    @property
    def more(self) -> bool:
        """Whether another ``take`` would give something at once, or find out how to get more."""
        if self._runs or self._walk.index < self._walk.log.head:
            return True
        return self._track is not None and not self._asked and self.failed is None

    @property
    def at_head(self) -> bool:
        """Whether everything the process has seen is taken."""
        return self._track is None and not self._runs and self._walk.is_at_end

    @property
    def stalled(self) -> Unavailable | None:
        """Set while Kafka does not answer the replay."""
        return None if self._track is None else self._track.stalled

    @property
    def route(self) -> Route | None:
        """What news this reader can wait for while it is at the head; None: for any."""
        selector = self._view.selector
        return selector.route if selector is not None and self.mode == "shared" else None

    def skip_to(self, index: int) -> None:
        """Stand at ``index`` of the log: nothing before it is for this reader. Only where it walks there, shared."""
        if self.mode == "shared" and not self._runs:
            self._walk.skip_to(index)

    def vector(self) -> Vector:
        """The vector before the next record that was not taken."""
        queued = self._runs.vector()
        return self._walk.vector() if queued is None else queued

    def next_time(self) -> int | None:
        """Kafka's time of the next record not taken, in epoch milliseconds; None at the head.

        In the middle of a replay, where the next record is not fetched yet, the time of the last one stands in for it.
        """
        if self._runs:
            return self._runs.next_time()
        found = self._walk.next_time()
        if found is None and self._track is not None:
            found = self._walk.last_time() or self._last_time
        return found

    def remaining(self, shard: tuple[int, int] = (0, 1)) -> int:
        """Records between here and the head: exact in the log, by offsets before it and for a shard."""
        index, count = shard
        log = self._live.log
        if count == 1 and self.mode == "shared" and not self._runs and not self._walk.is_lost:
            return log.head - self._walk.index
        here = self.vector()
        return sum(
            max(0, head - here[p]) for p, head in enumerate(log.head_vector) if p < len(here) and p % count == index
        )

    def settle(self) -> tuple[int, int]:
        """Records passed and not given since the last call: those that the reader's own filter took, and those that a
        row filter hid."""
        self._count_left_out()
        found = self._filtered, self._hidden
        self._filtered = self._hidden = 0
        return found

    def _count_left_out(self) -> None:
        filtered, hidden = self._walk.settle()
        self._filtered += filtered
        self._hidden += hidden

    def unsent(self, wire_bytes: int) -> Iterator[tuple[Block, int, int]]:
        """Records taken last that lie wholly in the last ``wire_bytes``; see ``View.unsent``."""
        return iter(()) if self._walk.mode == "merge" else self._walk.view.unsent(self._walk.index, wire_bytes)

    def announce(self, reason: str, *, before: Vector, after: Vector, start: str | None = None) -> None:
        """Queue a gap as the next thing this reader gets. ``start`` is the cursor of its beginning where ``before`` is
        a vector of an earlier life, which would name other records in this one."""
        self._runs.announce(reason, before=before, after=after, start=start)

    def take_news(self) -> Slice | None:
        """What comes next where it is no record, but something to be told: a gap."""
        return self._runs.take_news()

    def close(self) -> None:
        """Give the views back, and wait for no replay any more. Where it stands can still be asked. Idempotent."""
        if not self._is_closed:
            self._is_closed = True
            self._end_replay("closed")
            self._live.release(self._recipe)
            # Who is told keeps this reading, in most cases.
            self._on_ready = _nobody

    # ---- how it finds its way ------------------------------------------------------------------------------------

    def _go(self, walk: Walk) -> Walk:
        """From now on this way."""
        self._count_left_out()
        self._walk = walk
        return walk

    def _place(self, here: Vector) -> Walk:
        """The walk on from ``here``: in the log, else along a track of the past."""
        log = self._live.log
        index = log.floor_index(here)
        if index is None:
            return self._follow(self._past.track(here), here)
        self._end_replay()
        return Walk(log, self._view, self._runs, start=here, index=index)

    def _follow(self, track: Track, here: Vector) -> Walk:
        index = track.log.floor_index(here)
        if index is None:
            raise ValueError("the track begins behind the reader")
        if self._track is None:
            self._account.begin()
        else:
            self._leave(self._track)
        track.enter(self)
        self._track = track
        return Walk(track.log, track.views.take(self._recipe), self._runs, start=here, index=index)

    def _leave(self, track: Track) -> None:
        self._asked = False
        self._last_time = self._walk.last_time() or self._last_time
        track.views.release(self._recipe)
        track.leave(self)

    def _end_replay(self, code: str = "") -> None:
        track, self._track = self._track, None
        if track is not None:
            self._leave(track)
            self._account.end(self.failed.code if self.failed is not None else code)

    def _go_on(self, track: Track) -> Slice | None:
        """At the end of what a replay holds: change into the log or to a track that has more, else ask for more."""
        if self._asked or self.failed is not None:
            return None
        here = self._walk.end_vector()
        if not _is_short_of(here, self._goal()):
            self._go(self._place(here))
            return PASSED
        best = self._past.track(here)
        if best is not track:
            self._go(self._follow(best, here))
            return PASSED
        self._ask(track)
        return None

    def _look_ahead(self, track: Track) -> None:
        """Have more fetched before the last is taken, where this track is the one to go on with."""
        log = track.log
        if log.head - self._walk.index >= self._ahead_records or self._asked or track.is_over:
            return
        end = log.head_vector
        if _is_short_of(end, self._goal()) and self._past.track(end) is track:
            self._ask(track)

    def _goal(self) -> Vector:
        """What a replay has to reach to go on in the log."""
        log = self._live.log
        if self._target < log.first:
            # The middle of the log: near enough to be reached, far enough from eviction.
            self._target = (log.first + log.head) // 2
            self._until = log.vector_before(self._target)
        return self._until

    def _ask(self, track: Track) -> None:
        self._asked = True
        first, most = self._replay_records
        track.ask(self, self._goal(), first=first, most=most)

    # ---- what a track tells; see ``Follower`` --------------------------------------------------------------------

    @property
    def index(self) -> int:
        return self._walk.index

    def count_fetched(self, records: int) -> None:
        self._account.add(records)

    def wake(self) -> None:
        self._asked = False
        self._on_ready()

    def broke(self, error: GatewayError) -> None:
        self.failed = error

    def missing(self, bounds: OutOfRange) -> None:
        """Say so at this place, and go on where the topic begins."""
        before = self._walk.end_vector()
        after = list(before)
        reason = "retention"
        for partition, (earliest, latest) in enumerate(zip(bounds.earliest, bounds.latest, strict=True)):
            if partition == len(after):
                after.append(0)
            if after[partition] > latest:
                # Offsets that were given out do not exist any more: this is another history, read from its start.
                reason = "history_changed"
            if not earliest <= after[partition] <= latest:
                after[partition] = earliest
        if reason == "history_changed":
            self._past.end_all()
        moved = tuple(after)
        if any(after[p] != (before[p] if p < len(before) else 0) for p in range(len(after))):
            self.announce(reason, before=before, after=moved)
        self._go(self._place(moved))


def _is_short_of(here: Vector, until: Vector) -> bool:
    """Whether ``here`` is before ``until`` in some partition; one that is not held stands at 0."""
    return any(end > (here[p] if p < len(here) else 0) for p, end in enumerate(until))


def _nobody() -> None:
    """Waits for no more records."""
