"""Another tenant's object answers byte for byte like one that is not there, wherever an address or a body names one.

The addresses come from the documents that partners get and from the table of routes: one that is added needs a case
in ``CASES``, or the first test fails.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, ExitStack
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import httpx
import pytest

from gateway.transport.routes import routes
from tests.parts.gateway import Deployment, GatewayProcess, catalog, contract
from tests.parts.kafka import Kafka
from tests.parts.partner import Partner
from tests.parts.raw import UPGRADE, RawAnswer, ask
from tests.parts.redis import RedisServer

PAGE = "https://page.example"
OURS, THEIRS = "acme", "globex"
OPERATOR = "the-operators-own-secret"
STREAM = "/v1/streams/{stream}"


@dataclass
class House:
    """Two nodes and two tenants; each has a stream of its own that the other may not know of."""

    deployment: Deployment
    node: GatewayProcess
    other_node: GatewayProcess

    def partner(self, tenant: str, node: GatewayProcess | None = None) -> Partner:
        return Partner((node or self.node).base_url, self.deployment.token(f"{tenant}-web"))

    async def operate(self, method: str, path: str, body: Any) -> dict[str, Any]:
        """What an operator is answered."""
        async with httpx.AsyncClient(base_url=self.node.admin_url, trust_env=False, timeout=60) as client:
            answer = await client.request(method, path, json=body, headers={"Authorization": f"Bearer {OPERATOR}"})
        assert answer.is_success, answer.text
        told: dict[str, Any] = answer.json()
        return told

    async def ask(self, method: str, path: str, *, body: bytes, headers: Mapping[str, str]) -> RawAnswer:
        """As acme."""
        token = self.deployment.token(f"{OURS}-web")
        told = {"Authorization": f"Bearer {token}", "X-Correlation-Id": "the-same-for-all", **headers}
        return await ask(self.node.base_url, path, method=method, headers=told, body=body, follow=True)


@dataclass(frozen=True)
class Pair:
    """The name of another tenant's object, and one as long that nobody has."""

    theirs: str
    nobodys: str


Objects = Callable[[House], AbstractAsyncContextManager[list[Pair]]]
Body = Callable[[str], Any]


@dataclass(frozen=True)
class Case:
    """What is asked of both: with each of the queries and of the headers, and a body that may name the object."""

    objects: Objects
    bodies: tuple[Body | None, ...] = (None,)
    queries: tuple[str, ...] = ("", "?unknown=1")
    headers: tuple[Mapping[str, str], ...] = field(default=({}, {"Origin": PAGE}, {"Accept": "text/html"}))

    def requests(self, path: str, name: str) -> Iterator[tuple[str, dict[str, str], bytes]]:
        for query in self.queries:
            for headers in self.headers:
                for body in self.bodies:
                    content = b"" if body is None else json.dumps(body(name)).encode()
                    kind = {} if body is None else {"Content-Type": "application/json"}
                    yield re.sub(r"\{\w+\}", name, path) + query, {**headers, **kind}, content


# ---- objects ---------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def streams(house: House) -> AsyncIterator[list[Pair]]:
    """Those of the other tenant, whatever became of them."""
    yield [Pair(f"theirs-{kind}", f"nobody-{kind}") for kind in ("published", "deprecated", "retired", "draft", "pull")]


@contextlib.asynccontextmanager
async def sessions(house: House) -> AsyncIterator[list[Pair]]:
    """Open reads of the other tenant, on this node and on the other one."""
    async with (
        house.partner(THEIRS).sse("theirs-published") as here,
        house.partner(THEIRS, house.other_node).sse("theirs-published") as there,
    ):
        names = [stream.headers["gateway-session"] for stream in (here, there)]
        yield [Pair(name, _other(name)) for name in names]


@contextlib.asynccontextmanager
async def statements(house: House) -> AsyncIterator[list[Pair]]:
    """A draft of the other tenant's, by its id."""
    asked = {"tenant": THEIRS, "from": "2026-01-01T00:00:00Z", "to": "2026-02-01T00:00:00Z"}
    drafted = await house.operate("POST", "/admin/statements", asked)
    name = str(drafted["id"])
    assert (await house.partner(THEIRS).get(f"/v1/statements/{name}")).status_code == 200
    yield [Pair(f"{name}{suffix}", f"{_other(name)}{suffix}") for suffix in ("", ".csv", ".pdf")]


def _other(name: str) -> str:
    """A name of the same length and kind that nobody has."""
    return name[:-8] + "".join("0" if one != "0" else "1" for one in name[-8:])


# ---- cases -----------------------------------------------------------------------------------------------------------

