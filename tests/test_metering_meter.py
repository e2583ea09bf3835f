"""The meter: what is counted under which key and bucket, what is taken back, and what a full disk does."""

from __future__ import annotations

import errno
import sys
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest

from gateway.clock import ManualClock
from gateway.metering.meter import Meter
from gateway.metering.slab import CellPlace, Slab, read_slab
from gateway.usage import BUCKET_SECONDS, Usage, UsageKey
from tests.parts.metering import grant

QUARTER = 1_700_000_100.0 // BUCKET_SECONDS * BUCKET_SECONDS


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(now=QUARTER)


@pytest.fixture
def meter(clock: ManualClock) -> Meter:
    return Meter(None, clock=clock)


def counted(meter: Meter) -> dict[UsageKey, Usage]:
    return {cell.key: cell.usage() for group in meter.groups() for cell in group.cells}


def usage(meter: Meter) -> Usage:
    return sum(counted(meter).values(), Usage())


def test_reads_of_the_same_key_share_a_cell(meter: Meter) -> None:
    reads = [meter.begin(grant(), transport="sse") for _ in range(3)]
    for read in reads:
        read.add(1, 100, 1)
    (key,) = counted(meter)
    assert key == UsageKey("acme", "acme-app", "flights", "open", 1, "sse", True, int(QUARTER))
    assert counted(meter)[key] == Usage(3, 300, 3)


def test_what_differs_in_anything_is_counted_apart(meter: Meter) -> None:
    grants = [
        grant(),
        grant("globex"),
        grant(stream="trains"),
        grant(plan="gold"),
        grant(revision=2),
        grant(application="other"),
        replace(grant(), billable=False),
    ]
    for one in grants:
        meter.begin(one, transport="sse").add(1, 1, 1)
    meter.begin(grant(), transport="ws").add(1, 1, 1)
    assert len(counted(meter)) == len(grants) + 1
    assert [key for key in counted(meter) if not key.is_billable] == [
        UsageKey("acme", "acme-app", "flights", "open", 1, "sse", False, int(QUARTER))
    ]


def test_a_bucket_ends_at_the_quarter_and_open_reads_count_their_seconds_in_it(
    meter: Meter, clock: ManualClock
) -> None:
    clock.advance(BUCKET_SECONDS - 10)
    read = meter.begin(grant(), transport="sse")
    read.add(1, 1, 1)
    assert not meter.roll()
    clock.advance(10)
    assert meter.roll()
    read.add(2, 2, 2)
    clock.advance(4.5)
    read.end()
    found = {key.bucket: one for key, one in counted(meter).items()}
    assert found == {
        int(QUARTER): Usage(1, 1, 1, connection_seconds=10),
        int(QUARTER) + BUCKET_SECONDS: Usage(2, 2, 2, connection_seconds=4),
    }


def test_seconds_of_reads_together_are_whole_and_none_is_lost(meter: Meter, clock: ManualClock) -> None:
    for _ in range(10):
        read = meter.begin(grant(), transport="sse")
        clock.advance(0.3)
        read.end()
    assert usage(meter).connection_seconds in (2, 3)
    clock.advance(100)
    meter.sweep(whole=True)
    assert usage(meter).connection_seconds <= 3


def test_a_sweep_reaches_every_open_read_in_turn(meter: Meter, clock: ManualClock) -> None:
    for number in range(40):
        meter.begin(grant(application=f"app-{number}"), transport="sse")
    for _ in range(30):
        clock.advance(1)
        meter.sweep()
    seconds = [one.connection_seconds for one in counted(meter).values()]
    assert len(seconds) == 40
    assert min(seconds) >= 10


def test_a_clock_that_is_set_back_begins_no_bucket_twice(meter: Meter, clock: ManualClock) -> None:
    clock.advance(BUCKET_SECONDS)
    meter.roll()
    clock._now -= 5000
    assert not meter.roll()
    meter.begin(grant(), transport="sse").add(1, 1, 1)
    assert {key.bucket for key in counted(meter)} == {int(QUARTER) + BUCKET_SECONDS}
    assert meter.ahead_seconds == pytest.approx(5000)


