"""The demo's child processes: Kafka with its player, and Redis."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from gateway.demo.parts import Broker, PartFailed, RedisServer
from gateway.demo.recordings import RECORDINGS, contracts_directory, read_records
from tests.parts.family import command_of, descendants, is_running

QUAKES, FLIGHTS = RECORDINGS
SIZES = {"quakes": 1707, "flights": 5000}


@asynccontextmanager
async def broker(*, rate: float = 20.0, once: bool = False) -> AsyncIterator[Broker]:
    part = Broker([("quakes", QUAKES), ("flights", FLIGHTS)], rate=rate, once=once)
    try:
        await part.start()
        yield part
    finally:
        await part.close()


@asynccontextmanager
async def consumer(part: Broker) -> AsyncIterator[AIOKafkaConsumer]:
    reading = AIOKafkaConsumer(bootstrap_servers=part.bootstrap_servers, auto_offset_reset="earliest")
    await reading.start()
    try:
        yield reading
    finally:
        await reading.stop()


def partitions(topic: str) -> list[TopicPartition]:
    return [TopicPartition(topic, number) for number in range(4)]


async def count(reading: AIOKafkaConsumer, topic: str) -> int:
    return sum((await reading.end_offsets(partitions(topic))).values())


async def read_all(reading: AIOKafkaConsumer, topic: str, expected: int) -> list[tuple[bytes, bytes, int, int]]:
    reading.assign(partitions(topic))
    found: list[tuple[bytes, bytes, int, int]] = []
    deadline = time.monotonic() + 20
    while len(found) < expected:
        assert time.monotonic() < deadline, f"{len(found)} of {expected} records"
        for records in (await reading.getmany(timeout_ms=200)).values():
            found += [(record.key, record.value, record.partition, record.timestamp) for record in records]
    return found


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


async def until(condition: Callable[[], bool], *, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def test_the_first_records_of_every_topic_are_there_before_anything_is_played() -> None:
    before = time.time() * 1000 - 1000
    async with broker() as part, consumer(part) as reading:
        for topic, recording in (("quakes", QUAKES), ("flights", FLIGHTS)):
            expected = read_records(recording.path, key=recording.key)[:500]
            found = await read_all(reading, topic, 500)
            assert await count(reading, topic) == 500
            assert sorted(record[:2] for record in found) == sorted(expected)
            assert all(timestamp >= before for *_, timestamp in found)
            assert len({partition for *_, partition, _ in found}) == 4


async def test_records_of_one_key_stay_in_one_partition_in_the_order_of_the_file() -> None:
    async with broker() as part, consumer(part) as reading:
        found = await read_all(reading, "flights", 500)
    chicago = [record for record in found if record[0] == b"ORD"]
    assert len({partition for *_, partition, _ in chicago}) == 1
    in_file = [value for key, value in read_records(FLIGHTS.path, key="origin")[:500] if key == b"ORD"]
    assert [record[1] for record in chicago] == in_file


async def test_once_plays_every_record_once_and_then_serves_on() -> None:
    async with broker(rate=20_000, once=True) as part, consumer(part) as reading:
        part.play()
        for topic, size in SIZES.items():
            found = await read_all(reading, topic, size)
            assert len(found) == size
        assert {topic: await count(reading, topic) for topic in SIZES} == SIZES


async def test_without_once_the_rest_is_played_over_and_over() -> None:
    async with broker(rate=20_000) as part, consumer(part) as reading:
        part.play()
        deadline = time.monotonic() + 20
        while await count(reading, "quakes") <= 2 * SIZES["quakes"]:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)


async def test_a_broker_that_dies_is_noticed() -> None:
    async with broker() as part:
        watching = asyncio.create_task(part.watch())
        (child,) = [pid for pid in descendants(os.getpid()) if "gateway.demo.broker" in command_of(pid)]
        os.kill(child, signal.SIGKILL)
        with pytest.raises(PartFailed, match="Kafka ended by itself"):
            await asyncio.wait_for(watching, 10)


async def test_redis_answers_keeps_nothing_and_ends_with_its_close(tmp_path: Path) -> None:
    part = RedisServer(tmp_path)
    await part.start()
    client = Redis.from_url(part.url)
    try:
        assert await client.set("a", "1")
        with pytest.raises(ResponseError, match="unknown command"):
            await client.config_get("dir")
        pid = (await client.info("server"))["process_id"]
    finally:
        await client.aclose()
        await part.close()
    await until(lambda: not is_running(pid))
    assert names_in(tmp_path) == ["redis.log"]


async def test_a_frozen_redis_ends_too(tmp_path: Path) -> None:
    part = RedisServer(tmp_path)
    await part.start()
    client = Redis.from_url(part.url)
    pid = (await client.info("server"))["process_id"]
    await client.aclose()
    os.kill(pid, signal.SIGSTOP)
    await part.close()
    await until(lambda: not is_running(pid))


async def test_a_redis_that_cannot_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "bin" / "redis-server"
    broken.parent.mkdir()
    broken.write_text("#!/bin/sh\necho no such option: --port\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{broken.parent}:{os.environ['PATH']}")
    part = RedisServer(tmp_path, attempt_seconds=0.2)
    try:
        with pytest.raises(PartFailed, match="no such option: --port"):
            await part.start()
    finally:
        await part.close()


def test_parts_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    program = """
        import asyncio, sys
        from pathlib import Path
        from gateway.demo.parts import Broker, RedisServer
        from gateway.server.loop import run_loop

        async def hold():
            redis, broker = RedisServer(Path(sys.argv[1])), Broker([], rate=1.0, once=False)
            await redis.start()
            await broker.start()
            print("up", flush=True)
            await asyncio.Event().wait()

        run_loop(hold())
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "up\n"
        children = descendants(parent.pid)
        assert any("redis-server" in command_of(pid) for pid in children)
        assert any("gateway.demo.broker" in command_of(pid) for pid in children)
        parent.kill()
    deadline = time.monotonic() + 10
    while any(is_running(pid) for pid in children):
        assert time.monotonic() < deadline, [command_of(pid) for pid in children]
        time.sleep(0.02)


def test_every_recording_belongs_to_a_contract_and_has_its_key() -> None:
    streams = {path.stem for path in (contracts_directory() / "streams").glob("*.yaml")}
    assert {recording.stream for recording in RECORDINGS} <= streams
    assert len(read_records(QUAKES.path, key="id")) == SIZES["quakes"]
    assert read_records(FLIGHTS.path, key="origin")[0][0] == b"HNL"
