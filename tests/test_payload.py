"""Payloads come out as one line of valid JSON that says what went in, or they do not come out at all."""

from __future__ import annotations

import json
import random
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.subscription.payload import MAX_DEPTH, Undecodable, json_text

DECODABLE = {
    "nothing but null": b"null",
    "a number with a trailing zero": b'{"price":1.10}',
    "a number with an exponent": b"[1E400,1e-7,-0,-0.0,0e0]",
    "an integer of 30 digits": b"123456789012345678901234567890",
    "an integer of 6 000 digits": b'{"n":' + b"9" * 6000 + b"}",
    "U+2028 and U+2029": '"a\u2028b\u2029c"'.encode(),
    "escaped controls": rb'"\u0000\r\n\t\b\f\"\\\/"',
    "a lone high surrogate, escaped": rb'{"s":"\ud800"}',
    "a lone low surrogate, escaped": rb'{"s":"\udc00x"}',
    "surrogates in the wrong order": rb'["\udc00\ud800"]',
    "a proper pair": rb'"\ud83d\ude00"',
    "DEL, which JSON allows": b'"\x7f"',
    "C1 controls, which JSON allows": '"\u0085\u009f"'.encode(),
    "an empty name": b'{"":{"":[]}}',
    "one name twice": b'{"a":1,"a":2}',
    "an escaped quote and a brace": rb'{"a":"\"}{][\\"}',
    "pretty-printed": b'{\r\n  "a": [\n    1,\r\n    2\n  ]\r\n}\n',
    "space around": b" \t\r\n {} \t\r\n ",
    "as deep as is allowed": b"[" * MAX_DEPTH + b"]" * MAX_DEPTH,
    "many brackets side by side": b"[" + b"[],{}," * 500 + b"[]]",
    "many brackets in a string": b'["' + b"[{" * 500 + b'"]',
    "many brackets in a string with escapes": rb'{"a":"\"' + b"[{" * 500 + rb'\\"}',
    "deep brackets in a string with an escape": rb'{"a":"\"' + b"[" * 500 + b"]" * 500 + rb'\n"}',
    "deep JSON as text": json.dumps("[" * 500 + '"x"' + "]" * 500).encode(),
    "many strings with escapes and brackets": rb'{"a":["\n[","\"[["' + rb',"\t{\\"' * 400 + b"]}",
}
UNDECODABLE = {
    "nothing": b"",
    "only space": b" \n ",
    "a byte order mark": b"\xef\xbb\xbf{}",
    "a UTF-16 text": "{}".encode("utf-16"),
    "bytes that are not UTF-8": b'{"a":"\xff"}',
    "a surrogate in UTF-8": b'"\xed\xa0\x80"',
    "an overlong slash": b'"\xc0\xaf"',
    "a truncated character": b'"\xe2\x80"',
    "beyond Unicode": b'"\xf4\x90\x80\x80"',
    "a raw LF in a string": b'"a\nb"',
    "a raw CR in a string": b'"a\rb"',
    "a raw CRLF in a name": b'{"a\r\nb":1}',
    "a raw NUL in a string": b'"a\x00b"',
    "a NUL after the value": b"{}\x00",
    "a raw TAB in a string": b'"a\tb"',
    "two values": b"1 2",
    "something after the value": b"{} trailing",
    "two lines of NDJSON": b'{"a":1}\n{"a":2}\n',
    "an SSE injection": b'{"a":1}\n\nevent: goodbye\ndata: {}\n\n',
    "NaN": b"NaN",
    "Infinity inside": b'{"a":-Infinity}',
    "a number with a leading zero": b"01",
    "a number that ends in a point": b"1.",
    "a number with a plus": b"+1",
    "hexadecimal": b"0x10",
    "single quotes": b"{'a':1}",
    "a comment": b"{}/**/",
    "a comma at the end": b"[1,]",
    "a bad escape": rb'"\x41"',
    "a short unicode escape": rb'"\u12"',
    "vertical tab as space": b"\x0b1",
    "no-break space as space": "\u00a0{}".encode(),
    "an open string": b'"abc',
    "an open object": b'{"a":{"b":1}',
    "brackets that do not match": b"[}",
    "one level too deep": b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1),
    "objects one level too deep": b'{"a":' * (MAX_DEPTH + 1) + b"1" + b"}" * (MAX_DEPTH + 1),
    "a nesting bomb": b"[" * 100_000,
    "a closed nesting bomb": b"[" * 100_000 + b"]" * 100_000,
    "a bomb behind a string with escapes": rb'["\"",' + b"[" * 5000 + b"]" * 5000 + b"]",
    "a bomb between strings that look like brackets": b'["]",' * 3000 + b"1" + b"]" * 3000,
}


