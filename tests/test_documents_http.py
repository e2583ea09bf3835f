"""The documents as partners fetch them: who sees what, caching, refusals, and that delivery keeps their word."""

from __future__ import annotations

import asyncio
import json
import signal
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from gateway.catalog.documents.offer import Audience
from gateway.transport.documents import KEPT_DOCUMENTS, KINDS, DocumentStore
from tests.parts.gateway import UNLIMITED, Deployment, GatewayProcess, contract
from tests.parts.kafka import Kafka
from tests.parts.partner import Partner

PUBLIC_URL = "https://api.example.com"
PATHS = [kind.path for kind in KINDS]

_PAYLOAD = {
    "type": "object",
    "required": ["id", "zzhidden", "deep"],
    "properties": {
        "id": {"type": "integer"},
        "amount": {"type": "number", "minimum": 0},
        "zzhidden": {"type": "string"},
        "deep": {"type": "object", "required": ["kept"], "properties": {"kept": {"type": "string"}, "zzlost": {}}},
    },
}


def contracts(prefix: str) -> list[dict[str, Any]]:
    def one(stream: str, **options: Any) -> dict[str, Any]:
        return contract(stream, f"{prefix}.{stream}", partitions=1, **options)

    return [
        one("open", payload=_PAYLOAD, projection=["/id", "/amount", "/deep/kept"], headers=["trace"]),
        one("closed", visibility="entitled", scopes=["streams:read", "closed:read"]),
        one("foreign", visibility="entitled"),
        one("bytes", visibility="entitled", content_type="application/octet-stream"),
    ]


def tenants() -> dict[str, Any]:
    def one(name: str, *products: str, status: str = "active") -> dict[str, Any]:
        return {
            "name": name,
            "title": name.title(),
            "status": status,
            "time_zone": "Europe/Berlin",
            "applications": [{"client_id": f"{name}-web", "title": "Web"}],
            "entitlements": [
                {"product": product, "plan": f"{name}-plan", "from": "2020-01-01"} for product in products
            ],
        }

    streams = {"ours": ["open", "closed", "bytes"], "theirs": ["foreign"]}
    plans = [
        {"name": f"{name}-plan", "revision": 1, "title": name, "currency": "EUR", "limits": limits, "charges": []}
        for name, limits in (("acme", {**UNLIMITED, "connections": 4711}), ("globex", UNLIMITED))
    ]
    return {
        "products": [{"name": name, "title": name, "streams": held} for name, held in streams.items()],
        "plans": plans,
        "tenants": [one("acme", "ours"), one("globex", "theirs"), one("initech", status="suspended")],
    }


@dataclass
class House:
    """A running gateway with two tenants, and a third one that is suspended."""

    deployment: Deployment
    process: GatewayProcess
    prefix: str

    @property
    def nobody(self) -> Partner:
        return Partner(self.process.base_url, None)

    def partner(self, tenant: str, *, scope: str = "streams:read", **claims: Any) -> Partner:
        token = self.deployment.token(f"{tenant}-web", scope=scope, **claims)
        return self.nobody.as_(token)


