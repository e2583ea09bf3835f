"""Old contracts against new ones: what breaks a stream's readers is told as such, and nothing else is."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.catalog.compatibility import (
    Change,
    access_changes,
    breaking_without_major,
    compare,
    compare_all,
    refused_by_reload,
)
from gateway.catalog.contracts import Contracts, load_contract_files, load_contracts
from gateway.catalog.payload_changes import payload_changes
from gateway.catalog.payload_places import _Reader
from gateway.cli import main
from gateway.model import Contract
from tests.parts.gateway import contract as document

ASYNCAPI = Path(__file__).parents[1] / "asyncapi"

PAYLOAD: dict[str, Any] = {
    "type": "object",
    "required": ["id", "spot"],
    "properties": {
        "id": {"type": "string", "description": "An identifier."},
        "count": {"type": "integer", "minimum": 0},
        "level": {"enum": ["low", "high"]},
        "secret": {"type": "string"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "spot": {
            "type": "object",
            "required": ["lat"],
            "properties": {"lat": {"type": "number"}, "lon": {"type": "number"}},
        },
    },
}


def load(directory: Path, name: str, raw: Mapping[str, Any]) -> Contracts:
    path = directory / f"{name}.yaml"
    path.write_text(yaml.safe_dump(dict(raw), sort_keys=False))
    return load_contract_files(path)


def exposing(**gateway: Any) -> dict[str, Any]:
    filters = {"id": {"pointer": "/id", "type": "string"}, "count": {"pointer": "/count", "type": "integer"}}
    settings: dict[str, Any] = {
        "filters": filters,
        "headers": ["trace"],
        "replay": {"earliest": True, "time": True, "max_age": "P7D"},
        "visibility": "public",
    }
    return document("quakes", "quakes.v1", payload=json.loads(json.dumps(PAYLOAD)), **(settings | gateway))


def exposed(raw: dict[str, Any]) -> dict[str, Any]:
    section: dict[str, Any] = raw["channels"]["quakes"]["x-gateway"]
    return section


def schema(raw: dict[str, Any]) -> dict[str, Any]:
    payload: dict[str, Any] = raw["components"]["messages"]["event"]["payload"]
    return payload


Edit = Callable[[dict[str, Any]], object]


def changed(directory: Path, edit: Edit, **gateway: Any) -> list[Change]:
    before, after = exposing(**copy.deepcopy(gateway)), exposing(**copy.deepcopy(gateway))
    edit(after)
    return compare(load(directory, "old", before)["quakes"], load(directory, "new", after)["quakes"])


def put(*path: str, value: Any) -> Edit:
    """Set a member of ``x-gateway``."""

    def edit(raw: dict[str, Any]) -> None:
        place = exposed(raw)
        for name in path[:-1]:
            place = place[name]
        place[path[-1]] = value

    return edit


def prop(name: str, **keywords: Any) -> Edit:
    """Set keywords of a property of the payload; None takes one away."""

    def edit(raw: dict[str, Any]) -> None:
        node = schema(raw)["properties"][name]
        for keyword, value in keywords.items():
            if value is None:
                del node[keyword]
            else:
                node[keyword] = value

    return edit


def required(*names: str) -> Edit:
    return lambda raw: schema(raw).update(required=list(names))


def without(name: str) -> Edit:
    def edit(raw: dict[str, Any]) -> None:
        del schema(raw)["properties"][name]
        schema(raw)["required"] = [one for one in schema(raw)["required"] if one != name]

    return edit


def topic(raw: dict[str, Any]) -> None:
    raw["channels"]["quakes"]["bindings"]["kafka"]["topic"] = "quakes.v2"


def cluster(raw: dict[str, Any]) -> None:
    raw["servers"] = {"eu": raw["servers"]["main"]}
    raw["channels"]["quakes"]["servers"] = [{"$ref": "#/servers/eu"}]


def message_name(raw: dict[str, Any]) -> None:
    raw["components"]["messages"]["event"]["name"] = "other"


def content_type(name: str) -> Edit:
    def edit(raw: dict[str, Any]) -> None:
        raw["components"]["messages"]["event"]["contentType"] = name

    return edit


DEPRECATED = {"lifecycle": "deprecated", "deprecated_on": date(2026, 1, 1)}

BREAKING: list[tuple[Edit, str, str]] = [
    (topic, "topic", "quakes.v1 → quakes.v2"),
    (cluster, "cluster", "main → eu"),
    (message_name, "message", "event → other"),
    (lambda raw: raw.update(id="urn:test:other"), "id", "urn:test:quakes → urn:test:other"),
    (lambda raw: raw["info"].update(version="0.9.0"), "version", "1.0.0 → 0.9.0"),
    (put("visibility", value="entitled"), "visibility", "public → entitled"),
    (put("scopes", value=["streams:read", "quakes:read"]), "scopes", "quakes:read added"),
    (put("transports", value=["sse", "ws", "pull"]), "transports", "ndjson removed"),
    (put("row_filter", value={"field": "id", "claim": "own"}), "row_filter", "added"),
    (put("key", "expose", value=False), "key", "no longer exposed"),
    (lambda raw: exposed(raw).pop("headers"), "headers.trace", "removed"),
    (lambda raw: exposed(raw)["filters"].pop("id"), "filters.id", "removed"),
    (put("filters", "count", "type", value="number"), "filters.count", "type integer → number"),
    (put("filters", "id", "pointer", value="/secret"), "filters.id", "looks at /secret instead of /id"),
    (put("replay", "earliest", value=False), "replay.earliest", "no longer allowed"),
    (put("replay", "time", value=False), "replay.time", "no longer allowed"),
    (put("replay", "max_age", value="P1D"), "replay.max_age", "604800 s → 86400 s"),
    (put("lifecycle", value="draft"), "lifecycle", "published → draft"),
    (put("lifecycle", value="retired"), "lifecycle", "published → retired"),
    (content_type("application/vnd.quakes+json"), "content type", "application/json → application/vnd.quakes+json"),
    (without("tags"), "/tags", "removed"),
    (prop("tags", items={"type": ["string", "null"]}), "/tags/*", "type string → string or null"),
    (prop("tags", items=None), "/tags/*", "may be anything now"),
    (prop("secret", type="integer"), "/secret", "type string → integer"),
    (prop("secret", type=["string", "null"]), "/secret", "type string → string or null"),
    (prop("secret", type=None), "/secret", "type string → any"),
    (prop("count", minimum=-1), "/count", "minimum 0 → -1"),
    (prop("count", minimum=None), "/count", "minimum removed, was 0"),
    (prop("level", enum=["low", "high", "top"]), "/level", 'new values: "top"'),
    (prop("level", enum=None, type="string"), "/level", "no closed list of values any more"),
    (prop("spot", required=[]), "/spot/lat", "required → optional"),
    (required("spot"), "/id", "required → optional"),
    (put("projection", value=["/id", "/tags", "/count", "/level", "/secret"]), "/spot", "no longer in the projection"),
    (
        put("projection", value=["/id", "/tags", "/count", "/level", "/secret", "/spot/lat"]),
        "/spot/lon",
        "no longer in the projection",
    ),
]

COMPATIBLE: list[tuple[Edit, str, str]] = [
    (put("scopes", value=[]), "scopes", "streams:read removed"),
    (put("headers", value=["trace", "span"]), "headers.span", "added"),
    (put("filters", "level", value={"pointer": "/level", "type": "string"}), "filters.level", "added"),
    (put("replay", "max_age", value="P8D"), "replay.max_age", "604800 s → 691200 s"),
    (lambda raw: exposed(raw)["replay"].pop("max_age"), "replay.max_age", "604800 s → any age"),
    (lambda raw: schema(raw)["properties"].update(more={"type": "string"}), "/more", "added"),
    (lambda raw: schema(raw)["properties"]["spot"]["properties"].update(alt={}), "/spot/alt", "added"),
    (required("id", "spot", "tags"), "/tags", "optional → required"),
    (prop("count", minimum=1), "/count", "minimum 0 → 1"),
    (prop("count", maximum=9), "/count", "maximum added: 9"),
    (prop("secret", format="uuid"), "/secret", 'format added: "uuid"'),
    (prop("level", enum=["low"]), "/level", 'values that come no more: "high"'),
    (prop("level", enum=None, const="low"), "/level", 'values that come no more: "high"'),
    (prop("secret", enum=["a"]), "/secret", 'only these values from now on: "a"'),
    (lambda raw: schema(raw).update(additionalProperties=False), "/*", "described, was anything"),
]

DOCUMENTATION: list[tuple[Edit, str, str]] = [
    (prop("id", description="Another word."), "/id", "description changed"),
    (lambda raw: raw["info"].update(title="Other"), "title", "changed"),
    (lambda raw: raw["info"].update(description="Other"), "description", "changed"),
    (lambda raw: raw["info"].update(version="1.1.0"), "version", "1.0.0 → 1.1.0"),
    (put("owner", value="others@example.com"), "owner", "changed"),
    (content_type("application/json; charset=utf-8"), "content type", "application/json → application/json; charset"),
]

ALL = [
    (kind, *case)
    for kind, cases in (("breaking", BREAKING), ("compatible", COMPATIBLE), ("documentation", DOCUMENTATION))
    for case in cases
]


@pytest.mark.parametrize(("kind", "edit", "where", "what"), ALL, ids=[f"{c[0]}-{c[2]}-{c[3]}" for c in ALL])
def test_each_change_is_told_for_what_it_is(tmp_path: Path, kind: str, edit: Edit, where: str, what: str) -> None:
    found = changed(tmp_path, edit)
    assert [(change.kind, change.where) for change in found] == [(kind, where)], found
    assert found[0].what.startswith(what)
    assert found[0].reason or kind != "breaking", "a break without a reason"


@pytest.mark.parametrize(("kind", "edit", "where"), [(case[0], case[1], case[2]) for case in ALL])
def test_a_draft_is_free_to_change(tmp_path: Path, kind: str, edit: Edit, where: str) -> None:
    before, after = exposing(), exposing()
    exposed(before)["lifecycle"] = "draft"
    edit(after)
    old, new = load(tmp_path, "old", before), load(tmp_path, "new", after)
    assert all(change.kind != "breaking" for change in compare(old["quakes"], new["quakes"]))
    assert breaking_without_major(old, new) == []


def test_a_deprecation_is_told_and_breaks_nothing(tmp_path: Path) -> None:
    found = changed(tmp_path, lambda raw: exposed(raw).update(DEPRECATED))
    assert [(change.kind, str(change)) for change in found] == [
        ("compatible", "lifecycle: published → deprecated"),
        ("documentation", "deprecated_on: changed"),
    ]


def test_widening_is_the_opposite_of_narrowing(tmp_path: Path) -> None:
    """Whatever is compatible for a payload one way round breaks it the other way round, and nothing breaks both."""
    for edit, where, _ in COMPATIBLE:
        before, after = exposing(), exposing()
        edit(after)
        if not where.startswith("/") or schema(before) == schema(after):
            continue
        back = compare(load(tmp_path, "old", after)["quakes"], load(tmp_path, "new", before)["quakes"])
        assert [change.kind for change in back] == ["breaking"], (where, back)


PROJECTION = ["/id", "/spot/lat"]


@pytest.mark.parametrize(
    "edit",
    [
        without("secret"),
        prop("secret", type="integer"),
        prop("tags", items=None),
        lambda raw: schema(raw)["properties"].update(more={"type": "string"}),
        lambda raw: schema(raw)["properties"]["spot"]["properties"]["lon"].update(type="string"),
        lambda raw: schema(raw).update(additionalProperties=False),
    ],
)
def test_what_readers_never_see_may_change(tmp_path: Path, edit: Edit) -> None:
    hidden: dict[str, Any] = {"projection": PROJECTION, "filters": {}}
    assert changed(tmp_path, edit, **hidden) == []


def test_what_the_projection_shows_may_not(tmp_path: Path) -> None:
    def wider(raw: dict[str, Any]) -> None:
        schema(raw)["properties"]["spot"]["properties"]["lat"]["type"] = ["number", "string"]
        schema(raw)["properties"]["spot"]["required"] = []

    found = changed(tmp_path, wider, projection=PROJECTION, filters={})
    assert [(change.kind, change.where, change.what) for change in found] == [
        ("breaking", "/spot/lat", "required → optional"),
        ("breaking", "/spot/lat", "type number → number or string"),
    ]


def test_a_place_that_may_be_no_object_is_left_out_where_a_projection_goes_through_it(tmp_path: Path) -> None:
    found = changed(tmp_path, prop("spot", type=["object", "null"]), projection=PROJECTION, filters={})
    assert [(change.kind, change.where, change.what) for change in found] == [
        ("breaking", "/spot", "required → optional")
    ]


def test_a_longer_projection_is_compatible(tmp_path: Path) -> None:
    found = changed(tmp_path, put("projection", value=["/id", "/spot", "/tags"]), projection=PROJECTION, filters={})
    assert {change.kind for change in found} == {"compatible"}
    assert [change.where for change in found] == ["/spot/lon", "/tags"]


def test_a_member_that_was_ruled_out_breaks(tmp_path: Path) -> None:
    before, after = exposing(), exposing()
    schema(before)["additionalProperties"] = schema(after)["additionalProperties"] = False
    schema(after)["properties"]["more"] = {"type": "string"}
    found = compare(load(tmp_path, "old", before)["quakes"], load(tmp_path, "new", after)["quakes"])
    assert [(change.kind, change.where, change.what) for change in found] == [("breaking", "/more", "added")]


def test_a_hidden_filter_is_nobodys_business(tmp_path: Path) -> None:
    hidden: dict[str, Any] = {
        "projection": PROJECTION,
        "filters": {"own": {"pointer": "/secret", "type": "string"}},
        "row_filter": {"field": "own", "claim": "own"},
    }
    assert changed(tmp_path, put("row_filter", "claim", value="other"), **hidden)[0].where == "row_filter"
    assert [
        c.where
        for c in changed(
            tmp_path, lambda raw: exposed(raw).pop("row_filter"), **hidden | {"projection": ["/id", "/secret"]}
        )
    ] == ["row_filter"]
    renamed = {
        "filters": {"mine": {"pointer": "/secret", "type": "string"}},
        "row_filter": {"field": "mine", "claim": "own"},
    }
    assert changed(tmp_path, lambda raw: exposed(raw).update(renamed), **hidden) == []


def test_payloads_that_are_no_json_have_a_schema_to_read_only(tmp_path: Path) -> None:
    plain: dict[str, Any] = {"filters": None}

    def binary(*, kind: str) -> dict[str, Any]:
        raw = exposing(**plain)
        raw["defaultContentType"] = "application/octet-stream"
        content_type("application/octet-stream")(raw)
        schema(raw)["properties"]["id"]["type"] = kind
        return raw

    old, new = load(tmp_path, "old", binary(kind="string")), load(tmp_path, "new", binary(kind="integer"))
    assert {change.kind for change in compare(old["quakes"], new["quakes"])} == {"documentation"}


@pytest.mark.parametrize(
    ("before", "after", "verdicts"),
    [
        ({"allOf": [{"type": "string"}, {"maxLength": 3}]}, {"type": "string", "maxLength": 3}, []),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, {"type": ["null", "string"]}, []),
        ({"type": ["integer", "number"]}, {"type": "number"}, []),
        ({"const": 1}, {"enum": [1]}, []),
        ({"type": "number"}, {"type": "integer"}, ["compatible"]),
        ({"type": "integer"}, {"type": "number"}, ["breaking"]),
        ({"oneOf": [{"type": "string"}]}, {"oneOf": [{"type": "string"}, {"type": "null"}]}, ["breaking"]),
        ({"oneOf": [{"type": "string"}, {"type": "null"}]}, {"oneOf": [{"type": "string"}]}, ["compatible"]),
        (
            {"oneOf": [{"type": "string", "pattern": "a"}, {"type": "string", "pattern": "b"}]},
            {"oneOf": [{"type": "string", "pattern": "a"}, {"type": "string", "pattern": "c"}]},
            ["breaking"],
        ),
        ({"type": "string", "pattern": "a"}, {"type": "string", "pattern": "b"}, ["breaking"]),
        ({"not": {"type": "string"}}, {}, ["breaking"]),
        ({}, {"not": {"type": "string"}}, ["compatible"]),
        (True, {"type": "string"}, ["compatible"]),
        ({"type": "string"}, True, ["breaking"]),
        ({"type": "string"}, False, ["compatible"]),
        ({"if": {"required": ["a"]}, "then": {"minLength": 1}}, {"if": {"required": ["a"]}}, ["breaking"]),
        (
            {"properties": {"title": {"type": "string"}}, "type": "object"},
            {"properties": {"title": {"type": "null"}}, "type": "object"},
            ["breaking"],
        ),
        (
            {"patternProperties": {"^a": {"title": "x"}}},
            {"patternProperties": {"^a": {"title": "y"}}},
            [],
        ),
        (
            {"type": "object", "additionalProperties": {"type": "string"}},
            {"type": "object", "additionalProperties": {"type": ["string", "null"]}},
            ["breaking"],
        ),
        ({"$ref": "#/s"}, {"type": "string"}, []),
        ({"schemaFormat": "avro", "schema": "a"}, {"schemaFormat": "avro", "schema": "b"}, ["breaking"]),
    ],
)
def test_combined_schemas_are_compared_by_what_they_mean(before: Any, after: Any, verdicts: list[str]) -> None:
    assert verdicts_of(before, after) == verdicts


def verdicts_of(before: Any, after: Any) -> list[str]:
    reader = _Reader({"s": {"type": "string"}})
    changes = payload_changes(reader.read(before), reader.read(after), is_shown=lambda _: True)
    return [change.kind for change in changes]


TYPES = st.sampled_from(["object", "array", "string", "number", "integer", "boolean", "null"])
VALUES = st.one_of(st.none(), st.booleans(), st.integers(-2, 3), st.sampled_from(["a", "bb"]), st.just(0.5))


def schemas() -> st.SearchStrategy[Any]:
    leaf = st.fixed_dictionaries(
        {},
        optional={
            "type": st.one_of(TYPES, st.lists(TYPES, min_size=1, max_size=3, unique=True)),
            "enum": st.lists(VALUES, min_size=1, max_size=3),
            "minimum": st.integers(-2, 3),
            "maxLength": st.integers(0, 2),
        },
    )

    def around(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        members = st.dictionaries(st.sampled_from("xyz"), inner, max_size=2)
        return st.one_of(
            st.builds(
                lambda members, needed, rest: {"type": "object", "properties": members, "required": needed, **rest},
                members,
                st.lists(st.sampled_from("xyz"), unique=True, max_size=2),
                st.sampled_from([{}, {"additionalProperties": False}]),
            ),
            st.builds(lambda items: {"type": "array", "items": items}, inner),
            st.builds(lambda parts: {"anyOf": parts}, st.lists(inner, min_size=1, max_size=2)),
            st.builds(lambda parts: {"allOf": parts}, st.lists(inner, min_size=1, max_size=2)),
        )

    return st.recursive(leaf, around, max_leaves=4)


@given(schemas())
def test_a_schema_is_compatible_with_itself(one: Any) -> None:
    assert verdicts_of(one, json.loads(json.dumps(one))) == []


@given(schemas(), schemas())
def test_requiring_one_thing_more_never_breaks(one: Any, other: Any) -> None:
    """``allOf`` with anything only rules values out. A member named for the first time may be told as added."""
    if "properties" in json.dumps(other) or "anyOf" in json.dumps([one, other]):
        return
    assert "breaking" not in verdicts_of(one, {"allOf": [one, other]})


def accepts(schema: Any, value: Any) -> bool:
    """The schema's own word on a value, for the keywords that are drawn here."""
    if isinstance(schema, bool):
        return schema
    kinds = schema.get("type", [])
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return all(
        [
            not kinds or any(is_of_type(kind, value) for kind in ([kinds] if isinstance(kinds, str) else kinds)),
            "enum" not in schema or json.dumps(value) in map(json.dumps, schema["enum"]),
            not is_number or value >= schema.get("minimum", value),
            not isinstance(value, str) or len(value) <= schema.get("maxLength", 99),
            not isinstance(value, list) or all(accepts(schema.get("items", True), one) for one in value),
            not isinstance(value, dict) or set(schema.get("required", ())) <= value.keys(),
            not isinstance(value, dict)
            or all(
                accepts(schema.get("properties", {}).get(name, schema.get("additionalProperties", True)), one)
                for name, one in value.items()
            ),
            all(accepts(part, value) for part in schema.get("allOf", ())),
            "anyOf" not in schema or any(accepts(part, value) for part in schema["anyOf"]),
        ]
    )


