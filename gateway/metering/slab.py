"""The slab: one process's totals in a memory-mapped file, which outlives the process however it ends.

A file is a header of one page and cells of 256 bytes. A cell has its key, written once, and two slots: an update
writes the idle one and then flips a byte, so that a process that is killed between any two instructions leaves a whole
slot to read. A key that does not fit goes on in the cells that follow (``span``). The file's blocks are reserved before
they are mapped: a write into a mapped hole of a full disk would kill the process.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import stat
import struct
import zlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple
from uuid import UUID

import msgspec

from gateway.usage import MEASURES, Usage, UsageKey

SUFFIX: Final = ".slab"
PART_SUFFIX: Final = ".slab.part"
ASIDE_SUFFIX: Final = ".slab.aside"

VERSION: Final = 1
_MAGIC: Final = b"gwslab\r\n"
_PAGE: Final = 4096
_CELL: Final = 256
_SEGMENT: Final = 64 * 1024
_LARGEST_SEGMENT: Final = 4 * 1024 * 1024

# magic, version, bytes of a cell, id, begun at; then a checksum of them.
_IDENTITY: Final = struct.Struct("<8sII16sQ")
_CHECKSUM: Final = struct.Struct("<I")
# Words that change, by their place among the header's words of 8 bytes.
_CAPACITY: Final = 8
_SEQUENCE: Final = 9
_PARTITION: Final = 10
_COMPLETE_THROUGH: Final = 11
_WORDS: Final = 12

# state, flip, span, nothing, key's length, nothing, key's checksum.
_HEAD: Final = struct.Struct("<BBBxHxxI")
# The same without the state: what packs clears what it writes first, and a state of 0 would be the end of the file.
_REST: Final = struct.Struct("<BBxHxxI")
SLOT: Final = struct.Struct(f"<{len(MEASURES) + 2}Q")
"""A slot: the generation, the counts, the generation again."""

FLIP: Final = 1
FIRST_SLOT: Final = _HEAD.size
SECOND_SLOT: Final = FIRST_SLOT + SLOT.size
_KEY: Final = SECOND_SLOT + SLOT.size
_NEVER, _LIVE, _FREE = 0, 1, 2

_keys: msgspec.json.Decoder[UsageKey] = msgspec.json.Decoder(UsageKey)


class SlabUnusable(Exception):
    """A file that is no slab of this version, or not whole."""


class CellPlace(NamedTuple):
    """Where a cell is: its memory, where in that it begins, and how many cells it takes."""

    memory: mmap.mmap | bytearray
    at: int
    span: int = 1


@dataclass(frozen=True, slots=True)
class SlabContent:
    """What a slab said when it was read. ``partition`` is that of the usage topic, None where none was chosen."""

    source: str
    started_at: int
    sequence: int
    partition: int | None
    complete_through: int
    cells: tuple[tuple[UsageKey, Usage], ...]


class Slab:
    """A process's own slab; one thread writes. Held by ``flock`` from before it can be seen until the process ends."""

    def __init__(self, path: Path, descriptor: int, source: str, started_at: int) -> None:
        self.path = path
        self.source = source
        self.started_at = started_at
        self._descriptor = descriptor
        self._head = mmap.mmap(descriptor, _PAGE)
        self._words = memoryview(self._head)[: _WORDS * 8].cast("Q")
        self._segments: list[tuple[mmap.mmap, int]] = []
        self._free: defaultdict[int, list[CellPlace]] = defaultdict(list)
        self._size = _PAGE
        self._at = 0

    @classmethod
    def create(cls, directory: Path, *, source: UUID, now: float) -> Slab:
        """A new slab, in the directory only once it is whole: a crash before leaves a ``.part`` that nobody counts.

        Raises OSError.
        """
        directory.mkdir(parents=True, exist_ok=True)
        part = directory / f"{source}{PART_SUFFIX}"
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            # Before it has its name: whoever finds a slab that nobody holds takes its process for dead.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.posix_fallocate(descriptor, 0, _PAGE + _SEGMENT)
            identity = _IDENTITY.pack(_MAGIC, VERSION, _CELL, source.bytes, int(now))
            os.pwrite(descriptor, identity + _CHECKSUM.pack(zlib.crc32(identity)), 0)
            slab = cls(directory / f"{source}{SUFFIX}", descriptor, str(source), int(now))
            slab._words[_PARTITION] = 0
            slab._map(_SEGMENT)
            os.fsync(descriptor)
            part.rename(slab.path)
            sync_directory(directory)
        except BaseException:
            os.close(descriptor)
            part.unlink(missing_ok=True)
            raise
        return slab

    @property
    def size_bytes(self) -> int:
        """Of the file."""
        return self._size

    def allocate(self, key: UsageKey) -> CellPlace:
        """A cell with this key and no counts. Raises OSError where the disk is full; nothing is changed then."""
        text = msgspec.json.encode(key)
        span = -(-(_KEY + len(text)) // _CELL)
        free = self._free[span]
        place = free.pop() if free else self._next(span)
        memory, at, _ = place
        begins = at + _KEY
        # Not live before the last byte of this: a crash in between leaves a cell that counts nothing.
        memory[at + FIRST_SLOT : begins + len(text)] = bytes(2 * SLOT.size) + text
        _REST.pack_into(memory, at + 1, 0, span, len(text), zlib.crc32(text))
        memory[at] = _LIVE
        return place

    def release(self, place: CellPlace) -> None:
        """Its counts are told elsewhere: the cell may be another's."""
        place.memory[place.at] = _FREE
        self._free[place.span].append(place)

    def _next(self, span: int) -> CellPlace:
        memory, size = self._segments[-1]
        if self._at + span * _CELL > size:
            self._grow()
            while self._at < size:
                # What is too short for this one is not for others; and who reads the file finds no end here.
                rest = CellPlace(memory, self._at)
                _REST.pack_into(memory, self._at + 1, 0, 1, 0, 0)
                memory[self._at] = _FREE
                self._free[1].append(rest)
                self._at += _CELL
            self._at = 0
            memory, _ = self._segments[-1]
        place = CellPlace(memory, self._at, span)
        self._at += span * _CELL
        return place

    def _grow(self) -> None:
        size = min(2 * self._segments[-1][1], _LARGEST_SEGMENT)
        os.posix_fallocate(self._descriptor, self._size, size)
        self._map(size)

    def _map(self, size: int) -> None:
        self._segments.append((mmap.mmap(self._descriptor, size, offset=self._size), size))
        self._size += size
        # One store of 8 bytes: the file is never said to be longer than it is.
        self._words[_CAPACITY] = self._size

    @property
    def partition(self) -> int | None:
        """The usage topic's partition that all of this source's messages go to."""
        return self._words[_PARTITION] - 1 if self._words[_PARTITION] else None

    @partition.setter
    def partition(self, partition: int) -> None:
        self._words[_PARTITION] = partition + 1

    def note(self, *, sequence: int, complete_through: int) -> None:
        """How far the publishing is, for whoever goes on with it."""
        self._words[_SEQUENCE] = sequence
        self._words[_COMPLETE_THROUGH] = complete_through

    def close(self) -> None:
        """Let go of it: from now on it is anybody's to adopt."""
        self._words.release()
        self._free.clear()
        for memory, _ in self._segments:
            memory.close()
        self._head.close()
        os.close(self._descriptor)

    def remove(self) -> None:
        """The file is not needed any more."""
        self.path.unlink(missing_ok=True)
        sync_directory(self.path.parent)


class HeldSlab:
    """A slab that another process left behind, held so that nobody else takes it up."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    @classmethod
    def take(cls, path: Path) -> HeldSlab | None:
        """None where its process lives, somebody else has taken it, or it is gone.

        Raises SlabUnusable for what is no file, which is not touched, and OSError.
        """
        try:
            _check_kind(path.lstat().st_mode)
            # It may have become another thing meanwhile: a link is not followed, and a pipe does not wait for anybody.
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        try:
            seen = os.fstat(descriptor)
            _check_kind(seen.st_mode)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever had it before may have removed it, or set it aside, between the opening and the lock.
            if path.lstat().st_ino == seen.st_ino:
                return cls(path, descriptor)
        except (BlockingIOError, FileNotFoundError):
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        return None

    def read(self) -> SlabContent:
        """What it says. Raises SlabUnusable, and OSError."""
        with os.fdopen(os.dup(self._descriptor), "rb") as file:
            file.seek(0)
            content = read_slab(file.read())
        if self.path.name != f"{content.source}{SUFFIX}":
            raise SlabUnusable(f"it is a copy of that of {content.source}, which may be counting")
        return content

    def remove(self) -> None:
        """Delete the file and let go."""
        self.path.unlink(missing_ok=True)
        sync_directory(self.path.parent)
        self.close()

    def set_aside(self) -> Path:
        """Give it another name, under which nobody counts it. Raises OSError."""
        aside = self.path.with_suffix(ASIDE_SUFFIX)
        number = 1
        while os.path.lexists(aside):
            # What was set aside before is evidence too.
            number += 1
            aside = self.path.with_suffix(f"{ASIDE_SUFFIX}.{number}")
        self.path.rename(aside)
        return aside

    def close(self) -> None:
        """Let go of it."""
        os.close(self._descriptor)


def _check_kind(mode: int) -> None:
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFDIR: "a directory", stat.S_IFLNK: "a symbolic link", stat.S_IFIFO: "a pipe"}
        raise SlabUnusable(f"it is no file but {kinds.get(stat.S_IFMT(mode), 'something else')}")


def read_slab(data: bytes) -> SlabContent:
    """What the bytes of a slab say. Raises SlabUnusable that says why they are none."""
    if len(data) < _PAGE:
        raise SlabUnusable("it is shorter than a header")
    magic, version, cell_bytes, source, started_at = _IDENTITY.unpack_from(data)
    if magic != _MAGIC:
        raise SlabUnusable("it is no slab")
    if zlib.crc32(data[: _IDENTITY.size]) != _CHECKSUM.unpack_from(data, _IDENTITY.size)[0]:
        raise SlabUnusable("its header is damaged")
    if version != VERSION or cell_bytes != _CELL:
        raise SlabUnusable(f"it is of version {version}, and this gateway knows {VERSION}")
    words = struct.unpack_from(f"={_WORDS}Q", data)
    if words[_CAPACITY] > len(data):
        raise SlabUnusable(f"it is cut off: {len(data)} bytes of {words[_CAPACITY]}")
    if not _is_capacity(words[_CAPACITY]):
        # Less than there is would leave out what was counted.
        raise SlabUnusable(f"its header is damaged: no slab is {words[_CAPACITY]} bytes long")
    return SlabContent(
        source=str(UUID(bytes=source)),
        started_at=started_at,
        sequence=words[_SEQUENCE],
        partition=words[_PARTITION] - 1 if words[_PARTITION] else None,
        complete_through=words[_COMPLETE_THROUGH],
        cells=tuple(_cells(data, words[_CAPACITY])),
    )


def _is_capacity(capacity: int) -> bool:
    """Whether a slab can be so long: a page, and segments that grow."""
    left, segment = capacity - _PAGE, _SEGMENT
    while left >= segment:
        left -= segment
        segment = min(2 * segment, _LARGEST_SEGMENT)
    return left == 0 and capacity > _PAGE


def _cells(data: bytes, capacity: int) -> Iterator[tuple[UsageKey, Usage]]:
    at = _PAGE
    while at + _CELL <= capacity:
        state, flip, span, length, checksum = _HEAD.unpack_from(data, at)
        if state == _NEVER:
            return
        if state not in (_LIVE, _FREE) or not span or flip > 1 or at + span * _CELL > capacity:
            raise SlabUnusable(f"the cell at {at} is damaged")
        if state == _LIVE:
            text = data[at + _KEY : at + _KEY + length]
            if zlib.crc32(text) != checksum:
                raise SlabUnusable(f"the key of the cell at {at} is damaged")
            yield _key(text, at), _usage(data, at, flip)
        at += span * _CELL


def _key(text: bytes, at: int) -> UsageKey:
    try:
        return _keys.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SlabUnusable(f"the key of the cell at {at} is none: {error}") from error


def _usage(data: bytes, at: int, flip: int) -> Usage:
    """The slot that the flip names; the one before it where a power cut let only half of it reach the disk."""
    for slot in (flip, 1 - flip):
        generation, *counts, again = SLOT.unpack_from(data, at + (SECOND_SLOT if slot else FIRST_SLOT))
        if generation == again:
            return Usage(*counts)
    raise SlabUnusable(f"both slots of the cell at {at} are torn")


def sync_directory(directory: Path) -> None:
    """Make names as durable as what they name."""
    with contextlib.suppress(FileNotFoundError):
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
