"""Plain counts that any layer may add to; whoever shows them reads them when asked.

An addition here is one integer: no lock, no label look-up, no third-party library. All of it belongs to one event
loop's thread: written and read there. Names of streams come from contracts, never from a request: a label that a
partner could choose would grow without bound, so an open of a stream that is not there counts under ``UNKNOWN``.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from gateway.model import Transport

UNKNOWN = "unknown"
CLIENT_GONE = "client_gone"
"""Why a stream closed that the client left; all other reasons are the code of a goodbye."""


class ReadKind(NamedTuple):
    """What reads are counted by."""

    stream: str
    protocol: Transport
    plan: str


class Tally:
    """What one read gave so far. Its writer adds to both members itself, once a slice."""

    __slots__ = ("bytes", "kind", "records", "tenant")

    def __init__(self, kind: ReadKind, tenant: str) -> None:
        self.kind = kind
        self.tenant = tenant
        self.records = 0
        self.bytes = 0


class Total:
    """Many tallies together. ``open`` is how many of them go on."""

    __slots__ = ("bytes", "open", "records")

    def __init__(self) -> None:
        self.records = 0
        self.bytes = 0
        self.open = 0

    def add(self, records: int, data_bytes: int) -> None:
        """More of the same."""
        self.records += records
        self.bytes += data_bytes


class Census(NamedTuple):
    """All reads of the process, ended and open, in two ways of looking at them."""

    by_kind: dict[ReadKind, Total]
    by_tenant: dict[str, Total]


class StreamCounters:
    """One stream's replays: reads from Kafka again, for readers older than the log.

    ``replays`` began, ``replaying`` go on now, ``replayed_records`` were read by them.
    """

    __slots__ = ("replayed_records", "replaying", "replays", "stream")

    def __init__(self, stream: str) -> None:
        self.stream = stream
        self.replays = 0
        self.replaying = 0
        self.replayed_records = 0


class TopicCounters:
    """One topic's live reader: rounds that brought records, those records, consumers made anew, faults told."""

    __slots__ = ("faults", "fetched_records", "fetches", "rebuilds")

    def __init__(self) -> None:
        self.fetches = 0
        self.fetched_records = 0
        self.rebuilds = 0
        self.faults = 0


class Distribution:
    """How often values fell into each range; ``bounds`` are the ranges' inclusive upper ends, ascending."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        """One value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


class Counters:
    """Every count of one process; made in the composition root and passed to those who count.

    ``opens`` is keyed by (stream, protocol, outcome), ``closes`` by (stream, protocol, reason), ``requests`` by (route
    pattern, method, status), ``refused_tokens`` by reason, ``tokens_accepted`` by how,
    ``tokens_issued`` by outcome, which is ``issued`` or an error of RFC 6749,
    ``key_fetches`` by (issuer, outcome), ``reloads`` by outcome, ``limited`` by (limit, plan).
    """

    def __init__(self) -> None:
        self.streams: dict[str, StreamCounters] = {}
        self.topics: dict[tuple[str, str], TopicCounters] = {}
        self.opens: Counter[tuple[str, Transport, str]] = Counter()
        self.closes: Counter[tuple[str, Transport, str]] = Counter()
        self.requests: Counter[tuple[str, str, int]] = Counter()
        self.refused_tokens: Counter[str] = Counter()
        # No Counter: each of its steps takes 0.2 µs, and this one comes with every request.
        self.tokens_accepted = {"verified": 0, "remembered": 0}
        self.tokens_issued: Counter[str] = Counter()
        self.key_fetches: Counter[tuple[str, str]] = Counter()
        self.reloads: Counter[str] = Counter()
        self.limited: Counter[tuple[str, str]] = Counter()
        self._open: dict[Tally, None] = {}
        self._ended_by_kind: dict[ReadKind, Total] = {}
        self._ended_by_tenant: dict[str, Total] = {}

    def stream(self, name: str) -> StreamCounters:
        """The counts of one stream, the same object at every call: look it up once a read, not once a record."""
        found = self.streams.get(name)
        if found is None:
            found = self.streams[name] = StreamCounters(name)
        return found

    def topic(self, cluster: str, topic: str) -> TopicCounters:
        """The counts of one topic, the same object at every call; they outlive its reader."""
        return self.topics.setdefault((cluster, topic), TopicCounters())

    def begin_read(self, stream: str, *, protocol: Transport, plan: str, tenant: str) -> Tally:
        """A read that is open until ``end_read``."""
        tally = Tally(ReadKind(stream, protocol, plan), tenant)
        self._open[tally] = None
        # There with zero from the first scrape on: a rate sees nothing of a series that begins with its first count.
        self._ended_by_kind.setdefault(tally.kind, Total())
        self._ended_by_tenant.setdefault(tenant, Total())
        return tally

    def end_read(self, tally: Tally) -> None:
        """The read is over; what it gave stays counted. Idempotent."""
        if tally in self._open:
            del self._open[tally]
            self._ended_by_kind[tally.kind].add(tally.records, tally.bytes)
            self._ended_by_tenant[tally.tenant].add(tally.records, tally.bytes)

    def census(self) -> Census:
        """Add up what was and is read: one pass over the open reads, so that they need no totals on their way."""
        census = Census({}, {})
        for kind, ended in self._ended_by_kind.items():
            census.by_kind.setdefault(kind, Total()).add(ended.records, ended.bytes)
        for tenant, ended in self._ended_by_tenant.items():
            census.by_tenant.setdefault(tenant, Total()).add(ended.records, ended.bytes)
        for tally in self._open:
            for total in (census.by_kind[tally.kind], census.by_tenant[tally.tenant]):
                total.add(tally.records, tally.bytes)
                total.open += 1
        return census

    def count_open(self, stream: str | None, *, protocol: Transport, outcome: str = "ok") -> None:
        """One attempt to read. ``outcome`` is ``ok`` or the refusal's code; ``stream`` is None where none was found."""
        self.opens[stream or UNKNOWN, protocol, outcome] += 1

    def count_close(self, stream: str, *, protocol: Transport, reason: str = CLIENT_GONE) -> None:
        """One stream ended, by the code that the server said, or left by its client."""
        self.closes[stream, protocol, reason] += 1

    def count_request(self, route: str, *, method: str, status: int) -> None:
        """One request answered; ``route`` is the path's pattern, so that the number of them is bounded."""
        self.requests[route, method, status] += 1

    def count_refused_token(self, reason: str) -> None:
        """One token refused; ``reason`` is a slug of ours, never a part of the token."""
        self.refused_tokens[reason] += 1

    def count_limited(self, limit: str, *, plan: str) -> None:
        """One request refused or read ended by a limit of a plan, both by the catalog's names for them."""
        self.limited[limit, plan] += 1

    def count_reload(self, outcome: str) -> None:
        """One reload, ``ok`` or ``refused``."""
        self.reloads[outcome] += 1


@dataclass(frozen=True, slots=True)
class StreamStatus:
    """How one stream's reader stands, taken when asked; at most one per stream.

    ``state`` is the reader's own word. ``reason`` is empty while all is well. ``age_seconds`` is the time since Kafka
    last answered a fetch, ``head_age_seconds`` the time since the newest record was made, ``lag_records`` what Kafka
    holds beyond the last fetch; each is None where it is not known yet.
    """

    stream: str
    state: str
    reason: str = ""
    age_seconds: float | None = None
    head_age_seconds: float | None = None
    lag_records: int | None = None