def is_of_type(kind: str, value: Any) -> bool:
    if isinstance(value, bool) or value is None:
        return kind == ("null" if value is None else "boolean")
    named = {"object": dict, "array": list, "string": str, "number": int | float, "integer": int}
    return isinstance(value, named.get(kind, ()))


INSTANCES = st.recursive(
    VALUES, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("xyz"), inner, max_size=2)
)
PAIRS = schemas().flatmap(
    lambda one: st.one_of(
        st.tuples(st.just(one), schemas()),
        st.tuples(st.just(one), schemas().map(lambda other: {"allOf": [one, other]})),
        st.tuples(schemas().map(lambda other: {"anyOf": [one, other]}), st.just(one)),
        st.tuples(
            schemas().map(lambda other: {"anyOf": [other, one]}), schemas().map(lambda two: {"anyOf": [one, two]})
        ),
    )
)


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(PAIRS, INSTANCES)
def test_where_nothing_breaks_no_value_comes_that_was_ruled_out(pair: tuple[Any, Any], value: Any) -> None:
    old, new = pair
    if accepts(new, value) and not accepts(old, value):
        assert "breaking" in verdicts_of(old, new)


def contracts(directory: Path, name: str, *raws: Mapping[str, Any]) -> Contracts:
    paths = []
    for number, raw in enumerate(raws):
        path = directory / f"{name}-{number}.yaml"
        path.write_text(yaml.safe_dump(dict(raw), sort_keys=False))
        paths.append(path)
    return load_contract_files(*paths)


