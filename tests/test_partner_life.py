"""Access while a stream is open: it ends with the token, with a withdrawal, and goes on under a fresh token."""

from __future__ import annotations

import asyncio
import json
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.parts.gateway import Deployment, GatewayProcess, catalog, contract
from tests.parts.kafka import Kafka
from tests.parts.partner import PROTOCOLS, Partner, problem
from tests.parts.redis import RedisServer

ADMIN_TOKEN = "an-operators-secret-of-some-length"
OPEN_PROTOCOLS = [one for one in PROTOCOLS if one != "pull"]
FLIGHT = {"type": "object", "properties": {"origin": {"type": "string"}, "n": {"type": "integer"}}}


@dataclass
class Fleet:
    """Two nodes that know of each other."""

    deployment: Deployment
    kafka: Kafka
    one: GatewayProcess
    two: GatewayProcess
    topics: dict[str, str]

    def partner(self, node: GatewayProcess, client_id: str = "acme-web", **claims: Any) -> Partner:
        return Partner(node.base_url, self.deployment.token(client_id, **claims))

    async def produce(self, stream: str, *values: Any) -> None:
        await self.kafka.produce(self.topics[stream], [json.dumps(value).encode() for value in values], partition=0)

    async def admin(
        self, method: str, path: str, *, node: GatewayProcess | None = None, **options: Any
    ) -> httpx.Response:
        node = node or self.one
        headers = {"Authorization": f"Bearer {ADMIN_TOKEN}"} | options.pop("headers", {})
        async with httpx.AsyncClient(trust_env=False) as client:
            return await client.request(method, f"{node.admin_url}{path}", headers=headers, timeout=30, **options)


