"""Plain counts that any layer may add to; whoever shows them reads them when asked.

An addition here is one integer: no lock, no label look-up, no third-party library. All of it belongs to one event
loop's thread: written and read there. Names of streams come from contracts, never from a request: a label that a
partner could choose would grow without bound, so an open of a stream that is not there counts under ``UNKNOWN``.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from gateway.model import TRANSPORTS, Transport

UNKNOWN = "unknown"


class Deliveries:
    """What one stream gave over one protocol. The writer adds to both members itself."""

    __slots__ = ("bytes", "records")

    def __init__(self) -> None:
        self.records = 0
        self.bytes = 0


class StreamCounters:
    """One stream's counts. ``replayed_records`` are those read from Kafka again for readers older than the log."""

    __slots__ = ("by_protocol", "replayed_records", "stream")

    def __init__(self, stream: str) -> None:
        self.stream = stream
        self.replayed_records = 0
        self.by_protocol: dict[Transport, Deliveries] = {protocol: Deliveries() for protocol in TRANSPORTS}


class Counters:
    """Every count of one process; made in the composition root and passed to those who count.

    ``opens`` is keyed by (stream, protocol, outcome), ``goodbyes`` by (protocol, code), ``requests`` by (route pattern,
    method, status), ``refused_tokens`` by reason, ``connections`` by protocol: open ones, now.
    """

    def __init__(self) -> None:
        self.streams: dict[str, StreamCounters] = {}
        self.connections: dict[Transport, int] = dict.fromkeys(TRANSPORTS, 0)
        self.opens: Counter[tuple[str, Transport, str]] = Counter()
        self.goodbyes: Counter[tuple[Transport, str]] = Counter()
        self.requests: Counter[tuple[str, str, int]] = Counter()
        self.refused_tokens: Counter[str] = Counter()

    def stream(self, name: str) -> StreamCounters:
        """The counts of one stream, the same object at every call: look it up once a read, not once a record."""
        found = self.streams.get(name)
        if found is None:
            found = self.streams[name] = StreamCounters(name)
        return found

    def count_open(self, stream: str | None, *, protocol: Transport, outcome: str = "ok") -> None:
        """One attempt to read. ``outcome`` is ``ok`` or the refusal's code; ``stream`` is None where none was found."""
        self.opens[stream or UNKNOWN, protocol, outcome] += 1

    def count_goodbye(self, protocol: Transport, *, code: str) -> None:
        """One stream ended by the server, by the code it said."""
        self.goodbyes[protocol, code] += 1

    def count_request(self, route: str, *, method: str, status: int) -> None:
        """One request answered; ``route`` is the path's pattern, so that the number of them is bounded."""
        self.requests[route, method, status] += 1

    def count_refused_token(self, reason: str) -> None:
        """One token refused; ``reason`` is a slug of ours, never a part of the token."""
        self.refused_tokens[reason] += 1


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
    log_records: int = 0
    log_bytes: int = 0
    view_bytes: int = 0
