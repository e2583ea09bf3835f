"""The meter: what each read has delivered, added up in totals that survive the process.

Everything happens on the event loop's thread. A count is a few additions and knows no clock; what many reads counted
under one key in a round of the pump goes into the slab with one flip of their cell. At a quarter of an hour ``roll``
lets the next count begin a new cell.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, Literal, NamedTuple
from uuid import UUID, uuid4

from gateway.clock import Clock
from gateway.metering.cells import Cell, Group
from gateway.metering.slab import SECOND_SLOT, SLOT, CellPlace, Slab
from gateway.metering.totals import CELLS_A_MESSAGE
from gateway.model import Grant, Transport
from gateway.usage import BUCKET_SECONDS, Usage, UsageKey, bucket_of

OnFailure = Literal["deliver", "stop"]

TOUCH_EVERY: Final = 15
"""In how many sweeps each open line's seconds are counted once."""


class LineKey(NamedTuple):
    """A key without its bucket, in the same order."""

    tenant: str
    application: str
    stream: str
    plan: str
    revision: int
    transport: Transport
    is_billable: bool


class Line:
    """All reads with the same key: they share a cell, bucket by bucket."""

    __slots__ = ("cell", "debt", "held", "key", "meter", "open", "since")

    def __init__(self, key: LineKey, meter: Meter) -> None:
        self.key = key
        self.meter = meter
        self.cell: Cell | None = None
        self.open = 0
        self.since = 0.0
        self.held = 0.0
        self.debt: Usage | None = None

    def present(self) -> Cell:
        """The cell of the present bucket."""
        cell = self.cell
        if cell is None:
            cell = self.cell = self.meter._cell(UsageKey(*self.key, self.meter.bucket))
        return cell

    def touch(self, now: float) -> None:
        """Count the seconds up to ``now`` (monotonic); what is less than one waits for the next time."""
        if self.open:
            self.held += self.open * (now - self.since)
            if self.held >= 1:
                whole = int(self.held)
                self.held -= whole
                cell = self.present()
                cell.connection_seconds += whole
                cell.write()
        self.since = now

    def change(self, by: int, now: float) -> None:
        """So many reads more are open."""
        self.touch(now)
        self.open += by


class Count:
    """The meter of one read, from its opening to ``end``. A batch is counted after the transport took it, so that a
    crash in between charges nobody for what was not sent."""

    __slots__ = ("_line",)

    def __init__(self, line: Line) -> None:
        self._line = line

    def add(self, records: int, data_bytes: int, units: int) -> None:
        """One batch, all of it live. It survives the process from the next ``Meter.flush`` on."""
        cell = self._line.cell or self._line.present()
        cell.records += records
        cell.bytes += data_bytes
        cell.units += units
        if cell.is_written:
            cell.is_written = False
            self._line.meter.unwritten.append(cell)

    def add_replayed(
        self, records: int, data_bytes: int, units: int, replayed_records: int, replayed_bytes: int
    ) -> None:
        """One batch with replayed records in it: the first two are its live part, ``units`` is of both."""
        cell = self._line.cell or self._line.present()
        cell.records += records
        cell.bytes += data_bytes
        cell.units += units
        cell.replayed_records += replayed_records
        cell.replayed_bytes += replayed_bytes
        cell.write()

    def add_filtered(self, records: int, hidden: int) -> None:
        """What the partner's own filter took away, and what a row filter hid."""
        cell = self._line.cell or self._line.present()
        cell.filtered_records += records
        cell.hidden_records += hidden
        cell.write()

    def request(self) -> None:
        """One request was answered."""
        cell = self._line.cell or self._line.present()
        cell.requests += 1
        cell.write()

    def take_back(self, records: int, data_bytes: int, units: int, replayed_records: int, replayed_bytes: int) -> None:
        """Whole records that never left our own buffer. What was published already cannot be lowered: it is taken from
        what this line counts next, and forgotten where nothing more comes within a bucket."""
        debt = Usage(
            records=records,
            bytes=data_bytes,
            units=units,
            replayed_records=replayed_records,
            replayed_bytes=replayed_bytes,
        )
        self._line.meter._owe(self._line, debt)

    def renew(self, grant: Grant) -> None:
        """Go on under another plan or application: what is counted from now on is its own."""
        line = self._line
        self._line = line.meter._open(grant, line.key.transport)
        line.meter._close(line)

    def end(self) -> None:
        """The read is over; its seconds stop."""
        self._line.meter._close(self._line)