@pytest.fixture(scope="module")
def fleet(kafka: Kafka, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    prefix = f"life.{uuid.uuid4().hex[:8]}"
    topics = {name: f"{prefix}.{name}" for name in ("plain", "rows")}
    for topic in topics.values():
        asyncio.run(kafka.create_topic(topic, 1))
    rows = contract(
        "rows",
        topics["rows"],
        partitions=1,
        payload=FLIGHT,
        filters={"origin": {"pointer": "/origin", "type": "string"}},
        row_filter={"field": "origin", "claim": "airport"},
    )
    told = catalog(["plain", "rows"])
    acme = told["tenants"][0]
    acme["applications"].append({"client_id": "acme-batch", "title": "Batch"})
    for number in range(12):
        # Who is withdrawn stays so: each test has tenants of its own.
        told["tenants"].append(
            {
                **acme,
                "name": f"t{number}",
                "applications": [{"client_id": f"t{number}-app", "title": "App"}],
            }
        )
    settings = {
        "admin": {"port": 0, "tokens": [ADMIN_TOKEN]},
        "redis": {"url": redis_server.url},
        "auth": {"leeway_seconds": 0},
    }
    folder = tmp_path_factory.mktemp("life")
    deployment = Deployment(
        folder / "d", kafka.bootstrap, [contract("plain", topics["plain"], partitions=1), rows], told, settings
    )
    with ExitStack() as stack:
        one, two = (stack.enter_context(deployment.gateway(name)) for name in ("one", "two"))
        yield Fleet(deployment, kafka, one, two, topics)


def exp(seconds: float) -> dict[str, int]:
    now = int(time.time())
    return {"iat": now - 10, "exp": now + int(seconds)}


@pytest.mark.parametrize("protocol", OPEN_PROTOCOLS)
async def test_a_token_that_ends_soon_is_told_of_at_once_and_ends_the_stream_when_it_does(
    fleet: Fleet, protocol: str
) -> None:
    ends = exp(3)
    async with fleet.partner(fleet.one, **ends).open(protocol, "plain") as stream:
        expiring = await stream.until("auth_expiring")
        session = stream.headers["gateway-session"]
        assert expiring.data["refresh"] == f"/v1/sessions/{session}/token"
        goodbye = await stream.until("goodbye")
        # Never early; how late is for the page of measured promises, not for a test on a busy machine.
        assert time.time() >= ends["exp"]
        assert (goodbye.data["code"], goodbye.data["close_code"]) == ("token_expired", 4401)
        assert goodbye.data["cursor"]


@pytest.mark.parametrize("protocol", OPEN_PROTOCOLS)
@pytest.mark.parametrize("through", ["one", "two"])
async def test_a_fresh_token_extends_a_running_stream_through_any_node(
    fleet: Fleet, protocol: str, through: str
) -> None:
    ends = exp(4)
    async with fleet.partner(fleet.one, **ends).open(protocol, "plain") as stream:
        await stream.until("auth_expiring")
        session = stream.headers["gateway-session"]
        other = fleet.partner(getattr(fleet, through))
        answer = await other.request("POST", f"/v1/sessions/{session}/token")
        assert (answer.status_code, answer.content) == (204, b"")
        # Past the end of the first token: only the fresh one can have kept it open.
        await asyncio.sleep(ends["exp"] + 1 - time.time())
        await fleet.produce("plain", {"after": session})
        while True:
            heard = await stream.until("record")
            if heard.data["data"].get("after") == session:
                break


async def test_a_refresh_that_is_not_the_readers_own_changes_nothing(fleet: Fleet) -> None:
    async with fleet.partner(fleet.one).open("sse", "plain") as stream:
        path = f"/v1/sessions/{stream.headers['gateway-session']}/token"
        for node in (fleet.one, fleet.two):
            problem(await fleet.partner(node, "acme-batch").request("POST", path), 403, "wrong_application")
            problem(await fleet.partner(node, "t0-app").request("POST", path), 404, "session_not_found")
            problem(await fleet.partner(node).request("POST", "/v1/sessions/nobody/token"), 404, "session_not_found")
            problem(await fleet.partner(node, scope="other:read").request("POST", path), 409, "grant_refused")
            problem(await fleet.partner(node).as_(None).request("POST", path), 401, "token_missing")
            problem(await fleet.partner(node).get(path), 405, "method_not_allowed")
        await fleet.produce("plain", {"still": 1})
        await stream.until("record")


@pytest.mark.parametrize("protocol", OPEN_PROTOCOLS)
async def test_a_fresh_tokens_row_filter_holds_from_the_next_record(fleet: Fleet, protocol: str) -> None:
    """Another one, a wider and a narrower one, each through the node that the stream is not on."""
    async with fleet.partner(fleet.one, airport="ORD").open(protocol, "rows") as stream:
        await fleet.produce("rows", {"origin": "ORD", "n": 1}, {"origin": "JFK", "n": 2})
        assert (await stream.until("record")).data["data"] == {"origin": "ORD", "n": 1}
        session = stream.headers["gateway-session"]
        for airport, seen in ((["JFK", "SFO"], [4, 5]), (["ORD", "JFK", "SFO"], [3, 4, 5]), ("SFO", [5])):
            fresh = fleet.partner(fleet.two, airport=airport)
            assert (await fresh.request("POST", f"/v1/sessions/{session}/token")).status_code == 204
            await fleet.produce("rows", *({"origin": one, "n": n} for n, one in enumerate(("ORD", "JFK", "SFO"), 3)))
            assert [(await stream.until("record")).data["data"]["n"] for _ in seen] == seen


async def test_a_websocket_is_refreshed_by_its_auth_frame(fleet: Fleet) -> None:
    async with fleet.partner(fleet.one, **exp(4), airport="ORD").ws("rows") as stream:
        await stream.until("auth_expiring")
        await stream.say({"type": "auth", "token": "no.good.token"})
        refused = await stream.until("error")
        assert refused.data["code"] == "token_invalid"
        await stream.say({"type": "auth", "token": fleet.deployment.token("acme-batch", airport="ORD")})
        assert (await stream.until("error")).data["code"] == "wrong_application"
        await stream.say({"type": "auth", "token": fleet.deployment.token()})
        refused = await stream.until("error")
        assert refused.data["code"] == "grant_refused", "without the claim the rows would be anybody's"
        await stream.say({"type": "auth", "token": fleet.deployment.token(airport="JFK")})
        await fleet.produce("rows", {"origin": "JFK", "n": 6})
        assert (await stream.until("record")).data["data"]["n"] == 6


REVOKED = {
    "jti": (4401, "token_invalid", 401),
    "sub": (4401, "token_invalid", 401),
    "client_id": (4403, "access_withdrawn", 403),
    "tenant": (4403, "access_withdrawn", 403),
}


@pytest.mark.parametrize(("number", "kind"), list(enumerate(REVOKED)))
async def test_what_is_revoked_ends_on_every_node_and_does_not_come_in_again(
    fleet: Fleet, number: int, kind: str
) -> None:
    client = f"t{number}-app"
    claims = {"jti": f"jti-{number}", "sub": f"sub-{number}"}
    value = {"client_id": client, "tenant": f"t{number}"} | claims
    partners = [fleet.partner(node, client, **claims) for node in (fleet.one, fleet.two)]
    async with partners[0].open("sse", "plain") as here, partners[1].open("ws", "plain") as there:
        answer = await fleet.admin("POST", "/admin/revocations", json={kind: value[kind]})
        assert answer.status_code == 201
        assert answer.json()[kind] == value[kind]
        close_code, code, status = REVOKED[kind]
        for stream in (here, there):
            goodbye = await stream.until("goodbye")
            assert (goodbye.data["code"], goodbye.data["close_code"]) == (code, close_code)
            assert goodbye.data["reconnect"] is False or close_code == 4401
    for partner in partners:
        problem(await partner.get("/v1/streams/plain/records"), status, code)
    if kind in ("jti", "sub"):
        other = fleet.partner(fleet.two, client)
        assert (await other.get("/v1/streams/plain/records")).status_code == 200


async def test_a_revocation_that_is_over_lets_in_again(fleet: Fleet) -> None:
    until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 1))
    assert (await fleet.admin("POST", "/admin/revocations", json={"sub": "briefly", "until": until})).status_code == 201
    partner = fleet.partner(fleet.one, sub="briefly")
    deadline = time.monotonic() + 30
    while (await partner.get("/v1/streams")).status_code != 200:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)


