"""The allow-list cut out of payloads: what it names is kept to the letter, nothing else gets through."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.subscription.payload import json_text
from gateway.subscription.projection import Projection, tokens


def cut(payload: bytes, *pointers: str) -> bytes:
    return Projection(pointers).apply(json_text(payload))


def test_number_text_is_kept() -> None:
    payload = b'{"a":1.10,"b":123456789012345678901234567890,"c":1E400,"d":-0.0,"e":1e-7,"x":1}'
    assert cut(payload, "/a", "/b", "/c", "/d", "/e") == payload.replace(b',"x":1', b"")


def test_escapes_are_kept_as_they_were_written() -> None:
    payload = rb'{"a":"\u00e9\/\u2028\"","b":"\ud83d\ude00","x":"\u0041"}'
    assert cut(payload, "/a", "/b") == payload.replace(rb',"x":"\u0041"', b"")


def test_members_come_in_the_order_of_the_allow_list() -> None:
    assert cut(b'{"b":1,"a":{"d":2,"c":3}}', "/a/c", "/b", "/a/d") == b'{"a":{"c":3,"d":2},"b":1}'


def test_a_pointer_that_finds_nothing_leaves_nothing() -> None:
    assert cut(b'{"a":1}', "/b") == b"{}"
    assert cut(b'{"a":{"c":1}}', "/a/b", "/z") == b'{"a":{}}'


@pytest.mark.parametrize("payload", [b"1", b'"text"', b"null", b"[1,2]", b'[{"a":1}]', b'"\\ud800"'])
def test_what_is_no_object_has_none_of_the_members(payload: bytes) -> None:
    assert cut(payload, "/a") == b"{}"


@pytest.mark.parametrize("inner", [b"1", b'"text"', b"null", b"true", b"[1,2]", b'[{"b":1}]', b'"{"'])
def test_something_else_on_the_way_leaves_out_what_lies_below(inner: bytes) -> None:
    assert cut(b'{"a":%b,"c":1.0}' % inner, "/a/b", "/c") == b'{"c":1.0}'


def test_a_pointer_above_another_keeps_the_whole_value() -> None:
    payload = b'{"a":{"b":1,"c":2}}'
    assert cut(payload, "/a", "/a/b") == payload
    assert cut(payload, "/a/b", "/a") == payload


def test_pointers_escape_slash_and_tilde() -> None:
    assert tokens("/a~1b/m~0n/~01") == ["a/b", "m~n", "~1"]
    payload = b'{"a/b":{"m~n":{"~1":1.50,"x":2}},"a":3}'
    assert json.loads(cut(payload, "/a~1b/m~0n/~01"), parse_float=str) == {"a/b": {"m~n": {"~1": "1.50"}}}


@pytest.mark.parametrize("name", ['quo"te', "back\\slash", "new\nline", "", " ", "é", "\U0001f600", "\u2028", "f0"])
def test_any_name_can_be_allowed(name: str) -> None:
    payload = json.dumps({name: {name: 1}, "x": 2}).encode()
    pointer = "/" + name.replace("~", "~0").replace("/", "~1")
    assert json.loads(cut(payload, pointer)) == {name: {name: 1}}
    assert json.loads(cut(payload, pointer + pointer)) == {name: {name: 1}}


def test_of_a_name_that_stands_twice_the_last_counts_on_every_path() -> None:
    assert cut(b'{"a":1,"a":2.0,"x":0}', "/a") == b'{"a":2.0}'
    # The same by the slow path: something that is no object on the way, and an escaped lone surrogate.
    assert cut(b'{"a":1,"a":2.0,"b":1}', "/a", "/b/c") == b'{"a":2.0}'
    assert cut(rb'{"a":1,"a":2.0,"b":"\ud800"}', "/a") == b'{"a":2.0}'


def test_names_written_with_escapes_are_the_names_they_mean() -> None:
    assert cut(rb'{"\u0061":1.0,"x":2}', "/a") == b'{"a":1.0}'
    assert cut(rb'{"\u0061":1.0,"x":"\ud800"}', "/a") == b'{"a":1.0}'


def test_lone_surrogates_are_kept_and_hide_nothing() -> None:
    payload = rb'{"a":{"b":"\ud800","x":1},"c":1.10,"secret":"s"}'
    assert cut(payload, "/a/b", "/c") == rb'{"a":{"b":"\ud800"},"c":1.10}'
    assert cut(payload, "/c") == b'{"c":1.10}'


def test_an_empty_allow_list_gives_empty_objects() -> None:
    assert cut(b'{"a":1}') == b"{}"


NAMES = ["a", "b", "c", "a/b", "~", 'q"', "\\", "é", ""]
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**30), 10**30),
    st.decimals(allow_nan=False, allow_infinity=False, places=3),
    st.text(st.characters(exclude_categories=()), max_size=5),
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=5),
    max_leaves=15,
)
paths = st.lists(st.lists(st.sampled_from(NAMES), min_size=1, max_size=3), min_size=1, max_size=6)


def spelled(value: Any) -> str:
    if isinstance(value, Decimal):
        return str(value) if "E" not in str(value) else f"{value:f}"
    if isinstance(value, list):
        return f"[{', '.join(map(spelled, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(name)} : {spelled(one)}" for name, one in value.items()) + "}"
    return json.dumps(value)


def slowly(value: Any, wanted: list[list[str]]) -> Any:
    """What the projection must give, by the book."""
    if not isinstance(value, dict):
        return {}
    kept = {}
    for name in dict.fromkeys(path[0] for path in wanted):
        if name not in value:
            continue
        below = [path[1:] for path in wanted if path[0] == name]
        if [] in below:
            kept[name] = value[name]
        elif isinstance(value[name], dict):
            kept[name] = slowly(value[name], below)
    return kept


def decoded(text: bytes) -> Any:
    return json.loads(text, parse_float=Decimal, parse_int=lambda digits: ("int", digits))


@given(value=values, wanted=paths)
@example(value={"a": {"b": 1}, "b": "\ud800"}, wanted=[["a", "b"], ["a", "b", "c"]])
@example(value={"a": [{"b": 1}]}, wanted=[["a", "b"]])
def test_any_projection_of_any_value_is_what_the_slow_reference_gives(value: Any, wanted: list[list[str]]) -> None:
    payload = spelled(value).encode()
    pointers = ["".join("/" + name.replace("~", "~0").replace("/", "~1") for name in path) for path in wanted]
    found = decoded(cut(payload, *pointers))
    assert found == slowly(decoded(payload), wanted)
    assert list(found) == list(slowly(decoded(payload), wanted))
