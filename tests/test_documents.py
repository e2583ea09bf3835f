"""The partner's documents: whom they are for, what they hold, what never stands in them, and that tools take them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from openapi_spec_validator import OpenAPIV31SpecValidator

from gateway.catalog.catalog import Catalog
from gateway.catalog.contracts import load_contracts
from gateway.catalog.documents import parameters as table
from gateway.catalog.documents.asyncapi import asyncapi_document
from gateway.catalog.documents.facts import facts
from gateway.catalog.documents.offer import Audience, Offer, public_audience, tenant_audience
from gateway.catalog.documents.openapi import openapi_document
from gateway.catalog.documents.problems import close_code_rows, refusal_rows
from gateway.catalog.documents.spelling import spell_json, spell_yaml
from gateway.errors import BadRequest
from gateway.model import Entitlement, Plan, Product, Tenant
from gateway.subscription.request import BUT_PULL, EVERYWHERE, PULL_ONLY, parse_read
from tests.conftest import or_left_out
from tests.parts import node
from tests.parts.gateway import contract
from tests.parts.offers import MARKUP, SECRET, URL, everyone, hostile_contract, loaded, spelled, wide_contract

ROOT = Path(__file__).resolve().parents[1]
PLAN = Plan("pro", 1, "Pro", "EUR", limits={"connections": 5, "records_per_second": {"rate": 10, "burst": 20}})


def tenant(name: str, *products: str, **dates: date) -> Tenant:
    rights = tuple(
        Entitlement(name, one, "pro", dates.get("start", date(2026, 1, 1)), dates.get("end")) for one in products
    )
    return Tenant(name, name.title(), "active", "UTC", entitlements=rights)


MIDSUMMER = 1_782_000_000.0


# Whom a document is for.


def test_the_public_part_shows_public_streams_that_are_published_or_deprecated(tmp_path: Path) -> None:
    old = {"deprecated_on": date(2026, 1, 1)}
    contracts = loaded(
        tmp_path,
        [
            contract("open", "t"),
            contract("ageing", "t", lifecycle="deprecated", **old),
            contract("gone", "t", lifecycle="retired"),
            contract("draft", "t", lifecycle="draft"),
            contract("closed", "t", visibility="entitled"),
        ],
    )
    assert [one.contract.stream for one in public_audience(contracts.values()).offers] == ["ageing", "open"]


def test_a_tenant_sees_what_it_is_entitled_to_now_and_nothing_else(tmp_path: Path) -> None:
    names = ("open", "closed", "later", "over", "drafted")
    contracts = loaded(
        tmp_path,
        [
            contract(one, "t", visibility="entitled", lifecycle="draft" if one == "drafted" else "published")
            for one in names
        ],
    )
    acme = replace(
        tenant("acme", "closed", "drafted"),
        entitlements=(
            *tenant("acme", "closed", "drafted").entitlements,
            *tenant("acme", "later", start=date(2027, 1, 1)).entitlements,
            *tenant("acme", "over", end=date(2026, 2, 1)).entitlements,
        ),
    )
    catalog = Catalog.build([Product(one, one, (one,)) for one in names], [PLAN], [acme, tenant("globex", "open")])
    for name, shown in (("acme", ["closed"]), ("globex", ["open"])):
        found = catalog.tenant(name)
        assert found is not None
        audience = tenant_audience(found, contracts.values(), catalog, now=MIDSUMMER)
        assert [one.contract.stream for one in audience.offers] == shown
        for body in spelled(audience).values():
            for other in set(names) - set(shown):
                assert f"/v1/streams/{other}".encode() not in body


def test_limits_stand_in_a_tenants_documents_only(tmp_path: Path) -> None:
    contracts = loaded(tmp_path, [contract("one", "t")])
    for name, body in spelled(everyone(contracts, plan=PLAN)).items():
        assert b"records_per_second" in body, name
        assert b"records_per_second" not in spelled(everyone(contracts))[name], name


def test_prices_stand_in_no_document(tmp_path: Path) -> None:
    plan = replace(PLAN, pricing={"charges": [{"name": SECRET}]}, currency="XTS")
    for body in spelled(everyone(loaded(tmp_path, [contract("one", "t")]), plan=plan)).values():
        assert SECRET.encode() not in body
        assert b"XTS" not in body


def test_audiences_are_equal_where_their_documents_are(tmp_path: Path) -> None:
    (one,) = loaded(tmp_path, [contract("one", "t")]).values()
    offers = [Offer(one, PLAN), Offer(one, replace(PLAN, pricing={"minimum": "1"}))]
    assert len({Audience((offer,), is_tenant=True).key for offer in offers}) == 1
    others = [Offer(one, replace(PLAN, title="Other")), Offer(one, replace(PLAN, limits={})), Offer(one)]
    assert len({Audience((offer,), is_tenant=True).key for offer in [*offers, *others]}) == 4


# What never stands in a document.


def test_nothing_internal_stands_in_any_document(tmp_path: Path) -> None:
    contracts = loaded(tmp_path, [hostile_contract()])
    for audience in (everyone(contracts), everyone(contracts, plan=PLAN)):
        for name, body in spelled(audience).items():
            assert SECRET.encode() not in body.lower(), (name, around(body, SECRET))
            for word in (b"kafka.internal", b"9092", b"x-gateway", b"-topic"):
                assert word not in body, (name, word)


def test_nothing_internal_stands_in_the_documents_of_the_examples() -> None:
    contracts = load_contracts(ROOT / "asyncapi")
    for body in spelled(everyone(contracts, plan=PLAN)).values():
        for word in (b"seismology.quakes", b"aviation.flights.v2", b"kafka.internal", b"felt", b'airport"', b"claim:"):
            assert word not in body, word


def test_a_projection_of_everything_shows_the_payload_without_extensions(tmp_path: Path) -> None:
    document = hostile_contract()
    (channel,) = document["channels"].values()
    del channel["x-gateway"]["projection"]
    contracts = loaded(tmp_path, [document])
    (one,) = contracts.values()
    schemas = openapi_document(everyone(contracts), public_url=URL)["components"]["schemas"]
    shown = json.dumps(schemas["constructor.data"])
    assert f"{SECRET}_field" in shown, "it is within what is exposed"
    for word in ("x-registry", "x-unit", "x-of", "$comment", "$id", "registry", "discriminator", "externalDocs"):
        assert word not in shown
    assert one.owner not in json.dumps(schemas)


def test_the_contact_is_shown_and_the_owner_is_not(tmp_path: Path) -> None:
    document = contract("one", "t", owner="owner@example.com")
    document["info"]["contact"] = {
        "name": "Data team",
        "email": "data@example.com",
        "url": "https://intranet.example.com",
    }
    (one,) = loaded(tmp_path, [document]).values()
    assert facts(Offer(one))["contact"] == {"name": "Data team", "email": "data@example.com"}
    assert b"owner@" not in b"".join(spelled(Audience((Offer(one),))).values())


# What stands in a document.


def test_every_stream_and_protocol_is_a_channel_that_is_received_from(tmp_path: Path) -> None:
    document = asyncapi_document(
        everyone(loaded(tmp_path, [contract("one", "t"), contract("two", "t", transports=["sse"])])), public_url=URL
    )
    addresses = {key: one["address"] for key, one in document["channels"].items()}
    assert addresses == {
        "one.sse": "/v1/streams/one/sse",
        "one.ws": "/v1/streams/one/ws",
        "one.records": "/v1/streams/one/records",
        "one.ndjson": "/v1/streams/one/ndjson",
        "two.sse": "/v1/streams/two/sse",
    }
    receiving = {one["channel"]["$ref"] for one in document["operations"].values() if one["action"] == "receive"}
    assert receiving == {f"#/channels/{key}" for key in addresses}
    sending = [key for key, one in document["operations"].items() if one["action"] == "send"]
    assert sending == ["send.one.ws"], "a client speaks on a WebSocket alone"
    assert "x-sse" in document["channels"]["one.sse"]
    assert "ws" in document["channels"]["one.ws"]["bindings"]
    assert "http" in document["operations"]["receive.one.sse"]["bindings"]


@pytest.mark.parametrize(
    ("url", "http", "websocket", "host", "path"),
    [
        ("https://api.example.com", "https", "wss", "api.example.com", None),
        ("http://localhost:8080", "http", "ws", "localhost:8080", None),
        ("https://example.com/streams", "https", "wss", "example.com", "/streams"),
        ("http://[::1]:8080", "http", "ws", "[::1]:8080", None),
    ],
)
def test_servers_are_the_public_address(url: str, http: str, websocket: str, host: str, path: str | None) -> None:
    servers = asyncapi_document(Audience(()), public_url=url)["servers"]
    assert {one["protocol"] for one in servers.values()} == {http, websocket}
    assert {(one["host"], one.get("pathname")) for one in servers.values()} == {(host, path)}
    assert openapi_document(Audience(()), public_url=url)["servers"] == [{"url": url}]


def test_a_deprecated_stream_says_since_when_until_when_and_what_comes_instead(tmp_path: Path) -> None:
    contracts = loaded(
        tmp_path,
        [
            contract("new", "t"),
            contract(
                "old",
                "t",
                lifecycle="deprecated",
                deprecated_on=date(2026, 1, 15),
                sunset_on=date(2031, 6, 30),
                successor="new",
            ),
        ],
    )
    paths = openapi_document(everyone(contracts), public_url=URL)["paths"]
    old = paths["/v1/streams/old/records"]["get"]
    assert old["deprecated"] is True
    assert {"Deprecation", "Sunset"} <= old["responses"]["200"]["headers"].keys()
    assert "deprecated" not in paths["/v1/streams/new/records"]["get"]
    told = asyncapi_document(everyone(contracts), public_url=URL)["channels"]["old.sse"]
    assert "2026-01-15" in told["description"]
    assert (
        told["x-stream"] | {"deprecatedOn": "2026-01-15", "sunsetOn": "2031-06-30", "successor": "new"}
        == told["x-stream"]
    )


def test_a_row_filter_is_hinted_at_without_field_claim_or_value(tmp_path: Path) -> None:
    flight = {"type": "object", "properties": {"origin": {"type": "string"}}}
    rows = contract(
        "rows",
        "t",
        payload=flight,
        filters={"origin": {"pointer": "/origin", "type": "string"}},
        row_filter={"field": "origin", "claim": "airport-claim"},
    )
    contracts = loaded(tmp_path, [rows])
    document = asyncapi_document(everyone(contracts), public_url=URL)
    assert document["channels"]["rows.sse"]["x-stream"]["rowFiltered"] is True
    assert "your access covers" in document["channels"]["rows.sse"]["description"]
    assert "airport-claim" not in json.dumps(document)
    assert "lag" not in document["components"]["schemas"]["rows.page"]["properties"]


def test_examples_are_projected_and_wrong_ones_are_left_out(tmp_path: Path) -> None:
    (one,) = loaded(tmp_path, [hostile_contract()]).values()
    messages = asyncapi_document(Audience((Offer(one),)), public_url=URL)["components"]["messages"]
    (example,) = messages["constructor.frame"]["examples"]
    assert example["name"] == "example 1"
    assert example["payload"]["data"] == {
        "shown": MARKUP,
        "a/b": 1,
        "__proto__": {"x": 123456789012345678901234567890},
        "nested": {"kept": 1.1},
        "either": None,
    }


def test_long_integers_keep_their_digits(tmp_path: Path) -> None:
    document = contract("one", "t")
    digits = 123456789012345678901234567890
    document["components"]["messages"]["event"]["examples"] = [{"payload": {"a": digits}}]
    for body in spelled(everyone(loaded(tmp_path, [document]))).values():
        assert str(digits).encode() in body


def test_only_filters_that_partners_may_use_are_told(tmp_path: Path) -> None:
    (one,) = loaded(tmp_path, [hostile_contract()]).values()
    assert [told["name"] for told in facts(Offer(one))["filters"]] == ["shown"]
    queries = openapi_document(Audience((Offer(one),)), public_url=URL)["paths"]["/v1/streams/constructor/sse"]["get"]
    (told,) = [each for each in queries["parameters"] if each.get("name") == "filter"]
    assert told["schema"]["items"]["pattern"].startswith("^(shown):")


def test_a_payload_that_is_no_json_is_told_as_base64(tmp_path: Path) -> None:
    contracts = loaded(tmp_path, [contract("raw", "t", content_type="application/x-thing", payload={"type": "string"})])
    document = openapi_document(everyone(contracts), public_url=URL)
    item = document["components"]["schemas"]["raw.item"]
    assert item["properties"]["data_base64"]["contentMediaType"] == "application/x-thing"
    assert "data" not in item["required"]
    names = [one.get("name") for one in document["paths"]["/v1/streams/raw/records"]["get"]["parameters"]]
    assert "fields" not in names
    assert "filter" not in names


def test_a_schema_in_another_language_says_nothing(tmp_path: Path) -> None:
    document = contract("avro", "t", projection=["/a"])
    document["components"]["messages"]["event"]["payload"] = {
        "schemaFormat": "application/vnd.apache.avro;version=1.9.0",
        "schema": {"type": "record", "name": SECRET, "fields": []},
    }
    contracts = loaded(tmp_path, [document])
    schemas = openapi_document(everyone(contracts), public_url=URL)["components"]["schemas"]
    assert schemas["avro.data"] == {"type": "object", "properties": {"a": {}}}
    assert SECRET not in json.dumps(schemas)


# The tables that documents are made from are those of the code.


def test_every_parameter_of_the_code_is_told_and_no_other(tmp_path: Path) -> None:
    payload = {"type": "object", "properties": {"a": {"type": "string"}}}
    (one,) = loaded(
        tmp_path, [contract("one", "t", payload=payload, filters={"a": {"pointer": "/a", "type": "string"}})]
    ).values()
    assert [told.name for told in table.parameters(one, ("sse",))] == [*EVERYWHERE, *BUT_PULL]
    assert [told.name for told in table.parameters(one, ("pull",))] == [*EVERYWHERE, *PULL_ONLY]
    for told in table.parameters(one, ("pull",)):
        assert told.description


@pytest.mark.parametrize("name", PULL_ONLY)
def test_the_bounds_told_are_the_bounds_kept(name: str, tmp_path: Path) -> None:
    (one,) = loaded(tmp_path, [contract("one", "t")]).values()
    (told,) = [each for each in table.parameters(one, ("pull",)) if each.name == name]
    low, high, default = told.schema["minimum"], told.schema["maximum"], told.schema["default"]
    assert parse_read(f"{name}={default}".encode(), transport="pull") == parse_read(b"", transport="pull")
    for good in (low, high):
        parse_read(f"{name}={good}".encode(), transport="pull")
    for bad in (low - 1, high + 1):
        with pytest.raises(BadRequest):
            parse_read(f"{name}={bad}".encode(), transport="pull")


def test_the_words_told_are_the_words_kept(tmp_path: Path) -> None:
    (one,) = loaded(tmp_path, [contract("one", "t")]).values()
    for told in table.parameters(one, ("pull",)):
        for word in told.schema.get("enum", ()):
            parse_read(f"{told.name}={word}".encode(), transport="pull")
        if "enum" in told.schema:
            with pytest.raises(BadRequest):
                parse_read(f"{told.name}=other".encode(), transport="pull")


def test_every_refusal_stands_in_the_table_with_its_close_code() -> None:
    told = {one["code"]: one for one in refusal_rows()}
    assert told["cursor_expired"]["status"] == 410
    assert told["token_expired"]["closeCode"] == 4401
    assert "forbidden" in told
    for row in close_code_rows():
        assert all(told[code]["closeCode"] == row["closeCode"] for code in row["codes"])


# Bytes.


def test_yaml_and_json_say_the_same(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for contracts in (loaded(tmp_path, [hostile_contract()]), loaded(tmp_path / "b", [wide_contract(50)])):
        bodies = spelled(everyone(contracts, plan=PLAN))
        assert yaml.safe_load(bodies["asyncapi.yaml"]) == json.loads(bodies["asyncapi.json"])


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda below: st.lists(below, max_size=4) | st.dictionaries(st.text(), below, max_size=4),
        max_leaves=12,
    )
)
def test_any_value_comes_back_from_yaml_and_json_as_it_was(value: Any) -> None:
    document = {"value": value, "no": [[value], {"~": value}], "y" * 2000: value, "x" * 1500: {"a": value}}
    assert json.loads(spell_json(document)) == document
    assert yaml.safe_load(spell_yaml(document)) == document


@pytest.mark.parametrize(
    "text", ["1e3", "1.0", "0x1", "12:30", "null", "No", "ON", "~", "", " a", "a: b", "a #b", "\\u"]
)
def test_text_that_looks_like_something_else_stays_text(text: str) -> None:
    assert yaml.safe_load(spell_yaml({"a": text, text: 1})) == {"a": text, text: 1}
    assert json.loads(spell_json({"a": text})) == {"a": text}


@pytest.mark.parametrize(
    "text", ["\\ud83d\ude00", "\ud83d", "a\udc00b", "\ude00\ud83d", "\\\\ud83d\\ude00", "\\\U0001f600"]
)
def test_half_characters_are_replaced_and_whole_ones_kept(text: str) -> None:
    whole = "".join("\ufffd" if "\ud800" <= one <= "\udfff" else one for one in text)
    for spelled_text in (json.loads(spell_json({"a": text})), yaml.safe_load(spell_yaml({"a": text}))):
        assert spelled_text == {"a": whole}
    assert spell_yaml({"a": text}).isascii()


_SPELL = """
import sys
from pathlib import Path
from gateway.catalog.contracts import load_contracts
from tests.parts.offers import everyone, spelled
for body in spelled(everyone(load_contracts(Path(sys.argv[1])))).values():
    sys.stdout.buffer.write(body)
