"""Contracts that mean harm, or are merely odd: loaded or refused by a clear line, and nothing is ever fetched."""

from __future__ import annotations

import copy
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.catalog.compatibility import compare_all
from gateway.catalog.contracts import Contracts, load_contracts
from gateway.errors import ConfigurationProblems
from tests.parts.gateway import contract

PATIENCE_SECONDS = 20.0
MARKUP = "</script><img src=x onerror=alert(1)>{{7*7}}${x}%s{0}' OR 1=1 -- \u2028\u202e"


def document() -> dict[str, Any]:
    """A contract with something at every place that a reference or a text may stand at."""
    raw = contract(
        "quakes",
        "quakes.v1",
        payload={
            "type": "object",
            "properties": {"id": {"type": "string"}, "list": {"type": "array", "items": {"type": "number"}}},
        },
        filters={"id": {"pointer": "/id", "type": "string"}},
    )
    raw["components"]["schemas"] = {"one": {"type": "object"}, "two": {"type": "object"}}
    return raw


def load(directory: Path, raw: dict[str, Any] | str) -> Contracts:
    (directory / "streams").mkdir(exist_ok=True)
    text = raw if isinstance(raw, str) else yaml.safe_dump(raw, sort_keys=False, allow_unicode=True)
    (directory / "streams" / "quakes.yaml").write_text(text, encoding="utf-8")
    return load_contracts(directory)


def refused(directory: Path, raw: dict[str, Any] | str) -> list[str]:
    started = time.monotonic()
    with pytest.raises(ConfigurationProblems) as caught:
        load(directory, raw)
    assert time.monotonic() - started < PATIENCE_SECONDS
    for line in caught.value.problems:
        assert line.startswith(f"{directory}/streams/quakes.yaml"), line
        assert "\n" not in line
        assert len(line) < 2_000
    return caught.value.problems


def at(raw: dict[str, Any], path: str) -> tuple[dict[str, Any], str]:
    *above, last = path.split(".")
    place = raw
    for token in above:
        place = place[token]
    return place, last


REFERABLE = [
    "channels.quakes",
    "channels.quakes.messages.event",
    "channels.quakes.bindings",
    "servers.main",
    "operations.publish",
    "components.messages.event",
    "components.messages.event.payload",
    "components.messages.event.payload.properties.id",
    "components.messages.event.payload.properties.list.items",
]


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A port that takes connections; a test asks whether any came."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server


@pytest.mark.parametrize("path", REFERABLE)
@pytest.mark.parametrize(
    "scheme", ["http://{}/x.yaml#/y", "//{}/x", "file:///etc/hostname", "other.yaml#/x", "ftp://{}/x"]
)
def test_a_remote_reference_is_refused_wherever_it_stands(
    tmp_path: Path, listener: socket.socket, path: str, scheme: str
) -> None:
    target = scheme.format(f"127.0.0.1:{listener.getsockname()[1]}")
    raw = document()
    place, last = at(raw, path)
    place[last] = {"$ref": target}
    assert any(f"nothing is ever fetched, got {target!r}" in line for line in refused(tmp_path, raw))
    with pytest.raises(BlockingIOError):
        listener.accept()


def test_words_of_json_schema_that_name_addresses_are_not_followed(tmp_path: Path, listener: socket.socket) -> None:
    address = f"http://127.0.0.1:{listener.getsockname()[1]}/schema"
    raw = document()
    payload = raw["components"]["messages"]["event"]["payload"]
    payload |= {"$schema": address, "$id": address, "$dynamicRef": address, "$recursiveRef": address}
    payload["externalDocs"] = {"url": address}
    raw["info"]["termsOfService"] = address
    contracts = load(tmp_path, raw)
    assert compare_all(contracts, contracts) == []
    with pytest.raises(BlockingIOError):
        listener.accept()


def recursive(path: str, schema: Any) -> dict[str, Any]:
    raw = document()
    place, last = at(raw, path)
    place[last] = schema
    return raw


