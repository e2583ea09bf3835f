"""Metering on real Kafka, SQLite and Postgres, and on the demo's mock cluster; processes that are killed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import BinaryIO, cast
from uuid import uuid4

import pytest

from gateway.clock import SystemClock
from gateway.database.database import Database
from gateway.kafka.cluster import ClusterSettings, KafkaCluster
from gateway.kafka.faults import KafkaUnavailable, TopicMissing
from gateway.kafka.follower import Follower
from gateway.kafka.producer import Producer
from gateway.metering.ledger import LeaseLost, Ledger
from gateway.metering.metering import Metering
from gateway.metering.slab import read_slab
from gateway.metering.totals import VERSION, CellTotals, SourceWord, Totals
from tests.parts.kafka import Kafka, KafkaBroker, eventually
from tests.parts.metering import grant, new_database, total
from tests.parts.process import die_with_parent
from tests.test_kafka_mock import Mock

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    url = tmp_path / "gateway.db" if request.param == "sqlite" else str(request.getfixturevalue("postgres_url"))
    one = new_database(url)
    yield one
    one.close()


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Database]:
    one = new_database(tmp_path / "gateway.db")
    yield one
    one.close()


@contextlib.asynccontextmanager
async def metering(
    bootstrap: str, directory: Path, database: Database, topic: str, *, runs: bool = True
) -> AsyncIterator[Metering]:
    """A process's metering, its tasks running; at the end its tasks are cancelled, and nothing is drained."""
    cluster = KafkaCluster(ClusterSettings(bootstrap), clock=SystemClock())
    one = Metering(
        directory,
        topic=Producer(cluster, topic),
        topic_name=topic,
        follower=Follower(cluster, topic),
        ledger=Ledger(database),
        run=asyncio.to_thread,
        clock=SystemClock(),
    )
    tasks = [asyncio.create_task(work) for _, work in one.tasks()] if runs else []
    if not runs:
        for _, work in one.tasks():
            work.close()
    try:
        yield one
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await one.close()
        await cluster.close()


def says(ledger: Ledger, records: int) -> Callable[[], Awaitable[bool]]:
    async def look() -> bool:
        return (await asyncio.to_thread(total, ledger)).get("records", 0) == records

    return look


async def test_what_is_counted_is_in_the_ledger_within_seconds_and_the_topic_is_compacted(
    kafka: Kafka, database: Database, tmp_path: Path
) -> None:
    topic, ledger = f"usage-{uuid4()}", Ledger(database)
    async with metering(kafka.bootstrap, tmp_path / "m", database, topic) as one:
        read = one.meter.begin(grant(), transport="sse")
        read.add(5, 500, 5)
        await eventually(says(ledger, 5))
        read.add(1, 100, 1)
        counted_at = time.time()
        await eventually(says(ledger, 6))

        async def is_complete() -> bool:
            return ledger.complete_until(now=time.time()) >= int(counted_at)

        await eventually(is_complete)
        assert one.status().trouble is None
        cluster = KafkaCluster(ClusterSettings(kafka.bootstrap), clock=SystemClock())
        assert await Producer(cluster, topic).retention_problem() is None
        await cluster.close()
        read.end()
        assert await one.drain(within_seconds=20)
    assert list((tmp_path / "m").glob("*")) == []
    assert [source.state for source in ledger.sources()] == ["ended"]


async def test_a_process_that_ends_has_told_everything_at_once(kafka: Kafka, sqlite: Database, tmp_path: Path) -> None:
    topic, ledger = f"usage-{uuid4()}", Ledger(sqlite)
    async with metering(kafka.bootstrap, tmp_path / "m", sqlite, topic, runs=False) as one:
        one.meter.begin(grant(), transport="ws").add(7, 70, 7)
        assert await one.drain(within_seconds=20)
    async with metering(kafka.bootstrap, tmp_path / "m", sqlite, topic):
        await eventually(says(ledger, 7))

        async def is_clean() -> bool:
            return len(list((tmp_path / "m").glob("*.slab"))) == 1

        # The next process of the volume tells it again, which changes nothing, and removes the slab.
        await eventually(is_clean)
        assert total(ledger)["records"] == 7


async def test_a_ledger_that_is_lost_is_made_again_with_the_same_bytes(
    kafka: Kafka, sqlite: Database, tmp_path: Path
) -> None:
    topic, ledger = f"usage-{uuid4()}", Ledger(sqlite)
    async with metering(kafka.bootstrap, tmp_path / "m", sqlite, topic) as one:
        for number in range(20):
            one.meter.begin(grant(f"tenant-{number}"), transport="sse").add(number, 10, 1)
        await eventually(says(ledger, sum(range(20))))
        assert await one.drain(within_seconds=20)
    before = ledger.digest()
    anew = new_database(tmp_path / "other.db")
    async with metering(kafka.bootstrap, tmp_path / "m2", anew, topic) as two:
        again = Ledger(anew)
        await eventually(says(again, sum(range(20))))
        assert again.digest() == before
        assert two.status().is_leader
    anew.close()