@pytest.mark.parametrize(
    ("old_version", "new_version", "passes"),
    [
        ("1.0.0", "2.0.0", True),
        ("1.9.9", "10", True),
        ("v1", "v2.1", True),
        ("1.0.0", "1.1.0", False),
        ("2.0.0", "1.0.0", False),
        ("1.0.0", "latest", False),
        ("summer", "winter", True),
        ("summer", "summer", False),
    ],
)
def test_a_break_wants_a_new_major_version(tmp_path: Path, old_version: str, new_version: str, *, passes: bool) -> None:
    before, after = exposing(version=old_version), exposing(version=new_version)
    without("tags")(after)
    lines = breaking_without_major(load(tmp_path, "old", before), load(tmp_path, "new", after))
    assert (lines == []) is passes


OF_ACCESS = {"scopes", "visibility", "row_filter", "lifecycle"}


@pytest.mark.parametrize(("edit", "where"), [case[:2] for case in BREAKING], ids=[f"{c[1]}-{c[2]}" for c in BREAKING])
def test_a_reload_takes_who_may_read_and_refuses_what_is_read(tmp_path: Path, edit: Edit, where: str) -> None:
    before, after = exposing(), exposing()
    edit(after)
    old, new = load(tmp_path, "old", before), load(tmp_path, "new", after)
    (line,) = breaking_without_major(old, new)
    assert refused_by_reload(old, new) == ([] if where in OF_ACCESS else [line])
    assert list(access_changes(old, new)) == (["quakes"] if where in OF_ACCESS else [])
    assert ("a reload takes it" in line) is (where in OF_ACCESS)


