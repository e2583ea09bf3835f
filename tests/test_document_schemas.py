"""A payload's schema cut to what is shown: what stays, what goes, and that the rest still says the truth."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.catalog.documents.fitting import canonical, fits
from gateway.catalog.documents.schema import SchemaCut, project
from gateway.subscription.projection import tree


def cut(schema: Any, *pointers: str, document: dict[str, Any] | None = None, dialect: Any = "2020-12") -> Any:
    one = SchemaCut(document or {}, dialect)
    return one.part(schema, tree(pointers)) if pointers else one.whole(schema)


def test_only_projected_members_and_their_requirements_remain() -> None:
    schema = {
        "type": "object",
        "required": ["a", "b"],
        "properties": {"a": {"type": "integer", "description": "Kept."}, "b": {"type": "string"}},
    }
    assert cut(schema, "/a") == {
        "type": "object",
        "required": ["a"],
        "properties": {"a": {"type": "integer", "description": "Kept."}},
    }


def test_a_member_on_the_way_is_required_only_where_it_is_always_an_object() -> None:
    def schema(kind: Any) -> dict[str, Any]:
        return {"required": ["on"], "properties": {"on": {"type": kind, "properties": {"leaf": {}, "other": {}}}}}

    assert cut(schema("object"), "/on/leaf")["required"] == ["on"]
    assert "required" not in cut(schema(["object", "null"]), "/on/leaf")
    assert "other" not in str(cut(schema("object"), "/on/leaf"))


def test_a_projected_member_that_the_schema_does_not_name_is_shown_as_anything() -> None:
    assert cut({"type": "object"}, "/free", "/deep/free") == {
        "type": "object",
        "properties": {"free": {}, "deep": {"type": "object", "properties": {"free": {}}}},
    }


def test_members_of_branches_are_kept_and_one_of_becomes_any_of() -> None:
    schema = {
        "allOf": [{"properties": {"a": {"type": "integer"}, "hidden": {}}}, {"required": ["hidden"]}],
        "oneOf": [{"properties": {"b": {"const": 1}}}, {"properties": {"hidden": {"const": 2}}}],
    }
    shown = cut(schema, "/a", "/b")
    assert "hidden" not in str(shown)
    assert shown["allOf"] == [
        {"properties": {"a": {"type": "integer"}}},
        {"anyOf": [{"properties": {"b": {"const": 1}}}, {}]},
    ]


def test_a_condition_on_hidden_members_leaves_both_outcomes_open() -> None:
    schema = {
        "if": {"properties": {"hidden": {"const": 1}}},
        "then": {"properties": {"a": {"const": "x"}}},
        "else": {"properties": {"a": {"const": "y"}}},
    }
    shown = cut(schema, "/a")
    assert "hidden" not in str(shown)
    for value in ("x", "y", "z"):
        jsonschema.validate({"a": value}, shown)


def test_pointers_with_escapes_find_their_members() -> None:
    schema = {"properties": {"a/b": {"type": "integer"}, "t~x": {"type": "string"}, "a": {"properties": {"b": {}}}}}
    assert cut(schema, "/a~1b", "/t~0x")["properties"] == {"a/b": {"type": "integer"}, "t~x": {"type": "string"}}


def test_references_are_written_out_and_what_stands_beside_them_is_not_read() -> None:
    document = {"components": {"schemas": {"a/b": {"type": "string", "x-internal": 1}}}}
    schema = {"properties": {"p": {"$ref": "#/components/schemas/a~1b", "description": "beside"}}}
    assert cut(schema, document=document) == {"properties": {"p": {"type": "string"}}}


def test_a_property_that_is_named_like_a_reference_is_a_property() -> None:
    schema = {"properties": {"$ref": {"type": "string"}}}
    assert cut(schema) == schema
    assert cut(schema, "/$ref") == {"type": "object", **schema}


@pytest.mark.parametrize(
    "bad",
    [
        {"type": 5},
        {"type": "date"},
        {"type": ["string", "string"]},
        {"type": []},
        {"required": "a"},
        {"required": ["a", "a"]},
        {"minimum": "1"},
        {"minimum": True},
        {"maxLength": -1},
        {"multipleOf": 0},
        {"pattern": "["},
        {"pattern": 5},
        {"enum": []},
        {"enum": "a"},
        {"properties": ["a"]},
        {"properties": {"a": 5}},
        {"patternProperties": {"[": {}}},
        {"items": "a"},
        {"allOf": []},
        {"anyOf": {"type": "string"}},
        {"not": "a"},
        {"description": 5},
        {"examples": 5},
        {"$defs": {"a": {}}},
        {"$schema": "http://example.com/none"},
        {"$dynamicRef": "#x"},
        {"x-any": 1},
    ],
    ids=str,
)
def test_what_is_no_json_schema_is_left_out(bad: dict[str, Any]) -> None:
    shown = cut({"title": "T", **bad})
    assert shown in ({"title": "T"}, {"title": "T", "properties": {}}, {"title": "T", "patternProperties": {}})
    jsonschema.Draft202012Validator.check_schema(shown)


def test_an_enum_says_each_value_once() -> None:
    assert cut({"enum": [1, 1.0, True, "1", 1]}) == {"enum": [1, True, "1"]}


def test_arrays_by_position_are_spelled_in_the_words_of_the_dialect() -> None:
    old = {"items": [{"type": "string"}], "additionalItems": False}
    new = {"prefixItems": [{"type": "string"}], "items": False}
    assert cut(old, dialect="2020-12") == cut(new, dialect="2020-12") == new
    assert cut(old, dialect="draft-07") == cut(new, dialect="draft-07") == old


def test_samples_that_the_schema_refuses_are_left_out() -> None:
    schema = {"type": "integer", "default": "none", "examples": [1, "two", 3.0, 4.5]}
    assert cut(schema) == {"type": "integer", "examples": [1, 3.0]}


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([0.5, 1.0, "a", "b", ""]),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.sampled_from("abc"), below, max_size=3),
    max_leaves=8,
)
_SCHEMAS = st.recursive(
    st.booleans()
    | st.fixed_dictionaries(
        {},
        optional={
            "type": st.sampled_from(["null", "boolean", "object", "array", "number", "integer", "string"]),
            "enum": st.lists(_JSON, min_size=1, max_size=3),
            "const": _JSON,
            "required": st.lists(st.sampled_from("abc"), unique=True),
            "minimum": st.integers(-2, 2),
            "maxLength": st.integers(0, 2),
            "minItems": st.integers(0, 2),
            "uniqueItems": st.booleans(),
        },
    ),
    lambda below: st.fixed_dictionaries(
        {},
        optional={
            "type": st.sampled_from(["object", "array"]),
            "properties": st.dictionaries(st.sampled_from("abc"), below, max_size=3),
            "required": st.lists(st.sampled_from("abc"), unique=True),
            "items": below,
            "allOf": st.lists(below, min_size=1, max_size=2),
            "anyOf": st.lists(below, min_size=1, max_size=2),
            "oneOf": st.lists(below, min_size=1, max_size=2),
            "not": below,
            "if": below,
            "then": below,
            "else": below,
            "additionalProperties": below,
        },
    ),
    max_leaves=8,
)


def valid(value: Any, schema: Any) -> bool:
    return bool(jsonschema.Draft202012Validator(schema).is_valid(value))


@given(schema=_SCHEMAS, value=_JSON)
def test_a_sample_fits_exactly_where_a_validator_says_so(schema: Any, value: Any) -> None:
    whole = cut(schema)
    assert valid(value, whole) == valid(value, schema)
    assert fits(value, whole) == valid(value, whole)


@given(
    schema=_SCHEMAS,
    value=st.dictionaries(st.sampled_from("abc"), _JSON, max_size=3),
    pointers=st.sampled_from([("/a",), ("/a", "/b"), ("/a/b",), ("/a/b", "/a/c", "/b"), ("/a/b/c", "/c/a")]),
)
def test_a_projected_record_fits_the_cut_schema_where_the_whole_one_fitted(
    schema: Any, value: dict[str, Any], pointers: tuple[str, ...]
) -> None:
    shown = cut(schema, *pointers)
    jsonschema.Draft202012Validator.check_schema(shown)
    if valid(value, schema):
        assert valid(project(value, tree(pointers)), shown), (schema, shown)


def test_equal_numbers_are_one_value_and_booleans_are_none() -> None:
    assert canonical([1.0, {"a": 2.0}]) == canonical([1, {"a": 2}])
    assert canonical(1) != canonical(True)
    assert canonical(0) != canonical(None)
