"""A disk that is really full: reads go on or end as the operator decided, metering says so, and it heals."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from gateway.metering.ledger import Ledger
from tests.parts.gateway import UNLIMITED, Deployment, GatewayProcess, contract
from tests.parts.kafka import Kafka, eventually
from tests.parts.metering import new_database, total
from tests.parts.partner import Partner
from tests.parts.small_disk import SmallDisk

DISK_BYTES = 400 * 1024
APPLICATIONS = 150
"""Each that reads is a cell more: so many need more room than a slab has at first."""

PATIENCE = 60.0


def client(number: int) -> str:
    """Long enough to need two of a slab's places."""
    return f"an-application-with-quite-a-long-name-{number}"


def catalog() -> dict[str, Any]:
    """One tenant with many applications."""
    clients = [{"client_id": client(number), "title": "App"} for number in range(APPLICATIONS)]
    return {
        "products": [{"name": "all", "title": "All", "streams": ["numbers"]}],
        "plans": [
            {"name": "open", "revision": 1, "title": "Open", "currency": "EUR", "limits": UNLIMITED, "charges": []}
        ],
        "tenants": [
            {
                "name": "acme",
                "title": "Acme",
                "status": "active",
                "time_zone": "UTC",
                "applications": clients,
                "entitlements": [{"product": "all", "plan": "open", "from": "2020-01-01"}],
            }
        ],
    }


class Cramped:
    """A gateway whose data directory is a disk that can be filled."""

    def __init__(self, deployment: Deployment, node: str) -> None:
        self.disk = SmallDisk(deployment.directory / f"data-{node}", size_bytes=DISK_BYTES)
        missing = self.disk.missing()
        if missing is not None:
            pytest.skip(f"left out: {missing}")
        self.process = GatewayProcess(deployment, node, within=self.disk.within)
        self._deployment = deployment

    def partner(self, number: int = 0) -> Partner:
        return Partner(self.process.base_url, self._deployment.token(client(number)))

    async def fill(self) -> None:
        """No room, and more to keep than fits into what was reserved."""
        await asyncio.to_thread(self.disk.fill, self.process.pid)
        for number in range(APPLICATIONS):
            answer = await self.partner(number).get("/v1/streams/numbers/records")
            if answer.status_code == 503:
                break
            assert answer.status_code == 200, answer.text
        await eventually(self.is_in_trouble, seconds=PATIENCE)

    async def clear(self) -> None:
        await asyncio.to_thread(self.disk.clear, self.process.pid)
        await eventually(self.is_well, seconds=PATIENCE)

    async def standing(self) -> dict[str, Any]:
        status, body = await asyncio.to_thread(self.process.readiness)
        assert status == 200, "it serves whatever metering says"
        found: dict[str, Any] = body["dependencies"]["metering"]
        return found

    async def is_in_trouble(self) -> bool:
        told = await self.standing()
        return told["status"] == "degraded" and "No space left on device" in told["detail"]

    async def is_well(self) -> bool:
        return bool((await self.standing())["status"] == "ok")

    async def metric(self) -> str:
        def scrape() -> str:
            with urllib.request.urlopen(f"{self.process.admin_url}/metrics", timeout=10) as answer:
                text: str = answer.read().decode()
            return next(line for line in text.splitlines() if line.startswith("gateway_metering_healthy"))

        return (await asyncio.to_thread(scrape)).split()[1]

    def said(self, words: str) -> int:
        return self.process.log().count(words)


@pytest.fixture
async def topic(kafka: Kafka, tmp_path: Path) -> str:
    name = f"full-{tmp_path.name}"
    await kafka.create_topic(name)
    return name


def deployment(kafka: Kafka, topic: str, directory: Path, *, on_failure: str) -> Deployment:
    return Deployment(
        directory,
        kafka.bootstrap,
        [contract("numbers", topic, partitions=1)],
        catalog=catalog(),
        settings={"metering": {"topic": f"{topic}.{on_failure}", "on_failure": on_failure}},
    )


