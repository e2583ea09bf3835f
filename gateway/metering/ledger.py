"""The ledger: every source's totals in SQL, merged by the larger of both, and up to when they are complete.

Whatever comes twice, late or in another order changes nothing: a total only grows. What the ledger holds is made of the
usage topic alone, so that a lost one is made again from there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from gateway.database.audit import Entry, append
from gateway.database.database import Database
from gateway.metering.ledger_rows import LINE, ROWS_AT_ONCE, LedgerRows
from gateway.metering.tables import LINES, OFFSETS, SOURCES, STATE
from gateway.metering.totals import Message, SourceWord, Totals
from gateway.usage import BUCKET_SECONDS, MEASURES

_PARAMETERS_AT_ONCE: Final = 500

Line = tuple[Any, ...]


class LeaseLost(Exception):
    """Somebody else reads the topic into the ledger now."""


class Place(NamedTuple):
    """How far a topic was read: the next offset by partition. ``topic_id`` is Kafka's, empty where it has none."""

    topic: str
    topic_id: str
    positions: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class SourceState:
    """One process's life as the ledger knows it. ``state``: live, ended, or lost: given up by an operator."""

    source: str
    state: str
    node: str
    started_at: int
    complete_through: int
    sequence: int


class UnreadTopic(NamedTuple):
    """A topic that a ledger begun anew has not read to the end that it had then, and how many offsets are missing."""

    topic: str
    missing: int