def test_what_begins_after_the_clock_jumped_ahead_is_counted_where_it_belongs(meter: Meter, clock: ManualClock) -> None:
    open_for_long = meter.begin(grant(), transport="sse")
    open_for_long.add(1, 1, 1)
    clock.advance(2 * BUCKET_SECONDS + 5)
    pulled = meter.begin(grant(), transport="pull")
    pulled.add(2, 2, 2)
    pulled.end()
    meter.request(grant())
    found = {(key.transport, key.bucket): (one.records, one.requests) for key, one in counted(meter).items()}
    assert found == {
        ("sse", int(QUARTER)): (1, 0),
        ("pull", int(QUARTER) + 2 * BUCKET_SECONDS): (2, 1),
    }


def test_what_was_counted_before_a_bucket_ended_is_told_before_it_is_forgotten(
    meter: Meter, clock: ManualClock
) -> None:
    read = meter.begin(grant(), transport="sse")
    read.add(1, 1, 1)
    for group in meter.take_dirty():
        group.snapshot("s", 1)
    read.add(2, 2, 2)
    read.end()
    clock.advance(BUCKET_SECONDS)
    assert meter.roll()
    (groups,) = meter.past()
    assert not groups[0].is_clean


def test_a_read_goes_on_under_another_plan(meter: Meter, clock: ManualClock) -> None:
    read = meter.begin(grant(), transport="sse")
    read.add(1, 10, 1)
    clock.advance(5)
    read.renew(grant(plan="gold"))
    read.add(2, 20, 2)
    clock.advance(3)
    read.end()
    assert {key.plan: one for key, one in counted(meter).items()} == {
        "open": Usage(1, 10, 1, connection_seconds=5),
        "gold": Usage(2, 20, 2, connection_seconds=3),
    }


def test_a_request_is_counted_for_the_read_or_by_itself(meter: Meter) -> None:
    read = meter.begin(grant(), transport="pull")
    read.request()
    meter.request(grant())
    assert usage(meter).requests == 2
    assert len(counted(meter)) == 1


def test_what_never_left_is_taken_back(meter: Meter) -> None:
    read = meter.begin(grant(), transport="sse")
    read.add_replayed(10, 1000, 14, 4, 400)
    read.take_back(2, 200, 3, 1, 100)
    assert usage(meter) == Usage(8, 800, 11, replayed_records=3, replayed_bytes=300)


def test_what_was_published_is_never_lowered_but_taken_from_what_comes_next(meter: Meter) -> None:
    read = meter.begin(grant(), transport="sse")
    read.add(10, 1000, 10)
    (group,) = meter.take_dirty()
    told = group.snapshot("s", 1)
    read.add(1, 100, 1)
    read.take_back(4, 400, 4, 0, 0)
    assert usage(meter) == Usage(10, 1000, 10)
    read.add(5, 500, 5)
    meter.take_dirty()
    assert usage(meter) == Usage(12, 1200, 12)
    assert told.cells[0].counts[:3] == (10, 1000, 10)
    read.add(1, 100, 1)
    meter.take_dirty()
    assert usage(meter) == Usage(13, 1300, 13)


def test_only_news_is_taken_and_a_group_holds_all_its_cells(meter: Meter) -> None:
    one = meter.begin(grant(), transport="sse")
    other = meter.begin(grant(stream="trains"), transport="sse")
    one.add(1, 1, 1)
    other.add(1, 1, 1)
    meter.begin(grant("globex"), transport="sse").add(1, 1, 1)
    taken = meter.take_dirty()
    assert sorted(group.tenant for group in taken) == ["acme", "globex"]
    for group in taken:
        group.snapshot("s", 1)
    assert meter.take_dirty() == []
    one.add(1, 1, 1)
    (group,) = meter.take_dirty()
    assert [cell.counts[0] for cell in group.snapshot("s", 2).cells] == [2, 1]