@pytest.fixture
def delivering(kafka: Kafka, topic: str, tmp_path: Path) -> Iterator[Cramped]:
    made = Cramped(deployment(kafka, topic, tmp_path / "deliver", on_failure="deliver"), "a")
    yield made
    made.process.stop()


@pytest.fixture
def stopping(kafka: Kafka, topic: str, tmp_path: Path) -> Iterator[Cramped]:
    made = Cramped(deployment(kafka, topic, tmp_path / "stop", on_failure="stop"), "a")
    yield made
    made.process.stop()


async def test_a_full_disk_is_told_and_healed_and_stops_reads_only_where_that_is_wanted(
    kafka: Kafka, topic: str, tmp_path: Path, delivering: Cramped, stopping: Cramped
) -> None:
    await asyncio.gather(*(asyncio.to_thread(one.process.start) for one in (delivering, stopping)))
    numbers = [json.dumps({"n": number}).encode() for number in range(20)]
    async with delivering.partner().sse("numbers") as goes_on, stopping.partner().ws("numbers") as ends:
        await ends.until("welcome")
        await kafka.produce(topic, numbers)
        await goes_on.records(20)
        await ends.records(20)
        for one in (delivering, stopping):
            assert (await one.standing())["status"] == "ok"
            assert await one.metric() == "1.0"
        await asyncio.gather(delivering.fill(), stopping.fill())
        for one in (delivering, stopping):
            assert await one.metric() == "0.0"
            await eventually(partial(has_said, one, "usage cannot be kept on disk"), seconds=PATIENCE)
        # One goes on, for all the world as before.
        await kafka.produce(topic, numbers)
        await goes_on.records(20, seconds=PATIENCE)
        async with delivering.partner(1).ndjson("numbers", **{"from": "earliest"}) as late:
            await late.until("welcome")
            await late.records(40, seconds=PATIENCE)
        # The other says goodbye, and lets nobody in.
        goodbye = await ends.until("goodbye", seconds=PATIENCE)
        assert (goodbye.data["code"], goodbye.data["close_code"]) == ("unavailable", 4503)
        assert goodbye.data["reconnect"]
        assert goodbye.data["retry_after_ms"] > 0
        assert await ends.over(seconds=PATIENCE) == 4503
        await stopping.partner().refused("/v1/streams/numbers/records", 503, "unavailable")
        await asyncio.gather(delivering.clear(), stopping.clear())
        for one in (delivering, stopping):
            assert await one.metric() == "1.0"
            assert one.said("usage cannot be kept on disk") == one.said("usage is kept in") == 1
        async with stopping.partner().ws("numbers", cursor=goodbye.data["cursor"]) as again:
            await again.until("welcome")
            records = await again.records(20, seconds=PATIENCE)
        assert [one.data["data"]["n"] for one in records] == list(range(20))
    # What was counted in memory meanwhile was told like everything else, and is on disk now.
    await asyncio.to_thread(delivering.process.stop)
    database = new_database(tmp_path / "deliver" / "gateway.db")
    found = total(Ledger(database))
    database.close()
    assert found["records"] + found["replayed_records"] == 20 + 20 + 40


def has_said(one: Cramped, words: str) -> bool:
    return one.said(words) > 0


async def test_a_gateway_that_starts_on_a_full_disk_serves_and_keeps_usage_once_there_is_room(
    kafka: Kafka, topic: str, tmp_path: Path
) -> None:
    made = deployment(kafka, topic, tmp_path / "start", on_failure="deliver")
    # A page and no more: not even the first slab fits.
    disk = SmallDisk(made.directory / "data-a", size_bytes=16 * 1024)
    missing = disk.missing()
    if missing is not None:
        pytest.skip(f"left out: {missing}")
    process = GatewayProcess(made, "a", within=disk.within)
    try:
        await asyncio.to_thread(process.start)
        _, body = await asyncio.to_thread(process.readiness)
        assert "No space left on device" in body["dependencies"]["metering"]["detail"]
        partner = Partner(process.base_url, made.token(client(0)))
        async with partner.sse("numbers") as stream:
            await kafka.produce(topic, [b"{}"])
            await stream.records(1, seconds=PATIENCE)
    finally:
        await asyncio.to_thread(process.stop)
