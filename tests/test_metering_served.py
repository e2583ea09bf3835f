"""A whole gateway: what partners received is what the ledger says, whether the process drains or is killed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import time
import urllib.request
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import ConnectionClosed

from gateway.hub.view import SLICE_RECORDS
from gateway.metering.ledger import Ledger
from tests.parts.gateway import Deployment, GatewayProcess, contract
from tests.parts.kafka import Kafka, eventually
from tests.parts.metering import new_database, total
from tests.parts.partner import Partner, StreamOver

RECORDS = 200
BATCH = 100


async def test_usage_is_what_was_received_through_a_drain_and_a_kill(kafka: Kafka, tmp_path: Path) -> None:
    topic = f"served-{tmp_path.name}"
    await kafka.create_topic(topic)
    usage = {"metering": {"topic": f"usage-{tmp_path.name}"}}
    deployment = Deployment(tmp_path / "d", kafka.bootstrap, [contract("flights", topic)], settings=usage)
    database = new_database(tmp_path / "d" / "gateway.db")
    ledger = Ledger(database)
    values = [json.dumps({"n": number}).encode() for number in range(RECORDS)]

    def counted() -> int:
        found = total(ledger, "acme")
        return found.get("records", 0) + found.get("replayed_records", 0)

    async def says(records: int) -> None:
        async def look() -> bool:
            return await asyncio.to_thread(counted) == records

        await eventually(look)

    with deployment.gateway() as process:
        partner = Partner(process.base_url, deployment.token())
        async with partner.sse("flights") as sse, partner.ws("flights") as ws:
            await ws.until("welcome")
            await kafka.produce(topic, values)
            await sse.records(RECORDS)
            await ws.records(RECORDS)
            await says(2 * RECORDS)
            # More, and the process is told to stop at once: nothing of it is unbilled.
            await kafka.produce(topic, values)
            await sse.records(RECORDS)
            await ws.records(RECORDS)
            await asyncio.to_thread(process.stop)
        assert await asyncio.to_thread(process.wait) == 0
        assert '"usage was not published' not in process.log()
    with deployment.gateway() as process:
        await says(4 * RECORDS)
        assert total(ledger)["bytes"] + total(ledger)["replayed_bytes"] == 4 * sum(map(len, values))
        partner = Partner(process.base_url, deployment.token())
        await partner.pull_all("flights", 2 * RECORDS, **{"from": "earliest"})
        # Killed before the second is over in which it would have told.
        await asyncio.to_thread(process.kill)
    with deployment.gateway() as process:
        await says(6 * RECORDS)
        now = time.time()

        async def is_complete() -> bool:
            return ledger.complete_until(now=time.time()) >= int(now)

        await eventually(is_complete)
        assert [one.state for one in ledger.sources()].count("live") == 1
        _, readiness = process.readiness()
        assert "metering" in json.dumps(readiness)
        assert "gateway_metering_healthy 1.0" in await asyncio.to_thread(scrape, process.admin_url)
    database.close()


@pytest.mark.skipif("METERING_KILLS" not in os.environ, reason="long: METERING_KILLS says how many times")
async def test_kills_under_load_cost_a_batch_of_each_read_at_most(kafka: Kafka, tmp_path: Path) -> None:
    kills, chance = int(os.environ["METERING_KILLS"]), random.Random(8)
    topic = f"killed-{tmp_path.name}"
    await kafka.create_topic(topic)
    usage = {"metering": {"topic": f"usage-{tmp_path.name}"}}
    deployment = Deployment(tmp_path / "d", kafka.bootstrap, [contract("flights", topic)], settings=usage)
    database = new_database(tmp_path / "d" / "gateway.db")
    ledger, received, over = Ledger(database), [0], asyncio.Event()

    async def produce() -> None:
        number = 0
        while not over.is_set():
            await kafka.produce(topic, [b'{"n":%d}' % n for n in range(number, number + BATCH)])
            number += BATCH

    async def read(partner: Partner, protocol: str) -> None:
        # What the kernel had accepted comes after the process is gone, and then the connection breaks.
        with contextlib.suppress(httpx.HTTPError, ConnectionClosed, OSError, StreamOver):
            async with partner.open(protocol, "flights") as stream:
                while True:
                    heard = await stream.next()
                    received[0] += heard.kind == "record"

    producing = asyncio.create_task(produce())
    for number in range(kills):
        # From different directories some slabs are adopted only in the end.
        process = GatewayProcess(deployment, f"node-{number % 3}")
        await asyncio.to_thread(process.start)
        partner = Partner(process.base_url, deployment.token())
        reads = [asyncio.create_task(read(partner, protocol)) for protocol in ("sse", "ws", "ndjson", "sse")]
        before = received[0]
        await eventually(lambda before=before: _true(received[0] > before + 2 * BATCH))
        await asyncio.sleep(chance.random())
        await asyncio.to_thread(process.kill)
        await asyncio.gather(*reads)
    over.set()
    await producing
    for number in range(3):
        process = GatewayProcess(deployment, f"node-{number}")
        await asyncio.to_thread(process.start)
        directory = tmp_path / "d" / f"data-node-{number}" / "metering"
        await eventually(lambda directory=directory: _true(len(list(directory.glob("*.slab"))) == 1))
        await asyncio.to_thread(process.stop)
    found = total(ledger)
    billed = found["records"] + found["replayed_records"]
    print(f"{kills} kills: received {received[0]}, billed {billed}")
    assert received[0] - kills * 4 * SLICE_RECORDS <= billed <= received[0] + kills * 4 * SLICE_RECORDS
    assert {one.state for one in ledger.sources()} == {"ended"}
    database.close()


async def _true(condition: bool) -> bool:
    return condition


def scrape(admin_url: str) -> str:
    with urllib.request.urlopen(f"{admin_url}/metrics", timeout=5) as answer:
        return str(answer.read(), "utf-8")