READ = Case(streams, queries=("", "?from=earliest", "?cursor=AAAA", "?filter=a:eq:b", "?unknown=1", "?ticket=x"))
CASES: dict[tuple[str, str], Case] = {
    ("GET", STREAM): READ,
    ("GET", f"{STREAM}/sse"): READ,
    ("GET", f"{STREAM}/ndjson"): READ,
    ("GET", f"{STREAM}/records"): READ,
    ("GET", f"{STREAM}/ws"): Case(streams, queries=READ.queries, headers=(UPGRADE, {**UPGRADE, "Origin": PAGE}, {})),
    ("POST", "/v1/tickets"): Case(
        streams,
        bodies=(
            lambda name: {"stream": name},
            lambda name: {"stream": name, "origin": PAGE},
            lambda name: {"stream": name, "origin": "https://foreign.example"},
        ),
    ),
    ("POST", "/v1/sessions/{session}/token"): Case(sessions),
    ("GET", "/v1/statements/{number}"): Case(
        statements,
        queries=("", "?unknown=1", "?format=html", "?format=xml"),
        headers=({}, {"Accept": "application/pdf"}, {"Accept": "image/png"}, {"Origin": PAGE}),
    ),
}
"""By method and address: every one that names an object, in itself or in a JSON body."""


ONLY_WHERE_TOKENS_ARE_ISSUED = {"/oauth/token", "/oauth/jwks", "/.well-known/oauth-authorization-server"}


# ---- the suite -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def house(kafka: Kafka, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    topic = f"isolation.{uuid.uuid4().hex[:8]}"
    asyncio.run(kafka.create_topic(topic, 1))

    def one(stream: str, **more: Any) -> dict[str, Any]:
        return contract(stream, topic, partitions=1, **({"visibility": "entitled"} | more))

    ended = {"deprecated_on": date(2026, 1, 15)}
    theirs = [
        one("theirs-published"),
        one("theirs-deprecated", lifecycle="deprecated", **ended),
        one("theirs-retired", lifecycle="retired", **ended),
        one("theirs-draft", lifecycle="draft"),
        one("theirs-pull", transports=["pull"]),
    ]
    held = {OURS: ["ours"], THEIRS: [next(iter(document["channels"])) for document in theirs]}
    told = catalog(["ours"])
    told["products"] = [{"name": name, "title": name, "streams": names} for name, names in held.items()]
    told["tenants"] = [
        tenant
        | {
            "applications": [{"client_id": f"{tenant['name']}-web", "title": "Web", "origins": [PAGE]}],
            "entitlements": [{"product": tenant["name"], "plan": "open", "from": date(2020, 1, 1)}],
        }
        for tenant in told["tenants"]
    ]
    folder = tmp_path_factory.mktemp("isolation") / "d"
    settings = {"redis": {"url": redis_server.url}, "admin": {"port": 0, "tokens": [OPERATOR]}}
    deployment = Deployment(folder, kafka.bootstrap, [one("ours"), *theirs], told, settings)
    with ExitStack() as stack:
        yield House(deployment, *(stack.enter_context(deployment.gateway(name)) for name in ("one", "two")))


def template(path: str) -> str:
    """An address of the documents, which name the tenant's own streams, as one for every stream."""
    parts = path.split("/")
    return "/".join([*parts[:3], "{stream}", *parts[4:]]) if parts[:3] == ["", "v1", "streams"] and parts[3:] else path


async def test_every_address_and_body_that_names_an_object_has_a_case(house: House) -> None:
    told: set[str] = set()
    named: set[tuple[str, str]] = set()
    for tenant in (OURS, THEIRS):
        partner = house.partner(tenant)
        openapi = (await partner.get("/openapi.json")).json()
        for path, item in openapi["paths"].items():
            place = template(path)
            told.add(place)
            for method, operation in item.items():
                is_json = "application/json" in operation.get("requestBody", {}).get("content", {})
                if "{" in place or is_json:
                    named.add((method.upper(), place))
        for channel in (await partner.get("/asyncapi.json")).json()["channels"].values():
            told.add(template(channel["address"]))
            named.add(("GET", template(channel["address"])))
    nobody: Any = None
    served = {route.path for route in routes(nobody)}  # type: ignore[attr-defined]
    assert served - ONLY_WHERE_TOKENS_ARE_ISSUED == told, "what is served is in the documents, and nothing else"
    assert named == CASES.keys(), "each has a case here"


@pytest.mark.parametrize(("method", "path"), CASES)
async def test_what_is_another_tenants_answers_like_what_is_not_there(house: House, method: str, path: str) -> None:
    case = CASES[method, path]
    async with case.objects(house) as pairs:
        for pair in pairs:
            both = zip(case.requests(path, pair.theirs), case.requests(path, pair.nobodys), strict=True)
            for asked, compared in both:
                theirs, nobodys = [
                    (await house.ask(method, place, headers=headers, body=body)).without("date")
                    for place, headers, body in (asked, compared)
                ]
                assert theirs == nobodys, asked
                assert theirs.status >= 400 or theirs.status == 101, asked


async def test_the_cases_ask_for_things_that_are_there(house: House) -> None:
    """Else the suite would compare what is absent with what is absent."""
    partner = house.partner(THEIRS)
    assert (await partner.get("/v1/streams/theirs-published/records")).status_code == 200
    assert (await partner.get("/v1/streams/theirs-retired/records")).status_code == 410
    for node in (house.node, house.other_node):
        async with partner.sse("theirs-published") as stream:
            owner = house.partner(THEIRS, node)
            answer = await owner.request("POST", f"/v1/sessions/{stream.headers['gateway-session']}/token")
            assert answer.status_code == 204
