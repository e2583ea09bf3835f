"""Limits as partners meet them: a real gateway, or two, one Redis, one database."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import sys
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import websockets
import yaml
from websockets.typing import Origin

from tests.parts.gateway import UNLIMITED, Deployment, GatewayProcess, catalog, contract
from tests.parts.hook import Hook, hook
from tests.parts.kafka import Kafka
from tests.parts.redis import RedisServer, server
from tests.parts.serving import RawClient, request

RECORDS = 700
ORIGIN = "https://app.example"
ADMIN = "an-operator-of-the-limits-test"


@dataclass
class Stage:
    """Two gateways of one deployment, and the tenants of it, each with a plan of its own."""

    deployment: Deployment
    redis: RedisServer
    hook: Hook
    a: GatewayProcess
    b: GatewayProcess
    prefix: str

    def headers(self, tenant: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.deployment.token(f'{tenant}-app')}"}


PLANS: dict[str, dict[str, Any]] = {
    "two": {"connections": 2},
    "slow": {"requests_per_second": {"rate": 2, "burst": 5}},
    "quota": {"records_per_month": 500},
    "bytes": {"bytes_per_day": 1000},
    "seen": {"requests_per_second": {"rate": 100, "burst": 200}, "connections": 5, "records_per_month": 10_000},
    "kill": {"connections": 2},
    "lower": {"connections": 3},
    "press": {"connections": 1, "records_per_day": 50},
    "news": {"records_per_day": 100},
    "marks": {"records_per_day": 100},
    "again": {"requests_per_second": {"rate": 0.1, "burst": 2}},
    "paced": {"records_per_second": {"rate": 0.5, "burst": 1}},
    "indebted": {"bytes_per_second": {"rate": 4, "burst": 4}},
    "narrow": {
        "records_per_second": {"rate": 100, "burst": 100},
        "streams": {"numbers": {"records_per_second": {"rate": 0.1, "burst": 10}}},
        "each_application": {"bytes_per_second": {"rate": 50, "burst": 100_000}},
    },
    "free": {},
}


def tenants(streams: list[str], **plans: dict[str, Any]) -> dict[str, Any]:
    """A plan, a tenant and an application for each."""
    document = catalog(streams)
    base, acme = document["plans"][0], document["tenants"][0]
    document["plans"] = [base | {"name": name, "limits": UNLIMITED | limits} for name, limits in plans.items()]
    document["tenants"] = [
        acme
        | {
            "name": name,
            "applications": [{"client_id": f"{name}-app", "title": name, "origins": [ORIGIN]}],
            "entitlements": [{"product": "all", "plan": name, "from": "2020-01-01"}],
        }
        for name in plans
    ]
    return document


@pytest.fixture(scope="module")
def stage(kafka: Kafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    prefix = f"limits.{uuid.uuid4().hex[:8]}"
    document = contract("numbers", f"{prefix}.numbers", partitions=1)

    async def fill() -> None:
        await kafka.create_topic(f"{prefix}.numbers", 1)
        await kafka.produce(f"{prefix}.numbers", [b'{"n":%d}' % n for n in range(RECORDS)])

    asyncio.run(fill())
    with contextlib.ExitStack() as stack:
        redis, receiver = stack.enter_context(server()), stack.enter_context(hook())
        deployment = Deployment(
            tmp_path_factory.mktemp("limits"),
            kafka.bootstrap,
            [document],
            tenants(["numbers"], **PLANS),
            settings={
                "redis": {"url": redis.url},
                "stream": {"heartbeat_seconds": 1, "drain_seconds": 5},
                "limits": {"refused_credentials_per_minute": 20, "exempt_addresses": ["10.0.0.0/8"]},
                "admin": {"tokens": [ADMIN]},
                "alerts": {"webhook_url": receiver.url, "secret": "what the alerts are signed with"},
                "http": {"trusted_proxies": ["127.0.0.1"]},
            },
        )
        a, b = (stack.enter_context(deployment.gateway(node)) for node in "ab")
        yield Stage(deployment, redis, receiver, a, b, prefix)


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=30) as one:
        yield one


def address(node: GatewayProcess, suffix: str, **query: Any) -> httpx.URL:
    return httpx.URL(f"{node.base_url}/v1/streams/numbers/{suffix}", params=query)


@contextlib.asynccontextmanager
async def reading(
    client: httpx.AsyncClient, stage: Stage, node: GatewayProcess, tenant: str, suffix: str = "sse", **query: Any
) -> AsyncIterator[httpx.Response]:
    async with client.stream("GET", address(node, suffix, **query), headers=stage.headers(tenant)) as answer:
        yield answer


# ---- connections ---------------------------------------------------------------------------------------------------


async def test_two_nodes_share_one_cap_and_all_protocols_count(stage: Stage, client: httpx.AsyncClient) -> None:
    headers = stage.headers("two")
    async with reading(client, stage, stage.a, "two") as sse, reading(client, stage, stage.b, "two", "ndjson"):
        assert sse.status_code == 200
        for node in (stage.a, stage.b):
            refused = await client.get(address(node, "sse"), headers=headers)
            problem = refused.json()
            assert (refused.status_code, problem["code"], problem["close_code"]) == (429, "too_many_connections", 4429)
            assert int(refused.headers["Retry-After"]) * 1000 >= problem["retry_after_ms"] > 0
            # A page is no open read.
            assert (await client.get(address(node, "records"), headers=headers)).status_code == 200
        url = f"{stage.b.base_url.replace('http', 'ws')}/v1/streams/numbers/ws"
        with pytest.raises(websockets.InvalidStatus) as upgrade:
            await websockets.connect(url, additional_headers=headers, proxy=None)
        assert upgrade.value.response.status_code == 429
        async with websockets.connect(url, additional_headers=headers, origin=Origin(ORIGIN), proxy=None) as browser:
            goodbye = json.loads(await browser.recv())
            assert (goodbye["type"], goodbye["code"]) == ("goodbye", "too_many_connections")
            with pytest.raises(websockets.ConnectionClosed) as closed:
                await browser.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 4429
        ticket = await client.post(f"{stage.a.base_url}/v1/tickets", json={"stream": "numbers"}, headers=headers)
        by_ticket = await client.get(address(stage.a, "sse", ticket=ticket.json()["ticket"]))
        assert by_ticket.status_code == 200
        assert "event: goodbye" in by_ticket.text
        assert by_ticket.text.startswith("retry: ")
    await opens_again(client, stage, "two", within_seconds=30)


async def opens_again(client: httpx.AsyncClient, stage: Stage, tenant: str, *, within_seconds: float) -> float:
    """Seconds until a read can be opened on the second node."""
    began = time.monotonic()
    while True:
        async with reading(client, stage, stage.b, tenant) as answer:
            if answer.status_code == 200:
                return time.monotonic() - began
        assert time.monotonic() - began < within_seconds
        await asyncio.sleep(0.2)


async def test_a_killed_nodes_seats_come_free_and_a_lowered_cap_ends_the_newest(
    stage: Stage, client: httpx.AsyncClient
) -> None:
    with stage.deployment.gateway("c") as doomed:
        async with contextlib.AsyncExitStack() as held:
            for _ in range(2):
                answer = await held.enter_async_context(reading(client, stage, doomed, "kill"))
                assert answer.status_code == 200
            assert (await client.get(address(stage.b, "sse"), headers=stage.headers("kill"))).status_code == 429
            doomed.kill()
    # The promise is ten seconds; the rest is for a machine that is busy with other things.
    free, _ = await asyncio.gather(opens_again(client, stage, "kill", within_seconds=25), lower_a_cap(client, stage))
    assert free < 25


async def lower_a_cap(client: httpx.AsyncClient, stage: Stage) -> None:
    async with contextlib.AsyncExitStack() as held:
        reads = []
        for node in (stage.a, stage.b, stage.a):
            answer = await held.enter_async_context(reading(client, stage, node, "lower", "ndjson"))
            lines = answer.aiter_lines()
            assert json.loads(await anext(lines))["type"] == "welcome"
            reads.append(lines)
        lowered = tenants(["numbers"], **(PLANS | {"lower": {"connections": 1}}))
        for plan in lowered["plans"]:
            plan["revision"] = 2 if plan["name"] == "lower" else 1
        await apply(stage, lowered)
        for lines in reads[1:]:
            async with asyncio.timeout(30):
                frames = [json.loads(line) async for line in lines]
            assert (frames[-1]["type"], frames[-1]["code"]) == ("goodbye", "too_many_connections")
            assert frames[-1]["close_code"] == 4429
        async with asyncio.timeout(30):
            assert json.loads(await anext(reads[0]))["type"] == "checkpoint"


async def apply(stage: Stage, document: dict[str, Any]) -> None:
    path = stage.deployment.directory / f"catalog-{uuid.uuid4().hex[:6]}.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False).replace("'2020-01-01'", "2020-01-01"))
    options = stage.deployment.options("apply")
    done = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", "apply", *options, str(path)), stdout=-1, stderr=-2
    )
    told, _ = await done.communicate()
    assert done.returncode == 0, told


# ---- requests and fields -------------------------------------------------------------------------------------------

_MEMBER = r'"([a-z_]+)"((?:;[a-z-]+=(?:\d+|"[a-z-]+"))*)'


def parsed(field: str) -> dict[str, dict[str, str]]:
    """A list of strings with parameters (RFC 9651)."""
    assert re.fullmatch(f"{_MEMBER}(, {_MEMBER})*", field), field
    return {
        name: dict(pair.split("=", 1) for pair in parameters.split(";") if pair)
        for name, parameters in re.findall(_MEMBER, field)
    }


async def test_requests_over_the_rate_are_told_when_to_come_back(stage: Stage, client: httpx.AsyncClient) -> None:
    headers = stage.headers("slow")
    answers = [await client.get(f"{stage.a.base_url}/v1/streams", headers=headers) for _ in range(12)]
    codes = [answer.status_code for answer in answers]
    assert codes[0] == 200
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.json()["code"] == "rate_limited"
    assert int(refused.headers["Retry-After"]) >= 1
    for answer in answers:
        policy = parsed(answer.headers["RateLimit-Policy"])["requests_per_second"]
        assert policy == {"q": "6", "w": "3"}
        state = parsed(answer.headers["RateLimit"])["requests_per_second"]
        assert 0 <= int(state["r"]) <= 5
        assert int(state["t"]) == 1
    assert parsed(refused.headers["RateLimit"])["requests_per_second"]["r"] == "0"
    # Every address counts, also where the answer is a refusal of another kind, and on every node.
    for node in (stage.a, stage.b):
        for path in ("/v1/limits", "/v1/streams/absent/records", "/v1/streams/numbers/sse", "/openapi.json"):
            assert (await client.get(f"{node.base_url}{path}", headers=headers)).status_code in (200, 404, 429)


async def test_who_asks_on_and_on_is_told_each_time_and_counted_each_time(stage: Stage) -> None:
    place = urlsplit(stage.a.base_url)
    head = request(
        "/v1/streams/numbers/records?from=earliest&wait=0", f"Authorization: {stage.headers('again')['Authorization']}"
    )
    said, limits = len(stage.a.log()), limited(stage.a, "again")
    client = RawClient(*await asyncio.open_connection(place.hostname, place.port))
    answers = []
    for _ in range(40):
        await client.say(head)
        answers.append(await client.answer())
    client.leave()
    await client.writer.wait_closed()
    refused = [answer for answer in answers if answer.status == 429]
    assert {answer.status for answer in answers} == {200, 429}
    assert len(refused) >= 30
    for answer in refused:
        told = answer.problem()
        assert told["correlation_id"] == answer.headers["x-correlation-id"]
        assert int(answer.headers["retry-after"]) == -(-told["retry_after_ms"] // 1000)
        assert parsed(answer.headers["ratelimit"])["requests_per_second"]["r"] == "0"
    assert len({tuple(answer.headers) for answer in refused}) == 1
    assert len({tuple(answer.problem()) for answer in refused}) == 1
    assert limited(stage.a, "again") - limits == len(refused)
    lines = [json.loads(line) for line in stage.a.log()[said:].splitlines() if '"again-app"' in line]
    access = [line for line in lines if line["event"] == "access"]
    assert [line["status"] for line in access] == [answer.status for answer in answers]
    assert [line["correlation_id"] for line in access] == [answer.headers["x-correlation-id"] for answer in answers]
    assert len({tuple(line) for line in access if line["status"] == 429}) == 1


def limited(node: GatewayProcess, plan: str) -> float:
    """How many requests of this plan were refused, as the metrics count them."""
    found = re.findall(
        rf'^gateway_limited_total{{.*plan="{plan}".*}} (\S+)$',
        httpx.get(f"{node.admin_url}/metrics").text,
        re.MULTILINE,
    )
    return sum(map(float, found))


async def test_fields_are_on_every_answer_to_a_known_caller(stage: Stage, client: httpx.AsyncClient) -> None:
    headers = stage.headers("seen")
    for suffix in ("records", "sse", "ndjson"):
        async with reading(client, stage, stage.a, "seen", suffix) as answer:
            policy = parsed(answer.headers["RateLimit-Policy"])
            assert policy["requests_per_second"] == {"q": "200", "w": "2"}
            assert policy["records_per_month"]["q"] == "10000"
            assert 28 * 86_400 <= int(policy["records_per_month"]["w"]) <= 31 * 86_400 + 3_600
            state = parsed(answer.headers["RateLimit"])
            assert 0 < int(state["records_per_month"]["r"]) <= 10_000
            assert 0 < int(state["records_per_month"]["t"]) <= 31 * 86_400 + 3_600
    refused = await client.get(f"{stage.a.base_url}/v1/streams/absent", headers=headers)
    assert refused.status_code == 404
    assert "RateLimit" in refused.headers
    nobody = await client.get(f"{stage.a.base_url}/v1/streams")
    assert nobody.status_code == 401
    assert "RateLimit" not in nobody.headers
    unlimited = await client.get(f"{stage.a.base_url}/v1/streams", headers=stage.headers("free"))
    assert unlimited.status_code == 200
    assert "RateLimit" not in unlimited.headers


async def test_the_callers_limits_and_their_use(stage: Stage, client: httpx.AsyncClient) -> None:
    headers = stage.headers("seen")
    page = await client.get(address(stage.b, "records", **{"from": "earliest", "limit": 300}), headers=headers)
    assert len(page.json()["records"]) == 300
    async with reading(client, stage, stage.a, "seen") as answer:
        assert answer.status_code == 200
        told = await client.get(f"{stage.a.base_url}/v1/limits", headers=headers)
    assert told.status_code == 200
    (plan,) = told.json()["plans"]
    assert (plan["plan"], plan["streams"]) == ("seen", ["numbers"])
    limits = plan["limits"]
    assert limits["connections"] == {"limit": 5, "used": 1, "remaining": 4}
    assert limits["records_per_second"] == {"limit": "unlimited"}
    assert limits["requests_per_second"]["limit"] == 100
    assert limits["requests_per_second"]["burst"] == 200
    month = limits["records_per_month"]
    assert (month["limit"], month["used"], month["remaining"], month["used_percent"]) == (10_000, 300, 9_700, 3)
    assert re.fullmatch(r"\d{4}-\d{2}", month["period"])
    assert month["resets_at"].endswith("Z")
    assert (await client.get(f"{stage.a.base_url}/v1/limits")).status_code == 401
    assert (await client.get(f"{stage.a.base_url}/v1/limits?x=1", headers=headers)).status_code == 400


async def test_the_callers_tighter_limits_say_why_a_read_is_slower_than_the_plan(
    stage: Stage, client: httpx.AsyncClient
) -> None:
    headers = stage.headers("narrow")
    page = await client.get(address(stage.a, "records", **{"from": "earliest", "limit": 300}), headers=headers)
    assert len(page.json()["records"]) <= 10
    (plan,) = (await client.get(f"{stage.a.base_url}/v1/limits", headers=headers)).json()["plans"]
    assert plan["limits"].keys().isdisjoint(("streams", "each_application"))
    assert (plan["limits"]["records_per_second"]["limit"], plan["limits"]["records_per_second"]["burst"]) == (100, 100)
    assert plan["stream_limits"].keys() == {"numbers"}
    (name, tight), *others = plan["stream_limits"]["numbers"].items()
    assert (name, others, tight["limit"], tight["burst"]) == ("records_per_second", [], 0.1, 10)
    assert tight["remaining"] < 5
    assert tight["resets_in_ms"] > 1000
    own = plan["application_limits"]["bytes_per_second"]
    assert (own["limit"], own["burst"]) == (50, 100_000)
    assert own["remaining"] < 100_000
    (plain,) = (await client.get(f"{stage.a.base_url}/v1/limits", headers=stage.headers("seen"))).json()["plans"]
    assert plain.keys().isdisjoint(("stream_limits", "application_limits"))


async def test_without_limits_nothing_is_refused(stage: Stage, client: httpx.AsyncClient) -> None:
    headers = stage.headers("free")
    answers = await asyncio.gather(*(client.get(f"{stage.a.base_url}/v1/streams", headers=headers) for _ in range(60)))
    assert {answer.status_code for answer in answers} == {200}
    async with contextlib.AsyncExitStack() as held:
        for _ in range(20):
            answer = await held.enter_async_context(reading(client, stage, stage.a, "free"))
            assert answer.status_code == 200


async def test_operators_see_who_presses_against_which_limit(stage: Stage, client: httpx.AsyncClient) -> None:
    headers = stage.headers("press")
    async with reading(client, stage, stage.a, "press") as answer:
        assert answer.status_code == 200
        for _ in range(3):
            assert (await client.get(address(stage.b, "sse"), headers=headers)).status_code == 429
        url = f"{stage.a.admin_url}/admin/limits"
        told = await client.get(url, params={"limit": 1000}, headers={"Authorization": f"Bearer {ADMIN}"})
        assert told.status_code == 200
        busy = next(one for one in told.json()["tenants"] if one["tenant"] == "press")
        assert (busy["plan"], busy["open_reads"], busy["refused"]) == ("press", 1, {"connections": 3})
        assert busy["quotas"] == {"records_per_day": 0}
        assert (await client.get(url)).status_code == 401


# ---- quotas --------------------------------------------------------------------------------------------------------


async def frames(client: httpx.AsyncClient, stage: Stage, node: GatewayProcess, tenant: str) -> list[dict[str, Any]]:
    async with reading(client, stage, node, tenant, "ndjson", **{"from": "earliest"}) as answer:
        return [json.loads(line) async for line in answer.aiter_lines()]


async def test_a_quota_is_exact_over_two_nodes_and_ends_with_its_reset_time(
    stage: Stage, client: httpx.AsyncClient
) -> None:
    async with asyncio.timeout(60):
        both = await asyncio.gather(*(frames(client, stage, node, "quota") for node in (stage.a, stage.b)))
    assert sum(frame["type"] == "record" for told in both for frame in told) == 500
    for told in both:
        goodbye = told[-1]
        if "status" in goodbye:
            # The other node was so quick that nothing was left when this one was asked.
            assert (goodbye["status"], goodbye["code"], len(told)) == (429, "quota_exceeded", 1)
            continue
        assert (goodbye["type"], goodbye["code"], goodbye["close_code"]) == ("goodbye", "quota_exceeded", 4429)
        assert goodbye["reconnect"] is True
        assert goodbye["retry_after_ms"] > 0
        assert goodbye["cursor"]
        assert goodbye["resets_at"].endswith("Z")
    for node in (stage.a, stage.b):
        for suffix in ("records", "sse", "ndjson"):
            refused = await client.get(address(node, suffix), headers=stage.headers("quota"))
            assert (refused.status_code, refused.json()["code"]) == (429, "quota_exceeded")
            assert refused.json()["resets_at"] == both[0][-1]["resets_at"]
            assert int(refused.headers["Retry-After"]) > 0
            assert parsed(refused.headers["RateLimit"])["records_per_month"]["r"] == "0"


async def test_a_stream_is_told_once_that_half_of_a_quota_is_used(stage: Stage, client: httpx.AsyncClient) -> None:
    page = await client.get(
        address(stage.b, "records", **{"from": "earliest", "limit": 60}), headers=stage.headers("news")
    )
    assert len(page.json()["records"]) == 60
    async with reading(client, stage, stage.b, "news", "ndjson") as answer, asyncio.timeout(60):
        found: list[dict[str, Any]] = []
        async for line in answer.aiter_lines():
            found.append(json.loads(line))
            if sum(frame["type"] == "checkpoint" for frame in found) >= 3:
                break
    (quota,) = [frame["quota"] for frame in found if "quota" in frame]
    assert (quota["limit"], quota["unit"], quota["used_percent"]) == (100, "records_per_day", 60)
    assert quota["resets_at"].endswith("Z")


async def test_operators_are_told_once_at_each_mark(stage: Stage, client: httpx.AsyncClient) -> None:
    status = 200
    async with asyncio.timeout(60):
        # A page may be shorter than what is left: the other node has a part of it.
        while status != 429:
            for node in (stage.a, stage.b):
                url = address(node, "records", **{"from": "earliest", "limit": 60})
                status = (await client.get(url, headers=stage.headers("marks"))).status_code
                assert status in (200, 429)
    mine: list[int] = []
    async with asyncio.timeout(30):
        while mine != [50, 80, 100]:
            told = [json.loads(body) for _, body in list(stage.hook.posts)]
            mine = sorted(one["percent"] for one in told if one["tenant"] == "marks")
            await asyncio.sleep(0.05)
    log = await client.get(f"{stage.a.admin_url}/admin/alerts", headers={"Authorization": f"Bearer {ADMIN}"})
    assert [one["percent"] for one in log.json()["alerts"] if one["tenant"] == "marks"] == [100, 80, 50]


async def test_a_quota_of_bytes_ends_with_at_most_one_record_more(stage: Stage, client: httpx.AsyncClient) -> None:
    async with asyncio.timeout(60):
        told = await frames(client, stage, stage.a, "bytes")
    sent = [len(json.dumps(frame["data"], separators=(",", ":"))) for frame in told if frame["type"] == "record"]
    assert 1000 <= sum(sent) < 1000 + max(sent)
    assert told[-1]["code"] == "quota_exceeded"


# ---- rates -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tenant", "unit"), [("paced", "records_per_second"), ("indebted", "bytes_per_second")])
async def test_who_has_used_up_its_burst_hears_why_before_the_next_record_comes(
    stage: Stage, client: httpx.AsyncClient, tenant: str, unit: str
) -> None:
    query = {"from": "earliest"}
    async with reading(client, stage, stage.a, tenant, "ndjson", **query) as answer, asyncio.timeout(60):
        types: list[str] = []
        async for line in answer.aiter_lines():
            told = json.loads(line)
            if told["type"] in ("record", "throttled"):
                types.append(told["type"])
            if types[-2:] == ["record", "throttled"]:
                break
    assert types == ["record", "throttled"]
    assert told["unit"] == unit
    assert 0 < told["resume_in_ms"] <= 3_000


# ---- addresses -----------------------------------------------------------------------------------------------------


async def test_who_brings_many_bad_tokens_is_not_listened_to_for_a_while(
    stage: Stage, client: httpx.AsyncClient
) -> None:
    url = f"{stage.a.base_url}/v1/streams"
    good = stage.headers("free")

    async def ask(address: str, token: str = "no.token.atall") -> httpx.Response:
        headers = {"Authorization": f"Bearer {token}", "X-Forwarded-For": address}
        return await client.get(url, headers=headers)

    assert (await client.get(url, headers=good)).status_code == 200
    answers = [await ask("2001:db8:1:1::7") for _ in range(30)]
    codes = [answer.status_code for answer in answers]
    assert codes[:20] == [401] * 20
    assert 429 in codes
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.json()["code"] == "too_many_attempts"
    assert int(refused.headers["Retry-After"]) >= 1
    # The same customer from another address of its network; then another customer, and one that is exempt.
    assert (await ask("2001:db8:1:1:ffff::1")).status_code == 429
    assert (await ask("2001:db8:1:2::7")).status_code == 401
    assert {(await ask("10.1.2.3")).status_code for _ in range(40)} == {401}
    # Who was found good before goes on.
    known = good | {"X-Forwarded-For": "2001:db8:1:1::7"}
    assert (await client.get(url, headers=known)).status_code == 200
    fresh = {"Authorization": f"Bearer {stage.deployment.token('free-app')}", "X-Forwarded-For": "2001:db8:1:1::7"}
    assert (await client.get(url, headers=fresh)).status_code == 429


# ---- without Redis -------------------------------------------------------------------------------------------------


async def test_what_redis_forgets_in_the_middle_the_quota_remembers(
    kafka: Kafka, tmp_path: Path, client: httpx.AsyncClient
) -> None:
    topic = f"flushed.{uuid.uuid4().hex[:8]}"
    await kafka.create_topic(topic, 1)
    await kafka.produce(topic, [b'{"n":%d}' % n for n in range(400)])
    with server() as redis:
        deployment = Deployment(
            tmp_path,
            kafka.bootstrap,
            [contract("numbers", topic, partitions=1)],
            tenants(["numbers"], quota={"records_per_month": 300}),
            settings={"redis": {"url": redis.url}, "stream": {"drain_seconds": 5}},
        )
        with deployment.gateway("a") as node:
            headers = {"Authorization": f"Bearer {deployment.token('quota-app')}"}
            got = await page(client, node, headers, 150)
            redis.kill()
            got += await page(client, node, headers, 50)
            redis.start()
            for _ in range(20):
                more = await client.get(address(node, "records", **{"from": "earliest", "limit": 150}), headers=headers)
                if more.status_code == 429:
                    break
                got += len(more.json()["records"])
            assert (got, more.status_code, more.json()["code"]) == (300, 429, "quota_exceeded")


async def page(client: httpx.AsyncClient, node: GatewayProcess, headers: dict[str, str], limit: int) -> int:
    answer = await client.get(address(node, "records", **{"from": "earliest", "limit": limit}), headers=headers)
    assert answer.status_code == 200
    return len(answer.json()["records"])