def test_what_is_read_is_refused_also_beside_a_withdrawal(tmp_path: Path) -> None:
    before, after = exposing(), exposing(lifecycle="draft", scopes=["quakes.read"])
    without("tags")(after)
    old, new = load(tmp_path, "old", before), load(tmp_path, "new", after)
    (line,) = refused_by_reload(old, new)
    assert "breaks its readers: /tags: removed" in line
    assert access_changes(old, new) == {
        "quakes": [
            "lifecycle: published → draft (a draft cannot be read)",
            "scopes: quakes.read added (tokens without it are refused)",
        ]
    }


def test_an_announced_withdrawal_is_told_too(tmp_path: Path) -> None:
    old = load(tmp_path, "old", exposing())
    new = load(tmp_path, "new", exposing(scopes=["quakes.read"], version="2.0.0"))
    assert refused_by_reload(old, new) == []
    assert list(access_changes(old, new)) == ["quakes"]


def test_a_lower_major_version_is_refused_beside_a_withdrawal(tmp_path: Path) -> None:
    old = load(tmp_path, "old", exposing(version="2.0.0"))
    new = load(tmp_path, "new", exposing(scopes=["quakes.read"], version="1.0.0"))
    (line,) = refused_by_reload(old, new)
    assert "version: 2.0.0 → 1.0.0" in line


