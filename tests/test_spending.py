"""Spend limits: how much of one is spent is told on the way, in reads, at GET /v1/limits and to operators' systems."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import pytest

from gateway.alerts.store import AlertStore
from gateway.alerts.watchman import Watchman
from gateway.alerts.webhook import Webhook
from gateway.clock import ManualClock
from gateway.errors import GatewayError, QuotaExceeded
from gateway.limits.quota import Share
from gateway.limits.spending import Spending, Spendings, told_of
from gateway.model import Grant
from gateway.spending import BATCH, SpendWatch
from gateway.subscription.roster import Roster
from gateway.units import parse_rfc3339
from tests.parts.gateway import UNLIMITED, Deployment, GatewayProcess, contract
from tests.parts.hook import Hook, hook
from tests.parts.kafka import Kafka, eventually
from tests.parts.metering import at_once, grant, new_database
from tests.parts.partner import Heard, Partner, Stream

NOW = 1_795_000_000
HALF = Spending("10.00", Decimal("5.00"), "EUR", "2026-11", NOW + 1000, NOW, NOW - 3)


def spent(amount: str, **more: Any) -> Spending:
    return replace(HALF, spent=Decimal(amount), **more)


@pytest.mark.parametrize(
    ("amount", "limit", "percent"),
    [
        ("0", "10.00", 0),
        ("4.99", "10.00", 49),
        ("5.00", "10", 50),
        ("9.999999999999", "10.00", 99),
        ("10.00", "10.000000000001", 99),
        ("10.00", "10.00", 100),
        ("123", "10.00", 100),
        ("0", "0", 100),
        ("-1.00", "10.00", 0),
    ],
)
def test_a_hundred_percent_is_the_limit_and_nothing_less(amount: str, limit: str, percent: int) -> None:
    found = spent(amount, limit=limit)
    assert found.percent() == percent
    assert found.is_reached == (percent == 100)


def test_a_read_is_told_once_at_each_mark() -> None:
    assert spent("4.99").news(0) is None
    told = HALF.news(0)
    assert told == (
        50,
        {"limit": "10.00", "unit": "EUR spent", "used_percent": 50, "resets_at": "2026-11-18T11:23:20.000Z"},
    )
    assert HALF.news(50) is None
    assert spent("8.10").news(50) is not None
    assert spent("8.10").news(80) is None


def test_a_stop_ends_with_its_period_and_holds_for_what_is_priced_alone() -> None:
    clock = ManualClock(now=NOW)
    book = Spendings(clock)
    book.take({"acme": spent("10.00"), "globex": HALF})
    with pytest.raises(QuotaExceeded) as refused:
        book.check(grant("acme"))
    assert refused.value.extensions == {
        "limit": "10.00",
        "unit": "EUR spent",
        "resets_at": "2026-11-18T11:23:20.000Z",
    }
    assert refused.value.retry_after_ms == 1_000_000
    book.check(grant("globex"))
    book.check(replace(grant("acme"), billable=False))
    clock.advance(1000)
    book.check(grant("acme"))
    assert book.of("acme") is None
    assert not book.all()


def test_nobody_is_told_to_wait_longer_than_a_day_and_everybody_when_it_resets() -> None:
    # A month's end is further away than a browser's timer of 2**31 - 1 milliseconds reaches.
    start = parse_rfc3339("2026-12-01T00:00:00Z") / 1000
    clock = ManualClock(now=start)
    share = Share(
        *("acme", "free", "records_per_month"), limit=10, zone=ZoneInfo("UTC"), clock=clock, on_need=lambda _: None
    )
    book = Spendings(clock)
    book.take({"acme": spent("10.00", ends_at=int(share.period.ends_at))})
    for days, told_ms in ((0, 86_400_000), (29.5, 86_400_000), (0.5, 86_400_000), (0.75, 21_600_000)):
        clock.advance(days * 86_400)
        stop = book.refusal(grant("acme"))
        assert stop is not None
        for refusal in (share.exceeded(), stop):
            assert refusal.retry_after_ms == told_ms
            assert refusal.extensions["resets_at"] == "2027-01-01T00:00:00.000Z"


def test_what_is_not_known_is_told_as_unknown() -> None:
    assert told_of(None, None) is None
    unknown = told_of("10.00", None)
    assert unknown is not None
    assert unknown.keys() == HALF.spelt().keys()
    assert {value for name, value in unknown.items() if name != "limit"} == {None}
    assert HALF.spelt() == {
        "limit": "10.00",
        "currency": "EUR",
        "spent": "5.00",
        "used_percent": 50,
        "period": "2026-11",
        "resets_at": "2026-11-18T11:23:20.000Z",
        "as_of": "2026-11-18T11:06:40.000Z",
        "complete_until": "2026-11-18T11:06:37.000Z",
    }


async def test_each_mark_of_a_spend_limit_is_told_once_by_whichever_node_finds_it(tmp_path: Path) -> None:
    database, clock = new_database(tmp_path / "gateway.db"), ManualClock(now=NOW)
    known: dict[str, Spending] = {"acme": spent("4.99")}
    with hook() as receiver:
        nodes = [
            Watchman(
                shares=list,
                spendings=lambda: known,
                store=AlertStore(database),
                work=at_once,
                post=Webhook(receiver.url, "a secret of the operator's own"),
                clock=clock,
                tell=lambda alert, failure: None,
            )
            for _ in range(2)
        ]

        async def told() -> list[dict[str, Any]]:
            receiver.posts.clear()
            for node in (*nodes, *nodes):
                await node.look()
            bodies = [json.loads(body) for _, body in receiver.posts]
            return sorted(bodies, key=lambda body: int(body["percent"]))

        assert await told() == []
        known["acme"] = HALF
        (first,) = await told()
        assert {name: value for name, value in first.items() if name != "id"} == {
            "type": "spend.used",
            "at": "2026-11-18T11:06:40.000Z",
            "tenant": "acme",
            "period": "2026-11",
            "percent": 50,
            "limit": "10.00",
            "spent": "5.00",
            "currency": "EUR",
            "resets_at": "2026-11-18T11:23:20.000Z",
        }
        assert await told() == []
        known["acme"] = spent("11.00")
        assert [body["percent"] for body in await told()] == [80, 100]
        # A limit that was raised, and a new month, come to their marks anew.
        known["acme"] = spent("11.00", limit="20.00")
        assert [(body["percent"], body["limit"]) for body in await told()] == [(50, "20.00")]
        known["acme"] = spent("5.00", period="2026-12")
        assert [body["period"] for body in await told()] == ["2026-12"]
    database.close()


# ---- who is told, and what it costs --------------------------------------------------------------------------------


@dataclass(eq=False)
class Read:
    """A subscription as far as the watch looks at one."""

    session: str
    grant: Grant
    reading: object | None = "reading"
    ended: GatewayError | bool = False
    heard: list[object] = field(default_factory=list)

    def say_checkpoint(self, *, quota: Mapping[str, object]) -> None:
        self.heard.append(quota["used_percent"])

    def end(self, why: GatewayError) -> None:
        self.ended = why


class Office:
    """A watch over reads that are made here; what is spent is said by the test."""

    def __init__(self) -> None:
        self.roster = Roster()
        self.spent: dict[str, Spending] = {}
        limits = {"acme": {"spend_limit": "10.00"}}
        snapshot = SimpleNamespace(catalog=SimpleNamespace(accounts=limits))
        control: Any = SimpleNamespace(snapshot=lambda: snapshot, work=self._work)
        registry: Any = SimpleNamespace(roster=self.roster)
        clock = ManualClock(now=NOW)
        drafting: Any = None
        book = Spendings(clock)
        self.watch = SpendWatch(drafting, control=control, spendings=book, registry=registry, clock=clock)

    async def _work(self, *_: object) -> dict[str, Spending]:
        return dict(self.spent)

    def open(self, session: str, **more: Any) -> Read:
        read: Any = Read(session, **({"grant": grant("acme")} | more))
        self.roster.add(read)
        made: Read = read
        return made

    async def look(self, amount: str, **more: Any) -> None:
        self.spent = {"acme": spent(amount, **more)}
        await self.watch.look()


async def test_who_joins_late_hears_the_mark_and_nobody_hears_it_twice() -> None:
    office = Office()
    first = office.open("first")
    await office.look("4.99")
    assert first.heard == []
    await office.look("5.00")
    gone: Any = office.open("gone")
    await office.look("5.00")
    # As many reads as before, and another one among them.
    office.roster.remove(gone)
    late, opening = office.open("late"), office.open("opening", reading=None)
    await office.look("5.10")
    opening.reading = "reading"
    await office.look("5.10")
    await office.look("5.10")
    assert (first.heard, gone.heard, late.heard, opening.heard) == ([50], [50], [51], [51])
    await office.look("8.00")
    await office.look("8.00", limit="15.00")
    await office.look("8.00", limit="15.00", period="2026-12")
    assert first.heard == [50, 80, 53, 53]


async def test_at_the_limit_every_priced_read_ends_and_no_other() -> None:
    office = Office()
    priced, free = office.open("priced"), office.open("free", grant=replace(grant("acme"), billable=False))
    await office.look("10.00")
    assert isinstance(priced.ended, QuotaExceeded)
    assert (free.ended, free.heard) == (False, [])
    free.grant = grant("acme")
    await office.look("10.00")
    assert isinstance(free.ended, QuotaExceeded)


async def test_many_reads_are_told_in_turns_that_others_get_between() -> None:
    office = Office()
    reads = [office.open(f"s{number}") for number in range(BATCH * 5)]
    seen: list[int] = []

    async def others() -> None:
        while True:
            seen.append(sum(1 for one in reads if one.heard))
            await asyncio.sleep(0)

    beside = asyncio.create_task(others())
    await office.look("5.00")
    beside.cancel()
    assert all(one.heard == [50] for one in reads)
    assert max(after - before for before, after in pairwise(seen)) <= BATCH


# ---- the whole gateway -------------------------------------------------------------------------------------------

LIMIT = "1.00"
PRICE = "0.01"


@pytest.fixture
def receiver() -> Any:
    with hook() as found:
        yield found


@pytest.fixture
async def topic(kafka: Kafka, tmp_path: Path) -> str:
    name = f"spent-{tmp_path.name}"
    await kafka.create_topic(name)
    return name


@pytest.fixture
def deployment(kafka: Kafka, topic: str, receiver: Hook, tmp_path: Path) -> Deployment:
    charge = {"name": "Records", "model": "unit", "meter": "records", "unit_price": PRICE}
    made = {"name": "open", "revision": 1, "title": "Open", "currency": "EUR", "limits": UNLIMITED, "charges": [charge]}
    tenant = {
        "name": "acme",
        "title": "Acme",
        "status": "active",
        "time_zone": "Europe/Berlin",
        "spend_limit": LIMIT,
        "applications": [
            {"client_id": "acme-web", "title": "Web"},
            {"client_id": "acme-test", "title": "Test", "billable": False},
        ],
        "entitlements": [{"product": "all", "plan": "open", "from": "2020-01-01"}],
    }
    return Deployment(
        tmp_path / "d",
        kafka.bootstrap,
        [contract("numbers", topic, partitions=1)],
        catalog={
            "products": [{"name": "all", "title": "All", "streams": ["numbers"]}],
            "plans": [made],
            "tenants": [tenant],
        },
        settings={
            "metering": {"topic": f"{topic}.usage"},
            "alerts": {"webhook_url": receiver.url, "secret": "a secret of the operator's own"},
            "admin": {"tokens": ["admin-token-for-tests-only"]},
        },
    )


async def quota_of(stream: Stream) -> Heard:
    """The next checkpoint that tells how much is spent; records pass."""
    async with asyncio.timeout(60):
        while True:
            heard = await stream.next(seconds=60)
            assert heard.kind in ("welcome", "record", "checkpoint"), heard
            if heard.kind == "checkpoint" and "quota" in heard.data:
                assert heard.cursor
                return heard


async def limits_of(partner: Partner) -> dict[str, Any]:
    found: dict[str, Any] = (await partner.get("/v1/limits")).json()["spend_limit"]
    return found


async def says(partner: Partner, amount: str) -> bool:
    return bool((await limits_of(partner))["spent"] == amount)


async def test_partners_and_operators_hear_how_much_is_spent_before_it_is_the_end(
    kafka: Kafka, topic: str, deployment: Deployment, receiver: Hook
) -> None:
    values = [b"{}"] * 100
    with deployment.gateway("a") as a, deployment.gateway("b") as b:
        here, there = (Partner(node.base_url, deployment.token()) for node in (a, b))
        free = Partner(a.base_url, deployment.token("acme-test"))
        await eventually(partial(says, here, "0.00"), seconds=60)
        async with here.sse("numbers") as sse, there.ws("numbers") as ws, free.ndjson("numbers") as unpriced:
            await ws.until("welcome")
            await unpriced.until("welcome")
            # Two reads that are priced.
            await kafka.produce(topic, values[:26])
            for stream in (sse, ws):
                heard = await quota_of(stream)
                quota = heard.data["quota"]
                assert 50 <= quota.pop("used_percent") <= 52
                assert quota == {
                    "limit": LIMIT,
                    "unit": "EUR spent",
                    "resets_at": (await limits_of(here))["resets_at"],
                }
                assert {"behind_ms", "retention_in_ms"} <= heard.data.keys()
            async with here.ndjson("numbers") as late:
                assert (await quota_of(late)).data["quota"]["unit"] == "EUR spent"
            await eventually(partial(says, there, "0.52"), seconds=60)
            told = await limits_of(there)
            assert (told["currency"], told["used_percent"]) == ("EUR", 52)
            assert told["complete_until"] <= told["as_of"] < told["resets_at"]
            operator = {"Authorization": "Bearer admin-token-for-tests-only"}
            async with httpx.AsyncClient(headers=operator) as client:
                shown = (await client.get(f"{b.admin_url}/admin/limits")).json()["spend_limits"]
            assert [(one["tenant"], one["spent"]) for one in shown] == [("acme", "0.52")]
            await kafka.produce(topic, values[:15])
            for stream in (sse, ws):
                assert 80 <= (await quota_of(stream)).data["quota"]["used_percent"] <= 82
            await kafka.produce(topic, values[:30])
            for stream in (sse, ws):
                goodbye = await stream.until("goodbye", seconds=60)
                assert (goodbye.data["code"], goodbye.data["unit"]) == ("quota_exceeded", "EUR spent")
            # Nothing of it is for an application whose usage is never priced.
            heard_free = [await unpriced.next(seconds=60) for _ in range(26 + 15 + 30)]
            assert not [one for one in heard_free if "quota" in one.data]
        await here.refused("/v1/streams/numbers/records", 429, "quota_exceeded")
        await eventually(lambda: len(receiver.posts) >= 3, seconds=60)
        await asyncio.to_thread(stop_all, a, b)
    bodies = [json.loads(body) for _, body in receiver.posts]
    assert sorted(body["percent"] for body in bodies) == [50, 80, 100]
    assert {(body["type"], body["tenant"], body["limit"]) for body in bodies} == {("spend.used", "acme", LIMIT)}
    assert sum(log.count('"event": "spend_alert_sent"') for log in (a.log(), b.log())) == 3


def stop_all(*nodes: GatewayProcess) -> None:
    for node in nodes:
        node.stop()