class Ledger(LedgerRows):
    """The ledger in a database that has its schema. Every method blocks; safe to use from several threads."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._writing = database.writing
        self._is_postgres = database.dialect == "postgresql"
        self._insert: Any = postgresql.insert if self._is_postgres else sqlite.insert
        self._larger: Any = sa.func.greatest if self._is_postgres else sa.func.max
        self._now: Any = (
            sa.cast(sa.extract("epoch", sa.func.clock_timestamp()), sa.Float)
            if self._is_postgres
            else (sa.func.julianday("now") - 2440587.5) * 86400.0
        )
        self._lines: dict[Line, int] = {}
        self._sources: dict[str, int] = {}
        self._upsert = self._upsert_of_cells()
        # Made once, since a table under another name is a hundred objects that keep each other.
        offsets = self._insert(OFFSETS)
        self._upsert_of_offsets: Any = offsets.on_conflict_do_update(
            index_elements=["topic", "partition"],
            set_={"next": offsets.excluded.next, "topic_id": offsets.excluded.topic_id},
        )

    # ---- what comes in -------------------------------------------------------------------------------------------

    def merge(
        self,
        messages: Iterable[Message],
        place: Place | None = None,
        *,
        holder: str | None = None,
        lease_seconds: float = 0,
    ) -> None:
        """Take messages in, and how far the topic was read with them: both or, after a crash, neither.

        ``holder``: only while it has the lease, which is good for ``lease_seconds`` from then on. Raises LeaseLost.
        """
        cells, words, latest = _larger_of(messages)
        begins = {source: bucket for source, _, bucket in sorted(cells, key=lambda place: -place[2])}
        lines, sources = dict(self._lines), dict(self._sources)
        with self._writing() as connection:
            rolled_until = self._locked(connection, holder, lease_seconds)
            self._find_sources(connection, latest, begins, sources)
            self._find_lines(connection, {line for _, line, _ in cells}, lines)
            rows = [
                (lines[line], bucket, sources[source], BUCKET_SECONDS, *counts)
                for (source, line, bucket), counts in cells.items()
                # Everything about it was there when it was rolled up.
                if bucket >= rolled_until
            ]
            if rows:
                self._write_cells(connection, rows)
            self._write_words(connection, words, latest)
            if place is not None:
                self._write_place(connection, place)
        # Not before the commit: what was rolled back has no number.
        self._lines, self._sources = lines, sources

    def _locked(self, connection: sa.Connection, holder: str | None, lease_seconds: float = 0) -> int:
        """Writers one after the other, which also keeps them from deadlocks; the end of what is rolled up."""
        if holder is None:
            wanted = sa.select(STATE.c.rolled_until).where(STATE.c.id == 1)
            return int(connection.execute(wanted.with_for_update() if self._is_postgres else wanted).scalar_one())
        until = self._larger(STATE.c.until, self._now + lease_seconds)
        mine = STATE.update().where(STATE.c.id == 1, STATE.c.holder == holder).values(until=until)
        found = connection.execute(mine.returning(STATE.c.rolled_until)).scalar()
        if found is None:
            raise LeaseLost(holder)
        return int(found)

    def _write_cells(self, connection: sa.Connection, rows: list[tuple[Any, ...]]) -> None:
        if not self._is_postgres:
            connection.exec_driver_sql(self._upsert, rows)
            return
        # Two rows of one statement must not meet, and these do not: they come out of a dictionary.
        for first in range(0, len(rows), ROWS_AT_ONCE):
            columns = zip(*rows[first : first + ROWS_AT_ONCE], strict=True)
            connection.exec_driver_sql(self._upsert, tuple(list(column) for column in columns))

    def _upsert_of_cells(self) -> str:
        names = ("line", "bucket", "source", "seconds", *MEASURES)
        larger = "greatest" if self._is_postgres else "max"
        grown = ", ".join(f"{name} = {larger}(excluded.{name}, usage_cells.{name})" for name in MEASURES)
        if self._is_postgres:
            types = ("int", "bigint", "int", "int", *("bigint" for _ in MEASURES))
            arrays = ", ".join(f"%s::{one}[]" for one in types)
            values = f"SELECT * FROM unnest({arrays})"  # noqa: S608 - names and types are the table's own
        else:
            values = f"VALUES ({', '.join('?' for _ in names)})"
        return (
            f"INSERT INTO usage_cells ({', '.join(names)}) {values}"
            f" ON CONFLICT (line, bucket, source) DO UPDATE SET {grown}"
        )

    def _find_lines(self, connection: sa.Connection, wanted: set[Line], known: dict[Line, int]) -> None:
        missing = sorted(wanted - known.keys())
        for first in range(0, len(missing), _PARAMETERS_AT_ONCE):
            part = missing[first : first + _PARAMETERS_AT_ONCE]
            rows = [dict(zip(LINE, line, strict=True)) for line in part]
            connection.execute(self._insert(LINES).on_conflict_do_nothing(), rows)
            of_tenants = LINES.c.tenant.in_({line[0] for line in part})
            for row in connection.execute(sa.select(LINES).where(of_tenants)):
                known[tuple(row[1:])] = row.id

    def _find_sources(
        self, connection: sa.Connection, latest: Mapping[str, int], begins: Mapping[str, int], known: dict[str, int]
    ) -> None:
        missing = sorted(latest.keys() - known.keys())
        if not missing:
            return
        # One that has not said a word yet: it is live, and holds back until it does.
        rows = [
            {
                "source": one,
                "state": "live",
                "node": "",
                "started_at": begins.get(one, 0),
                "complete_through": begins.get(one, 0),
                "sequence": 0,
            }
            for one in missing
        ]
        connection.execute(self._insert(SOURCES).on_conflict_do_nothing(), rows)
        for row in connection.execute(sa.select(SOURCES.c.source, SOURCES.c.id).where(SOURCES.c.source.in_(missing))):
            known[row.source] = row.id

    def _write_words(
        self, connection: sa.Connection, words: Mapping[str, SourceWord], latest: Mapping[str, int]
    ) -> None:
        table = SOURCES.c
        for source, sequence in latest.items():
            changes: dict[str, Any] = {"sequence": self._larger(table.sequence, sequence)}
            word = words.get(source)
            if word is not None:
                changes |= {
                    "node": word.node,
                    "started_at": word.started_at,
                    "complete_through": self._larger(table.complete_through, word.complete_through),
                    # An end is an end, and who was given up stays so until it says that all is told.
                    "state": "ended" if word.state == "ended" else table.state,
                }
            connection.execute(SOURCES.update().where(table.source == source).values(changes))

    def _write_place(self, connection: sa.Connection, place: Place) -> None:
        rows = [
            {"topic": place.topic, "partition": partition, "topic_id": place.topic_id, "next": offset, "target": 0}
            for partition, offset in place.positions.items()
        ]
        if rows:
            connection.execute(self._upsert_of_offsets, rows)

    # ---- who reads the topic, and how far it is ------------------------------------------------------------------

    def take_lease(self, holder: str, *, seconds: float) -> bool:
        """Be the one who reads the topic, for so long; again and again. False: somebody else is. By the database's
        clock."""
        free = sa.or_(STATE.c.holder == holder, STATE.c.holder == "", STATE.c.until < self._now)
        with self._writing() as connection:
            done = connection.execute(
                STATE.update().where(STATE.c.id == 1, free).values(holder=holder, until=self._now + seconds)
            )
            return bool(done.rowcount)

    def release_lease(self, holder: str) -> None:
        """Let another have it at once."""
        mine = sa.and_(STATE.c.id == 1, STATE.c.holder == holder)
        with self._writing() as connection:
            connection.execute(STATE.update().where(mine).values(holder="", until=0))

    def place(self, topic: str) -> Place:
        """How far the topic was read; no positions: nothing was yet."""
        wanted = sa.select(OFFSETS).where(OFFSETS.c.topic == topic)
        with self._reading() as connection:
            rows = list(connection.execute(wanted))
        return Place(topic, rows[0].topic_id if rows else "", {row.partition: row.next for row in rows})

    def start_over(self, place: Place, targets: Mapping[int, int], *, holder: str) -> None:
        """Read partitions from these positions on; not complete before each has reached its target.

        Raises LeaseLost.
        """
        with self._writing() as connection:
            self._locked(connection, holder)
            gone = sa.and_(OFFSETS.c.topic == place.topic, OFFSETS.c.partition.in_(list(place.positions)))
            connection.execute(OFFSETS.delete().where(gone))
            rows = [
                {
                    "topic": place.topic,
                    "partition": partition,
                    "topic_id": place.topic_id,
                    "next": offset,
                    "target": targets.get(partition, offset),
                }
                for partition, offset in place.positions.items()
            ]
            if rows:
                connection.execute(OFFSETS.insert(), rows)

    def unread(self) -> list[UnreadTopic]:
        """Topics that hold back what is complete. One that is read no more, since the setting names another, does so
        until it is read after all or given up."""
        missing = sa.func.sum(OFFSETS.c.target - OFFSETS.c.next)
        wanted = sa.select(OFFSETS.c.topic, missing).where(OFFSETS.c.next < OFFSETS.c.target)
        with self._reading() as connection:
            rows = connection.execute(wanted.group_by(OFFSETS.c.topic).order_by(OFFSETS.c.topic))
            return [UnreadTopic(topic, int(count)) for topic, count in rows]

    def give_up_topic(self, topic: str, *, by: str, at: str) -> bool:
        """An operator says that what was not read of a topic will not be; the audit log gets it too.

        False: nothing of such a topic is missing. ``at`` is RFC 3339.
        """
        missing = {one.topic: one.missing for one in self.unread()}
        if topic not in missing:
            return False
        with self._writing() as connection:
            connection.execute(OFFSETS.update().where(OFFSETS.c.topic == topic).values(target=0))
            append(connection, Entry(at, by, "usage.topic.lost", topic, {"missing": missing[topic]}, {"state": "lost"}))
        return True

    # ---- sources -------------------------------------------------------------------------------------------------

    def register(self, word: SourceWord) -> None:
        """Write down a source before it delivers anything, so that it holds back what is said to be complete."""
        row = {
            "source": word.source,
            "state": word.state,
            "node": word.node,
            "started_at": word.started_at,
            "complete_through": word.complete_through,
            "sequence": word.sequence,
        }
        with self._writing() as connection:
            connection.execute(self._insert(SOURCES).values(row).on_conflict_do_nothing())

    def sources(self) -> list[SourceState]:
        """All that were ever heard of, in the order of their start."""
        wanted = sa.select(SOURCES).order_by(SOURCES.c.started_at, SOURCES.c.source)
        with self._reading() as connection:
            return [
                SourceState(row.source, row.state, row.node, row.started_at, row.complete_through, row.sequence)
                for row in connection.execute(wanted)
            ]

    def give_up(self, source: str, *, by: str, at: str) -> bool:
        """An operator says that a live source is lost with what it has not told; the audit log gets it too.

        False: there is no live source of this name. ``at`` is RFC 3339.
        """
        live = sa.and_(SOURCES.c.source == source, SOURCES.c.state == "live")
        with self._writing() as connection:
            found = connection.execute(sa.select(SOURCES.c.complete_through).where(live)).first()
            if found is None:
                return False
            connection.execute(SOURCES.update().where(live).values(state="lost"))
            append(
                connection,
                Entry(at, by, "usage.source.lost", source, {"complete_through": found[0]}, {"state": "lost"}),
            )
            return True

    def complete_until(self, *, now: float) -> int:
        """Epoch seconds: every delivery before it is in the ledger. 0: that cannot be said, since no source has been
        heard yet, or the ledger is being made again. Sources that ended, and those given up, hold nothing back."""
        behind = sa.exists().where(OFFSETS.c.next < OFFSETS.c.target)
        live = sa.select(sa.func.min(SOURCES.c.complete_through)).where(SOURCES.c.state == "live")
        wanted = sa.select(
            sa.select(sa.func.count()).select_from(SOURCES).scalar_subquery(), live.scalar_subquery(), behind
        )
        with self._reading() as connection:
            known, through, is_behind = connection.execute(wanted).one()
        if not known or is_behind:
            return 0
        return int(now) if through is None else min(int(through), int(now))


Cells = dict[tuple[str, Line, int], tuple[int, ...]]


def _larger_of(messages: Iterable[Message]) -> tuple[Cells, dict[str, SourceWord], dict[str, int]]:
    """One row for each cell, the last word of each source, and its latest sequence: less for the database to do."""
    cells: Cells = {}
    words: dict[str, SourceWord] = {}
    latest: dict[str, int] = {}
    for message in messages:
        source = message.source
        latest[source] = max(latest.get(source, 0), message.sequence)
        if isinstance(message, Totals):
            for one in message.cells:
                line = (
                    message.tenant,
                    one.application,
                    one.stream,
                    one.plan,
                    one.revision,
                    one.transport,
                    one.is_billable,
                )
                place = (source, line, message.bucket)
                known = cells.get(place)
                cells[place] = one.counts if known is None else _larger(known, one.counts)
            continue
        before = words.get(source)
        words[source] = message if before is None else _later(before, message)
    return cells, words, latest


def _larger(one: Sequence[int], other: Sequence[int]) -> tuple[int, ...]:
    return tuple(map(max, one, other))


def _later(one: SourceWord, other: SourceWord) -> SourceWord:
    """The one that says more: an end, else the later time."""
    if (one.state == "ended") != (other.state == "ended"):
        return one if one.state == "ended" else other
    return max(one, other, key=lambda word: word.complete_through)