def test_a_problem_line_names_file_change_and_what_to_do(tmp_path: Path) -> None:
    before, after = exposing(version="3.4.5"), exposing(version="3.5.0")
    prop("count", type="number")(after)
    exposed(after)["filters"].pop("count")
    lines = breaking_without_major(load(tmp_path, "old", before), load(tmp_path, "new", after))
    assert lines == [
        f"{tmp_path}/new.yaml:24: stream quakes: breaks its readers: filters.count: removed"
        " (requests that use it are refused); raise the version to 4.0.0, or publish it as a stream of another name",
        f"{tmp_path}/new.yaml:24: stream quakes: breaks its readers: /count: type integer → number"
        " (values may come that were ruled out before); raise the version to 4.0.0,"
        " or publish it as a stream of another name",
    ]


@pytest.mark.parametrize(
    ("lifecycle", "breaks"), [("draft", False), ("published", True), ("deprecated", True), ("retired", False)]
)
def test_a_stream_may_go_once_it_is_retired(tmp_path: Path, lifecycle: str, *, breaks: bool) -> None:
    raw = exposing(lifecycle=lifecycle, **({"deprecated_on": date(2026, 1, 1)} if lifecycle == "deprecated" else {}))
    lines = breaking_without_major(load(tmp_path, "old", raw), Contracts())
    assert bool(lines) is breaks
    if breaks:
        assert lines[0].startswith(f"{tmp_path}/old.yaml:24: stream quakes: breaks its readers: stream: removed")
        assert lines[0].endswith("bring it back with lifecycle deprecated, later retired, and remove it then")


