"""Fetched batches looked through: what is passed on, what is inflated, and what is refused."""

from __future__ import annotations

import gzip
import os
import random
import struct
import tracemalloc
from collections.abc import Callable

import cramjam
import pytest
from aiokafka.codec import gzip_encode, lz4_encode, snappy_encode, zstd_encode
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.legacy_records import LegacyRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from hypothesis import given
from hypothesis import strategies as st

from gateway.kafka.batches import Heavy, Unpacked, mark_of, placeholder, unpack
from gateway.kafka.inflation import GZIP, LZ4, SNAPPY, ZSTD, Damaged, TooLarge, inflate

CODECS: dict[int, Callable[[bytes], bytes]] = {
    GZIP: gzip_encode,
    SNAPPY: snappy_encode,
    LZ4: lz4_encode,
    ZSTD: zstd_encode,
}
FAR = 1 << 40
MIB = 1 << 20


def batch(base: int, values: list[bytes], *, codec: int = 0, producer: int = -1, transactional: bool = False) -> bytes:
    builder = DefaultRecordBatchBuilder(
        2, codec, int(transactional), producer, 0 if producer >= 0 else -1, 0 if producer >= 0 else -1, 1 << 30
    )
    for number, value in enumerate(values):
        assert builder.append(number, 1_700_000_000_000 + number, b"k", value, [("h", b"x")]) is not None
    return struct.pack(">q", base) + bytes(builder.build())[8:]


def looked(data: bytes, *, position: int = 0, end: int = FAR, **options: int | None) -> Unpacked:
    bounds: dict[str, int | None] = {"batch_bytes": MIB, "budget_bytes": 1 << 30, **options}
    return unpack(data, position=position, end=end, **bounds)  # type: ignore[arg-type]


def records(data: bytes) -> list[tuple[int, bytes | None, int | None]]:
    """Offset, value and, for one that stands for a batch, the offset after it; as aiokafka reads them."""
    found = []
    batches = MemoryRecords(data)
    while batches.has_next():
        one = batches.next_batch()
        found += [(record.offset, record.value, mark_of(record.headers)) for record in one]
    return found


@pytest.mark.parametrize("codec", [0, *CODECS])
@pytest.mark.parametrize("size", [0, 1, 3000, 200_000])
def test_what_is_sound_comes_out_as_it_was(codec: int, size: int) -> None:
    values = [os.urandom(size), b"a" * size, b"\xff\x00"]
    data = batch(5, values, codec=codec) + batch(9, values, codec=codec)
    found = looked(data, position=5)
    assert records(found.data) == [(base + at, values[at], None) for base in (5, 9) for at in range(3)]
    assert found.refused == ()
    assert (found.data is data) == (codec == 0)


def test_a_transaction_stays_one() -> None:
    found = looked(batch(3, [b"x"], codec=ZSTD, producer=77, transactional=True))
    (one,) = [MemoryRecords(found.data).next_batch()]
    assert (one.producer_id, one.is_transactional, one.base_offset, one.next_offset) == (77, True, 3, 4)


@pytest.mark.parametrize("codec", CODECS)
def test_a_bomb_is_refused_at_the_cost_of_its_bound_and_what_follows_is_read(codec: int) -> None:
    bomb = batch(10, [b"\0" * (16 * MIB)], codec=codec)
    data = batch(8, [b"a", b"b"], codec=codec) + bomb + batch(11, [b"c"], codec=codec)
    tracemalloc.start()
    try:
        found = looked(data, position=8)
        assert tracemalloc.get_traced_memory()[1] < len(data) * 3 + 6 * MIB
    finally:
        tracemalloc.stop()
    assert records(found.data) == [(8, b"a", None), (9, b"b", None), (10, None, 11), (11, b"c", None)]
    (refused,) = found.refused
    assert (refused.offset, refused.next) == (10, 11)
    assert str(MIB) in refused.reason


def test_eight_kilobytes_that_hold_256_megabytes_are_refused() -> None:
    packed = bytes(cramjam.zstd.compress(b"\0" * (256 * MIB)))
    assert len(packed) < 10_000
    tracemalloc.start()
    try:
        with pytest.raises(TooLarge):
            inflate(ZSTD, packed, limit_bytes=4 * MIB)
        assert tracemalloc.get_traced_memory()[1] < 6 * MIB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("codec", CODECS)
def test_the_bound_is_exact(codec: int) -> None:
    packed = CODECS[codec](b"x" * 100_000)
    assert inflate(codec, packed, limit_bytes=100_000) == b"x" * 100_000
    with pytest.raises(TooLarge):
        inflate(codec, packed, limit_bytes=99_999)


@given(codec=st.sampled_from([*CODECS, 5, 7]), packed=st.binary(max_size=200))
def test_junk_is_damaged_and_nothing_else(codec: int, packed: bytes) -> None:
    try:
        inflate(codec, packed, limit_bytes=10_000)
    except (Damaged, TooLarge):
        return


def test_a_stream_that_is_cut_off_is_damaged() -> None:
    for codec, encode in CODECS.items():
        packed = encode(os.urandom(50_000))
        with pytest.raises(Damaged):
            inflate(codec, packed[:-10], limit_bytes=MIB)