async def test_another_process_takes_over_the_ledger(kafka: Kafka, database: Database, tmp_path: Path) -> None:
    topic, ledger = f"usage-{uuid4()}", Ledger(database)
    assert ledger.take_lease("somebody who was killed", seconds=1.5)
    async with metering(kafka.bootstrap, tmp_path / "m", database, topic) as one:
        one.meter.begin(grant(), transport="sse").add(3, 30, 3)
        assert not ledger.take_lease("one more", seconds=1)
        await eventually(says(ledger, 3))
        with pytest.raises(LeaseLost):
            ledger.merge([], holder="somebody who was killed")


async def test_usage_waits_for_kafka_and_nothing_is_lost(
    own_kafka: KafkaBroker, sqlite: Database, tmp_path: Path
) -> None:
    ledger = Ledger(sqlite)
    async with metering(own_kafka.bootstrap, tmp_path / "m", sqlite, "usage") as one:
        read = one.meter.begin(grant(), transport="sse")
        read.add(1, 1, 1)
        await eventually(says(ledger, 1))
        await asyncio.to_thread(own_kafka.kill)
        read.add(10, 10, 10)
        assert not await one.drain(within_seconds=1)
        assert one.meter.slab is not None
        kept = read_slab(one.meter.slab.path.read_bytes())
        assert [usage.records for _, usage in kept.cells] == [11]
    await asyncio.to_thread(own_kafka.start)
    async with metering(own_kafka.bootstrap, tmp_path / "m", sqlite, "usage"):
        await eventually(says(ledger, 11))


async def test_the_mock_cluster_s_topic_comes_into_being_by_itself(sqlite: Database, tmp_path: Path) -> None:
    try:
        mock = Mock()
    except ImportError as missing:
        pytest.skip(f"left out: {missing}")
    ledger = Ledger(sqlite)
    async with metering(mock.bootstrap, tmp_path / "m", sqlite, "gateway.usage") as one:
        read = one.meter.begin(grant(), transport="sse")
        read.add(4, 40, 4)
        await eventually(says(ledger, 4))
        read.end()
        assert await one.drain(within_seconds=20)


async def test_a_producer_says_what_is_wrong(kafka: Kafka) -> None:
    cluster = KafkaCluster(ClusterSettings(kafka.bootstrap), clock=SystemClock())
    producer = Producer(cluster, f"missing-{uuid4()}")
    with pytest.raises(TopicMissing):
        await producer.send([(b"k", b"v")], partition=0, timestamp_ms=1)
    topic = f"plain-{uuid4()}"
    await kafka.create_topic(topic)
    plain = Producer(cluster, topic)
    assert "cleanup.policy=delete" in str(await plain.retention_problem())
    assert not await plain.ensure_topic()
    assert await plain.send([(b"%d" % n, b"x" * 1000) for n in range(2000)], partition=0, timestamp_ms=1) == 2000
    with pytest.raises(KafkaUnavailable):
        await plain.send([(b"k", b"v")], partition=7, timestamp_ms=1)
    await cluster.close()


# ---- the ledger alone ----------------------------------------------------------------------------------------------


def cell(count: int, *, source: str = "s", tenant: str = "acme", bucket: int = 900, sequence: int = 1) -> Totals:
    cells = (CellTotals("app", "flights", "open", 1, "sse", True, (count, 10 * count, 0, 0, 0, 0, 0, 0, 0)),)
    return Totals(VERSION, source, sequence, tenant, bucket, cells)


def word(source: str, through: int, state: str = "live", started_at: int = 0) -> SourceWord:
    return SourceWord(VERSION, source, 1, state, "node", started_at, through)  # type: ignore[arg-type]


def test_the_larger_total_stays_whatever_comes_after(database: Database) -> None:
    ledger = Ledger(database)
    ledger.merge([cell(5), cell(3)])
    ledger.merge([cell(4), cell(2, source="other")])
    ledger.merge([cell(5)])
    assert total(ledger)["records"] == 7
    assert [key.tenant for key, _ in ledger.rows(tenant=None, start=0, end=901)] == ["acme"]
    assert list(ledger.rows(tenant=None, start=0, end=900)) == []
    assert ledger.tenants() == ["acme"]


