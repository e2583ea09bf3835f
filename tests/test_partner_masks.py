"""Masks and row filters at a running gateway: what is hidden is in no answer of any protocol, document or list."""

from __future__ import annotations

import asyncio
import copy
import json
import signal
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from gateway.cli import main
from tests.parts.gateway import Deployment, GatewayProcess, catalog, contract
from tests.parts.kafka import Kafka, eventually
from tests.parts.partner import PROTOCOLS, Partner, Stream

EVENT = {
    "type": "object",
    "required": ["kind", "secret", "delay"],
    "properties": {
        "kind": {"type": "string"},
        "secret": {"type": "string"},
        "delay": {"type": "number"},
        "deep": {"type": "object", "properties": {"in": {"type": "string"}, "out": {"type": "number"}}},
    },
}
MASKS = {"/secret": "drop", "/delay": "null", "/deep/in": "drop"}
STREAMS = ("events", "shown", "rows", "claimed", "turning")
RECORDS = [
    b'{"kind":"a", "secret":"hushhush-0","delay":1.10,"deep":{"in":"hushhush","out":1E400}}',
    b'{"delay":"hushhush", "kind":"b","price":1.10,"deep":[{"in":"hushhush"}],"secret":"hushhush-1","secret":"x"}',
    b'{"kind":"c","secret":"hushhush-2","n":12345678901234567890123}',
    b'{"secret":"hushhush-0"}',
]
WHOLE = [
    b'{"kind":"a","delay":null,"deep":{"out":1E400}}',
    b'{"delay":null, "kind":"b","price":1.10,"deep":null}',
    b'{"kind":"c","n":12345678901234567890123}',
    b"{}",
]
CUT = [
    b'{"kind":"a","delay":null,"deep":{"out":1E400}}',
    b'{"kind":"b","delay":null,"deep":null}',
    b'{"kind":"c"}',
    b"{}",
]
ENVELOPES = ("record", "cloudevents", "none")


@dataclass
class House:
    """A gateway whose partners read the same streams: acme all of them, globex and initech under masks."""

    deployment: Deployment
    gateway: GatewayProcess
    kafka: Kafka
    topic: str

    def partner(self, tenant: str, **claims: Any) -> Partner:
        name = "acme-web" if tenant == "acme" else f"{tenant}-app"
        return Partner(self.gateway.base_url, self.deployment.token(name, **claims))

    def run(self, *arguments: str) -> Result:
        return CliRunner().invoke(main, [*arguments, *self.deployment.options("apply")])

    def apply(self, told: dict[str, Any]) -> Result:
        path = self.deployment.directory / "changed.yaml"
        path.write_text(yaml.safe_dump(told, sort_keys=False).replace("'2020-01-01'", "2020-01-01"))
        return self.run("apply", str(path))


def commerce(masks: dict[str, str]) -> dict[str, Any]:
    """``masks`` are those of the product ``turning``."""
    told = catalog(STREAMS)
    hidden = {stream: MASKS for stream in STREAMS if stream != "turning"}
    told["products"] += [
        {"name": "hidden", "title": "Hidden", "streams": [*hidden], "masks": copy.deepcopy(hidden)},
        {"name": "turning", "title": "Turning", "streams": ["turning"], "masks": {"turning": masks} if masks else {}},
    ]
    acme = told["tenants"][0]
    told["tenants"] = [acme] + [
        acme
        | {
            "name": name,
            "attributes": {"regions": ["hushhush-0", "hushhush-2"]},
            "applications": [{"client_id": f"{name}-app", "title": "App"}],
            "entitlements": [{"product": product, "plan": "open", "from": "2020-01-01"} for product in products],
        }
        for name, products in (("globex", ["hidden"]), ("initech", ["hidden"]), ("hooli", ["turning"]))
    ]
    return told