def test_the_way_to_the_end_of_a_stream_is_open(tmp_path: Path) -> None:
    steps = [
        exposing(),
        exposing(lifecycle="deprecated", deprecated_on=date(2026, 1, 1)),
        exposing(lifecycle="deprecated", deprecated_on=date(2026, 1, 1), sunset_on=date(2026, 3, 1)),
        exposing(lifecycle="retired", filters=None, projection=["/id"]),
        document("other", "other.v1"),
    ]
    states = [contracts(tmp_path, f"step{number}", raw) for number, raw in enumerate(steps)]
    for before, after in itertools.pairwise(states):
        assert breaking_without_major(before, after) == []


def test_a_retired_stream_does_not_come_back_as_another(tmp_path: Path) -> None:
    retired, back = exposing(lifecycle="retired"), exposing()
    assert compare_all(load(tmp_path, "old", retired), load(tmp_path, "new", back))[0].unannounced == ()
    without("tags")(back)
    assert breaking_without_major(load(tmp_path, "old", retired), load(tmp_path, "new", back))


def test_ten_thousand_fields_are_compared_quickly(tmp_path: Path) -> None:
    before, after = exposing(), exposing()
    for number in range(10_000):
        schema(before)["properties"][f"field{number}"] = {"type": "integer"}
        schema(after)["properties"][f"field{number}"] = {"type": "number"}
    old, new = load(tmp_path, "old", before), load(tmp_path, "new", after)
    assert len(breaking_without_major(old, new)) == 10_000


