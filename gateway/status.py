"""How the inside of a process stands, taken when somebody asks: topics, replays, memory, turns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gateway.counters import Distribution


@dataclass(frozen=True, slots=True)
class TopicStatus:
    """One topic in use: its reader, its shared log and the views of it, what is read of its past.

    ``age_seconds`` is the time since Kafka last answered a fetch, ``head_age_seconds`` the time since the newest record
    was made, ``lag_records`` what Kafka holds beyond the last fetch; each is None where it is not known yet.
    """

    cluster: str
    topic: str
    state: str
    age_seconds: float | None = None
    head_age_seconds: float | None = None
    lag_records: int | None = None
    readers: int = 0
    log_records: int = 0
    log_bytes: int = 0
    evicted_records: int = 0
    views: int = 0
    view_bytes: int = 0
    replay_bytes: int = 0


@dataclass(frozen=True, slots=True)
class ReplayStatus:
    """Reads of old records from one cluster: slices that are read now, and those that wait for a consumer."""

    cluster: str
    reading: int
    waiting: int


@dataclass(frozen=True, slots=True)
class MemoryStatus:
    """Bytes of logs and views within their bound. ``reclaims``: how often something had to go for it; ``full``: that
    was not enough, and replays are refused."""

    bytes: int = 0
    limit_bytes: int = 0
    log_limit_bytes: int = 0
    log_limit_records: int = 0
    reclaims: int = 0
    full: bool = False


@dataclass(frozen=True, slots=True)
class StreamPlace:
    """Which topic a stream stands for."""

    stream: str
    version: str
    lifecycle: str
    cluster: str
    topic: str


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """Everything that is not counted as it happens but looked at."""

    streams: tuple[StreamPlace, ...] = ()
    topics: tuple[TopicStatus, ...] = ()
    replays: tuple[ReplayStatus, ...] = ()
    memory: MemoryStatus = field(default_factory=MemoryStatus)
    sockets: Mapping[str, int] = field(default_factory=dict)
    pump_turns: Distribution = field(default_factory=lambda: Distribution(()))
    pump_slices: int = 0
    catalog_revision: int | None = None
    spans: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class UpkeepStatus:
    """How usage is looked after. ``drifts`` stand, None before that was asked; notes of deliveries wait, were written
    down, were lost."""

    drifts: int | None = None
    notes_waiting: int = 0
    notes_written: int = 0
    notes_lost: int = 0


@dataclass(frozen=True, slots=True)
class MeteringStatus:
    """How this process's usage is kept and told. ``trouble`` None: all is well.

    ``lines`` are keys that are counted under, ``cells`` keys by bucket that are kept; ``unpublished_seconds``: since
    all that was counted was in Kafka. ``orphans`` are slabs of processes that are gone, by what became of them.
    ``merged`` and ``refused`` messages were read by this process into the ledger, if it is the one that does; ``lag``
    are those still to read, None where another one does.
    """

    trouble: str | None = None
    lines: int = 0
    cells: int = 0
    slab_bytes: int = 0
    published: int = 0
    unpublished_seconds: float | None = None
    orphans: Mapping[str, int] = field(default_factory=dict)
    is_leader: bool = False
    merged: int = 0
    refused: int = 0
    lag: int | None = None