class Meter:
    """One process's usage. ``source`` names this life of it in every message.

    Where the slab cannot take a cell (the disk is full) the counts are kept in memory and published as ever, and lost
    if the process is killed first: ``trouble`` says so, and ``mend`` moves them into the slab once it can.
    """

    def __init__(
        self, slab: Slab | None, *, clock: Clock, source: UUID | None = None, on_failure: OnFailure = "deliver"
    ) -> None:
        """``slab`` None: there is none yet; ``use`` it when it can be made."""
        self.source = slab.source if slab is not None else str(source or uuid4())
        self.started_at = slab.started_at if slab is not None else int(clock.now())
        self.slab = slab
        self.trouble: str | None = None
        self._on_failure = on_failure
        self._clock = clock
        self.bucket = bucket_of(clock.now())
        self._lines: dict[LineKey, Line] = {}
        self._cells: dict[UsageKey, Cell] = {}
        self._groups: dict[tuple[str, int], list[Group]] = {}
        self._dirty: list[Group] = []
        self._homeless: list[Cell] = []
        self._debtors: list[Line] = []
        self.unwritten: list[Cell] = []
        """Cells that have counted since the last ``flush``."""
        self._sweeping: Iterator[Line] = iter(())

    # ---- reads ---------------------------------------------------------------------------------------------------

    def begin(self, grant: Grant, *, transport: Transport) -> Count:
        """A read that is open until ``Count.end``."""
        return Count(self._open(grant, transport))

    def request(self, grant: Grant, *, transport: Transport = "pull") -> None:
        """One request was answered."""
        self.roll()
        cell = self._line(grant, transport).present()
        cell.requests += 1
        cell.write()

    def flush(self) -> None:
        """Write into the slab what was counted since the last time: after each round in which no read counts twice."""
        unwritten, self.unwritten = self.unwritten, []
        for cell in unwritten:
            cell.write()

    def healthy(self) -> bool:
        """Whether what is counted survives a crash."""
        return self.trouble is None

    @property
    def stops_reads(self) -> bool:
        """Whether nothing may be delivered now, as the operator decided for a meter that is not healthy."""
        return self._on_failure == "stop" and self.trouble is not None

    def _line(self, grant: Grant, transport: Transport) -> Line:
        plan = grant.plan
        key = LineKey(
            grant.tenant, grant.application, grant.contract.stream, plan.name, plan.revision, transport, grant.billable
        )
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = Line(key, self)
        return line

    def _open(self, grant: Grant, transport: Transport) -> Line:
        # A clock that jumps ahead wakes nobody: what begins after that is the new bucket's.
        self.roll()
        line = self._line(grant, transport)
        line.change(1, self._clock.monotonic())
        return line

    def _close(self, line: Line) -> None:
        line.change(-1, self._clock.monotonic())

    def _cell(self, key: UsageKey) -> Cell:
        cell = self._cells.get(key)
        if cell is None:
            groups = self._groups.setdefault((key.tenant, key.bucket), [])
            if not groups or len(groups[-1].cells) >= CELLS_A_MESSAGE:
                groups.append(Group(key.tenant, key.bucket, len(groups), self._dirty))
            cell = self._cells[key] = Cell(key, self._place(key), groups[-1])
            groups[-1].cells.append(cell)
            if not isinstance(cell.memory, bytearray):
                return cell
            self._homeless.append(cell)
        return cell

    def _place(self, key: UsageKey) -> CellPlace:
        if self.slab is not None:
            try:
                return self.slab.allocate(key)
            except OSError as error:
                self.trouble = f"{self.slab.path} cannot grow: {error.strerror or error}"
        return CellPlace(bytearray(SECOND_SLOT + SLOT.size), 0)

    def _owe(self, line: Line, debt: Usage) -> None:
        rest = debt if line.cell is None else line.cell.lower(debt)
        if any(rest):
            if line.debt is None:
                self._debtors.append(line)
                line.debt = rest
            else:
                line.debt += rest

    # ---- time ----------------------------------------------------------------------------------------------------

    def roll(self) -> bool:
        """Begin the next bucket if its time has come; whether it had. Whatever was open counts its seconds up to now in
        the bucket that ends. A clock that is set back is waited for: no bucket begins twice."""
        bucket = bucket_of(self._clock.now())
        if bucket <= self.bucket:
            return False
        now = self._clock.monotonic()
        # A cell that is forgotten with its bucket has been written before.
        self.flush()
        self._pay_debts()
        for key, line in list(self._lines.items()):
            line.touch(now)
            line.cell, line.debt = None, None
            if not line.open:
                del self._lines[key]
        self._debtors.clear()
        self.bucket = bucket
        return True

    @property
    def ahead_seconds(self) -> float:
        """How far the clock was set back behind the bucket that is being counted in."""
        return max(0.0, self.bucket - self._clock.now())

    def until_roll(self) -> float:
        """Seconds until the bucket ends; 0 where it has."""
        return max(0.0, self.bucket + BUCKET_SECONDS - self._clock.now())

    def sweep(self, *, whole: bool = False) -> None:
        """Count the seconds of some of the open reads, in turn, or of all of them: a crash loses those since."""
        now = self._clock.monotonic()
        if whole:
            for line in self._lines.values():
                line.touch(now)
            return
        for _ in range(-(-len(self._lines) // TOUCH_EVERY)):
            following = next(self._sweeping, None)
            if following is None:
                self._sweeping = iter(list(self._lines.values()))
                return
            following.touch(now)

    # ---- publishing ----------------------------------------------------------------------------------------------

    def take_dirty(self) -> list[Group]:
        """The groups with news since they were last taken; ``soil`` those that could not be told."""
        self.flush()
        self._pay_debts()
        taken = self._dirty.copy()
        # The groups hold on to the list itself.
        self._dirty.clear()
        return taken

    def _pay_debts(self) -> None:
        for line in self._debtors:
            if line.cell is not None and line.debt is not None:
                line.debt = line.cell.lower(line.debt)
            if line.debt is not None and not any(line.debt):
                line.debt = None
        self._debtors = [line for line in self._debtors if line.debt is not None]

    def soil_all(self) -> None:
        """Everything is to be told again."""
        for group in self.groups():
            group.soil()

    def groups(self) -> Iterator[Group]:
        """All that are kept."""
        for groups in self._groups.values():
            yield from groups

    def past(self) -> Iterable[list[Group]]:
        """The groups of buckets that are over, those of one tenant and bucket together."""
        return [groups for (_, bucket), groups in self._groups.items() if bucket < self.bucket]

    def forget(self, groups: list[Group]) -> None:
        """They are in the ledger: their cells are free."""
        for group in groups:
            for cell in group.cells:
                del self._cells[cell.key]
                if self.slab is not None and not isinstance(cell.memory, bytearray):
                    self.slab.release(cell.place)
        del self._groups[groups[0].tenant, groups[0].bucket]

    # ---- sick and well -------------------------------------------------------------------------------------------

    def use(self, slab: Slab) -> None:
        """The slab that could not be made before."""
        self.slab = slab
        self.mend()

    def mend(self) -> None:
        """Move into the slab what found no room there."""
        if self.slab is None:
            return
        while self._homeless:
            cell = self._homeless[-1]
            if self._cells.get(cell.key) is cell:
                try:
                    place = self.slab.allocate(cell.key)
                except OSError:
                    return
                cell.move(place)
                cell.write()
            self._homeless.pop()
        self.trouble = None

    @property
    def counts(self) -> tuple[int, int]:
        """How many keys are being counted under, and how many cells are kept."""
        return len(self._lines), len(self._cells)

    def close(self) -> None:
        """Count what is open up to now. The slab stays as it is."""
        self.flush()
        self.sweep(whole=True)
        self._pay_debts()
