"""Alerts of quotas: made once, signed, tried until they are taken, and kept."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from gateway.alerts.alert import MARKS, RETRY_SECONDS, Alert, QuotaAlert, SpendAlert, next_try_at, sign
from gateway.alerts.store import AlertStore
from gateway.alerts.watchman import CLAIM_SECONDS, Watchman
from gateway.alerts.webhook import NotTaken, Webhook
from gateway.clock import ManualClock
from gateway.database.database import Bounds, Database
from gateway.database.schema import Schema
from gateway.database.workers import Workers
from gateway.limits.quota import Share, Told
from tests.parts.hook import Hook, hook

SECRET = "a secret of the operator's own"
NOW = 1_795_000_000.0


def alert(percent: int = 50, tenant: str = "acme") -> QuotaAlert:
    return QuotaAlert(tenant, "free", "records_per_month", "2026-11", percent, 1000, 10 * percent, NOW + 9_000, NOW)


def spend_alert(percent: int = 50, limit: str = "500.00") -> SpendAlert:
    return SpendAlert("acme", "2026-11", percent, limit, "250.10", "EUR", NOW + 9_000, NOW)


def test_a_receiver_can_check_who_sent_it() -> None:
    body = alert().body()
    signature = sign(body, alert_id=alert().id, at=1_795_000_000, secret=SECRET.encode())
    signed = f"{alert().id}.1795000000.".encode() + body
    expected = base64.b64encode(hmac.new(SECRET.encode(), signed, hashlib.sha256).digest()).decode()
    assert signature == f"v1,{expected}"
    assert sign(body, alert_id="other", at=1_795_000_000, secret=SECRET.encode()) != signature
    # The test vector that Standard Webhooks publishes for its libraries.
    known = sign(
        b'{"test": 2432232314}',
        alert_id="msg_p5jXN8AQM9LWM0D4loKWxJek",
        at=1_614_265_330,
        secret=base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
    )
    assert known == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_ids_are_the_same_at_every_try_and_differ_in_everything_else() -> None:
    assert alert().id == alert()._replace(found_at=NOW + 99, used=501).id
    assert len({alert().id, alert(80).id, alert(50, "globex").id, alert()._replace(period="2026-12").id}) == 4
    assert spend_alert().id == spend_alert()._replace(found_at=NOW + 99, spent="251.00").id
    ids = {spend_alert().id, spend_alert(80).id, spend_alert(limit="600").id, spend_alert()._replace(period="x").id}
    assert len(ids) == 4


def test_tries_come_to_an_end() -> None:
    tries = [next_try_at(attempts, now=NOW) for attempts in range(1, len(RETRY_SECONDS) + 2)]
    assert tries[-1] is None
    assert tries[:-1] == [NOW + seconds for seconds in RETRY_SECONDS]


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    url = f"sqlite:///{tmp_path}/gateway.db"
    if request.param == "postgres":
        url = str(request.getfixturevalue("postgres_url"))
    one = Database(url, bounds=Bounds(statement_seconds=30))
    Schema(one).upgrade()
    yield one
    one.close()


def test_an_alert_is_made_once_and_sent_by_one_node_at_a_time(database: Database) -> None:
    a, b = AlertStore(database), AlertStore(database)
    a.note([alert(), alert(80)])
    b.note([alert(), alert(80)._replace(used=990)])
    due = a.claim(now=NOW, seconds=60)
    assert [(one.alert.percent, one.attempts) for one in due] == [(50, 0), (80, 0)]
    assert b.claim(now=NOW + 59, seconds=60) == []
    # The first one died on the way: the other goes on.
    due = b.claim(now=NOW + 61, seconds=60)
    assert len(due) == 2
    b.tried(alert(), attempts=1, now=NOW + 62, next_at=None, failure="")
    b.tried(alert(80), attempts=1, now=NOW + 62, next_at=NOW + 72, failure="answered 500")
    assert [one.alert.percent for one in a.claim(now=NOW + 100, seconds=60)] == [80]
    log = a.read(limit=10)
    assert [(one["percent"], one["attempts"], one["failure"]) for one in log] == [(80, 1, "answered 500"), (50, 1, "")]
    assert log[0]["sent_at"] is None
    assert log[1]["sent_at"].endswith("Z")
    b.tried(alert(80), attempts=8, now=NOW + 100, next_at=None, failure="answered 500")
    assert a.claim(now=NOW + 10**6, seconds=60) == []


def test_an_alert_of_a_spend_limit_is_kept_like_one_of_a_quota_and_anew_for_another_limit(database: Database) -> None:
    a, b = AlertStore(database), AlertStore(database)
    a.note([spend_alert(), alert()])
    b.note([spend_alert()._replace(spent="251.00"), spend_alert(80)])
    due = a.claim(now=NOW, seconds=60)
    assert {(one.alert.type, one.alert.percent) for one in due} == {
        ("quota.used", 50),
        ("spend.used", 50),
        ("spend.used", 80),
    }
    assert spend_alert() in [one.alert for one in due]
    assert b.claim(now=NOW + 59, seconds=60) == []
    a.tried(spend_alert(), attempts=1, now=NOW + 1, next_at=None, failure="")
    a.note([spend_alert(), spend_alert(limit="600.00")])
    assert [one.alert.limit for one in a.claim(now=NOW + 2, seconds=60)] == ["600.00"]
    told = a.read(limit=10)
    assert {(one["type"], one["limit"], one["percent"], one["sent_at"] is not None) for one in told} == {
        ("quota.used", 1000, 50, False),
        ("spend.used", "500.00", 50, True),
        ("spend.used", "500.00", 80, False),
        ("spend.used", "600.00", 50, False),
    }
    assert len(a.read(limit=2)) == 2
    assert b.claim(now=NOW + 500 * 86_400, seconds=60)
    assert b.read(limit=10) == []


def share(used: int, *, clock: ManualClock) -> Share:
    one = Share(
        *("acme", "free", "records_per_month"), limit=1000, zone=ZoneInfo("UTC"), clock=clock, on_need=lambda _: None
    )
    one.take(one.ask(nodes=1, now=0), Told(1000, 0, 0), now=0)
    one.spend(used)
    return one


@pytest.fixture
def receiver() -> Iterator[Hook]:
    with hook() as found:
        yield found


async def test_marks_are_told_as_they_are_passed_and_again_until_they_are_taken(tmp_path: Path, receiver: Hook) -> None:
    database = Database(f"sqlite:///{tmp_path}/gateway.db")
    Schema(database).upgrade()
    workers, clock, told = Workers(database), ManualClock(now=NOW), []
    quota = share(499, clock=clock)

    def watchman() -> Watchman:
        return Watchman(
            shares=lambda: [quota],
            spendings=dict,
            store=AlertStore(database),
            work=workers.run,
            post=Webhook(receiver.url, SECRET),
            clock=clock,
            tell=lambda one, failure: told.append((one.percent, failure)),
        )

    try:
        one, other = watchman(), watchman()
        await one.look()
        assert receiver.posts == []
        quota.spend(1)
        for each in (one, other, one):
            await each.look()
        assert told == [(50, "")]
        receiver.status = 503
        quota.spend(500)
        await other.look()
        await one.look()
        assert sorted(told[1:]) == [(80, "answered 503"), (100, "answered 503")]
        receiver.status = 204
        clock.advance(RETRY_SECONDS[0] + 1)
        await one.look()
        assert sorted(told[3:]) == [(80, ""), (100, "")]
        clock.advance(CLAIM_SECONDS * 10)
        await other.look()
        assert len(told) == 5
        bodies = [json.loads(body) for _, body in receiver.posts]
        assert [body["percent"] for body in bodies[:1]] == [50]
        assert {body["percent"] for body in bodies} == set(MARKS)
        assert bodies[-1]["tenant"] == "acme"
        headers, body = receiver.posts[0]
        at = int(headers["webhook-timestamp"])
        expected = sign(body, alert_id=headers["webhook-id"], at=at, secret=SECRET.encode())
        assert headers["webhook-signature"] == expected
    finally:
        await workers.close()


class Choosy:
    """Fails at what is at 50 percent, in a way that nobody foresaw."""

    def __init__(self) -> None:
        self.posts: list[int] = []

    async def post(self, alert: Alert, *, now: float) -> None:
        if alert.percent == 50:
            raise RuntimeError("unforeseen")
        self.posts.append(alert.percent)


async def test_what_fails_unforeseen_ends_neither_the_rounds_nor_what_else_is_due(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    database = Database(f"sqlite:///{tmp_path}/gateway.db")
    Schema(database).upgrade()
    workers, clock, post = Workers(database), ManualClock(now=NOW), Choosy()
    rounds = 0

    def shares() -> list[Share]:
        nonlocal rounds
        rounds += 1
        if rounds < 4:
            raise RuntimeError("unforeseen too")
        return [share(800, clock=clock)]

    watchman = Watchman(
        shares=shares,
        spendings=dict,
        store=AlertStore(database),
        work=workers.run,
        post=post,
        clock=clock,
        tell=lambda one, failure: None,
        look_seconds=0.01,
    )
    running = asyncio.create_task(watchman.run())
    try:
        async with asyncio.timeout(60):
            while not post.posts:  # noqa: ASYNC110 - what is waited for happens in the database
                await asyncio.sleep(0.01)
        assert post.posts == [80]
        assert not running.done()
        assert len([one for one in caplog.records if one.levelname == "ERROR"]) == 1, "not a line a round"
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await workers.close()


@pytest.mark.parametrize("status", [302, 400, 500])
async def test_only_a_success_is_one_and_nobody_is_led_elsewhere(receiver: Hook, status: int) -> None:
    receiver.status = status
    with pytest.raises(NotTaken) as refused:
        await Webhook(receiver.url, SECRET).post(alert(), now=NOW)
    assert "s3cret" not in str(refused.value)
    assert len(receiver.posts) == 1


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/x?token=s3cret", "http://nowhere.invalid/s3cret", "http://[::1"])
async def test_who_is_not_there_is_no_more_than_a_failure(url: Any) -> None:
    with pytest.raises(NotTaken) as refused:
        await Webhook(url, SECRET).post(alert(), now=NOW)
    assert "s3cret" not in str(refused.value)