def test_markup_and_control_characters_make_no_lines_of_their_own(tmp_path: Path) -> None:
    before, after = exposing(), exposing()
    schema(before)["properties"]["<b>\n\x1b[31m"] = {"type": "string"}
    old, new = load(tmp_path, "old", before), load(tmp_path, "new", after)
    (line,) = breaking_without_major(old, new)
    assert "/<b>??[31m: removed" in line


def test_contracts_that_are_the_same_have_no_difference() -> None:
    one, other = load_contracts(ASYNCAPI), load_contracts(ASYNCAPI)
    assert compare_all(one, other) == []


def test_contracts_without_a_document_are_compared_by_what_they_say() -> None:
    made: dict[str, Any] = {
        "stream": "s",
        "id": "urn:s",
        "title": "S",
        "version": "1",
        "description": "",
        "lifecycle": "published",
        "owner": "o",
        "visibility": "public",
        "scopes": (),
        "transports": ("sse",),
        "cluster": "main",
        "topic": "t",
        "content_type": "application/json",
        "message_name": "m",
    }
    assert compare(Contract(**made), Contract(**made)) == []
    found = compare(Contract(**made), Contract(**made | {"projection": ("/a",)}))
    assert [change.where for change in found] == ["payload", "/a"]


# The command


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["contracts", "diff", *map(str, arguments)], prog_name="gateway")


