"""Evidence of deliveries: which offsets went to whom, when, by which protocol and session; noted, kept for a while."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple, Protocol

from gateway.errors import Unavailable
from gateway.model import ABSENT, Grant, Transport, Vector

log = logging.getLogger("gateway.metering")
MAX_PENDING: Final = 50_000
"""Deliveries that wait to be written down; at the bound the oldest go, and are counted as lost."""

MAX_BATCH: Final = 2_000
STRETCH_SECONDS: Final = 60.0
"""A delivery that continues the one before it is written down together with it, up to this length."""

EMPTY_SECONDS: Final = 900.0
"""The same for stretches that gave nothing: a row filter may pass over others' records for days."""


MARK_SECONDS: Final = 30


class Delivery(NamedTuple):
    """A stretch of one read. ``moved`` says for each partition that moved where from and where to, half-open, as
    ``0:120-180,3:7-9``; ``span`` is how many offsets that is. Times are epoch milliseconds.

    ``taken_back`` of the records never left the process and are in ``records`` no more; what the meter had told by then
    it cannot lower, so that they may be in usage all the same.
    ``records + filtered + hidden`` is at most ``span``; what is left over are offsets without a record for readers:
    markers of transactions, compacted and undecodable records, what retention took.
    """

    tenant: str
    application: str
    stream: str
    transport: Transport
    session: str
    began: int
    ended: int
    records: int
    bytes: int
    filtered: int
    hidden: int
    taken_back: int
    span: int
    moved: str


class Sink(Protocol):
    """Where notes are kept. Every method blocks and raises Unavailable; see ``audit_store.AuditStore``."""

    def begin(self, source: str) -> None: ...

    def append(self, deliveries: Sequence[Delivery], *, source: str) -> None: ...

    def mark(self, source: str, until: int) -> None: ...

    def close(self, source: str) -> None: ...

    def lose(self, source: str) -> None: ...


Run = Callable[..., Awaitable[Any]]


class _Open:
    """What is known of one session since it was last written down."""

    __slots__ = ("began", "bytes", "end", "ended", "filtered", "hidden", "records", "start", "taken_back")

    def __init__(self, start: Vector, began: float) -> None:
        self.start, self.end = start, start
        self.began, self.ended = began, began
        self.records = self.bytes = self.filtered = self.hidden = self.taken_back = 0

    def most_seconds(self) -> float:
        """How long it may become."""
        return STRETCH_SECONDS if self.records or self.taken_back else EMPTY_SECONDS


_Who = tuple[str, str, str, Transport, str]


