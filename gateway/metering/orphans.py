"""Slabs whose process is gone: found by their free lock, told to the usage topic, removed once the ledger has them."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path
from typing import Final

from gateway.clock import Clock
from gateway.metering.publish import Producer, Reached, partition_for
from gateway.metering.slab import PART_SUFFIX, SUFFIX, HeldSlab, SlabContent, SlabUnusable
from gateway.metering.totals import (
    CELLS_A_MESSAGE,
    VERSION,
    CellTotals,
    Message,
    SourceWord,
    Totals,
    Undecodable,
    decode,
    encode,
)
from gateway.usage import Usage, UsageKey

MESSAGES_AT_ONCE: Final = 500
ADOPTED_PARTS: Final = 1_000_000
"""Where the numbers of an adopter's parts begin: they stand beside what the process itself told, and take the place of
none of it, since there may have been cells that found no room in the slab."""

_log = logging.getLogger("gateway.metering")


class Adopted:
    """A slab of somebody who is gone, until the ledger has all of it."""

    def __init__(self, held: HeldSlab, content: SlabContent) -> None:
        self.held = held
        self.content = content
        self.told: tuple[int, int] | None = None
        """Partition and offset of the last message, once Kafka has them all."""


class Orphans:
    """Looks after the slabs of one directory that nobody holds. Blocking parts take milliseconds."""

    def __init__(self, directory: Path, producer: Producer, *, clock: Clock, node: str) -> None:
        self._directory = directory
        self._producer = producer
        self._clock = clock
        self._node = node
        self._adopted: dict[Path, Adopted] = {}
        self._left: dict[Path, str] = {}
        self.counts = {"adopted": 0, "removed": 0, "set_aside": 0}

    def __len__(self) -> int:
        return len(self._adopted)

    def look(self) -> None:
        """Take up what nobody holds. What cannot be read is set aside under another name and never counted; what cannot
        be opened is left where it is. Each is told once, and none keeps the others waiting."""
        there = {*self._directory.glob(f"*{PART_SUFFIX}"), *self._directory.glob(f"*{SUFFIX}")}
        for path in sorted(there - self._adopted.keys()):
            try:
                (self._look_at_part if path.name.endswith(PART_SUFFIX) else self._look_at)(path)
            except Exception as fault:  # noqa: BLE001 - whatever is wrong with one, the others are somebody's usage
                self._leave(path, fault)
            else:
                self._left.pop(path, None)
        self._left = {path: why for path, why in self._left.items() if path in there}

    def _look_at_part(self, path: Path) -> None:
        held = HeldSlab.take(path)
        if held is not None:
            # Its process was killed before it could count anything.
            held.remove()

    def _look_at(self, path: Path) -> None:
        held = HeldSlab.take(path)
        if held is None:
            return
        with ExitStack() as letting_go:
            letting_go.callback(held.close)
            try:
                content = held.read()
                _check(content, node=self._node)
            except SlabUnusable as fault:
                aside = held.set_aside()
                self.counts["set_aside"] += 1
                _log.error("the slab %s is not counted: %s; it is kept as %s", path.name, fault, aside.name)
                return
            letting_go.pop_all()
        self._adopted[path] = Adopted(held, content)
        self.counts["adopted"] += 1

    def _leave(self, path: Path, fault: Exception) -> None:
        why = fault.strerror if isinstance(fault, OSError) and fault.strerror else str(fault) or type(fault).__name__
        if self._left.get(path) != why:
            self._left[path] = why
            _log.error("%s is not counted, and left where it is: %s", path, why)

    async def publish(self) -> None:
        """Tell the totals of those that were taken up, and that nothing more will come of them. Raises Unavailable."""
        for one in self._adopted.values():
            if one.told is None:
                await self._tell(one)

    async def _tell(self, one: Adopted) -> None:
        content = one.content
        partitions = await self._producer.partitions()
        partition = content.partition
        if partition is None or partition >= partitions:
            partition = partition_for(content.source, partitions)
        messages = list(messages_of(content, node=self._node, now=int(self._clock.now())))
        end = 0
        for first in range(0, len(messages), MESSAGES_AT_ONCE):
            pairs = [(message.key, encode(message)) for message in messages[first : first + MESSAGES_AT_ONCE]]
            end = await self._producer.send(pairs, partition=partition, timestamp_ms=int(self._clock.now() * 1000))
        one.told = (partition, end - 1)
        _log.info("the usage of a process that is gone (%s, %d cells) is told", content.source, len(content.cells))

    def settle(self, reached: Reached) -> None:
        """Remove those that the ledger has."""
        for path, one in list(self._adopted.items()):
            if one.told is not None and reached(*one.told):
                one.held.remove()
                del self._adopted[path]
                self.counts["removed"] += 1

    def tell_again(self) -> None:
        """The ledger does not have what it had."""
        for one in self._adopted.values():
            one.told = None

    def close(self) -> None:
        """Let go of what is not settled: another process takes it up."""
        for one in self._adopted.values():
            one.held.close()
        self._adopted.clear()


def _check(content: SlabContent, *, node: str) -> None:
    """Raises SlabUnusable where the ledger would not take what it says."""
    for message in messages_of(content, node=node, now=0):
        try:
            decode(encode(message))
        except Undecodable as fault:
            raise SlabUnusable(f"it holds what no gateway counts: {fault}") from fault


def messages_of(content: SlabContent, *, node: str, now: int) -> Iterable[Message]:
    """All that a slab says, in the cells' order, and then that its source has ended."""
    sequence = content.sequence + 1

    def bunch(cell: tuple[UsageKey, Usage]) -> tuple[str, int]:
        return cell[0].tenant, cell[0].bucket

    for (tenant, bucket), found in groupby(sorted(content.cells), key=bunch):
        cells = [
            CellTotals(
                key.application, key.stream, key.plan, key.revision, key.transport, key.is_billable, tuple(usage)
            )
            for key, usage in found
        ]
        for part, first in enumerate(range(0, len(cells), CELLS_A_MESSAGE), start=ADOPTED_PARTS):
            some = tuple(cells[first : first + CELLS_A_MESSAGE])
            yield Totals(VERSION, content.source, sequence, tenant, bucket, some, part)
    yield SourceWord(
        VERSION, content.source, sequence, "ended", node, content.started_at, max(now, content.complete_through)
    )
