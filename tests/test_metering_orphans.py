"""What lies in the metering directory beside this process's slab: adopted once, set aside or left alone, never waited
for, and never in the way of the rest."""

from __future__ import annotations

import logging
import os
import random
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import pytest

from gateway.clock import ManualClock
from gateway.database.database import Database
from gateway.metering.ledger import Ledger
from gateway.metering.metering import Metering
from gateway.metering.slab import ASIDE_SUFFIX, PART_SUFFIX, SUFFIX, Slab, _is_capacity
from gateway.metering.totals import MOST
from tests.parts.metering import TOPIC, MemoryTopic, at_once, grant, memory_database, total

NOW = 1_700_000_100.0
RECORDS = 400
NOBODY = 65534
_random = random.Random(8)
_IDENTITY, _WORDS = 44, 96
"""Bytes of the header that a checksum covers, and up to which there is anything."""


def new_id() -> UUID:
    return UUID(int=_random.getrandbits(128), version=4)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(now=NOW)


@pytest.fixture
def database() -> Iterator[Database]:
    one = memory_database()
    yield one
    one.close()


@pytest.fixture
def ledger(database: Database) -> Ledger:
    return Ledger(database)


@pytest.fixture
def topic() -> MemoryTopic:
    return MemoryTopic()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    found = tmp_path / "metering"
    found.mkdir()
    return found


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """One that anybody may write in; pytest's own are for its user alone."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        yield Path(name)


@contextmanager
def as_nobody() -> Iterator[None]:
    """Root may open everything: while this lasts, we are somebody else. Other users stay who they are."""
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)


def process(directory: Path, topic: MemoryTopic, ledger: Ledger, clock: ManualClock) -> Metering:
    return Metering(directory, topic=topic, topic_name=TOPIC, follower=None, ledger=ledger, run=at_once, clock=clock)


async def leave_behind(directory: Path, clock: ManualClock, records: int = RECORDS) -> Path:
    """The slab of a process that was killed before it told anything."""
    ledger_of_nobody = memory_database()
    one = process(directory, MemoryTopic(), Ledger(ledger_of_nobody), clock)
    one.meter.begin(grant(), transport="sse").add(records, 1, 1)
    slab = one.meter.slab
    assert slab is not None
    await one.close()
    ledger_of_nobody.close()
    return slab.path


async def adopt(
    directory: Path, topic: MemoryTopic, ledger: Ledger, clock: ManualClock, rounds: int = 3
) -> dict[str, int]:
    """A process that starts beside it, looks around, tells the ledger and ends."""
    one = process(directory, topic, ledger, clock)
    for _ in range(rounds):
        await one.look_after()
        await one.publish()
        ledger.merge(topic.messages(), topic.place())
        await one.look_after()
    counts = dict(one.status().orphans)
    assert await one.drain(within_seconds=0.1)
    await one.close()
    ledger.merge(topic.messages(), topic.place())
    return counts


def named(directory: Path, suffix: str = SUFFIX) -> Path:
    return directory / f"{new_id()}{suffix}"


def a_directory(path: Path) -> None:
    path.mkdir()


def a_loop(path: Path) -> None:
    path.symlink_to(path)


def a_dangling_link(path: Path) -> None:
    path.symlink_to("/nowhere/at/all")


def a_link_to_a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


ODD: dict[str, Callable[[Path], None]] = {
    "a directory": a_directory,
    "a link to itself": a_loop,
    "a link to nothing": a_dangling_link,
    "a link to a device": a_link_to_a_device,
    "a pipe": a_pipe,
}


@pytest.mark.parametrize("suffix", [SUFFIX, PART_SUFFIX])
@pytest.mark.parametrize("make", ODD.values(), ids=ODD)
async def test_what_is_no_file_is_left_alone_and_told_once_and_the_others_are_adopted(
    directory: Path,
    topic: MemoryTopic,
    ledger: Ledger,
    clock: ManualClock,
    caplog: pytest.LogCaptureFixture,
    make: Callable[[Path], None],
    suffix: str,
) -> None:
    await leave_behind(directory, clock)
    # Before every other, whatever theirs are called.
    odd = directory / f"00000000-0000-4000-8000-000000000000{suffix}"
    make(odd)
    before = odd.lstat()
    with caplog.at_level(logging.ERROR):
        counts = await adopt(directory, topic, ledger, clock)
    assert counts == {"adopted": 1, "removed": 1, "set_aside": 0}
    assert total(ledger)["records"] == RECORDS
    assert (odd.lstat().st_mode, odd.lstat().st_ino) == (before.st_mode, before.st_ino)
    said = [line for line in caplog.messages if odd.name in line]
    assert len(said) == 1
    assert "left where it is" in said[0]


async def test_a_link_to_a_whole_slab_elsewhere_is_not_followed(
    directory: Path, tmp_path: Path, topic: MemoryTopic, ledger: Ledger, clock: ManualClock
) -> None:
    slab = await leave_behind(tmp_path / "elsewhere", clock)
    (directory / slab.name).symlink_to(slab)
    assert (await adopt(directory, topic, ledger, clock))["adopted"] == 0
    assert slab.exists()


async def test_what_may_not_be_opened_is_left_alone_and_taken_up_once_it_may(
    open_directory: Path,
    ledger: Ledger,
    topic: MemoryTopic,
    clock: ManualClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    forbidden = await leave_behind(open_directory, clock, 7)
    forbidden.chmod(0)
    with as_nobody(), caplog.at_level(logging.ERROR):
        await leave_behind(open_directory, clock)
        counts = await adopt(open_directory, topic, ledger, clock)
    assert counts == {"adopted": 1, "removed": 1, "set_aside": 0}
    assert len([line for line in caplog.messages if forbidden.name in line]) == 1
    assert total(ledger)["records"] == RECORDS
    forbidden.chmod(0o600)
    await adopt(open_directory, topic, ledger, clock)
    assert total(ledger)["records"] == RECORDS + 7
    assert not forbidden.exists()


def sealed(data: bytes) -> bytes:
    """With a header whose checksum holds."""
    return data[:40] + struct.pack("<I", zlib.crc32(data[:40])) + data[44:]


def damaged(data: bytes) -> Iterator[tuple[str, bytes, str]]:
    """What may be there, and a word of why it is not counted."""
    for length in (0, 1, 7, 8, 16, 63, 64, 100, 4095, 4096, len(data) // 2, len(data) - 1):
        yield f"cut off after {length}", data[:length], "shorter" if length < 4096 else "cut off"
    for at in range(_IDENTITY):
        flipped = bytearray(data)
        flipped[at] ^= 0xFF
        yield f"flipped at {at}", bytes(flipped), "no slab" if at < 8 else "damaged"
    for at in range(64, 72):
        for mask in (0x01, 0x10, 0x80, 0xFF):
            flipped = bytearray(data)
            flipped[at] ^= mask
            yield f"capacity {mask} at {at}", bytes(flipped), "cut off|damaged"
    yield "a capacity that ends early", data[:64] + struct.pack("=Q", 4096) + data[72:], "damaged"
    for length in (10, 4096, len(data)):
        yield f"{length} random bytes", _random.randbytes(length), "shorter" if length < 4096 else "no slab"
    yield "zeros", bytes(len(data)), "no slab"
    yield "text", b"hello\n" * 2000, "no slab"
    yield "a newer version", sealed(data[:8] + struct.pack("=I", 2) + data[12:]), "version 2"
    yield "other cells", sealed(data[:12] + struct.pack("=I", 512) + data[16:]), "version"
    yield "a copy", data, "a copy"
    yield "a copy with a tail", data + b"x" * 100, "a copy"


async def test_what_is_damaged_foreign_newer_or_a_copy_is_set_aside_with_its_reason_and_the_rest_is_counted(
    directory: Path, topic: MemoryTopic, ledger: Ledger, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    whole = await leave_behind(directory, clock)
    made = {}
    for what, data, why in damaged(whole.read_bytes()):
        path = named(directory)
        path.write_bytes(data)
        made[path] = (what, data, why)
    assert len(made) > 90
    with caplog.at_level(logging.ERROR):
        counts = await adopt(directory, topic, ledger, clock)
    assert counts == {"adopted": 1, "removed": 1, "set_aside": len(made)}
    assert total(ledger)["records"] == RECORDS
    for path, (what, data, why) in made.items():
        assert not path.exists(), what
        assert path.with_suffix(ASIDE_SUFFIX).read_bytes() == data, what
        (said,) = [line for line in caplog.messages if path.name in line]
        assert any(word in said for word in why.split("|")), (what, said)


async def test_flipped_bytes_that_nothing_hangs_on_change_nothing(
    directory: Path, tmp_path: Path, ledger: Ledger, clock: ManualClock
) -> None:
    whole = await leave_behind(tmp_path / "made", clock)
    data = whole.read_bytes()
    # Padding, how far the publishing was, and what is not used yet; not the capacity.
    for at in [_IDENTITY, 63, *range(72, _WORDS), _WORDS, 4095]:
        flipped = bytearray(data)
        flipped[at] ^= 0xFF
        place = tmp_path / f"flipped-{at}"
        place.mkdir()
        (place / whole.name).write_bytes(flipped)
        await adopt(place, MemoryTopic(), ledger, clock, rounds=1)
        assert total(ledger).get("records", 0) in (0, RECORDS), at
    assert total(ledger)["records"] == RECORDS


async def test_a_copy_of_the_slab_of_a_process_that_lives_does_not_end_it(
    directory: Path, topic: MemoryTopic, ledger: Ledger, clock: ManualClock
) -> None:
    one = process(directory, topic, ledger, clock)
    one.meter.begin(grant(), transport="sse").add(3, 3, 3)
    await one.publish()
    slab = one.meter.slab
    assert slab is not None
    named(directory).write_bytes(slab.path.read_bytes())
    counts = await adopt(directory, topic, ledger, clock)
    assert counts == {"adopted": 0, "removed": 0, "set_aside": 1}
    assert {state.source: state.state for state in ledger.sources()}[slab.source] == "live"
    await one.close()


async def test_numbers_that_no_gateway_counts_are_set_aside(
    directory: Path, topic: MemoryTopic, ledger: Ledger, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    await leave_behind(directory, clock, MOST + 1)
    await leave_behind(directory, clock)
    with caplog.at_level(logging.ERROR):
        counts = await adopt(directory, topic, ledger, clock)
    assert counts == {"adopted": 1, "removed": 1, "set_aside": 1}
    assert total(ledger)["records"] == RECORDS
    assert any("no gateway counts" in line for line in caplog.messages)


def set_aside(directory: Path) -> list[str]:
    return sorted(one.read_text() for one in directory.glob(f"*{ASIDE_SUFFIX}*"))


async def test_what_was_set_aside_before_is_kept(
    directory: Path, topic: MemoryTopic, ledger: Ledger, clock: ManualClock
) -> None:
    path = named(directory)
    for text in ("first", "second", "third"):
        path.write_text(text)
        await adopt(directory, topic, ledger, clock, rounds=1)
    assert set_aside(directory) == ["first", "second", "third"]


def test_every_size_that_a_slab_grows_to_is_one_that_is_read(directory: Path) -> None:
    slab = Slab.create(directory, source=new_id(), now=NOW)
    for _ in range(12):
        assert _is_capacity(slab.size_bytes)
        assert not _is_capacity(slab.size_bytes - 256)
        slab._grow()
    slab.close()