def test_complete_is_what_every_live_source_has_passed(database: Database) -> None:
    ledger = Ledger(database)
    assert ledger.complete_until(now=1000) == 0
    ledger.register(word("a", 100))
    ledger.merge([word("b", 500)])
    assert ledger.complete_until(now=1000) == 100
    ledger.merge([word("a", 700), word("a", 600)])
    assert ledger.complete_until(now=1000) == 500
    ledger.merge([word("b", 800, "ended"), word("b", 900)])
    assert ledger.complete_until(now=1000) == 700
    assert ledger.give_up("a", by="ops", at="2026-01-01T00:00:00Z")
    assert not ledger.give_up("b", by="ops", at="2026-01-01T00:00:00Z")
    assert ledger.complete_until(now=1000) == 1000
    # One that nobody has heard a word of holds back from its first usage on.
    ledger.merge([cell(1, source="c", bucket=900)])
    assert ledger.complete_until(now=2000) == 900


def test_what_is_rolled_up_takes_in_nothing_more(database: Database) -> None:
    import sqlalchemy as sa

    ledger = Ledger(database)
    ledger.merge([cell(5)])
    with database.writing() as connection:
        connection.execute(sa.text("UPDATE usage_ledger SET rolled_until = 1800"))
    ledger.merge([cell(9), cell(1, bucket=1800)])
    assert total(ledger)["records"] == 6


# ---- SIGKILL -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def writer(directory: Path, *options: str) -> Iterator[tuple[subprocess.Popen[bytes], BinaryIO]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.parts.metering_writer", str(directory), *options],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        preexec_fn=die_with_parent,
    )
    with process:
        assert process.stdout is not None
        try:
            yield process, cast("BinaryIO", process.stdout)
        finally:
            process.kill()


def test_a_killed_writer_leaves_every_count_that_it_reported(tmp_path: Path) -> None:
    kills = int(os.environ.get("METERING_KILLS", "5"))
    chance = random.Random(8)
    for number in range(kills):
        directory = tmp_path / str(number)
        with writer(directory) as (process, said):
            told = said.read(8)
            deadline = time.monotonic() + chance.random() * 0.02
            while time.monotonic() < deadline:
                told = said.read(8)
            process.kill()
            told += said.read()
        reported = int.from_bytes(told[-(len(told) % 8) - 8 :][:8], "little")
        (path,) = directory.glob("*.slab")
        found = read_slab(path.read_bytes())
        counted = sum(usage.records for _, usage in found.cells)
        # What it was about to report may be there too; the data of each record is ten bytes, torn or not.
        assert reported <= counted <= reported + 1
        assert all(usage.bytes == 10 * usage.records for _, usage in found.cells)


async def test_a_process_killed_while_it_makes_its_slab_leaves_nothing_that_counts(
    kafka: Kafka, sqlite: Database, tmp_path: Path
) -> None:
    directory = tmp_path / "m"
    with writer(directory, "--die-in-creation") as (process, _):
        assert process.wait(60) == -signal.SIGKILL
    assert [path.name[-10:] for path in directory.iterdir()] == [".slab.part"]
    (directory / f"{uuid4()}.slab").write_bytes(b"foreign")
    async with metering(kafka.bootstrap, directory, sqlite, f"usage-{uuid4()}") as one:
        await eventually(
            lambda: _is(lambda: dict(one.status().orphans) == {"adopted": 0, "removed": 0, "set_aside": 1})
        )
        await eventually(lambda: _is(lambda: not list(directory.glob("*.part"))))
        assert len(list(directory.glob("*.aside"))) == 1
        assert one.status().trouble is None


async def test_a_process_killed_between_kafka_and_the_ledger_is_billed_once(
    kafka: Kafka, sqlite: Database, tmp_path: Path
) -> None:
    topic, directory, ledger = f"usage-{uuid4()}", tmp_path / "m", Ledger(sqlite)
    with writer(directory, "--publish", kafka.bootstrap, topic) as (_, said):
        counted = int.from_bytes(await asyncio.to_thread(said.read, 8), "little")
    assert counted == 45
    async with metering(kafka.bootstrap, directory, sqlite, topic) as one:
        await eventually(says(ledger, counted))
        await eventually(lambda: _is(lambda: one.status().orphans["removed"] == 1))
        assert total(ledger)["records"] == counted
        assert [source.state for source in ledger.sources()].count("ended") == 1


async def _is(condition: Callable[[], bool]) -> bool:
    return condition()


async def test_a_mock_cluster_that_is_another_one_is_read_from_its_beginning(sqlite: Database, tmp_path: Path) -> None:
    ledger = Ledger(sqlite)
    for life, records in enumerate((4, 9)):
        try:
            mock = Mock()
        except ImportError as missing:
            pytest.skip(f"left out: {missing}")
        async with metering(mock.bootstrap, tmp_path / "m", sqlite, "gateway.usage") as one:
            one.meter.begin(grant(), transport="sse").add(records, 40, 4)
            await eventually(says(ledger, 4 if life == 0 else 13))
            assert await one.drain(within_seconds=20)