@pytest.fixture(scope="module")
def house(kafka: Kafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    topic = f"masks.{uuid.uuid4().hex[:8]}"
    asyncio.run(kafka.create_topic(topic, 1))
    asyncio.run(kafka.produce(topic, RECORDS, partition=0))
    asyncio.run(kafka.create_topic(f"{topic}.turning", 1))
    filters = {
        "kind": {"pointer": "/kind", "type": "string"},
        "delay": {"pointer": "/delay", "type": "number"},
        "secret": {"pointer": "/secret", "type": "string"},
    }
    of_all: dict[str, Any] = {"partitions": 1, "payload": EVENT, "filters": filters}
    shown = ["/kind", "/delay", "/deep", "/secret"]
    contracts = [
        contract("events", topic, **of_all),
        contract("shown", topic, projection=shown, **of_all),
        contract("rows", topic, row_filter={"field": "secret", "attribute": "regions"}, **of_all),
        contract("claimed", topic, row_filter={"field": "secret", "claim": "region"}, **of_all),
        contract("turning", f"{topic}.turning", **of_all),
    ]
    deployment = Deployment(tmp_path_factory.mktemp("masks") / "d", kafka.bootstrap, contracts, commerce({}))
    with deployment.gateway() as gateway:
        yield House(deployment, gateway, kafka, topic)


def payload(heard: Any, envelope: str) -> Any:
    return heard if envelope == "none" else heard["data"]


@pytest.mark.parametrize(("stream", "left"), [("events", WHOLE), ("shown", CUT)])
@pytest.mark.parametrize("envelope", ENVELOPES)
@pytest.mark.parametrize("protocol", ["pull", *PROTOCOLS])
async def test_masks_hold_on_every_protocol_and_in_every_envelope(
    house: House, protocol: str, envelope: str, stream: str, left: list[bytes]
) -> None:
    if envelope == "none" and protocol not in ("pull", "sse"):
        return
    for tenant in ("globex", "initech"):
        partner = house.partner(tenant)
        if protocol == "pull":
            answer = await partner.get(f"/v1/streams/{stream}/records", from_="earliest", envelope=envelope)
            assert b"hushhush" not in answer.content
            for one in left:
                assert one in answer.content, "what is not hidden is there as it was produced"
            found = [payload(one, envelope) for one in answer.json()["records"]]
        else:
            async with partner.open(protocol, stream, from_="earliest", envelope=envelope) as reading:
                found = [payload(one.data, envelope) for one in [await reading.next_but_checkpoints() for _ in left]]
        assert found == [json.loads(one) for one in left]
    whole = await house.partner("acme").pull("events", from_="earliest")
    assert [one["data"] for one in whole["records"]] == [json.loads(one) for one in RECORDS]


async def test_what_is_masked_cannot_be_filtered_on_and_what_is_dropped_not_asked_for(house: House) -> None:
    globex, acme = house.partner("globex"), house.partner("acme")
    for suffix in ("records", "sse", "ndjson"):
        path = f"/v1/streams/events/{suffix}"
        for term in ("delay:gt:0", "delay:exists:true", "secret:prefix:hush"):
            detail = (await globex.refused(path, 400, "invalid_parameter", filter=term))["detail"]
            assert "kind" in detail
            assert "secret" not in detail.replace(term.partition(":")[0], "")
        for fields in ("/secret", "/kind,/deep/in"):
            detail = (await globex.refused(path, 400, "invalid_parameter", fields=fields))["detail"]
            assert "is not in this stream" in detail
        assert "/secret'" in (await globex.refused(path, 400, "invalid_parameter", fields="/secret"))["detail"]
    page = await globex.pull("events", from_="earliest", fields="/delay,/deep", filter="kind:in:a,b")
    assert [one["data"] for one in page["records"]] == [
        {"delay": None, "deep": {"out": float("inf")}},
        {"delay": None, "deep": None},
    ]
    assert len((await acme.pull("events", from_="earliest", filter="delay:gt:0"))["records"]) == 1


async def test_a_row_filter_by_a_list_works_on_a_field_that_is_masked(house: House) -> None:
    for protocol in PROTOCOLS:
        async with house.partner("globex").open(protocol, "rows", from_="earliest") as reading:
            found = [one.data["data"] for one in await reading.records(3)]
        assert found == [json.loads(WHOLE[number]) for number in (0, 2, 3)]
    page = await house.partner("globex").pull("rows", from_="earliest")
    assert [one["data"] for one in page["records"]] == found
    for protocol in PROTOCOLS:
        listed = house.partner("globex", region=["hushhush-0", "hushhush-2"])
        async with listed.open(protocol, "claimed", from_="earliest") as reading:
            assert [one.data["data"] for one in await reading.records(3)] == found
    # A claim: one value or a list of them; none, or one of another type, opens nothing. No attribute stands in.
    for region, numbers in (
        ("hushhush-2", (2,)),
        (["hushhush-0", "hushhush-2", "x"], (0, 1, 2, 3)),
        (["x"], (1,)),
        (["y"], ()),
    ):
        page = await house.partner("globex", region=region).pull("claimed", from_="earliest")
        assert [one["data"] for one in page["records"]] == [json.loads(WHOLE[number]) for number in numbers]
    refused: list[dict[str, Any]] = [
        {},
        {"region": 1},
        {"region": []},
        {"region": ["hushhush-0", None]},
        {"regions": ["hushhush-0"]},
    ]
    for claims in refused:
        await house.partner("globex", **claims).refused("/v1/streams/claimed/records", 403, "claim_missing")
    # acme's file gives it no such attribute.
    await house.partner("acme").refused("/v1/streams/rows/records", 403, "claim_missing")


async def test_lists_and_documents_do_not_tell_of_what_is_hidden(house: House) -> None:
    globex = house.partner("globex")
    listed = {one["name"]: one for one in (await globex.get("/v1/streams")).json()["streams"]}
    assert [one["name"] for one in listed["events"]["filters"]] == ["kind"]
    for path in ("/openapi.json", "/asyncapi.json", "/asyncapi.yaml"):
        text = (await globex.get(path)).text
        assert "secret" not in text
        assert "secret" in (await house.partner("acme").get(path)).text
    schemas = (await globex.get("/openapi.json")).json()["components"]["schemas"]
    for stream in ("events", "shown"):
        data = schemas[f"{stream}.data"]
        assert set(data["required"]) == {"kind", "delay"}
        assert set(data["properties"]["deep"]["properties"]) == {"out"}
        assert {"type": "null"} in data["properties"]["delay"]["anyOf"]


async def test_changed_masks_hold_from_the_next_record_on_open_streams(house: House) -> None:
    hooli = house.partner("hooli")

    async def takes(masks: dict[str, str], *, known: set[str]) -> None:
        async def is_known() -> bool:
            (listed,) = (await hooli.get("/v1/streams")).json()["streams"]
            return {one["name"] for one in listed["filters"]} == known

        done = await asyncio.to_thread(house.apply, commerce(masks))
        assert done.exit_code == 0, done.stderr
        # The database is followed in any case; this is not about how soon.
        house.gateway.signal(signal.SIGHUP)
        await eventually(is_known, seconds=60)

    async with hooli.sse("turning") as sse, hooli.ws("turning") as ws, hooli.ndjson("turning") as ndjson:
        for reading in (ws, ndjson):
            assert (await reading.next()).kind == "welcome"
        streams: tuple[Stream, ...] = (sse, ws, ndjson)
        turns: tuple[tuple[dict[str, str], dict[str, Any], set[str]], ...] = (
            ({}, {"secret": "s", "delay": 2}, {"kind", "secret", "delay"}),
            ({"/secret": "drop", "/delay": "null"}, {"delay": None}, {"kind"}),
            ({"/secret": "null"}, {"secret": None, "delay": 2}, {"kind", "delay"}),
        )
        for number, (masks, left, known) in enumerate(turns):
            await takes(masks, known=known)
            await house.kafka.produce(f"{house.topic}.turning", [b'{"kind":"%d","secret":"s","delay":2}' % number])
            for stream in streams:
                (one,) = await stream.records(1)
                assert one.data["data"] == {"kind": str(number)} | left
        # A filter that the new masks forbid ends the read that has it.
        async with hooli.sse("turning", filter="delay:ge:0") as filtered:
            await takes({"/delay": "drop"}, known={"kind", "secret"})
            goodbye = await filtered.until("goodbye")
            assert goodbye.data["code"] == "access_withdrawn"


def test_apply_shows_masks_and_refuses_those_that_cannot_be(house: House) -> None:
    good = commerce({})
    for change, said in (
        ({"/sekret": "drop"}, "has no such member in the contract's schema, got '/sekret'; allowed: deep, delay, kind"),
        ({"/kind/x": "drop"}, "/kind has no such member in the contract's schema, got '/kind/x'; allowed: members of"),
    ):
        told = copy.deepcopy(good)
        told["products"][2]["masks"] = {"turning": change}
        done = house.apply(told)
        assert (done.exit_code, said in done.stderr) == (2, True), done.stderr
        assert "changed.yaml:" in done.stderr
    told = copy.deepcopy(good)
    told["products"][1]["masks"]["shown"] = {"/price": "drop"}
    done = house.apply(told)
    assert "masks.shown: outside the contract's projection, got '/price'; allowed: /kind, /delay" in done.stderr
    # Two products, one stream, one tenant, two masks.
    told = copy.deepcopy(good)
    told["tenants"][1]["entitlements"].append({"product": "all", "plan": "open", "from": "2020-01-01"})
    done = house.apply(told)
    assert done.exit_code == 2
    said = "tenant globex: stream events under two different masks, none by all and /deep/in drop, /delay null, /secret"
    allowed = "allowed: the same masks in both products, or dates apart"
    assert f"{said} drop by hidden, got 'hidden'; {allowed}" in done.stderr


def test_explain_says_of_each_condition_what_it_rests_on(house: House) -> None:
    asked = ["access", "explain", "--client-id", "globex-app", "--stream", "rows"]
    done = house.run(*asked, "--scope", "streams:read", "--format", "json")
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["granted"], told["refusal"]) == (True, None)
    by_name = {one["condition"]: one for one in told["conditions"]}
    assert {one["outcome"] for one in told["conditions"]} == {"met"}
    assert by_name["row_filter"]["told"].startswith("/secret must be one of 'hushhush-0', 'hushhush-2', by tenant attr")
    assert by_name["masks"]["told"] == "/deep/in drop, /delay null, /secret drop, by hidden"
    assert "hidden at open revision 1 from 2020-01-01 without end: in force" in by_name["entitlement"]["told"]
    assumed = house.run(*asked)
    assert assumed.exit_code == 0
    first, *lines = assumed.stdout.splitlines()
    assert first.endswith(": granted")
    assert (
        "  assumed  scopes       needed: streams:read; assumed that the token has them; give --scope to try others"
        in lines
    )
    refused = house.run(*asked, "--scope", "")
    assert refused.exit_code == 1
    first, *lines = refused.stdout.splitlines()
    assert first.endswith(": refused with 403 insufficient_scope")
    assert "  not met  scopes       needed: streams:read; the token has: none" in lines
    stranger = house.run("access", "explain", "--client-id", "nobody", "--stream", "nothing", "--format", "json")
    outcomes = {one["condition"]: one["outcome"] for one in json.loads(stranger.stdout)["conditions"]}
    assert (outcomes["application"], outcomes["contract"], outcomes["masks"]) == ("not met", "not met", "unknown")
    wrong = house.run(*asked, "--issuer", "nobody")
    assert (wrong.exit_code, wrong.stdout) == (2, "")
    assert "--issuer, got 'nobody'; allowed: " in wrong.stderr