async def test_a_suspended_tenant_is_out_until_it_is_resumed(fleet: Fleet) -> None:
    partner = fleet.partner(fleet.two, "t5-app")
    async with partner.open("ndjson", "plain") as stream:
        answer = await fleet.admin("PUT", "/admin/tenants/t5", json={"status": "suspended"})
        assert (answer.status_code, answer.json()["status"]) == (200, "suspended")
        assert (await stream.until("goodbye")).data["code"] == "access_withdrawn"
    problem(await partner.get("/v1/streams"), 403, "tenant_suspended")
    assert (await fleet.admin("PUT", "/admin/tenants/t5", json={"status": "active"})).json()["status"] == "active"
    deadline = time.monotonic() + 30
    while (await partner.get("/v1/streams")).status_code != 200:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)


async def test_every_open_read_is_listed_by_any_node_and_can_be_ended_there(fleet: Fleet) -> None:
    partner = fleet.partner(fleet.one, "t6-app")
    async with partner.open("sse", "plain") as stream:
        session = stream.headers["gateway-session"]
        for node in (fleet.one, fleet.two):
            listed = (await fleet.admin("GET", "/admin/sessions", node=node)).json()["sessions"]
            (entry,) = [one for one in listed if one["session"] == session]
            assert (entry["tenant"], entry["client_id"], entry["stream"], entry["protocol"]) == (
                "t6", "t6-app", "plain", "sse",
            )  # fmt: skip
        ended = await fleet.admin("DELETE", f"/admin/sessions/{session}", node=fleet.two)
        assert ended.status_code == 204
        goodbye = await stream.until("goodbye")
        assert (goodbye.data["code"], goodbye.data["close_code"]) == ("access_withdrawn", 4403)
    problem(await fleet.admin("DELETE", f"/admin/sessions/{session}"), 404, "session_not_found")


async def test_a_long_poll_that_waits_gives_nothing_after_the_withdrawal(fleet: Fleet) -> None:
    partner = fleet.partner(fleet.one, "t7-app")
    page = await partner.pull("plain")
    waiting = asyncio.create_task(partner.get("/v1/streams/plain/records", cursor=page["next_cursor"], wait=30))
    deadline = time.monotonic() + 30
    while not waiting.done():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.2)
        if (await fleet.admin("POST", "/admin/revocations", json={"tenant": "t7"})).status_code == 201:
            await fleet.produce("plain", {"not": "for t7"})
    problem(waiting.result(), 403, "access_withdrawn")


async def test_an_entitlement_that_is_taken_out_of_the_catalog_ends_its_streams(fleet: Fleet) -> None:
    directory = fleet.deployment.directory
    async with fleet.partner(fleet.one, "t8-app").open("sse", "plain") as stream:
        document = yaml.safe_load((directory / "catalog.yaml").read_text())
        (tenant,) = [one for one in document["tenants"] if one["name"] == "t8"]
        tenant["entitlements"] = []
        (directory / "less.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
        await apply(fleet, directory / "less.yaml")
        goodbye = await stream.until("goodbye")
        assert (goodbye.data["code"], goodbye.data["close_code"]) == ("access_withdrawn", 4403)


async def apply(fleet: Fleet, path: Path) -> None:
    options = fleet.deployment.options("apply")
    running = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway", "apply", *options, "--prune", str(path),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await running.communicate()
    assert running.returncode == 0, said.decode()