ONE = {"$ref": "#/components/schemas/one"}
TWO = {"$ref": "#/components/schemas/two"}
LOOPS = {
    "itself": recursive("components.schemas.one", ONE),
    "each other": recursive("components.schemas", {"one": TWO, "two": ONE}),
    "a member": recursive("components.schemas.one", {"properties": {"child": ONE}}),
    "items": recursive("components.schemas.one", {"items": ONE}),
    "table": recursive("components.schemas.one", {"additionalProperties": ONE}),
    "alternatives": recursive("components.schemas.one", {"anyOf": [{"type": "null"}, ONE]}),
    "condition": recursive("components.schemas.one", {"if": {}, "then": ONE}),
    "not": recursive("components.schemas.one", {"not": ONE}),
    "definitions": recursive("components.schemas.one", {"definitions": {"x": ONE}, "properties": {"a": ONE}}),
    "the root": recursive("components.messages.event.payload", {"$ref": "#"}),
    "the channel": recursive("channels.quakes", {"$ref": "#/channels/quakes"}),
    "the message": recursive("components.messages.event", {"$ref": "#/components/messages/event"}),
    "the server": recursive("servers.main", {"$ref": "#/servers/main"}),
    "escaped": recursive("components.schemas.one", {"$ref": "#/components/schemas/%6Fne"}),
}


@pytest.mark.parametrize("raw", LOOPS.values(), ids=LOOPS)
def test_a_reference_that_comes_back_to_itself_is_refused(tmp_path: Path, raw: dict[str, Any]) -> None:
    assert any("a reference that comes back to itself" in line for line in refused(tmp_path, raw))


@pytest.mark.parametrize(
    "target", ["#/", "#nowhere", "#/components/schemas/one/x", "#/channels/0", "", "#/%", "#/~2", "urn:x"]
)
def test_a_reference_to_nothing_is_refused(tmp_path: Path, target: str) -> None:
    assert refused(tmp_path, recursive("components.messages.event.payload", {"$ref": target}))


TEXTS = [
    "info.title",
    "info.version",
    "info.description",
    "channels.quakes.title",
    "channels.quakes.description",
    "channels.quakes.x-gateway.owner",
    "channels.quakes.x-gateway.sla",
    "components.messages.event.title",
    "components.messages.event.name",
    "components.messages.event.summary",
    "components.messages.event.payload.description",
    "components.messages.event.payload.properties.id.description",
    "components.messages.event.payload.properties.id.pattern",
    "components.messages.event.payload.properties.id.enum",
    "components.messages.event.examples",
]


def test_markup_in_every_text_is_text(tmp_path: Path) -> None:
    raw = document()
    for path in TEXTS:
        place, last = at(raw, path)
        named: dict[str, Any] = {"sla": {"uptime": MARKUP}, "enum": [MARKUP], "examples": [{"payload": {"id": MARKUP}}]}
        place[last] = named.get(last, MARKUP)
    raw["components"]["messages"]["event"]["payload"]["properties"][MARKUP] = {"type": "string"}
    raw["info"]["contact"] = {"name": MARKUP, "email": MARKUP, "url": "javascript:alert(1)"}
    raw["channels"]["quakes"]["x-gateway"]["headers"] = [MARKUP]
    loaded = load(tmp_path, raw)["quakes"]
    assert (loaded.title, loaded.description, loaded.owner, loaded.version) == (MARKUP,) * 4
    assert loaded.message_name == MARKUP
    assert loaded.headers == (MARKUP,)
    assert loaded.document["components"]["messages"]["event"]["examples"] == [{"payload": {"id": MARKUP}}]


@pytest.mark.parametrize(
    "path",
    [
        "channels.quakes.x-gateway.stream",
        "channels.quakes.x-gateway.lifecycle",
        "channels.quakes.x-gateway.visibility",
        "channels.quakes.x-gateway.successor",
        "channels.quakes.x-gateway.scopes",
        "channels.quakes.x-gateway.transports",
        "channels.quakes.x-gateway.filters",
        "channels.quakes.x-gateway.projection",
        "channels.quakes.address",
        "components.messages.event.contentType",
        "defaultContentType",
        "id",
        "asyncapi",
    ],
)
def test_markup_where_a_name_belongs_is_refused_on_one_line(tmp_path: Path, path: str) -> None:
    raw = document()
    place, last = at(raw, path)
    if last == "address":
        del raw["channels"]["quakes"]["bindings"]
    if last == "defaultContentType":
        del raw["components"]["messages"]["event"]["contentType"]
    named: dict[str, Any] = {"scopes": [MARKUP], "transports": [MARKUP], "projection": [MARKUP]}
    place[last] = {MARKUP: {"pointer": "/id", "type": "string"}} if last == "filters" else named.get(last, MARKUP)
    for line in refused(tmp_path, raw):
        # What a terminal would turn round or break stays an escape.
        assert "\u2028" not in line
        assert "\u202e" not in line