def test_a_tenant_with_many_cells_gets_several_messages(meter: Meter) -> None:
    for number in range(450):
        meter.begin(grant(application=f"app-{number}"), transport="sse").add(1, 1, 1)
    told = [group.snapshot("s", 1) for group in meter.take_dirty()]
    assert [len(one.cells) for one in told] == [200, 200, 50]
    assert len({one.key for one in told}) == 3


class FullDisk(Slab):
    """A slab whose disk is full while ``is_full``."""

    is_full = False

    def allocate(self, key: UsageKey) -> CellPlace:
        if self.is_full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().allocate(key)


def test_a_full_disk_keeps_counts_in_memory_and_moves_them_when_there_is_room(
    tmp_path: Path, clock: ManualClock
) -> None:
    slab = FullDisk.create(tmp_path, source=uuid4(), now=clock.now())
    assert isinstance(slab, FullDisk)
    meter = Meter(slab, clock=clock, on_failure="stop")
    early = meter.begin(grant(), transport="sse")
    early.add(1, 1, 1)
    slab.is_full = True
    late = meter.begin(grant("globex"), transport="sse")
    late.add(5, 5, 5)
    early.add(1, 1, 1)
    assert not meter.healthy()
    assert meter.stops_reads
    assert "No space left" in str(meter.trouble)
    assert usage(meter).records == 7
    meter.flush()
    assert sum(one.records for _, one in read_slab(slab.path.read_bytes()).cells) == 2
    meter.mend()
    assert not meter.healthy()
    slab.is_full = False
    meter.mend()
    assert meter.healthy()
    assert not meter.stops_reads
    late.add(1, 1, 1)
    meter.flush()
    assert sum(one.records for _, one in read_slab(slab.path.read_bytes()).cells) == 8
    slab.close()


def test_a_round_of_many_reads_goes_into_the_slab_at_once_and_is_lost_with_a_process_that_dies_before(
    tmp_path: Path, clock: ManualClock
) -> None:
    slab = Slab.create(tmp_path, source=uuid4(), now=clock.now())
    meter = Meter(slab, clock=clock)
    reads = [meter.begin(grant(), transport="sse") for _ in range(20)]
    for _ in range(2):
        for read in reads:
            read.add(1, 10, 1)
        meter.flush()
    ((_, before),) = read_slab(slab.path.read_bytes()).cells
    for read in reads:
        read.add(1, 10, 1)
    ((_, cut_short),) = read_slab(slab.path.read_bytes()).cells
    assert (before.records, before.bytes, cut_short) == (40, 400, before)
    (cell,) = (cell for group in meter.groups() for cell in group.cells)
    assert cell.generation == 2, "one flip for twenty reads"
    slab.close()


def test_a_meter_that_delivers_whatever_happens_stops_nothing(clock: ManualClock) -> None:
    meter = Meter(None, clock=clock)
    meter.trouble = "no disk"
    assert not meter.healthy()
    assert not meter.stops_reads


def test_what_is_forgotten_leaves_nothing_behind(tmp_path: Path, clock: ManualClock) -> None:
    slab = Slab.create(tmp_path, source=uuid4(), now=clock.now())
    meter = Meter(slab, clock=clock)
    for bucket in range(50):
        for number in range(100):
            read = meter.begin(grant(application=f"app-{number}-{bucket}"), transport="sse")
            read.add(1, 1, 1)
            read.end()
        clock.advance(BUCKET_SECONDS)
        meter.roll()
        for groups in list(meter.past()):
            meter.forget(groups)
    assert meter.counts == (0, 0)
    assert slab.size_bytes < 200_000
    slab.close()


def test_an_open_read_costs_little_memory(meter: Meter) -> None:
    assert sys.getsizeof(meter.begin(grant(), transport="sse")) <= 56
