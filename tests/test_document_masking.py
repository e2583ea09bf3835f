"""Schemas and samples under masks: still valid, without what is hidden, and what masked records look like fits them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from gateway.catalog.documents.masking import masked_sample, masked_schema
from gateway.model import Masks
from gateway.subscription.mask import Mask

SCHEMA: dict[str, Any] = {
    "type": "object",
    "description": "with hushhush inside",
    "required": ["a", "b", "c"],
    "additionalProperties": False,
    "properties": {"a": {"type": "string"}, "b": {"type": "integer"}, "c": {"type": "object", "required": ["x"]}},
    "oneOf": [{"properties": {"a": {"const": "hushhush"}}}, {"required": ["a"]}],
    "if": {"properties": {"a": {"const": "hushhush"}}},
    "then": {"required": ["b"]},
}


def test_dropped_members_are_told_nowhere_and_nulled_ones_may_be_null() -> None:
    assert masked_schema(SCHEMA, (("/a", "drop"), ("/b", "null"))) == {
        "type": "object",
        "required": ["b", "c"],
        "properties": {
            "b": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
            "c": {"type": "object", "required": ["x"]},
        },
        "anyOf": [{"properties": {}}, {}],
    }
    assert masked_schema(SCHEMA, ()) is SCHEMA
    assert masked_schema(True, (("/a", "drop"),)) is True


def test_a_member_on_the_way_is_cut_and_an_array_there_is_null() -> None:
    schema = {"type": ["object", "array"], "properties": {"in": {"type": "array", "items": {"type": "object"}}}}
    assert masked_schema({"properties": {"a": schema}}, (("/a/in/x", "drop"),)) == {
        "properties": {"a": {"type": ["object", "null"], "properties": {"in": {"type": "null"}}}}
    }


members = st.dictionaries(st.sampled_from("abcx"), st.integers() | st.text(max_size=3) | st.none(), max_size=3)
records = st.dictionaries(st.sampled_from("abcd"), st.integers() | st.text(max_size=3) | members, max_size=4)


@given(records)
@pytest.mark.parametrize("masks", [(("/a", "drop"),), (("/b", "null"), ("/c/x", "drop")), (("/c/x", "null"),)])
def test_masked_records_fit_the_masked_schema_where_whole_ones_fit_the_whole(masks: Masks, record: Any) -> None:
    masked = json.loads(Mask(masks).apply(json.dumps(record).encode()))
    assert masked_sample(record, masks) == masked
    if Draft202012Validator(SCHEMA).is_valid(record):
        Draft202012Validator(masked_schema(SCHEMA, masks)).validate(masked)
