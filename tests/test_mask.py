"""Masks on payloads: what is hidden is nowhere in the bytes, everything else is there to the letter."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.errors import InvalidParameter
from gateway.model import MaskRule, Masks
from gateway.subscription.mask import Mask, covers, hides, narrowed, tree
from gateway.subscription.payload import json_text
from gateway.subscription.projection import Projection, tokens
from gateway.subscription.request import ReadRequest
from gateway.subscription.shape import Shape, offered, shape_of
from tests.parts.source import contract


def masked(payload: bytes, rules: Mapping[str, MaskRule]) -> bytes:
    return Mask(tuple(sorted(rules.items()))).apply(json_text(payload))


@pytest.mark.parametrize(
    ("payload", "rules", "left"),
    [
        (b'{"a":1.10,"b":2}', {"/b": "drop"}, b'{"a":1.10}'),
        (b'{"a":1.10,"b":2}', {"/a": "drop"}, b'{"b":2}'),
        (b'{"a":1,"b":2,"c":3}', {"/b": "drop"}, b'{"a":1,"c":3}'),
        (b'{"a":1,"b":2}', {"/a": "drop", "/b": "drop"}, b"{}"),
        (b'{"a":1,"b":2}', {"/a": "null", "/b": "drop"}, b'{"a":null}'),
        (b'{"a":{"b":1,"c":[1, 2]},"d":1E400}', {"/a/c": "drop"}, b'{"a":{"b":1},"d":1E400}'),
        (b'{"a":{"b":1}}', {"/a/b": "drop"}, b'{"a":{}}'),
        (b'{"a":{"b":{"c":[{"d":1}]}}}', {"/a/b/c": "null"}, b'{"a":{"b":{"c":null}}}'),
        (b'{"a":{"x":"}"}}', {"/a": "null"}, b'{"a":null}'),
        # White space that is not about what is hidden stays.
        (b' { "a" : 1 , "b" : 2 } ', {"/b": "null"}, b' { "a" : 1 , "b" : null } '),
        (b'{ "a" : 1 , "b" : 2 , "c":3 }', {"/b": "drop"}, b'{ "a" : 1 , "c":3 }'),
        (b"{ }", {"/a": "drop"}, b"{ }"),
        (b'{"a": {"b": "x"} , "c":0}', {"/a/b": "null"}, b'{"a": {"b": null} , "c":0}'),
        # Nothing there, nothing hidden; null does not make a member.
        (b'{"b":2}', {"/a": "null", "/c/d": "drop"}, b'{"b":2}'),
        # However often, and however it is written.
        (b'{"a":1,"b":0,"a":"s"}', {"/a": "drop"}, b'{"b":0}'),
        (b'{"a":1,"a":"s"}', {"/a": "null"}, b'{"a":null,"a":null}'),
        (rb'{"\u0061":1,"b":"\u0061\ud800"}', {"/a": "drop"}, rb'{"b":"\u0061\ud800"}'),
        (rb'{"a\"":1,"a\\":2,"b":"\\\""}', {'/a"': "drop", "/a\\": "drop"}, rb'{"b":"\\\""}'),
        (b'{"a/b":{"m~n":1,"x":2}}', {"/a~1b/m~0n": "drop"}, b'{"a/b":{"x":2}}'),
        (b'{"":1,"b":2}', {"/": "drop"}, b'{"b":2}'),
        # Something else on the way: only an array could hold it.
        (b'{"a":7,"b":"s"}', {"/a/b": "drop"}, b'{"a":7,"b":"s"}'),
        (b'{"a":[{"b":1}],"c":1}', {"/a/b": "drop"}, b'{"a":null,"c":1}'),
        (b'[{"a":1}]', {"/a": "null"}, b"null"),
        (b' "text" ', {"/a": "null"}, b' "text" '),
        (b"-0.0", {"/a": "drop"}, b"-0.0"),
    ],
)
def test_what_is_hidden_goes_and_the_rest_stays_to_the_byte(
    payload: bytes, rules: dict[str, MaskRule], left: bytes
) -> None:
    assert masked(payload, rules) == left


class Members(list[tuple[str, Any]]):
    """An object, with names that may stand twice."""


class Raw(str):
    """A number as it is written."""

    __slots__ = ()


NAMES = ["a", "b", "c", "a/b", "~", 'q"', "\\", "é", ""]
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**30), 10**30),
    st.decimals(allow_nan=False, allow_infinity=False, places=3).map(lambda one: Raw(f"{one:f}")),
    st.text(st.characters(exclude_categories=()), max_size=5),
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=2) | st.lists(st.tuples(st.sampled_from(NAMES), inner), max_size=5).map(Members)
    ),
    max_leaves=15,
)
rule_sets = st.dictionaries(
    st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map(
        lambda path: "".join("/" + one.replace("~", "~0").replace("/", "~1") for one in path)
    ),
    st.sampled_from(["drop", "null"]),
    min_size=1,
    max_size=4,
)
blanks = st.sampled_from(["", " ", "\t ", "  "])


def spelled(value: Any, blank: str, *, escaped: bool) -> str:
    def spell(one: Any) -> str:
        if isinstance(one, Raw):
            return str(one)
        if isinstance(one, Members):
            pairs = (f"{json.dumps(k, ensure_ascii=escaped)}{blank}:{blank}{spell(v)}{blank}" for k, v in one)
            return "{" + blank + f",{blank}".join(pairs) + "}"
        if isinstance(one, list):
            return f"[{blank}{f',{blank}'.join(map(spell, one))}]"
        return json.dumps(one, ensure_ascii=True)

    return blank + spell(value) + blank


def by_the_book(value: Any, rules: Mapping[tuple[str, ...], str], at: tuple[str, ...] = ()) -> Any:
    """What must be left, of members as ``json`` finds them, numbers as text."""
    if at in rules:
        return None
    leads_on = any(path[: len(at)] == at for path in rules)
    if leads_on and isinstance(value, list) and not isinstance(value, Members):
        return None
    if not isinstance(value, Members):
        return value
    return Members(
        (name, by_the_book(one, rules, (*at, name))) for name, one in value if rules.get((*at, name)) != "drop"
    )


def parsed(text: bytes) -> Any:
    return json.loads(text, object_pairs_hook=Members, parse_int=Raw, parse_float=Raw)


def without_nested(rules: Mapping[str, Any]) -> dict[str, Any]:
    return {one: rule for one, rule in rules.items() if not any(covers(o, one) for o in rules if o != one)}


@given(values, rule_sets, blanks, st.booleans())
@example(Members([("a", [Members([("b", 1)])])]), {"/a/b": "drop"}, " ", True)
def test_masks_do_what_a_parser_of_json_would_do(
    value: Any, rules: dict[str, MaskRule], blank: str, escaped: bool
) -> None:
    rules = without_nested(rules)
    payload = json_text(spelled(value, blank, escaped=escaped).encode())
    found = masked(payload, rules)
    paths = {tuple(tokens(pointer)): rule for pointer, rule in rules.items()}
    assert parsed(found) == by_the_book(parsed(payload), paths)
    if parsed(found) == parsed(payload):
        assert found == payload, "where nothing is hidden no byte changes"
    assert masked(found, rules) == found, "a second time there is nothing to hide"


@given(values, rule_sets, rule_sets)
def test_what_a_projection_and_masks_leave_is_the_projection_masked(
    value: Any, rules: dict[str, MaskRule], shown: dict[str, str]
) -> None:
    payload = json_text(spelled(value, "", escaped=True).encode())
    projection, masks = tuple(sorted(without_nested(shown))), tuple(sorted(without_nested(rules).items()))
    whole = Mask(masks).apply(Projection(projection).apply(payload))
    fewer, left = narrowed(projection, masks)
    assert fewer is not None
    cut = Projection(fewer).apply(payload)
    found = Mask(left).apply(cut) if left else cut
    # A way to nothing but dropped members is cut off earlier where the projection itself is narrowed.
    assert prune(parsed(found)) == prune(parsed(whole))


def prune(value: Any) -> Any:
    if not isinstance(value, Members):
        return value
    return {name: below for name, one in value if (below := prune(one)) != {}}


def test_masks_that_have_nothing_to_do_in_what_is_read_are_no_part_of_the_shape() -> None:
    masks: Masks = (("/a", "drop"), ("/b/c", "null"), ("/d/e", "drop"), ("/z", "null"))
    assert narrowed(("/a", "/b", "/d/e", "/f"), masks) == (("/b", "/f"), (("/b/c", "null"),))
    assert narrowed(("/b/c/x",), masks) == (("/b/c/x",), (("/b/c", "null"),))
    assert narrowed(("/f",), masks) == (("/f",), ())
    assert narrowed(None, masks) == (None, masks)
    assert hides(masks, "/b/c/x")
    assert not hides(masks, "/b")
    assert not hides(masks, "/ab")


def shape(fields: str | None, masks: Masks, **options: Any) -> Shape:
    return shape_of(
        contract("s", "t", **options), ReadRequest(fields=fields), transport="pull", filters=(), masks=masks
    )


def test_readers_under_equal_masks_share_a_shape_and_others_do_not() -> None:
    null: Masks = (("/a", "null"),)
    assert shape(None, null) == shape(None, null) == offered(contract("s", "t"), null)
    assert len({shape(None, ()), shape(None, null), shape(None, (("/a", "drop"),))}) == 3
    assert shape("/b", null) == shape("/b", ())


def test_what_is_dropped_cannot_be_asked_for_and_what_is_nulled_can() -> None:
    masks: Masks = (("/a", "null"), ("/b/c", "drop"))
    for pointer in ("/b/c", "/b/c/d"):
        with pytest.raises(InvalidParameter, match=f"'{pointer}' is not in this stream"):
            shape(pointer, masks)
        with pytest.raises(InvalidParameter, match=r"is not in this stream; allowed: /a, /b\.$"):
            shape(pointer, masks, projection=("/a", "/b"))
    assert shape("/a", masks) == Shape(("/a",), masks=(("/a", "null"),))
    assert shape("/b", masks) == Shape(("/b",), masks=(("/b/c", "drop"),))
    assert shape("/b", masks, projection=("/b/c", "/b/d")) == Shape(("/b/d",))
    with pytest.raises(InvalidParameter, match=r"allowed: /a\.$"):
        shape("/x", (("/x", "drop"),), projection=("/a", "/x"))


def test_a_mask_within_another_is_no_tree() -> None:
    with pytest.raises(ValueError, match="lies within another"):
        tree((("/a", "drop"), ("/a/b", "null")))