"""


def test_every_process_makes_the_same_bytes(tmp_path: Path) -> None:
    loaded(tmp_path, [hostile_contract(), wide_contract(40)])
    seen = set()
    for seed in ("0", "1", "4711"):
        command = [sys.executable, "-c", _SPELL, str(tmp_path / "asyncapi")]
        done = subprocess.run(
            command, capture_output=True, cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": seed}, check=True
        )
        seen.add(done.stdout)
    assert len(seen) == 1
    assert len(seen.pop()) > 10_000


def test_a_member_that_javascript_takes_for_a_prototype_is_left_out() -> None:
    document = {"properties": {"__proto__": {}, "a": {}}, "required": ["a", "__proto__"], "list": [{"__proto__": 1}]}
    shown = {"properties": {"a": {}}, "required": ["a"], "list": [{}]}
    assert json.loads(spell_json(document)) == yaml.safe_load(spell_yaml(document)) == shown


# Tools take them.


def documents_for_tools(folder: Path) -> dict[str, dict[str, bytes]]:
    """Documents of every sort, by name."""
    many = [contract(f"stream-{number}", "t", content_type="text/plain", payload={}) for number in range(5)]
    return {
        "nobody": spelled(Audience(())),
        "examples": spelled(everyone(load_contracts(ROOT / "asyncapi"), plan=PLAN), public_url="http://[::1]:8080/gw"),
        "hostile": spelled(everyone(loaded(folder / "hostile", [hostile_contract(), *many]))),
        "wide": spelled(everyone(loaded(folder / "wide", [wide_contract(10_000)]))),
    }


def test_the_openapi_validator_takes_every_document(tmp_path: Path) -> None:
    for name, bodies in documents_for_tools(tmp_path).items():
        document = json.loads(bodies["openapi.json"])
        if name == "wide":
            # The validator takes minutes for as many fields; the shape is that of a few.
            (tmp_path / "few").mkdir()
            few = openapi_document(everyone(loaded(tmp_path / "few", [wide_contract(20)])), public_url=URL)
            data = document["components"]["schemas"]["wide.data"]
            assert len(data["properties"]) == 5000
            document = few
        OpenAPIV31SpecValidator(document).validate()


def test_the_asyncapi_parser_takes_every_document(tmp_path: Path) -> None:
    paths: dict[str, int] = {}
    for name, bodies in documents_for_tools(tmp_path).items():
        for kind in ("asyncapi.json", "asyncapi.yaml"):
            if name == "wide" and kind == "asyncapi.yaml":
                continue
            path = tmp_path / f"{name}.{kind}"
            path.write_bytes(bodies[kind])
            paths[str(path)] = len(json.loads(bodies["asyncapi.json"])["channels"])
    with or_left_out(node.installed()):
        answer = json.loads(node.run_script("parse_asyncapi.js", list(paths)))
    for file, channels in paths.items():
        assert answer[file]["parsed"], answer[file]
        assert answer[file]["complaints"] == []
        assert len(answer[file]["channels"]) == channels


def around(body: bytes, word: str) -> bytes:
    at = body.lower().find(word.encode())
    return body[max(0, at - 200) : at + 60]