class DeliveryAudit:
    """Takes notes on the event loop's thread, in memory; ``flush`` writes them down. A process that is killed loses
    what was not written: its usage is in the ledger all the same, and reconciliation knows such a process."""

    def __init__(self, sink: Sink, *, source: str, run: Run, max_pending: int = MAX_PENDING) -> None:
        """``source`` is the process, by the name that its usage has; ``run`` runs blocking work in a thread."""
        self._sink = sink
        self._source = source
        self._run = run
        self._max_pending = max_pending
        self._is_begun = False
        self._is_lossy = False
        self._marked = 0
        self._open: dict[_Who, _Open] = {}
        self._returned: dict[_Who, int] = {}
        self.taken_back: dict[tuple[str, Transport], int] = {}
        """Records that never left the process, by stream and protocol, since it came up."""
        self._pending: list[Delivery] = []
        self.written = 0
        self.lost = 0

    def note(
        self,
        grant: Grant,
        *,
        session: str,
        transport: Transport,
        start: Vector,
        end: Vector,
        records: int,
        data_bytes: int,
        began: float,
        ended: float,
        filtered: int = 0,
        hidden: int = 0,
    ) -> None:
        """The read went from ``start`` to ``end`` between these moments (epoch seconds) and gave so much, replayed
        records among it.

        Call it at each checkpoint, at least once a minute, when the grant changes and at the end of the read; ``start``
        is the ``end`` of the call before. ``records`` is below 0 where more was taken back than given since then.
        """
        who = (grant.tenant, grant.application, grant.contract.stream, transport, session)
        if start == end and not records and who not in self._returned:
            return
        known = self._open.get(who)
        if known is not None and (known.end != start or ended - known.began > known.most_seconds()):
            self._close(who, known)
            known = None
        if known is None:
            known = self._open[who] = _Open(start, began)
        known.end, known.ended = end, ended
        known.records += records
        known.bytes += data_bytes
        known.filtered += filtered
        known.hidden += hidden
        known.taken_back += self._returned.pop(who, 0)

    def take_back(self, grant: Grant, *, session: str, transport: Transport, records: int) -> None:
        """So many records never left the process; the next ``note`` of the read gives those less."""
        who = (grant.tenant, grant.application, grant.contract.stream, transport, session)
        self._returned[who] = self._returned.get(who, 0) + records
        place = (grant.contract.stream, transport)
        self.taken_back[place] = self.taken_back.get(place, 0) + records

    async def flush(self, *, now: float | None = None) -> None:
        """Write down the stretches that began a minute before ``now`` (epoch seconds; None: all). What cannot be
        written now stays for the next time, within a bound."""
        await self._declare()
        if now is None or len(self._open) > self._max_pending:
            now = math.inf
        for who, one in list(self._open.items()):
            if now - one.began >= one.most_seconds():
                self._close(who, one)
        while self._pending:
            batch = self._pending[:MAX_BATCH]
            try:
                await self._run(self._sink.append, batch, source=self._source)
            except Unavailable as error:
                log.debug("deliveries wait to be written down: %s", error)
                self._bound()
                return
            del self._pending[: len(batch)]
            self.written += len(batch)
        if now < math.inf:
            await self._mark(int(min((one.began for one in self._open.values()), default=now)))

    async def _mark(self, until: int) -> None:
        """Say, now and then, that all stretches that began before ``until`` are written down."""
        if until - self._marked < MARK_SECONDS:
            return
        try:
            await self._run(self._sink.mark, self._source, until)
            self._marked = until
        except Unavailable as error:
            log.debug("notes of deliveries are not marked: %s", error)

    async def _declare(self) -> None:
        """Say that this process's notes can be counted on, or no longer. Without the first nothing is made of them."""
        try:
            if not self._is_begun:
                await self._run(self._sink.begin, self._source)
                self._is_begun = True
            if self.lost and not self._is_lossy:
                await self._run(self._sink.lose, self._source)
                self._is_lossy = True
        except Unavailable as error:
            log.debug("notes of deliveries are not declared: %s", error)

    async def close(self) -> None:
        """The last notes, after the last delivery. Raises Unavailable where the database is away at the very end."""
        await self.flush()
        if not self._pending and not self.lost:
            await self._run(self._sink.close, self._source)

    def _close(self, who: _Who, one: _Open) -> None:
        del self._open[who]
        moved = list(ranges(one.start, one.end))
        self._pending.append(
            Delivery(
                *who,
                round(one.began * 1000),
                round(one.ended * 1000),
                one.records,
                one.bytes,
                one.filtered,
                one.hidden,
                one.taken_back,
                sum(until - since for _, since, until in moved),
                ",".join(f"{partition}:{since}-{until}" for partition, since, until in moved),
            )
        )

    def _bound(self) -> None:
        over = len(self._pending) - self._max_pending
        if over > 0:
            del self._pending[:over]
            self.lost += over
            log.warning("%d notes of deliveries were lost: the database was away too long", over)

    def statistics(self) -> dict[str, int]:
        """Deliveries that wait, were written down, were lost."""
        waiting = len(self._open) + len(self._pending)
        return {"waiting": waiting, "written": self.written, "lost": self.lost}


def ranges(start: Vector, end: Vector) -> Iterator[tuple[int, int, int]]:
    """Partition, first offset, offset behind the last, of each partition that moved.

    A partition that had no position before began with its earliest record, at whatever offset: 0 is the bound that is
    certain. Where a cut took records back, a range runs backwards.
    """
    for partition, until in enumerate(end):
        since = start[partition] if partition < len(start) else ABSENT
        since = 0 if since == ABSENT else since
        if until not in (ABSENT, since):
            yield partition, since, until
