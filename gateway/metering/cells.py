"""Totals as they are kept and told: a cell under each key, and the cells of one message together."""

from __future__ import annotations

from typing import Final

from gateway.metering.slab import FIRST_SLOT, FLIP, SECOND_SLOT, SLOT, CellPlace
from gateway.metering.totals import VERSION, CellTotals, Totals
from gateway.usage import Usage, UsageKey

_pack: Final = SLOT.pack_into


class Cell:
    """The totals under one key, in memory and in their cell of the slab."""

    __slots__ = (
        "at",
        "bytes",
        "connection_seconds",
        "filtered_records",
        "first",
        "flip",
        "generation",
        "group",
        "handed",
        "hidden_records",
        "is_clean",
        "is_written",
        "key",
        "memory",
        "place",
        "records",
        "replayed_bytes",
        "replayed_records",
        "requests",
        "second",
        "units",
    )

    def __init__(self, key: UsageKey, place: CellPlace, group: Group) -> None:
        self.key = key
        self.group = group
        self.records = self.bytes = self.units = 0
        self.connection_seconds = self.requests = 0
        self.replayed_records = self.replayed_bytes = 0
        self.filtered_records = self.hidden_records = 0
        self.handed = Usage()
        """What was told already: less than this is never said again."""
        self.generation = 0
        self.is_clean = True
        self.is_written = True
        """Whether the slab has all that is counted."""
        self.move(place)

    def move(self, place: CellPlace) -> None:
        """Keep the counts here from now on."""
        self.place = place
        self.memory = place.memory
        self.flip = place.at + FLIP
        self.first, self.second = place.at + FIRST_SLOT, place.at + SECOND_SLOT

    def write(self) -> None:
        """One generation more: the idle slot, then the flip. Before the flip the generation before is what holds."""
        self.generation = generation = self.generation + 1
        flip = generation & 1
        _pack(
            self.memory,
            self.second if flip else self.first,
            generation,
            self.records,
            self.bytes,
            self.units,
            self.connection_seconds,
            self.requests,
            self.replayed_records,
            self.replayed_bytes,
            self.filtered_records,
            self.hidden_records,
            generation,
        )
        self.memory[self.flip] = flip
        self.is_written = True
        if self.is_clean:
            self.is_clean = False
            self.group.soil()

    def usage(self) -> Usage:
        """Everything so far."""
        return Usage(
            self.records,
            self.bytes,
            self.units,
            self.connection_seconds,
            self.requests,
            self.replayed_records,
            self.replayed_bytes,
            self.filtered_records,
            self.hidden_records,
        )

    def lower(self, debt: Usage) -> Usage:
        """Take away what was counted and not told yet, as much of it as there is; what is left of the debt."""
        left = []
        for name, owed, counted, handed in zip(Usage._fields, debt, self.usage(), self.handed, strict=True):
            taken = min(owed, counted - handed)
            if taken:
                setattr(self, name, counted - taken)
            left.append(owed - taken)
        rest = Usage(*left)
        if rest != debt:
            self.write()
        return rest


class Group:
    """The cells of one message: a tenant's of one bucket, or a part of them."""

    __slots__ = ("acked_at", "again_at", "bucket", "cells", "dirty", "is_clean", "part", "tenant")

    def __init__(self, tenant: str, bucket: int, part: int, dirty: list[Group]) -> None:
        self.tenant = tenant
        self.bucket = bucket
        self.part = part
        self.cells: list[Cell] = []
        self.dirty = dirty
        self.is_clean = True
        self.acked_at: int | None = None
        """The offset of the last message that Kafka took."""
        self.again_at: float | None = None
        """When to tell it once more, since an older message may have come after a newer one."""

    def soil(self) -> None:
        """There is news in it."""
        if self.is_clean:
            self.is_clean = False
            self.dirty.append(self)

    def snapshot(self, source: str, sequence: int) -> Totals:
        """All its totals now; they count as told from here on, since nobody knows what became of a failed message."""
        cells = []
        for cell in self.cells:
            cell.is_clean = True
            cell.handed = cell.usage()
            _, application, stream, plan, revision, transport, is_billable, _ = cell.key
            cells.append(CellTotals(application, stream, plan, revision, transport, is_billable, tuple(cell.handed)))
        self.is_clean = True
        return Totals(VERSION, source, sequence, self.tenant, self.bucket, tuple(cells), self.part)
