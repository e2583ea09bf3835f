"""Tickets as a browser's page lives with them: an address that opens one read, again and again, on any node."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from tests.parts.gateway import Deployment, GatewayProcess, catalog, contract
from tests.parts.kafka import Kafka
from tests.parts.partner import Partner, problem
from tests.parts.redis import RedisServer

PAGE = "https://page.example"


@dataclass
class Nodes:
    """Two nodes with one Redis, and a stream of two records."""

    deployment: Deployment
    one: GatewayProcess
    two: GatewayProcess

    def partner(self, node: GatewayProcess, *, scope: str = "streams:read", **headers: str) -> Partner:
        return Partner(node.base_url, self.deployment.token(scope=scope)).as_(
            self.deployment.token(scope=scope), **headers
        )

    async def ticket(self, *, node: GatewayProcess | None = None, **body: str) -> str:
        answer = await post(self.partner(node or self.one), {"stream": "s", **body})
        assert answer.status_code == 201, answer.text
        assert answer.json()["expires_in"] == 30
        return str(answer.json()["ticket"])


async def post(partner: Partner, body: Any, **headers: str) -> httpx.Response:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with httpx.AsyncClient(trust_env=False) as client:
        return await client.post(
            f"{partner.base_url}/v1/tickets",
            content=data,
            headers={"Authorization": f"Bearer {partner.token}"} | headers,
        )


@pytest.fixture(scope="module")
def nodes(kafka: Kafka, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    folder = tmp_path_factory.mktemp("tickets")
    topic = f"tickets.{folder.name}.{id(folder)}"
    asyncio.run(kafka.create_topic(topic, 1))
    asyncio.run(kafka.produce(topic, [b'{"n":0}', b'{"n":1}'], partition=0))
    told = catalog(["s", "slow"])
    told["tenants"][0]["applications"][0]["origins"] = [PAGE]
    told["tenants"][0]["applications"].append({"client_id": "bare-app", "title": "Without a page"})
    contracts = [contract("s", topic, partitions=1), contract("slow", topic, partitions=1, transports=["pull"])]
    settings = {"redis": {"url": redis_server.url}}
    deployment = Deployment(folder / "d", kafka.bootstrap, contracts, told, settings)
    with ExitStack() as stack:
        one, two = (stack.enter_context(deployment.gateway(name)) for name in ("one", "two"))
        yield Nodes(deployment, one, two)


def anonymous(node: GatewayProcess, **headers: str) -> Partner:
    return Partner(node.base_url, None).as_(None, **headers)


async def test_a_ticket_opens_a_read_and_opens_it_again_on_any_node(nodes: Nodes) -> None:
    ticket = await nodes.ticket()
    async with anonymous(nodes.one).sse("s", ticket=ticket, **{"from": "earliest"}) as stream:
        first = await stream.until("record")
    for node in (nodes.two, nodes.one):
        again = anonymous(node, **{"Last-Event-ID": str(first.cursor)})
        async with again.sse("s", ticket=ticket, **{"from": "earliest"}) as stream:
            # Straight after the cut the other node may still hold it: an EventSource is told when to come back.
            heard = await stream.next_but_checkpoints()
            if heard.kind == "goodbye":
                assert heard.data["code"] == "ticket_in_use"
                await asyncio.sleep(1)
                continue
            assert heard.data["data"] == {"n": 1}


@pytest.mark.parametrize("protocol", ["sse", "ndjson", "ws"])
async def test_a_ticket_is_for_every_protocol_that_stays_open(nodes: Nodes, protocol: str) -> None:
    ticket = await nodes.ticket(node=nodes.two)
    async with anonymous(nodes.one).open(protocol, "s", ticket=ticket, **{"from": "earliest"}) as stream:
        assert (await stream.until("record")).data["data"] == {"n": 0}


async def test_a_second_read_by_a_ticket_in_use_is_told_in_a_way_its_client_can_hear(nodes: Nodes) -> None:
    ticket = await nodes.ticket()
    async with anonymous(nodes.one).ndjson("s", ticket=ticket) as stream:
        await stream.until("welcome")
        answer = await anonymous(nodes.two).get("/v1/streams/s/ndjson", ticket=ticket)
        body = problem(answer, 409, "ticket_in_use")
        assert body["retry_after_ms"] > 0
        told = await anonymous(nodes.two).get("/v1/streams/s/sse", ticket=ticket)
        assert told.status_code == 200
        assert told.headers["content-type"].startswith("text/event-stream")
        assert told.text.startswith("retry: ")
        assert '"code":"ticket_in_use"' in told.text.replace(" ", "")


async def test_a_ticket_is_no_good_elsewhere(nodes: Nodes) -> None:
    ticket = await nodes.ticket(origin=PAGE)
    good = anonymous(nodes.one, Origin=PAGE)
    async with good.sse("s", ticket=ticket, **{"from": "earliest"}) as stream:
        await stream.until("record")
    for partner, path in ((anonymous(nodes.one), "/v1/streams/s/sse"), (good, "/v1/streams/slow/sse")):
        problem(await partner.get(path, ticket=ticket), 401, "token_invalid")
    problem(await good.get("/v1/streams/s/records", ticket=ticket), 400, "invalid_parameter")
    problem(await good.get("/v1/streams", ticket=ticket), 400, "invalid_parameter")
    problem(await anonymous(nodes.one).get("/v1/streams/s/sse", ticket="nonsense"), 401, "token_invalid")
    both = nodes.partner(nodes.one)
    problem(await both.get("/v1/streams/s/sse", ticket=ticket), 400, "ambiguous_credentials")


@pytest.mark.parametrize("protocol", ["sse", "ndjson", "ws"])
async def test_a_ticket_opens_nothing_for_a_page_that_the_application_does_not_list(
    nodes: Nodes, protocol: str
) -> None:
    listed, plain = await nodes.ticket(origin=PAGE), await nodes.ticket()
    bare = Partner(nodes.one.base_url, nodes.deployment.token("bare-app"))
    unlisting = (await post(bare, {"stream": "s"})).json()["ticket"]
    for ticket, origin in (
        (listed, "https://other.example"),
        (listed, "null"),
        (plain, "https://other.example"),
        (plain, "null"),
        (unlisting, PAGE),
        (unlisting, "null"),
    ):
        foreign = anonymous(nodes.one, Origin=origin)
        if protocol == "ws":
            async with foreign.ws("s", ticket=ticket) as told:
                goodbye = await told.next()
                assert (goodbye.kind, goodbye.data["code"]) == ("goodbye", "origin_not_allowed")
                assert await told.over() == 4403
        else:
            problem(await foreign.get(f"/v1/streams/s/{protocol}", ticket=ticket), 403, "origin_not_allowed")
    # Nothing is told of tickets that are none; nor is one for another page of the application any good.
    for ticket in ("A" * 32, plain):
        problem(await anonymous(nodes.one, Origin=PAGE).get("/v1/streams/s/sse", ticket=ticket), 401, "token_invalid")
    foreign = anonymous(nodes.one, Origin="https://other.example")
    problem(await foreign.get("/v1/streams/s/sse", ticket="A" * 32), 401, "token_invalid")


async def test_what_a_ticket_is_asked_for_is_checked(nodes: Nodes) -> None:
    partner = nodes.partner(nodes.one)
    for body in (
        b"",
        b"[]",
        b'{"stream":"s","stream":"s"}',
        {"stream": 1},
        {"stream": "s", "more": 1},
        {},
        {"stream": ""},
    ):
        problem(await post(partner, body), 400, "bad_request")
    problem(await post(partner, b'{"stream":"' + b"s" * 70_000 + b'"}'), 413, "payload_too_large")
    problem(await post(partner, {"stream": "nothing"}), 404, "stream_not_found")
    problem(await post(partner, {"stream": "slow"}), 403, "transport_not_offered")
    problem(await post(partner, {"stream": "s", "origin": "https://other.example"}), 403, "origin_not_allowed")
    problem(await post(nodes.partner(nodes.one, scope="other"), {"stream": "s"}), 403, "insufficient_scope")
    problem(await anonymous(nodes.one).request("POST", "/v1/tickets"), 401, "token_missing")


async def test_redis_away_is_no_reason_to_refuse_a_ticket_or_to_take_one_twice(
    kafka: Kafka, own_redis: RedisServer, tmp_path: Path
) -> None:
    topic = f"tickets.away.{tmp_path.name}.{id(tmp_path)}"
    await kafka.create_topic(topic, 1)
    settings = {"redis": {"url": own_redis.url}}
    deployment = Deployment(tmp_path / "d", kafka.bootstrap, [contract("s", topic, partitions=1)], settings=settings)
    with deployment.gateway("one") as one, deployment.gateway("two") as two:
        nodes = Nodes(deployment, one, two)
        for leave, come_back in ((own_redis.pause, own_redis.resume), (own_redis.kill, own_redis.start)):
            waiting, held = await nodes.ticket(), await nodes.ticket()
            async with anonymous(two).ndjson("s", ticket=held) as open_before:
                await open_before.until("welcome")
                leave()
                try:
                    made = await nodes.ticket()
                    async with anonymous(two).ndjson("s", ticket=made) as opened:
                        await opened.until("welcome")
                        for node in (one, two):
                            for ticket in (made, held):
                                again = await anonymous(node).get("/v1/streams/s/ndjson", ticket=ticket)
                                problem(again, 409, "ticket_in_use")
                    await opens(one, made)
                    if leave == own_redis.kill:
                        # Known before: nodes first say what is open by it, which takes some seconds.
                        await opens(two, waiting)
                    problem(await anonymous(one).get("/v1/streams/s/sse", ticket="A" * 32), 401, "token_invalid")
                finally:
                    come_back()
                for node in (one, two):
                    problem(await anonymous(node).get("/v1/streams/s/ndjson", ticket=held), 409, "ticket_in_use")
            await opens(one, held)
            await opens(two, made)
            await opens(one, waiting)
    for node in (one, two):
        assert "background_task_failed" not in node.log()
        assert "request_failed" not in node.log()


async def opens(node: GatewayProcess, ticket: str) -> None:
    """Open a read by a ticket whose connection is over, or about to be."""
    async with asyncio.timeout(30):
        while (answer := await first_answer(node, ticket)) == 409:  # noqa: ASYNC110 - only asking again tells
            await asyncio.sleep(0.1)
    assert answer == 200


async def first_answer(node: GatewayProcess, ticket: str) -> int:
    async with (
        httpx.AsyncClient(trust_env=False, timeout=30) as client,
        client.stream("GET", f"{node.base_url}/v1/streams/s/ndjson", params={"ticket": ticket}) as answer,
    ):
        return answer.status_code


@pytest.mark.parametrize("wrapped", [True, False])
async def test_a_websocket_may_carry_its_token_as_a_subprotocol(nodes: Nodes, wrapped: bool) -> None:
    token = nodes.deployment.token()
    carried = base64.urlsafe_b64encode(token.encode()).rstrip(b"=").decode() if wrapped else token
    address = nodes.one.base_url.replace("http", "ws") + "/v1/streams/s/ws?from=earliest"
    async with connect(address, subprotocols=["gateway.v1", f"bearer.{carried}"], proxy=None) as socket:  # type: ignore[list-item]
        assert socket.subprotocol == "gateway.v1"
        assert json.loads(await socket.recv())["type"] == "welcome"
    with pytest.raises(InvalidStatus) as refused:
        async with connect(address, subprotocols=["gateway.v1", "bearer.AAAA"], proxy=None):  # type: ignore[list-item]
            pass
    assert refused.value.response.status_code == 401
    with pytest.raises(InvalidStatus) as refused:
        async with connect(
            address,
            subprotocols=["gateway.v1", f"bearer.{carried}"],  # type: ignore[list-item]
            additional_headers={"Authorization": f"Bearer {token}"},
            proxy=None,
        ):
            pass
    assert refused.value.response.status_code == 400