def exactly(text: bytes) -> Any:
    """The value with everything that JSON can tell apart: number text, order and repetition of names."""

    def number(digits: str) -> tuple[str, str]:
        return "number", digits

    return json.loads(text, parse_int=number, parse_float=number, object_pairs_hook=lambda pairs: ("object", pairs))


@pytest.mark.parametrize("payload", DECODABLE.values(), ids=DECODABLE.keys())
def test_json_comes_out_on_one_line_and_equal_to_the_letter(payload: bytes) -> None:
    text = json_text(payload)
    assert b"\n" not in text
    assert b"\r" not in text
    assert exactly(text) == exactly(payload)
    if b"\n" not in payload and b"\r" not in payload:
        assert text is payload, "what needs no change is passed on as it came"


@pytest.mark.parametrize("payload", UNDECODABLE.values(), ids=UNDECODABLE.keys())
def test_what_is_not_one_json_text_is_undecodable(payload: bytes) -> None:
    with pytest.raises(Undecodable):
        json_text(payload)


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**40), 10**40),
    st.decimals(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=()), max_size=20),
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=20,
)


def spelled(value: Any) -> str:
    """JSON of a value with its numbers as they are; the standard library would not take decimals."""
    if isinstance(value, Decimal):
        return f"{value:E}" if "E" in str(value) else str(value)
    if isinstance(value, list):
        return f"[{', '.join(map(spelled, value))}]"
    if isinstance(value, dict):
        return "{" + ",\r\n".join(f"{json.dumps(name)}: {spelled(one)}" for name, one in value.items()) + "}"
    return json.dumps(value)


@given(values)
def test_any_value_survives(value: Any) -> None:
    payload = spelled(value).encode()
    assert exactly(json_text(payload)) == exactly(payload)


@given(st.binary(max_size=60) | st.text(alphabet='{}[]",:\\u0123eE+-. \r\n\tnulltrue\ud7ff\u2028', max_size=40))
def test_any_bytes_come_out_as_a_strict_parser_reads_them_or_not_at_all(payload: bytes | str) -> None:
    raw = payload if isinstance(payload, bytes) else payload.encode()

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    try:
        json.loads(raw.decode("utf-8"), parse_constant=refuse)
    except ValueError:
        with pytest.raises(Undecodable):
            json_text(raw)
        return
    text = json_text(raw)
    assert exactly(text) == exactly(raw)
    assert not {b"\r", b"\n"} & {text[at : at + 1] for at in range(len(text))}


def test_a_hostile_string_costs_what_its_length_costs() -> None:
    # Quadratic work on this took minutes; a limit on steps, not on the clock: both sizes end in the same test run.
    for size in (10_000, 400_000):
        with pytest.raises(Undecodable):
            json_text(b"[" * 200 + b'"' + b'\\"' * size)


def test_the_depth_counts_brackets_outside_strings_whatever_stands_between_them() -> None:
    chance = random.Random(20_261_123)
    closing = {"[": "]", "{": "}"}
    for _ in range(300):
        deepest = 0
        groups = []
        for _ in range(chance.randint(1, 4)):
            depth = chance.choice((1, 64, MAX_DEPTH - 2, MAX_DEPTH - 1, MAX_DEPTH, MAX_DEPTH + 1, 500))
            deepest = max(deepest, depth + 1)
            opening = [chance.choice("[{") for _ in range(depth)]
            noise = chance.choice(("", '"', '"[[{{', '"\\"[[', '"\\\\', '"]]}')) or '"'
            shut = "".join(closing[one] for one in reversed(opening))
            groups.append("".join("[" if one == "[" else '{"a":' for one in opening) + noise + '"' + shut)
        payload = f"[{','.join(groups)}]".encode()
        if deepest > MAX_DEPTH:
            with pytest.raises(Undecodable, match="nested deeper"):
                json_text(payload)
        else:
            assert json_text(payload) is payload