@pytest.fixture(scope="module")
def house(kafka: Kafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    prefix = f"documents.{uuid.uuid4().hex[:8]}"
    deployment = Deployment(
        tmp_path_factory.mktemp("documents"),
        kafka.bootstrap,
        contracts(prefix),
        tenants(),
        settings={"stream": {"heartbeat_seconds": 1}},
    )

    async def create() -> None:
        for stream in ("open", "closed", "foreign", "bytes"):
            await kafka.create_topic(f"{prefix}.{stream}", 1)

    asyncio.run(create())
    with deployment.gateway() as process:
        yield House(deployment, process, prefix)


def paths_of(document: dict[str, Any]) -> set[str]:
    """The streams whose addresses stand in a document."""
    channels = document.get("channels", {}).values()
    addresses = [*(one["address"] for one in channels), *document.get("paths", {})]
    return {one.split("/")[3] for one in addresses if one.startswith("/v1/streams/")}


async def test_everybody_sees_the_public_part_and_each_tenant_its_own(house: House) -> None:
    seen = {
        "nobody": (house.nobody, {"open"}),
        "acme": (house.partner("acme"), {"open", "closed", "bytes"}),
        "globex": (house.partner("globex"), {"foreign"}),
    }
    for path in PATHS:
        bodies = {}
        for name, (partner, streams) in seen.items():
            answer = await partner.get(path)
            assert answer.status_code == 200
            bodies[name] = answer.text
            assert paths_of(yaml.safe_load(answer.text)) == streams, (path, name)
        assert len(set(bodies.values())) == 3
        assert "4711" in bodies["acme"], "the plan's limits"
        assert "4711" not in bodies["nobody"] + bodies["globex"]
        for body in bodies.values():
            for word in (house.prefix, "kafka", "tests@example.com", "zzhidden", "zzlost"):
                assert word not in body.replace("Kafka's", "").replace("what Kafka received", ""), (path, word)


async def test_scopes_that_a_token_lacks_do_not_change_the_tenants_document(house: House) -> None:
    few, more = [await house.partner("acme", scope=scope).get("/asyncapi.json") for scope in ("other", "closed:read")]
    assert few.content == more.content
    assert few.json()["channels"]["closed.sse"]["x-stream"]["scopes"] == ["streams:read", "closed:read"]


async def test_json_yaml_and_media_types(house: House) -> None:
    partner = house.partner("acme")
    as_json, as_yaml, openapi = [await partner.get(path) for path in PATHS]
    assert [one.headers["content-type"] for one in (as_json, as_yaml, openapi)] == [
        "application/json",
        "application/yaml",
        "application/json",
    ]
    assert yaml.safe_load(as_yaml.text) == as_json.json()
    assert as_json.json()["asyncapi"] == "3.0.0"
    assert openapi.json()["openapi"] == "3.1.0"
    assert openapi.json()["servers"] == [{"url": house.process.base_url}]
    OpenAPIV31SpecValidator(openapi.json()).validate()
    for answer in (as_json, as_yaml, openapi):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert int(answer.headers["content-length"]) == len(answer.content)


@pytest.mark.parametrize("path", PATHS)
async def test_an_unchanged_document_is_304(house: House, path: str) -> None:
    for partner, cache in ((house.nobody, "public, max-age=60"), (house.partner("acme"), "private, no-cache")):
        whole = await partner.get(path)
        etag = whole.headers["etag"]
        assert etag[0] == etag[-1] == '"'
        assert (await partner.get(path)).content == whole.content
        for known in (etag, f"W/{etag}", f'"other", {etag}', "*"):
            answer = await partner.as_(partner.token, If_None_Match=known).get(path)
            assert (answer.status_code, answer.content) == (304, b""), known
            assert answer.headers["etag"] == etag
            assert answer.headers["vary"] == "Authorization, Origin"
            assert answer.headers["cache-control"] == whole.headers["cache-control"] == cache
        for other in ('"other"', etag.strip('"'), "", "W/"):
            assert (await partner.as_(partner.token, If_None_Match=other).get(path)).status_code == 200, other


async def test_an_etag_of_one_audience_is_none_of_another(house: House) -> None:
    etag = (await house.nobody.get("/openapi.json")).headers["etag"]
    partner = house.partner("acme")
    assert (await partner.as_(partner.token, If_None_Match=etag).get("/openapi.json")).status_code == 200


@pytest.mark.parametrize("path", PATHS)
async def test_refusals_are_those_of_every_route(house: House, path: str) -> None:
    good = house.partner("acme")
    await house.nobody.as_("no.token.this").refused(path, 401, "token_invalid")
    await house.nobody.as_(None, Authorization="Basic Zm9v").refused(path, 401, "token_missing")
    await house.nobody.as_(house.deployment.token("stranger")).refused(path, 401, "token_invalid")
    await house.partner("initech").refused(path, 403, "tenant_suspended")
    for partner in (house.nobody, good):
        await partner.refused(path, 400, "unknown_parameter", version="3.1.0")
        await partner.as_(partner.token, Accept="text/html").refused(path, 406, "not_acceptable")
    for method in ("HEAD", "POST", "DELETE"):
        answer = await good.request(method, path)
        assert (answer.status_code, answer.headers["allow"]) == (405, "GET")
    missing = await good.get(path + "/")
    assert missing.status_code == 404


# Delivery keeps the documents' word.


def fitting(document: dict[str, Any], name: str) -> Draft202012Validator:
    """A validator of one of the document's schemas."""
    return Draft202012Validator({"$ref": f"#/components/schemas/{name}", "components": document["components"]})


async def fill(house: House, kafka: Kafka) -> None:
    value = b'{"id":1,"amount":1.10,"zzhidden":"h","deep":{"kept":"k","zzlost":"l"},"more":true}'
    await kafka.produce(
        f"{house.prefix}.open",
        [value, None, b"broken", value],
        keys=[b"text", b"\xff", b"k", b"k"],
        headers=[("trace", b"t"), ("other", b"o")],
    )
    await kafka.produce(f"{house.prefix}.bytes", [b"\x00\xff", None], keys=[b"a", b"b"])


@pytest.mark.parametrize("envelope", ["record", "cloudevents", "none"])
async def test_what_is_delivered_fits_the_schemas_on_every_protocol(house: House, kafka: Kafka, envelope: str) -> None:
    partner = house.partner("acme")
    await fill(house, kafka)
    asyncapi = (await partner.get("/asyncapi.json")).json()
    openapi = (await partner.get("/openapi.json")).json()
    for stream in ("open", "bytes"):
        # What the parser of a draft-07 document and what a 2020-12 one says is the same here.
        kinds = {"cloudevents": "cloudevent", "none": "payload"}
        for document in (asyncapi, openapi):
            page = await partner.pull(stream, from_="earliest", envelope=envelope)
            assert page["records"]
            fitting(document, f"{stream}.page").validate(page)
            for record in page["records"]:
                fitting(document, f"{stream}.{kinds.get(envelope, 'item')}").validate(record)
        count = len(page["records"])
        for protocol in ("sse", "ws", "ndjson") if envelope != "none" else ("sse",):
            await _open_and_check(partner, asyncapi, protocol, stream, envelope, count)


async def _open_and_check(
    partner: Partner, document: dict[str, Any], protocol: str, stream: str, envelope: str, count: int
) -> None:
    raw = {"sse": partner.sse, "ws": partner.ws, "ndjson": partner.ndjson}[protocol]
    plain = {"sse": "event", "ws": "frame", "ndjson": "frame"}[protocol]
    record = fitting(document, f"{stream}.{ {'cloudevents': 'cloudevent', 'none': 'payload'}.get(envelope, plain) }")
    seen: dict[str, int] = {}
    async with raw(stream, from_="earliest", envelope=envelope) as reading:
        async with asyncio.timeout(20):
            while seen.get("record", 0) < count or not seen.get("checkpoint"):
                for kind, told in await _told(reading, protocol):
                    seen[kind] = seen.get(kind, 0) + 1
                    if kind == "record":
                        record.validate(told)
                    else:
                        name = kind.capitalize() + ("" if protocol == "sse" else "Frame")
                        fitting(document, name).validate(told)
    if stream == "open":
        assert seen["gap"], "the broken one"


async def _told(reading: Any, protocol: str) -> list[tuple[str, Any]]:
    """The next events as their JSON and kind, undecorated."""
    if protocol == "ws":
        texts = [await reading.connection.recv()]
    else:
        chunk = await anext(reading._chunks)
        *texts, reading._rest = (reading._rest + chunk).decode().split(reading.separator.decode())
        reading._rest = reading._rest.encode()
    found = []
    for text in texts:
        if protocol == "sse":
            fields = dict(line.split(": ", 1) for line in text.split("\n"))
            if "data" in fields:
                found.append((fields.get("event", "record"), json.loads(fields["data"])))
        else:
            members = json.loads(text)
            found.append((members.get("type") if "specversion" not in members else "record", members))
    return found


# Nodes, reloads, the store.


async def test_every_node_serves_the_same_bytes_and_needs_no_kafka_for_it(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path, "127.0.0.1:1", contracts("away"), tenants())
    token = deployment.token("acme-web")
    seen = []
    for node in ("a", "b"):
        process = GatewayProcess(deployment, node)
        process.start(wait_ready=False)
        try:
            answers = [await Partner(process.base_url, token).get(path) for path in PATHS]
            seen.append([one.text.replace(process.base_url.partition("//")[2], "host") for one in answers])
        finally:
            process.stop()
    assert seen[0] == seen[1]


async def test_a_reload_changes_the_document_and_its_etag(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path, "127.0.0.1:1", contracts("away"), tenants())
    process = GatewayProcess(deployment, "a")
    process.start(wait_ready=False)
    try:
        nobody = Partner(process.base_url, None)
        before = await nobody.get("/asyncapi.yaml")
        file = tmp_path / "asyncapi" / "streams" / "open.yaml"
        file.write_text(file.read_text().replace("For tests.", "For other tests."))
        process.signal(signal.SIGHUP)
        deadline = time.monotonic() + 20
        after = before
        while after.headers["etag"] == before.headers["etag"]:
            assert time.monotonic() < deadline
            after = await nobody.get("/asyncapi.yaml")
        assert "For other tests." in after.text
    finally:
        process.stop()


async def test_many_who_ask_at_once_cause_one_building() -> None:
    store = DocumentStore()
    asked = [store.document(KINDS[0], Audience(()), contracts_digest="a", public_url=PUBLIC_URL) for _ in range(50)]
    found = await asyncio.gather(*asked)
    assert len({id(one) for one in found}) == 1
    assert store.built == 1
    await store.document(KINDS[0], Audience(()), contracts_digest="b", public_url=PUBLIC_URL)
    assert store.built == 2


async def test_the_store_forgets_what_was_not_asked_for_the_longest() -> None:
    store = DocumentStore()

    async def ask(digest: int) -> None:
        await store.document(KINDS[2], Audience(()), contracts_digest=str(digest), public_url=PUBLIC_URL)

    for number in range(KEPT_DOCUMENTS):
        await ask(number)
    await ask(0)
    await ask(KEPT_DOCUMENTS)
    assert store.statistics()[0] == KEPT_DOCUMENTS
    built = store.built
    await ask(0)
    assert store.built == built, "asked for lately"
    await ask(1)
    assert store.built == built + 1, "forgotten"