@pytest.mark.parametrize("character", ["\x00", "\x1b", "\x07", "\r", "\x7f"])
def test_control_characters_in_a_text_are_refused(tmp_path: Path, character: str) -> None:
    raw = document()
    raw["info"]["title"] = f"a{character}b"
    assert "info.title, got" in refused(tmp_path, raw)[0]


def many(number: int) -> dict[str, Any]:
    return {f"field{index}": {"type": "string"} for index in range(number)}


def test_ten_thousand_fields_and_filters_load(tmp_path: Path) -> None:
    raw = document()
    raw["components"]["messages"]["event"]["payload"]["properties"] = many(10_000)
    exposed = raw["channels"]["quakes"]["x-gateway"]
    exposed["projection"] = [f"/field{index}" for index in range(10_000)]
    exposed["filters"] = {f"field{index}": {"pointer": f"/field{index}", "type": "string"} for index in range(100)}
    started = time.monotonic()
    loaded = load(tmp_path, json.dumps(raw))["quakes"]
    assert time.monotonic() - started < PATIENCE_SECONDS
    assert loaded.projection is not None
    assert len(loaded.projection) == 10_000


def test_ten_thousand_misspelt_fields_are_told_in_good_time(tmp_path: Path) -> None:
    raw = document()
    raw["components"]["messages"]["event"]["payload"]["properties"] = many(10_000)
    exposed = raw["channels"]["quakes"]["x-gateway"]
    exposed["projection"] = [f"/fielt{index}" for index in range(10_000)]
    del exposed["filters"]
    lines = refused(tmp_path, json.dumps(raw))
    assert len(lines) == 10_000
    assert "did you mean" in lines[0]
    assert "allowed: field0, field1" in lines[-1]


def test_ten_thousand_unknown_keys_are_told_in_good_time(tmp_path: Path) -> None:
    raw = document()
    raw["channels"]["quakes"]["x-gateway"] |= many(10_000)
    assert len(refused(tmp_path, json.dumps(raw))) == 10_000


def test_a_schema_as_deep_as_a_file_may_be_loads_and_is_compared(tmp_path: Path) -> None:
    raw = document()
    deep: dict[str, Any] = {"type": "integer"}
    for _ in range(27):
        deep = {"type": "object", "properties": {"in": deep}}
    raw["components"]["messages"]["event"]["payload"]["properties"]["deep"] = deep
    old = load(tmp_path, raw)
    changed = copy.deepcopy(raw)
    place = changed["components"]["messages"]["event"]["payload"]["properties"]["deep"]
    while "properties" in place:
        place = place["properties"]["in"]
    place["type"] = "number"
    (changes,) = compare_all(old, load(tmp_path, changed))
    assert [change.kind for change in changes.changes] == ["breaking"]
    deeper = copy.deepcopy(raw)
    deeper["components"]["messages"]["event"]["payload"]["properties"]["deep"] = {
        "properties": {"in": {"allOf": [deep]}}
    }
    assert "nested too deep" in refused(tmp_path, deeper)[0]


def test_references_that_share_much_are_compared_quickly(tmp_path: Path) -> None:
    """Each level names the next one twice: 8 192 leaves that are one."""
    raw = document()
    schemas = {
        f"l{n}": {"properties": {side: {"$ref": f"#/components/schemas/l{n + 1}"} for side in "ab"}} for n in range(13)
    }
    raw["components"]["schemas"] = {**schemas, "l13": {"type": "integer"}}
    raw["components"]["messages"]["event"]["payload"]["properties"]["tree"] = {"$ref": "#/components/schemas/l0"}
    started = time.monotonic()
    old, new = load(tmp_path, raw), load(tmp_path, raw)
    assert compare_all(old, new) == []
    assert time.monotonic() - started < PATIENCE_SECONDS
