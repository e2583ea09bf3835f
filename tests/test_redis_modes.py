"""Redis in every shape that it is run in: watched by sentinels, as a cluster, over TLS; with no right too many."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import ssl
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.clock import SystemClock
from gateway.limits.breaker import Away
from gateway.limits.breakers import Breakers
from gateway.limits.bucket import Rate
from gateway.limits.lending import Ask
from gateway.limits.parts import part_of, part_tag
from gateway.limits.redis import RedisLink
from gateway.limits.store import Exchange, RedisStore, account_key
from gateway.limits.topology import slot_of
from gateway.pem import PemFiles
from tests.conftest import or_left_out
from tests.parts import redis as redis_part
from tests.parts.certificates import make_authority, make_certificate
from tests.parts.gateway import UNLIMITED, Deployment, GatewayProcess, catalog, contract
from tests.parts.kafka import Kafka, eventually
from tests.parts.partner import Partner, SseStream
from tests.parts.redis import RedisCluster, RedisServer, SentinelTrio

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "operations" / "redis.md").read_text(encoding="utf-8")
SECRET = "only-what-is-needed"
LONG = 60.0


def rights() -> tuple[list[str], list[str]]:
    """The lines of the page that make the gateway's user, at servers and at sentinels."""
    lines = [line.replace("SECRET", SECRET).split() for line in PAGE.splitlines() if line.startswith("ACL SETUSER")]
    assert len(lines) == 2
    return lines[0], lines[1]


@pytest.fixture
def trio() -> Iterator[SentinelTrio]:
    with or_left_out(redis_part.sentinels()) as own:
        yield own


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisCluster]:
    with or_left_out(redis_part.cluster()) as own:
        for server in own.servers:
            server.command(*rights()[0])
        yield own


HELD = {
    "requests_per_second": {"rate": 100, "burst": 200},
    "records_per_second": {"rate": 20, "burst": 20},
    "connections": 5,
    "records_per_day": 1_000_000,
}
FEW = {"requests_per_second": {"rate": 0.01, "burst": 10}}
TWO = {"connections": 2}
QUOTA = {"records_per_day": 60}
PLANS: dict[str, dict[str, Any]] = {"held": HELD, "few": FEW, "two": TWO, "quota": QUOTA}


async def deployment(kafka: Kafka, folder: Path, redis: dict[str, Any]) -> tuple[Deployment, str]:
    """One stream over an empty topic, and a tenant for each plan; and the topic."""
    topic = f"modes.{uuid.uuid4().hex[:8]}"
    await kafka.create_topic(topic, 1)
    told = catalog(["s"])
    base, acme = told["plans"][0], told["tenants"][0]
    told["plans"] = [base | {"name": name, "limits": UNLIMITED | limits} for name, limits in PLANS.items()]
    told["tenants"] = [
        acme
        | {
            "name": name,
            "applications": [{"client_id": f"{name}-app", "title": name}],
            "entitlements": [{"product": "all", "plan": name, "from": "2020-01-01"}],
        }
        for name in PLANS
    ]
    settings = {"redis": redis, "admin": {"port": 0, "tokens": ["operator"]}}
    made = Deployment(folder / "d", kafka.bootstrap, [contract("s", topic, partitions=1)], told, settings)
    return made, topic


def partner(deployment: Deployment, node: GatewayProcess, plan: str) -> Partner:
    return Partner(node.base_url, deployment.token(f"{plan}-app"))


async def ticket_of(who: Partner) -> str:
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.post(
            f"{who.base_url}/v1/tickets", content=json.dumps({"stream": "s"}), headers=who.all_headers()
        )
    assert answer.status_code == 201, answer.text
    return str(answer.json()["ticket"])


def standing(node: GatewayProcess, *names: str) -> dict[str, str]:
    """How dependencies stand, while the node is ready."""
    status, body = node.readiness()
    assert status == 200, body
    return {name: body["dependencies"][name]["status"] for name in names}


def stands(node: GatewayProcess, **wanted: str) -> Callable[[], bool]:
    """Whether dependencies stand so."""
    return lambda: standing(node, *wanted) == wanted


