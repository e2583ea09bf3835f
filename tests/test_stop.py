"""A stop has an end: what hangs is named, given up, and keeps nothing else from being closed."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.clock import SystemClock
from gateway.takedown import Takedown
from gateway.units import parse_rfc3339
from tests.parts.gateway import Deployment, GatewayProcess, contract
from tests.parts.kafka import KafkaBroker, eventually
from tests.parts.partner import Partner
from tests.parts.postgres import PostgresServer
from tests.parts.redis import RedisServer

DRAIN_SECONDS = 6
RECORDS = 20
ADMIN = "the-operators-secret"
LATE_SECONDS = 3
"""What a busy machine may put on top, from the last moment allowed to the process's being gone."""


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """Events of the stop, each with what was waited for."""
    return [(one.getMessage(), one.fields["waiting_for"]) for one in caplog.records if one.name == "gateway.takedown"]  # type: ignore[attr-defined]


@pytest.fixture
def closed() -> list[str]:
    """What was closed, in order."""
    return []


@pytest.fixture
def takedown() -> Takedown:
    return Takedown(SystemClock(), slow_seconds=0.05)


def closing(closed: list[str], name: str) -> Any:
    async def close() -> None:
        closed.append(name)

    return close


def soon(seconds: float) -> float:
    return SystemClock().monotonic() + seconds


async def test_what_was_opened_last_is_closed_first(takedown: Takedown, closed: list[str]) -> None:
    for name in ("database", "readers", "port"):
        takedown.add(name, closing(closed, name))
    await takedown.close(until=soon(60))
    assert closed == ["port", "readers", "database"]
    assert takedown.waiting_for == ""


async def test_a_closer_that_fails_is_told_and_the_others_have_their_turn(
    takedown: Takedown, closed: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    async def fail() -> None:
        raise RuntimeError("no")

    takedown.add("database", closing(closed, "database"))
    takedown.add("readers", fail)
    await takedown.close(until=soon(60))
    assert closed == ["database"]
    assert told(caplog) == [("stop_failed", "readers")]


async def test_a_closer_that_hangs_is_named_then_given_up_and_the_others_have_their_turn(
    takedown: Takedown, closed: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    async def hang() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            closed.append("cancelled")

    takedown.add("database", closing(closed, "database"))
    takedown.add("readers", hang)
    await takedown.close(until=soon(0.3))
    assert closed == ["cancelled", "database"]
    assert told(caplog) == [("stop_slow", "readers"), ("stop_cut", "readers")]


async def test_a_closer_that_loses_its_cancellation_is_left_behind(
    takedown: Takedown, closed: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    release = asyncio.Event()

    async def stay() -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                closed.append("lost")

    takedown.add("database", closing(closed, "database"))
    takedown.add("readers", stay)
    await takedown.close(until=soon(0))
    assert closed == ["lost", "database"]
    assert told(caplog)[-1] == ("stop_cut", "readers")
    release.set()
    await asyncio.wait([task for task in asyncio.all_tasks() if task.get_name() == "end of readers"])


async def test_tasks_are_cancelled_until_they_end_and_those_that_never_do_are_named(
    takedown: Takedown, caplog: pytest.LogCaptureFixture
) -> None:
    release = asyncio.Event()

    async def lose(cancellations: int) -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                if not cancellations:
                    raise
                cancellations -= 1

    once = asyncio.create_task(lose(1), name="redis")
    always = asyncio.create_task(lose(1_000), name="keys")
    await asyncio.sleep(0)
    await takedown.end([once, always], until=soon(1.2))
    assert once.cancelled()
    assert not always.done()
    assert told(caplog)[-1] == ("stop_cut", "keys")
    release.set()
    await always


@pytest.mark.parametrize("main", ["time.sleep(3600)", "None"], ids=["its loop", "one of its threads"])
def test_the_backstop_ends_a_process_whatever_hangs(main: str) -> None:
    program = f"""
import time
from concurrent.futures import ThreadPoolExecutor
from gateway.serving import Backstop
threads = ThreadPoolExecutor()
threads.submit(time.sleep, 3600)
backstop = Backstop()
backstop.set(0.5, lambda: 7)
backstop.set(3600, lambda: 8)
{main}
"""
    # What was set last has the word, and the first time that was given is the end.
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 8


async def test_a_stop_ends_in_time_while_all_around_it_is_frozen_and_the_next_start_has_the_usage(
    own_kafka: KafkaBroker, own_redis: RedisServer, own_postgres: PostgresServer, tmp_path: Path
) -> None:
    topic = f"stop.{uuid.uuid4().hex[:8]}"
    await own_kafka.create_topic(topic, 1)
    settings = {
        "admin": {"port": 0, "tokens": [ADMIN]},
        "database": {"url": own_postgres.create_database()},
        "redis": {"url": own_redis.url},
        "stream": {"drain_seconds": DRAIN_SECONDS},
    }
    deployment = await asyncio.to_thread(
        lambda: Deployment(tmp_path / "d", own_kafka.bootstrap, [contract("s", topic, partitions=1)], settings=settings)
    )
    process = GatewayProcess(deployment, "a")
    frozen = [(own_kafka.pause, own_kafka.resume), (own_redis.pause, own_redis.resume)]
    frozen.append((own_postgres.freeze, own_postgres.thaw))
    await asyncio.to_thread(process.start)
    try:
        await own_kafka.produce(topic, [b'{"n":1}'] * RECORDS)
        async with Partner(process.base_url, deployment.token()).open("sse", "s", **{"from": "earliest"}) as stream:
            await stream.records(RECORDS)
            for freeze, _ in frozen:
                freeze()
            process.signal(signal.SIGTERM)
            await stream.until("goodbye")
        code = await asyncio.to_thread(process.wait, seconds=60)
        for _, thaw in frozen:
            thaw()
        lines = [json.loads(line) for line in process.log().splitlines() if line.startswith("{")]
        first, last = (next(line for line in lines if line["event"] == name) for name in ("draining", "stopped"))
        assert code == 0
        assert parse_rfc3339(last["time"]) - parse_rfc3339(first["time"]) <= (DRAIN_SECONDS + LATE_SECONDS) * 1000
        assert {line["waiting_for"] for line in lines if line["event"] == "stop_cut"} & {"usage", "metering"}
        await asyncio.to_thread(process.start)

        async def has_usage() -> bool:
            async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
                headers = {"Authorization": f"Bearer {ADMIN}"}
                answer = await client.get(f"{process.admin_url}/admin/usage?granularity=15m", headers=headers)
            rows: list[dict[str, int]] = answer.json()["rows"] if answer.status_code == 200 else []
            return sum(row["records"] + row["replayed_records"] for row in rows) == RECORDS

        await eventually(has_usage, seconds=60)
    finally:
        for _, thaw in frozen:
            thaw()
        await asyncio.to_thread(process.stop)
