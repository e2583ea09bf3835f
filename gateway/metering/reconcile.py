"""Whether the ledger agrees with the evidence: a pure comparison of what was metered with what was noted apart.

Deliveries are noted in stretches of up to a minute, and a stretch does not end where a day does. So the evidence gives
two bounds: ``least`` adds up the stretches that lie wholly within the time looked at, ``most`` also those that reach
into it. What was metered must lie between them, without any allowance beside. A process that was killed keeps its
usage and loses its last notes: for it the upper bounds say nothing. Offsets bound both: nobody can be charged for more
records than there were offsets between the cursors.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from gateway.model import Transport

SLACK_SECONDS: Final = 5
"""Stretches that end so near to an edge may be counted on its other side: the meter and the notes read the clock one
after the other."""

DriftKind = Literal["missing", "excess", "span", "process"]
"""Metered is less than proved; more than proved; more than there were offsets for; another number than the process's
own counters say."""


class Whom(NamedTuple):
    """Through which process (``source``), to whom, of what, by which way."""

    source: str
    tenant: str
    application: str
    stream: str
    transport: Transport


class Audited(NamedTuple):
    """Bounds that the evidence sets: records for sure, records at most, offsets at most."""

    least: int
    most: int
    span: int


class Metered(NamedTuple):
    """What the ledger holds: records, live and replayed, and those that filters took away."""

    records: int
    taken: int


@dataclass(frozen=True, slots=True)
class Drift:
    """Usage of ``start`` ≤ time < ``end`` that is not what it should be: between ``least`` and ``most``."""

    kind: DriftKind
    whom: Whom
    start: int
    end: int
    metered: int
    least: int
    most: int


NOTHING: Final = Audited(0, 0, 0)


def compare(
    metered: Mapping[Whom, Metered],
    audited: Mapping[Whom, Audited],
    *,
    start: int,
    end: int,
    unproved: Collection[str] = (),
) -> Iterator[Drift]:
    """Every difference, in a stable order. ``unproved`` are sources whose notes are known to be incomplete."""
    for whom in sorted({*metered, *audited}):
        counted, proof = metered.get(whom, Metered(0, 0)), audited.get(whom, NOTHING)
        if counted.records < proof.least:
            yield Drift("missing", whom, start, end, counted.records, proof.least, proof.most)
        if whom.source in unproved:
            continue
        if counted.records > proof.most:
            yield Drift("excess", whom, start, end, counted.records, proof.least, proof.most)
        elif counted.records + counted.taken > proof.span:
            yield Drift("span", whom, start, end, counted.records + counted.taken, 0, proof.span)