class Counting:
    """A stream that is read on and on: how many records came, in order and whole."""

    def __init__(self, stream: SseStream) -> None:
        self.records = 0
        self._stream = stream
        self._reading = asyncio.ensure_future(self._read())

    async def _read(self) -> None:
        while True:
            heard = await self._stream.next(seconds=LONG)
            assert heard.kind in ("record", "checkpoint", "throttled"), heard
            if heard.kind == "record":
                assert heard.data["data"] == {"n": self.records}
                self.records += 1

    async def more(self, count: int) -> None:
        """Wait for so many more."""
        wanted = self.records + count
        await eventually(lambda: self._reading.done() or self.records >= wanted, seconds=LONG)
        if self._reading.done():
            self._reading.result()

    async def close(self) -> None:
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)


class Knocking:
    """Requests one after the other, until it is closed: every status that was answered."""

    def __init__(self, *partners: Partner) -> None:
        self.statuses: list[int] = []
        self._partners = partners
        self._knocking = asyncio.ensure_future(self._knock())

    async def _knock(self) -> None:
        async with httpx.AsyncClient(trust_env=False, timeout=40) as client:
            while True:
                for who in self._partners:
                    url = f"{who.base_url}/v1/streams/s/records?limit=1"
                    self.statuses.append((await client.get(url, headers=who.all_headers())).status_code)
                    await asyncio.sleep(0.01)

    async def close(self) -> None:
        self._knocking.cancel()
        await asyncio.gather(self._knocking, return_exceptions=True)


@contextlib.asynccontextmanager
async def traffic(deployment: Deployment, kafka: Kafka, topic: str, *nodes: GatewayProcess) -> AsyncIterator[Counting]:
    """A paced read by a ticket and requests under a limit at all nodes, none of which may be answered 5xx."""
    ticket = await ticket_of(partner(deployment, nodes[0], "held"))
    async with Partner(nodes[-1].base_url, None).sse("s", ticket=ticket) as stream:
        await stream.until("checkpoint")
        await kafka.produce(topic, [b'{"n":%d}' % n for n in range(3000)], partition=0)
        counting = Counting(stream)
        knocking = Knocking(*(partner(deployment, node, "held") for node in nodes))
        try:
            await counting.more(5)
            yield counting
            await counting.more(15)
        finally:
            await knocking.close()
            await counting.close()
    assert set(knocking.statuses) <= {200, 429}, "Redis is no reason to answer 5xx"
    assert 200 in knocking.statuses


