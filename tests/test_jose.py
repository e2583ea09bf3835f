"""What tokens and keys are written in has one reading or none."""

from __future__ import annotations

import binascii
import json
import random
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.auth.jose import Malformed, decode_base64url, decode_object, encode_base64url


@given(data=st.binary(max_size=300))
def test_base64url_reads_back_what_it_wrote(data: bytes) -> None:
    assert decode_base64url(encode_base64url(data).encode()) == data


@given(text=st.binary(max_size=12) | st.text("ABCZaz09-_+/=", max_size=12).map(str.encode))
def test_base64url_reads_only_what_it_would_write(text: bytes) -> None:
    try:
        data = decode_base64url(text)
    except Malformed:
        return
    assert encode_base64url(data).encode() == text


def test_base64url_has_no_character_but_its_own() -> None:
    own = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    for length, place in [(2, 0), (2, 1), (3, 2), (4, 0), (4, 3), (6, 5), (7, 6), (8, 2), (8, 7)]:
        for foreign in set(range(256)) - set(own):
            text = bytearray(b"A" * length)
            text[place] = foreign
            with pytest.raises(Malformed):
                decode_base64url(bytes(text))
    for text in (b"\\u0041AA", b'AAAA","AAAA', b"\\nAA", b"AA AA", b"AAAA\n", b"\nAAAA"):
        with pytest.raises(Malformed):
            decode_base64url(bytes(text))


def strictly(text: bytes) -> bytes | None:
    """The slow way: the alphabet, then the bytes, then whether they would be written like this."""
    if not re.fullmatch(rb"[A-Za-z0-9_-]*", text) or len(text) % 4 == 1:
        return None
    data = binascii.a2b_base64(text.replace(b"-", b"+").replace(b"_", b"/") + b"=" * (-len(text) % 4))
    return data if encode_base64url(data).encode() == text else None


def read(text: bytes) -> bytes | None:
    try:
        return decode_base64url(text)
    except Malformed:
        return None


@pytest.mark.parametrize("foreign", [b"+", b"/", b"=", b"==", b"\n", b" ", b".", b"\0", b"\x80", b'"', b"\\", b"~"])
@pytest.mark.parametrize("length", [86, 139, 342, 683])
def test_a_foreign_character_is_seen_wherever_it_stands_in_a_long_text(foreign: bytes, length: int) -> None:
    # As long as signatures are: decoders take blocks of 16 to 64 bytes in one way and what is over in another.
    text = encode_base64url(random.Random(length).randbytes(length * 3 // 4)).encode()
    assert read(text) == strictly(text) is not None
    for place in range(len(text) + 1):
        assert read(text[:place] + foreign + text[place:]) is None, place
        assert read(text[:place] + foreign + text[place + len(foreign) :]) is None, place


def test_long_texts_are_read_as_the_slow_and_strict_way_reads_them() -> None:
    chance = random.Random(3)
    own = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    outcomes = {True: 0, False: 0}
    for _ in range(8_000):
        text = bytearray(chance.choices(own, k=chance.choice([chance.randrange(8), chance.randrange(700)])))
        if text and chance.random() < 0.5:
            text[-1] = chance.choice(b"AQgwEIMUYcko048+/=")
        if text and chance.random() < 0.2:
            text[chance.randrange(len(text))] = chance.randrange(256)
        found = read(bytes(text))
        assert found == strictly(bytes(text)), bytes(text)
        outcomes[found is not None] += 1
    assert min(outcomes.values()) > 1500, outcomes


@given(
    value=st.dictionaries(
        st.text(), st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=20)
    )
)
def test_json_without_oddities_is_read_as_everybody_reads_it(value: dict[str, Any]) -> None:
    for ascii_only in (True, False):
        assert decode_object(json.dumps(value, ensure_ascii=ascii_only).encode()) == value


def oracle(data: bytes) -> dict[str, Any] | None:
    """Read in the standard library's way, names twice refused; None: no object, or not to be read."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({name for name, _ in pairs}) != len(pairs):
            raise ValueError
        return dict(pairs)

    def refuse(name: str) -> Any:
        raise ValueError

    try:
        found = json.loads(data.decode(), object_pairs_hook=unique, parse_constant=refuse)
        json.dumps(found, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


SCRAPS = (
    '{"a":',
    '"a"',
    '"b"',
    '"',
    ":",
    ",",
    "{",
    "}",
    "[",
    "]",
    " ",
    "\n",
    "1",
    "-0",
    "1.5",
    "1e5",
    "1e999",
    "null",
    "\\",
)
MORE = (
    "true",
    "NaN",
    "01",
    '"\\u0061"',
    '"\\ud800"',
    '"x:y,{[\\""',
    "\u00fc",
    '"\u00fc"',
    "\x01",
    "\ufeff",
    "9" * 30,
    '"":',
    '"a":',
)


@given(parts=st.lists(st.sampled_from(SCRAPS + MORE), max_size=14))
@settings(max_examples=500, deadline=None)
def test_any_text_is_read_like_the_standard_library_reads_it_or_not_at_all(parts: list[str]) -> None:
    data = "".join(parts).encode()
    try:
        found = decode_object(data)
    except Malformed:
        assert oracle(data) is None
    else:
        assert repr(found) == repr(oracle(data))


def made_up(chance: random.Random, depth: int = 0) -> str:
    """The text of an object with few names, so that some are there twice, here or below."""

    def value() -> str:
        if depth < 3 and chance.random() < 0.3:
            return made_up(chance, depth + 1)
        if chance.random() < 0.2:
            return "[" + ",".join(value() for _ in range(chance.randrange(3))) + "]"
        return chance.choice(['"a"', '"b:"', '"{"', '":"', '""', "1", "null", "[]", "{}"])

    space = chance.choice(["", " "])
    members = (f'"{chance.choice("abcdef")}":{space}{value()}' for _ in range(chance.randrange(5)))
    return "{" + f",{space}".join(members) + "}"


def test_a_name_twice_is_found_at_every_level_whatever_stands_under_it() -> None:
    chance = random.Random(7)
    outcomes = {"read": 0, "refused": 0}
    for _ in range(5000):
        data = made_up(chance).encode()
        right = oracle(data)
        try:
            found = decode_object(data)
        except Malformed as error:
            assert (str(error), right) == ("duplicate_name", None), data
            outcomes["refused"] += 1
        else:
            assert found == right, data
            outcomes["read"] += 1
    assert min(outcomes.values()) > 500, outcomes


@pytest.mark.parametrize("depth", range(1, 31))
def test_depth_does_not_change_how_an_object_is_read(depth: int) -> None:
    for opening, closing in (("[", "]"), ('{"a":', "}")):
        for inner in ("1", '"a"', "[]", "{}", '{"b":1}'):
            data = f'{{"x":{opening * depth}{inner}{closing * depth},"y":1.5}}'.encode()
            assert decode_object(data) == json.loads(data)
        twice = f'{{"x":{opening * depth}{{"b":1,"b":1}}{closing * depth}}}'.encode()
        with pytest.raises(Malformed, match="duplicate_name"):
            decode_object(twice)


@pytest.mark.parametrize("depth", [31, 32])
def test_json_may_be_32_deep_and_not_deeper(depth: int) -> None:
    text = b'{"a":' + b"[" * depth + b"]" * depth + b"}"
    if depth + 1 <= 32:
        assert decode_object(text)
    else:
        with pytest.raises(Malformed, match="too_deep"):
            decode_object(text)
