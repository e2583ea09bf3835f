"""The slab: what a killed process leaves is whole, and what is no slab is never counted."""

from __future__ import annotations

import os
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from gateway.clock import ManualClock
from gateway.metering.meter import Meter
from gateway.metering.slab import HeldSlab, Slab, SlabUnusable, read_slab
from gateway.usage import Usage, UsageKey
from tests.parts.metering import grant

NOW = 1_700_000_000.0


def key(number: int, *, width: int = 8) -> UsageKey:
    return UsageKey("acme", f"app-{number:0{width}}", "flights", "open", 1, "sse", True, 1_699_999_200)


@pytest.fixture
def slab(tmp_path: Path) -> Slab:
    return Slab.create(tmp_path, source=uuid4(), now=NOW)


def counted(slab: Slab, clock: ManualClock, cells: int = 1) -> Meter:
    meter = Meter(slab, clock=clock)
    for number in range(cells):
        meter.begin(grant(application=f"app-{number}"), transport="sse").add(1 + number, 10, 1)
    meter.flush()
    return meter


def test_a_slab_says_what_was_counted(slab: Slab) -> None:
    clock = ManualClock()
    meter = Meter(slab, clock=clock)
    count = meter.begin(grant(), transport="ws")
    count.add(3, 700, 4)
    count.add_replayed(1, 10, 3, 2, 20)
    count.add_filtered(5, 6)
    count.request()
    clock.advance(2.5)
    count.end()
    content = read_slab(slab.path.read_bytes())
    expected = UsageKey("acme", "acme-app", "flights", "open", 1, "ws", True, meter.bucket)
    assert content.cells == ((expected, Usage(4, 710, 7, 2, 1, 2, 20, 5, 6)),)
    assert content.source == meter.source == slab.source
    slab.close()


def test_a_slab_grows_and_every_key_finds_room(slab: Slab) -> None:
    keys = [key(number, width=1 + number % 240) for number in range(3000)]
    for one in keys:
        slab.allocate(one)
    content = read_slab(slab.path.read_bytes())
    assert sorted(found for found, _ in content.cells) == sorted(keys)
    assert slab.path.stat().st_size == slab.size_bytes
    slab.close()


def test_cells_that_are_released_are_used_again(slab: Slab) -> None:
    size = slab.size_bytes
    for number in range(5000):
        slab.release(slab.allocate(key(number, width=number % 250)))
    assert slab.size_bytes == size
    place = slab.allocate(key(7))
    assert [found for found, _ in read_slab(slab.path.read_bytes()).cells] == [key(7)]
    slab.release(place)
    assert read_slab(slab.path.read_bytes()).cells == ()
    slab.close()


def test_a_slab_belongs_to_its_process_until_it_is_closed(slab: Slab) -> None:
    assert HeldSlab.take(slab.path) is None
    slab.close()
    held = HeldSlab.take(slab.path)
    assert held is not None
    assert HeldSlab.take(slab.path) is None
    held.remove()
    assert HeldSlab.take(slab.path) is None


def test_a_slab_notes_how_far_its_publishing_is(slab: Slab) -> None:
    assert read_slab(slab.path.read_bytes()).partition is None
    slab.partition = 0
    slab.note(sequence=7, complete_through=123)
    content = read_slab(slab.path.read_bytes())
    assert (content.partition, content.sequence, content.complete_through) == (0, 7, 123)
    slab.close()


def test_no_update_that_is_cut_short_can_be_read(slab: Slab) -> None:
    clock = ManualClock()
    meter = Meter(slab, clock=clock)
    count = meter.begin(grant(), transport="sse")
    count.add(1, 10, 1)
    meter.flush()
    before = slab.path.read_bytes()
    count.add(2, 20, 2)
    meter.flush()
    after = slab.path.read_bytes()
    changed = [at for at in range(len(before)) if before[at] != after[at]]
    flip = next(at for at in changed if (before[at], after[at]) == (1, 0))
    written = [at for at in changed if at != flip]
    for cut in range(len(written) + 1):
        torn = bytearray(before)
        for at in written[:cut]:
            torn[at] = after[at]
        assert read_slab(bytes(torn)).cells[0][1].records == 1
    assert read_slab(after).cells[0][1].records == 3
    slab.close()


def test_what_a_power_cut_tore_is_read_as_it_was_before(slab: Slab) -> None:
    meter = counted(slab, ManualClock())
    data = bytearray(slab.path.read_bytes())
    at = 4096 + 12 + 88
    assert data[at : at + 8] == (1).to_bytes(8, "little"), "the second slot's generation"
    data[at] = 99
    assert read_slab(bytes(data)).cells[0][1] == Usage()
    assert meter.healthy()
    slab.close()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda data: b"", "shorter"),
        (lambda data: b"\0" * 8192, "no slab"),
        (lambda data: os.urandom(70_000), "no slab"),
        (lambda data: data[:5000], "cut off"),
        (lambda data: data[:8] + (2).to_bytes(4, "little") + data[12:], "damaged"),
        (lambda data: data[:4096] + b"\7" + data[4097:], "damaged"),
        (lambda data: data.replace(b"app-0", b"app-9"), "key"),
    ],
    ids=["empty", "zeros", "foreign", "truncated", "header", "cell", "key"],
)
def test_what_is_no_whole_slab_is_refused(slab: Slab, damage: object, reason: str) -> None:
    counted(slab, ManualClock(), 3)
    data = slab.path.read_bytes()
    assert len(read_slab(data).cells) == 3
    assert callable(damage)
    with pytest.raises(SlabUnusable, match=reason):
        read_slab(damage(data))
    slab.close()


def test_a_slab_of_a_newer_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.metering.slab.VERSION", 2)
    newer = Slab.create(tmp_path, source=UUID(int=1), now=NOW)
    monkeypatch.undo()
    with pytest.raises(SlabUnusable, match="version 2"):
        read_slab(newer.path.read_bytes())
    newer.close()


def test_arbitrary_damage_is_refused_or_changes_nothing_that_counts(slab: Slab) -> None:
    counted(slab, ManualClock(), 5)
    data = slab.path.read_bytes()
    whole = set(read_slab(data).cells)
    used = 4096 + 5 * 512
    for at in range(0, used, 3):
        hurt = bytearray(data)
        hurt[at] ^= 0x41
        try:
            found = read_slab(bytes(hurt)).cells
        except SlabUnusable:
            continue
        # A count itself has no checksum: what is checked is that nobody else's usage appears.
        assert {one for one, _ in found} <= {one for one, _ in whole}
    slab.close()