async def test_a_master_dies_under_traffic_and_the_next_one_is_found(
    kafka: Kafka, trio: SentinelTrio, tmp_path: Path
) -> None:
    for server in trio.servers:
        server.command(*rights()[0])
    for sentinel in trio.sentinels:
        sentinel.command(*rights()[1])
    redis = {
        "mode": "sentinel",
        "url": f"redis://gateway:{SECRET}@/0",
        "sentinels": [one.address for one in trio.sentinels],
        "sentinel_service": trio.service,
        "sentinel_username": "gateway",
        "sentinel_password": SECRET,
    }
    made, topic = await deployment(kafka, tmp_path, redis)
    with made.gateway() as node:
        async with traffic(made, kafka, topic, node) as stream:
            before = trio.master
            before.kill()
            await eventually(stands(node, limits="degraded"), seconds=LONG)
            await stream.more(10)
            await eventually(lambda: trio.master is not before, seconds=LONG)
            await eventually(stands(node, limits="ok", redis="ok"), seconds=LONG)
            await eventually(lambda: bool(trio.master.command("KEYS", "gateway:limits:1:account:*")), seconds=LONG)
            # The old one comes back as a replica, and nobody minds.
            before.start()
            await stream.more(10)
            assert stands(node, limits="ok", redis="ok")()
        assert await ticket_of(partner(made, node, "held"))
        # One line at each change, and no other.
        changes = re.findall(r'"event":\s*"(limits_degraded|limits_recovered)"', node.log())
        assert changes == ["limits_degraded", "limits_recovered"] * (len(changes) // 2), changes
        assert changes


async def test_over_a_cluster_nodes_share_everything_and_a_failover_mends_itself(
    kafka: Kafka, cluster: RedisCluster, tmp_path: Path
) -> None:
    redis = {
        "mode": "cluster",
        "url": f"redis://gateway:{SECRET}@{cluster.masters[0].address}",
        "cluster_nodes": [cluster.masters[2].address],
    }
    made, topic = await deployment(kafka, tmp_path, redis)
    with made.gateway("a") as a, made.gateway("b") as b:
        nodes = (a, b)
        await rates_are_shared(made, *nodes)
        await seats_are_shared(made, *nodes)
        async with traffic(made, kafka, topic, a, b) as stream:
            await quotas_are_shared(made, *nodes)
            # The one that also has who is there.
            dying = cluster.master_of(slot_of("gateway:{nodes}:1:present"))
            assert dying is cluster.masters[1] is home_of(cluster, "held")
            dying.kill()
            await eventually(lambda: "degraded" in [standing(node, "limits")["limits"] for node in nodes], seconds=LONG)
            await stream.more(10)
            for node in nodes:
                await eventually(stands(node, limits="ok", redis="ok"), seconds=LONG)
            await eventually(lambda: sessions(a, b), seconds=LONG)


async def rates_are_shared(made: Deployment, a: GatewayProcess, b: GatewayProcess) -> None:
    answered = [
        (await partner(made, node, "few").get("/v1/streams/s/records", limit=1)).status_code for node in (a, b) * 8
    ]
    # By itself each node would let all of its eight through.
    assert 8 <= answered.count(200) <= 12, answered
    assert answered.count(429) == 16 - answered.count(200), answered


async def seats_are_shared(made: Deployment, a: GatewayProcess, b: GatewayProcess) -> None:
    async with partner(made, a, "two").sse("s"), partner(made, b, "two").sse("s"):
        for node in (a, b):
            answer = await partner(made, node, "two").get("/v1/streams/s/sse")
            assert (answer.status_code, answer.json()["code"]) == (429, "too_many_connections")


async def quotas_are_shared(made: Deployment, a: GatewayProcess, b: GatewayProcess) -> None:
    read, cursors = 0, {a: "earliest", b: "earliest"}
    for node in (a, b) * 60:
        parameters = {"cursor": cursors[node]} if cursors[node] != "earliest" else {"from": "earliest"}
        answer = await partner(made, node, "quota").get("/v1/streams/s/records", limit=7, wait=5, **parameters)
        if answer.status_code == 429:
            assert answer.json()["code"] == "quota_exceeded", answer.text
            break
        read += len(answer.json()["records"])
        cursors[node] = answer.json()["next_cursor"]
    else:
        pytest.fail(f"no end after {read} records")
    assert QUOTA["records_per_day"] <= read < 1.5 * QUOTA["records_per_day"]


async def sessions(a: GatewayProcess, b: GatewayProcess) -> bool:
    """Whether each node knows of the read at the other."""
    found = []
    async with httpx.AsyncClient(trust_env=False, headers={"Authorization": "Bearer operator"}) as client:
        for node in (a, b):
            answer = await client.get(f"{node.admin_url}/admin/sessions")
            found.append(answer.status_code == 200 and len(answer.json()["sessions"]) == 1)
    return all(found)


def home_of(cluster: RedisCluster, tenant: str) -> RedisServer:
    """Who had what limits know of a tenant in the beginning."""
    return cluster.master_of(slot_of(part_tag(part_of(tenant))))


def user_of(cluster: RedisCluster, number: int = 0) -> str:
    return f"redis://gateway:{SECRET}@{cluster.masters[number].address}"


async def test_a_master_without_a_replica_takes_its_own_tenants_with_it_and_no_others(cluster: RedisCluster) -> None:
    link = RedisLink(user_of(cluster), mode="cluster", nodes=[cluster.masters[2].address])
    breakers = Breakers(SystemClock())
    store = RedisStore(link.client, breakers, node="here")
    probing = asyncio.ensure_future(breakers.run(store.probe))
    tenants = [f"tenant-{number}" for number in range(200)]

    def home(tenant: str) -> RedisServer:
        return home_of(cluster, tenant)

    dead, alive = cluster.masters[0], cluster.masters[2]
    tenants = [tenant for tenant in tenants if home(tenant) in (dead, alive)]
    numbers = iter(range(1, 10**6))

    async def lend() -> dict[RedisServer, set[bool]]:
        asks = [Ask("requests", Rate.of(1, 100), want=1, start=100)]
        answers = await store.lend([Exchange(account_key(tenant, "pro"), next(numbers), asks) for tenant in tenants])
        found: dict[RedisServer, set[bool]] = {dead: set(), alive: set()}
        for tenant, answer in zip(tenants, answers, strict=True):
            found[home(tenant)].add(isinstance(answer, Away))
        return found

    try:
        await eventually(until(lend, {dead: {False}, alive: {False}}), seconds=LONG)
        dead.kill()
        await eventually(until(lend, {dead: {True}, alive: {False}}), seconds=LONG)
        assert breakers.is_open
        assert "parts of the cluster" in breakers.reason
        with pytest.raises(ConnectionError, match=str(dead.port)):
            await link.ping()
        dead.start()
        dead.command(*rights()[0])
        await eventually(until(lend, {dead: {False}, alive: {False}}), seconds=LONG)
        await eventually(lambda: not breakers.is_open, seconds=LONG)
    finally:
        probing.cancel()
        await asyncio.gather(probing, return_exceptions=True)
        await link.close()


def until(ask: Callable[[], Awaitable[Any]], wanted: Any) -> Callable[[], Awaitable[bool]]:
    async def holds() -> bool:
        return bool(await ask() == wanted)

    return holds


async def test_a_slot_that_moves_is_followed(cluster: RedisCluster) -> None:
    link = RedisLink(user_of(cluster, 2), mode="cluster", timeout_seconds=10)
    key = "gateway:limits:1:moving:{moved}"
    slot = slot_of(key)
    source = cluster.master_of(slot)
    target = cluster.masters[2] if source is cluster.masters[0] else cluster.masters[0]
    if source is cluster.masters[1]:
        pytest.fail("take another tag: this one is at the master that another test kills")
    names = {one: one.command("CLUSTER", "MYID") for one in (source, target)}
    try:
        assert await link.client.execute_command("SET", key, "1") in (True, b"OK")
        target.command("CLUSTER", "SETSLOT", slot, "IMPORTING", names[source])
        source.command("CLUSTER", "SETSLOT", slot, "MIGRATING", names[target])
        # Not there yet: asked for at the other one.
        assert await link.client.execute_command("GET", key) == b"1"
        assert await link.client.execute_command("GET", f"{key}:new") is None
        source.command("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", key)
        assert await link.client.execute_command("GET", key) == b"1"
        for one in (target, source):
            one.command("CLUSTER", "SETSLOT", slot, "NODE", names[target])
        pipeline = link.client.pipeline()
        for _ in range(3):
            pipeline.execute_command("GET", key)
        assert await pipeline.execute() == [b"1"] * 3
    finally:
        target.command("DEL", key)
        for one in (source, target):
            one.command("CLUSTER", "SETSLOT", slot, "NODE", names[source])
        await link.close()


async def test_a_single_server_that_is_of_a_cluster_is_told_from_one_that_is_not(cluster: RedisCluster) -> None:
    link = RedisLink(user_of(cluster), timeout_seconds=10)
    with pytest.raises(ConnectionError, match=r"redis\.mode has to be cluster"):
        for number in range(3):
            await link.client.execute_command("GET", f"gateway:{number}")
    await link.close()


def test_the_user_has_the_commands_that_are_called_and_no_others() -> None:
    sources = [*(ROOT / "gateway" / "limits" / "lua").glob("*.lua"), *(ROOT / "gateway").rglob("*.py")]
    called = {
        name
        for source in sources
        for name in re.findall(r"redis\.call\('([A-Z]+)'", source.read_text(encoding="utf-8"))
    }
    asked = {"PING", "EVAL", "EVALSHA", "HGET", "ZREM", "PUBLISH", "SUBSCRIBE", "CLUSTER|SLOTS", "ASKING"}
    allowed = {word[1:].upper() for word in rights()[0] if word.startswith("+")}
    assert allowed == called | asked


async def test_over_tls_both_sides_show_who_they_are(own_redis: RedisServer, tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path, name="redis")
    authority = make_authority(tmp_path, name="clients")
    client = str(authority.client("gateway"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authority.cert_file))
    context.load_cert_chain(certificate, key)
    context.verify_mode = ssl.CERT_REQUIRED

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner, outer = await asyncio.open_connection("127.0.0.1", own_redis.port)

        async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError, ssl.SSLError):
                while data := await source.read(65536):
                    target.write(data)
                    await target.drain()
            target.close()

        await asyncio.gather(copy(reader, outer), copy(inner, writer))

    server = await asyncio.start_server(pass_on, "127.0.0.1", 0, ssl=context)
    url = f"rediss://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
    good = PemFiles(str(certificate), client, client)
    links = [
        RedisLink(url, files=files, timeout_seconds=10) for files in (good, PemFiles(str(certificate)), PemFiles())
    ]
    try:
        await links[0].try_out()
        for refused in links[1:]:
            with pytest.raises(ConnectionError, match="does not answer"):
                await refused.try_out()
    finally:
        for link in links:
            await link.close()
        server.close()
        await server.wait_closed()
