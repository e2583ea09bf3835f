"""The story of a month: partners read by every protocol, are limited, reconnect and change their plan; the month
closes, and its statements say what the partners counted themselves."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import uuid
from collections import Counter
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa
import yaml

from gateway.billing.period import Period
from gateway.billing.tables import STATEMENTS
from gateway.clock import ManualClock
from gateway.config import Settings, load_settings
from gateway.config.adapters import database
from gateway.database.database import Database
from gateway.statements import Statements
from tests.parts.gateway import UNLIMITED, Deployment, GatewayProcess, contract
from tests.parts.kafka import Kafka, eventually
from tests.parts.partner import Heard, Partner
from tests.parts.redis import RedisServer

PARTITIONS = 3
HALF = 300
ZONE = "Europe/Berlin"
TENANTS = ("acme", "globex", "initech", "hooli")
RATE = 100
WIDE = {**UNLIMITED, "records_per_second": 5_000}
NARROW = {**UNLIMITED, "records_per_second": {"rate": RATE, "burst": RATE}, "connections": 2}
RECORD_PRICE = Decimal("0.01")


def plan(name: str, limits: dict[str, Any], price: Decimal) -> dict[str, Any]:
    charges = [
        {"name": "Records", "model": "unit", "meter": "records", "unit_price": str(price)},
        {"name": "Volume", "model": "unit", "meter": "bytes", "unit_price": "0"},
    ]
    return {"name": name, "revision": 1, "title": name, "currency": "EUR", "limits": limits, "charges": charges}


def tenant(name: str, *plans: tuple[str, str, str | None]) -> dict[str, Any]:
    """``plans``: which, from which day, to which."""
    rights = [
        {"product": "all", "plan": plan, "from": start} | ({} if end is None else {"to": end})
        for plan, start, end in plans
    ]
    application = {"client_id": f"{name}-app", "title": name}
    return {
        "name": name,
        "title": name.title(),
        "status": "active",
        "time_zone": ZONE,
        "applications": [application],
        "entitlements": rights,
    }


def catalog(stream: str, *, moved: bool) -> dict[str, Any]:
    """Before and after initech changes to the cheaper plan, today."""
    today = datetime.now(ZoneInfo(ZONE)).date().isoformat()
    initech = [("wide", "2020-01-01", today), ("cheap", today, None)] if moved else [("wide", "2020-01-01", None)]
    return {
        "products": [{"name": "all", "title": "All", "streams": [stream]}],
        "plans": [
            plan("wide", WIDE, RECORD_PRICE),
            plan("cheap", WIDE, RECORD_PRICE / 10),
            plan("narrow", NARROW, RECORD_PRICE),
        ],
        "tenants": [
            tenant("acme", ("wide", "2020-01-01", None)),
            tenant("globex", ("narrow", "2020-01-01", None)),
            tenant("initech", *initech),
            {**tenant("hooli", ("wide", "2020-01-01", None)), "spend_limit": "2.00"},
        ],
    }


class Partners:
    """What each tenant counted itself: records and bytes of ``data`` as they came."""

    def __init__(self) -> None:
        self.records: Counter[tuple[str, str]] = Counter()
        self.bytes: Counter[tuple[str, str]] = Counter()
        self.seen: dict[str, Counter[int]] = {}

    def count(self, name: str, plan: str, data: Any) -> None:
        self.records[name, plan] += 1
        self.bytes[name, plan] += len(json.dumps(data, separators=(",", ":")))
        self.seen.setdefault(name, Counter())[data["n"]] += 1

    async def stream(
        self, partner: Partner, who: tuple[str, str], protocol: str, count: int, **where: Any
    ) -> tuple[str, list[Heard]]:
        """Read so many records, then leave in the quiet after them; the last cursor, and what else was said."""
        said: list[Heard] = []
        cursor = ""
        got = 0
        async with partner.open(protocol, "ticks", **where) as reading:
            while got < count:
                heard = await reading.next(seconds=60)
                if heard.kind != "record":
                    said.append(heard)
                    continue
                assert heard.cursor is not None
                self.count(*who, heard.data["data"])
                cursor, got = heard.cursor, got + 1
        return cursor, said

    async def pull(self, partner: Partner, who: tuple[str, str], count: int, **where: Any) -> int:
        """By pages; how many of them said that the plan slows down."""
        got = slowed = 0
        while got < count:
            page = await partner.pull("ticks", limit=250, wait=10, **where)
            for record in page["records"]:
                self.count(*who, record["data"])
            got += len(page["records"])
            slowed += page["throttled_ms"] > 0
            where = {"cursor": page["next_cursor"]}
        return slowed


class Topic:
    """Numbered records, in thirds over the partitions."""

    def __init__(self, kafka: Kafka, name: str) -> None:
        self.name = name
        self._kafka = kafka
        self._made = 0

    async def produce(self, count: int) -> None:
        numbers = range(self._made, self._made + count)
        self._made += count
        for partition in range(PARTITIONS):
            values = [
                json.dumps({"n": n, "pad": "x" * (n % 90)}, separators=(",", ":")).encode()
                for n in numbers
                if n % PARTITIONS == partition
            ]
            await self._kafka.produce(self.name, values, partition=partition)


@pytest.fixture
def topic(kafka: Kafka) -> Topic:
    name = f"story.{uuid.uuid4().hex[:8]}"
    asyncio.run(kafka.create_topic(name, PARTITIONS))
    return Topic(kafka, name)


@pytest.fixture
def deployment(kafka: Kafka, topic: Topic, redis_server: RedisServer, postgres_url: str, tmp_path: Path) -> Deployment:
    return Deployment(
        tmp_path / "d",
        kafka.bootstrap,
        [contract("ticks", topic.name, partitions=PARTITIONS)],
        catalog=catalog("ticks", moved=False),
        settings={
            "database": {"url": postgres_url},
            "redis": {"url": redis_server.url},
            "metering": {"topic": f"{topic.name}.totals"},
            "billing": {"schedule": False},
        },
    )


def apply(deployment: Deployment, document: dict[str, Any]) -> None:
    file = deployment.directory / "catalog.yaml"
    file.write_text(re.sub(r"'(\d{4}-\d\d-\d\d)'", r"\1", yaml.safe_dump(document, sort_keys=False)))
    command = [sys.executable, "-m", "gateway", "apply", "--prune", *deployment.options("apply"), str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


async def live_through(deployment: Deployment, topic: Topic, first: GatewayProcess, second: GatewayProcess) -> Partners:
    """What happens in the month; two partners read by every protocol, the third changes its plan between two reads."""
    partners = Partners()

    def partner(name: str, node: GatewayProcess) -> Partner:
        return Partner(node.base_url, deployment.token(f"{name}-app"))

    start = {"from_": "earliest"}
    acme, globex, initech, cheaper = ("acme", "wide"), ("globex", "narrow"), ("initech", "wide"), ("initech", "cheap")
    await topic.produce(HALF)
    (cursor, _), _, (_, said), slowed, (theirs, _), _ = await asyncio.gather(
        partners.stream(partner("acme", first), acme, "sse", HALF, **start),
        partners.stream(partner("acme", second), acme, "ws", HALF, **start),
        # Over its rate on two nodes at once, as a stream and by pages.
        partners.stream(partner("globex", first), globex, "ndjson", HALF, **start),
        partners.pull(partner("globex", second), globex, HALF, **start),
        partners.stream(partner("initech", first), initech, "ndjson", HALF, **start),
        spend_all(partners, partner("hooli", second)),
    )
    assert [one.kind for one in said].count("throttled") == 1
    assert slowed >= 1
    await asyncio.to_thread(apply, deployment, catalog("ticks", moved=True))
    for node in (first, second):
        await eventually(partial(is_on, partner("initech", node), "cheap"))
    await topic.produce(HALF)
    # Each goes on by another protocol at the other node.
    await asyncio.gather(
        partners.stream(partner("acme", second), acme, "ndjson", HALF, cursor=cursor),
        partners.stream(partner("initech", second), cheaper, "ws", HALF, cursor=theirs),
    )
    assert all(partners.seen[name] == Counter(dict.fromkeys(range(HALF * 2), 1)) for name in ("initech",))
    assert set(partners.seen["acme"]) == set(range(HALF * 2))
    for (name, plan), records in partners.records.items():
        await eventually(partial(is_told, partner(name, first), plan, records))
    return partners


async def spend_all(partners: Partners, partner: Partner) -> None:
    """Read for more than the organisation wants to spend: the stream ends, and neither node gives any more."""
    async with partner.open("ws", "ticks", from_="earliest") as reading:
        while True:
            heard = await reading.next(seconds=60)
            if heard.kind == "record":
                partners.count("hooli", "wide", heard.data["data"])
            elif heard.kind != "checkpoint":
                break
    assert heard.kind == "goodbye"
    assert (heard.data["code"], heard.data["close_code"]) == ("quota_exceeded", 4429)
    assert heard.data["unit"] == "EUR spent"
    said = await partner.refused("/v1/streams/ticks/records", 429, "quota_exceeded", cursor=heard.cursor)
    assert said["resets_at"] == heard.data["resets_at"]


async def is_on(partner: Partner, plan: str) -> bool:
    plans: list[dict[str, Any]] = (await partner.get("/v1/limits")).json()["plans"]
    return [one["plan"] for one in plans] == [plan]


async def is_told(partner: Partner, plan: str, records: int) -> bool:
    """Usage is shown within seconds. What is told is not by plan: the tenant has one, or the sum is at least this."""
    rows = (await partner.get("/v1/usage")).json()["rows"]
    return bool(sum(row["records"] for row in rows) >= records)


async def test_statements_say_what_the_partners_counted(deployment: Deployment, topic: Topic) -> None:
    with deployment.gateway("a") as first, deployment.gateway("b") as second:
        partners = await live_through(deployment, topic, first, second)
        for node in (first, second):
            await asyncio.to_thread(node.stop)
    settings = load_settings(Path(deployment.options("close")[1]), environ={})
    held = await asyncio.to_thread(database, settings)
    try:
        await asyncio.to_thread(close_month, settings, held, partners)
    finally:
        await asyncio.to_thread(held.close)


def close_month(settings: Settings, held: Database, partners: Partners) -> None:
    """The month is over, by the clock of whoever closes it."""
    month = Period.holding(datetime.now(UTC).timestamp(), zone=ZONE)
    clock = ManualClock(now=month.end + settings.billing.grace_seconds + 60)
    made = Statements.of(settings, held, clock=clock)
    closed = made.closing.run(now=clock.now())
    assert {(one.tenant, one.outcome) for one in closed if one.period == month} == {
        (name, "final") for name in TENANTS
    }, closed
    for name in TENANTS:
        (kept,) = made.store.closed(tenant=name)
        body = kept.shown()
        billed = {(line["plan"], line["meter"]): line for line in body["lines"] if line["kind"] == "charge"}
        counted = {plan: records for (who, plan), records in partners.records.items() if who == name}
        assert {plan for plan, _ in billed} == set(counted)
        for plan, records in counted.items():
            assert billed[plan, "records"]["used"] == str(records)
            assert billed[plan, "bytes"]["used"] == str(partners.bytes[name, plan])
            price = RECORD_PRICE / 10 if plan == "cheap" else RECORD_PRICE
            assert Decimal(billed[plan, "records"]["exact"]) == price * records
        assert sum(Decimal(line["amount"]) for line in body["lines"]) == Decimal(body["total"])
    verdict = made.proof.verify()
    assert (verdict.checked, verdict.findings) == (len(TENANTS), ())
    flip_a_byte(held)
    assert {finding.kind for finding in made.proof.verify().findings} >= {"hash"}


def flip_a_byte(held: Database) -> None:
    """Somebody who can write to the database makes one statement a little cheaper."""
    with held.writing() as connection:
        row = connection.execute(sa.select(STATEMENTS).where(STATEMENTS.c.tenant == "acme")).one()
        changed = row.body.replace('"due":"', '"due":"0', 1)
        assert changed != row.body
        connection.execute(STATEMENTS.update().where(STATEMENTS.c.id == row.id).values(body=changed))