def test_members_of_gzip_follow_one_another() -> None:
    assert inflate(GZIP, gzip.compress(b"one") + gzip.compress(b"two") + b"\0\0", limit_bytes=6) == b"onetwo"
    with pytest.raises(TooLarge):
        inflate(GZIP, gzip.compress(b"one") + gzip.compress(b"two"), limit_bytes=5)


def test_a_batch_whose_codec_fails_is_refused_although_its_checksum_is_right() -> None:
    good = bytearray(batch(4, [b"x" * 100, b"y"], codec=GZIP))
    good[61:] = os.urandom(len(good) - 61)
    found = looked(with_checksum(bytes(good)), position=4)
    assert records(found.data) == [(4, None, 6)]
    assert "cannot be unpacked" in found.refused[0].reason


def test_reading_that_begins_within_a_refused_batch_stands_for_the_rest_of_it() -> None:
    found = looked(batch(4, [b"x" * MIB] * 3, codec=ZSTD), position=5)
    assert records(found.data) == [(5, None, 7)]


def test_a_flipped_byte_anywhere_behind_the_prefix_is_a_doubt() -> None:
    data = batch(4, [b"abc", b"def"])
    for at in range(12, len(data)):
        if 12 <= at < 16:
            continue  # the leader's epoch: no checksum covers it, and nobody reads it
        broken = data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]
        found = looked(broken, position=4)
        assert found.doubt is not None, at
        assert found.data == b""


def test_the_same_damage_is_alike_and_other_damage_is_not() -> None:
    data = batch(4, [b"abc" * 50])
    first, again, other = (looked(flipped(data, at), position=4).doubt for at in (80, 80, 90))
    assert first is not None and again is not None and other is not None
    assert first.likeness == again.likeness != other.likeness
    assert first.next == 5


def test_good_batches_before_a_damaged_one_are_passed_on() -> None:
    found = looked(batch(0, [b"a"]) + flipped(batch(1, [b"b" * 50]), 80))
    assert records(found.data) == [(0, b"a", None)]
    assert found.doubt is None


def test_offsets_that_lie_are_doubted_or_left_out() -> None:
    beyond = looked(batch(1000, [b"x"]), position=4, end=5)
    assert beyond.doubt is not None
    assert beyond.doubt.next is None
    before = looked(batch(1, [b"x"]), position=4, end=10)
    assert before.doubt is not None
    both = looked(batch(1, [b"old"]) + batch(4, [b"new"]), position=4, end=10)
    assert records(both.data) == [(4, b"new", None)]
    crossed = looked(batch(4, [b"a"]) + batch(2, [b"b", b"c", b"d", b"e"]), position=4, end=10)
    assert records(crossed.data) == [(4, b"a", None)]


def test_a_batch_cut_at_the_end_of_the_answer_is_left_out() -> None:
    data = batch(0, [b"a"]) + batch(1, [b"b" * 500])
    for cut in range(len(batch(0, [b"a"])), len(data)):
        assert records(looked(data[:cut]).data) == [(0, b"a", None)]
    only = looked(data[: len(batch(0, [b"a"])) - 3])
    assert only.doubt is not None
    assert only.data == b""


def test_no_more_than_the_budget_is_inflated_at_a_time() -> None:
    data = b"".join(batch(at, [b"\0" * (MIB // 2)], codec=LZ4) for at in range(20))
    found = looked(data, budget_bytes=2 * MIB)
    assert 2 * MIB <= found.inflated_bytes < 3 * MIB
    assert [offset for offset, *_ in records(found.data)] == list(range(len(records(found.data))))
    with pytest.raises(Heavy):
        looked(data, patience_bytes=MIB)


@pytest.mark.parametrize("magic", [0, 1])
def test_messages_of_old_formats_are_checked_and_bounded_too(magic: int) -> None:
    def message(codec: int, value: bytes) -> bytes:
        builder = LegacyRecordBatchBuilder(magic, codec, 1 << 30)
        builder.append(0, 5 if magic else None, b"key", value)
        return bytes(builder.build())

    for codec in (0, GZIP, SNAPPY):
        data = message(codec, b"v" * 100)
        assert looked(data).data is data
        assert looked(flipped(data, 40)).doubt is not None
    found = looked(message(GZIP, b"\0" * (4 * MIB)))
    assert records(found.data) == [(0, None, 1)]


def test_no_producer_can_write_the_mark() -> None:
    assert records(placeholder(7, 20)) == [(7, None, 20)]
    assert records(batch(0, [b"x"]))[0][2] is None


@given(seed=st.integers())
def test_whatever_comes_it_goes_on_or_says_why(seed: int) -> None:
    chance = random.Random(seed)
    data = bytearray(
        b"".join(
            batch(at, [chance.randbytes(chance.randrange(300))], codec=chance.choice([0, *CODECS])) for at in range(4)
        )
    )
    for _ in range(chance.randrange(1, 4)):
        data[chance.randrange(len(data))] = chance.randrange(256)
    if chance.random() < 0.3:
        del data[chance.randrange(len(data)) :]
    found = looked(bytes(data), end=4)
    assert found.doubt is not None or not data or records(found.data)
    offsets = [offset for offset, *_ in records(found.data)]
    assert offsets == sorted(set(offsets))
    assert all(0 <= offset < 4 for offset in offsets)


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def with_checksum(data: bytes) -> bytes:
    from aiokafka.record.util import calc_crc32c

    return data[:17] + struct.pack(">I", calc_crc32c(data[21:])) + data[21:]