def test_diff_of_files_prints_each_change_and_fails_on_a_break(tmp_path: Path) -> None:
    before, after = exposing(), exposing()
    without("tags")(after)
    exposed(after)["headers"] = ["trace", "span"]
    load(tmp_path, "old", before)
    load(tmp_path, "new", after)
    result = run(tmp_path / "old.yaml", tmp_path / "new.yaml")
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        "quakes 1.0.0",
        "  compatible     headers.span: added",
        "  breaking       /tags: removed (readers look for it)",
    ]
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"gateway: {tmp_path}/new.yaml:24: stream quakes: breaks its readers: /tags: removed")
    after["info"]["version"] = "2.0.0"
    load(tmp_path, "new", after)
    announced = run(tmp_path / "old.yaml", tmp_path / "new.yaml")
    assert announced.exit_code == 0
    assert announced.stdout.splitlines()[0] == "quakes 1.0.0 → 2.0.0  (new major version)"
    assert announced.stderr == ""


def test_diff_of_a_withdrawal_is_breaking_and_says_that_a_reload_takes_it(tmp_path: Path) -> None:
    load(tmp_path, "old", exposing())
    load(tmp_path, "new", exposing(lifecycle="retired"))
    result = run(tmp_path / "old.yaml", tmp_path / "new.yaml")
    assert result.exit_code == 1
    assert "  breaking       lifecycle: published → retired" in result.stdout
    assert result.stderr.rstrip().endswith(
        "; a reload takes it, and reads that it shuts out end;"
        " to announce it, deprecate it first, or raise the version to 2.0.0"
    )


def test_diff_of_directories_is_one_json_document(tmp_path: Path) -> None:
    for side, raws in (
        ("old", [exposing(), document("gone", "gone.v1")]),
        ("new", [exposing(), document("fresh", "fresh.v1")]),
    ):
        (tmp_path / side / "streams").mkdir(parents=True)
        for number, raw in enumerate(raws):
            (tmp_path / side / "streams" / f"{number}.yaml").write_text(yaml.safe_dump(raw))
    for old, new in (
        (tmp_path / "old", tmp_path / "new"),
        (tmp_path / "old" / "streams", tmp_path / "new" / "streams"),
    ):
        result = run(old, new, "--format", "json")
        assert result.exit_code == 1
        told = json.loads(result.stdout)
        assert told["ok"] is False
        assert [(one["stream"], one["old_version"], one["new_version"]) for one in told["streams"]] == [
            ("fresh", None, "1.0.0"),
            ("gone", "1.0.0", None),
        ]
        assert told["streams"][1]["changes"] == [
            {
                "kind": "breaking",
                "where": "stream",
                "what": "removed",
                "reason": "it is published, and its readers get 404",
            }
        ]
        assert len(told["problems"]) == 1
    assert run(tmp_path / "old", tmp_path / "old").stdout == "no difference\n"


def test_diff_of_contracts_that_do_not_load_names_what_is_wrong(tmp_path: Path) -> None:
    load(tmp_path, "old", exposing())
    (tmp_path / "new.yaml").write_text("channels: [")
    result = run(tmp_path / "old.yaml", tmp_path / "new.yaml")
    assert result.exit_code == 2
    assert result.stderr.startswith(f"gateway: {tmp_path}/new.yaml:")
    assert run(tmp_path / "old.yaml", tmp_path / "nowhere.yaml").exit_code == 2
