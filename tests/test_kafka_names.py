"""Header names that are no UTF-8: any producer can write them, and they stop nobody."""

from __future__ import annotations

import random
import uuid

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.record import MemoryRecords
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c

from gateway.clock import SystemClock
from gateway.kafka.cluster import ClusterSettings
from gateway.kafka.names import legible
from gateway.kafka.offsets import Offsets
from gateway.kafka.replay import ReplayPool
from tests.parts.hostile import illegible_batch
from tests.parts.kafka import Kafka
from tests.parts.sink import FragileCluster

Made = tuple[bytes | None, bytes | None, list[tuple[str, bytes | None]]]


def batch_of(records: list[Made], *, base: int = 0) -> bytes:
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 1 << 20)
    for offset, (key, value, headers) in enumerate(records):
        assert builder.append(offset, 1_700_000_000_000 + offset, key, value, headers) is not None
    data = bytearray(builder.build())
    data[:8] = base.to_bytes(8, "big")
    return bytes(data)


def read(data: bytes) -> list[tuple[int, bytes | None, bytes | None, list[tuple[str, bytes | None]]]]:
    found = []
    records = MemoryRecords(data)
    while (batch := records.next_batch()) is not None:
        found += [(one.offset, one.key, one.value, list(one.headers)) for one in batch]
    return found


def made_up(chance: random.Random, *, bad: bool) -> Made:
    def some(most: int) -> bytes | None:
        size = chance.choice((0, 1, 63, 64, 200, most))
        return None if chance.random() < 0.2 else chance.randbytes(size)

    headers = [
        ("".join(chance.choice("ab\u00e9\u2028") for _ in range(chance.randint(0, 70))), some(300))
        for _ in range(chance.choice((0, 0, 1, 5)))
    ]
    if bad:
        headers.insert(chance.randint(0, len(headers)), ("N0-NAME-N0", some(9)))
    return some(400), some(9000), headers


def test_names_that_are_utf_8_stay_and_so_does_everything_else() -> None:
    chance = random.Random(1)
    batches = [[made_up(chance, bad=False) for _ in range(20)] for _ in range(3)]
    data = b"".join(batch_of(batch, base=20 * number) for number, batch in enumerate(batches))
    assert legible(data) == data


def test_each_byte_of_a_name_that_is_no_utf_8_becomes_a_question_mark() -> None:
    chance = random.Random(2)
    records = [made_up(chance, bad=number % 3 == 0) for number in range(60)]
    good = batch_of(records)
    bad = good.replace(b"N0-NAME-N0", b"\xff-\xc3\xa9AM\xe2\x80-\x80")
    assert bad != good
    with pytest.raises(UnicodeDecodeError):
        read(bad)
    mended = legible(bad)
    assert len(mended) == len(bad)
    expected = read(good)
    for found, (offset, key, value, headers) in zip(read(mended), expected, strict=True):
        renamed = [("?-\u00e9AM??-?" if name == "N0-NAME-N0" else name, one) for name, one in headers]
        assert found == (offset, key, value, renamed)


def test_whatever_the_bytes_are_it_ends_and_moves_nothing() -> None:
    chance = random.Random(3)
    whole = batch_of([made_up(chance, bad=True) for _ in range(10)])
    for _ in range(300):
        data = bytearray(whole[: chance.randint(0, len(whole))])
        for _ in range(chance.randint(0, 8)):
            if data:
                data[chance.randrange(len(data))] = chance.randrange(256)
        assert len(legible(bytes(data))) == len(data)


async def test_an_old_read_goes_on_behind_such_a_record(kafka: Kafka) -> None:
    topic = f"names-{uuid.uuid4().hex}"
    await kafka.create_topic(topic)
    async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap) as producer:
        for number in range(3):
            await producer.send_and_wait(topic, b"%d" % number, headers=[("n\u00e4me", b"h")])
            await (await producer.send_batch(illegible_batch(producer, b"bad %d" % number), topic, partition=0))
    cluster = FragileCluster(ClusterSettings(kafka.bootstrap), clock=SystemClock())
    pool = ReplayPool(cluster, Offsets(cluster))
    try:
        records = []
        vector = (0,)
        while vector != (6,):
            replayed = await pool.read(topic, vector, (6,))
            records += replayed.records
            vector = replayed.vector  # type: ignore[assignment]
    finally:
        await pool.close()
        await cluster.close()
    assert [record.value for record in records] == [b"0", b"bad 0", b"1", b"bad 1", b"2", b"bad 2"]
    assert records[0].headers == (("n\u00e4me", b"h"),)
    assert records[1].headers == (("???x?\0\r\n", b"y"), ("trace", b"z"))


def test_a_mended_batch_needs_no_checksum() -> None:
    """The client checks before it mends, and aiokafka is told not to."""
    bad = bytearray(batch_of([(None, b"v", [("N0-NAME-N0", b"")])]).replace(b"N0-NAME", b"N0-\xffAME"))
    bad[17:21] = calc_crc32c(bytes(bad[21:])).to_bytes(4, "big")
    assert [headers for *_, headers in read(legible(bytes(bad)))] == [[("N0-?AME-N0", b"")]]
