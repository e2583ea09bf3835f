"""JSON taken apart without being changed: member and element texts exactly as they came, numbers and escapes included.

The standard library's parser reads them, since it takes all that RFC 8259 lets pass: lone surrogates in escapes,
numbers of any length. What a caller wants as values it parses itself with :func:`parse`.
"""

from __future__ import annotations

import json
import re
from typing import Any

_SPACE = re.compile(r"[ \t\r\n]*")
_STRING_OR_SPACE = re.compile(r'("(?:[^"\\]|\\.)*")|[ \t\r\n]+', re.DOTALL)
# Between tokens there are none of these; terminals obey the first ones, line readers break at the last ones.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
# Numbers stay text here: an integer of 5 000 digits is valid JSON and too long for int().
_scan = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=str, strict=False).raw_decode


def _number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text)


_parse = json.JSONDecoder(parse_int=_number, strict=False).decode


def parse(text: str) -> Any:
    """The value of a JSON text; an integer too long for ``int`` comes as a float. Raises ValueError."""
    try:
        return _parse(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def members(text: str) -> dict[str, str]:
    """The members of a JSON object, each value as its own text; of a repeated name the last. Raises ValueError."""
    found: dict[str, str] = {}
    at = _expect(text, _skip(text, 0), "{")
    at = _skip(text, at)
    if text[at : at + 1] != "}":
        while True:
            name, end = _value(text, at)
            if not isinstance(name, str) or text[at] != '"':
                raise ValueError(f"a member's name is not a string at character {at}")
            start = _skip(text, _expect(text, _skip(text, end), ":"))
            _, end = _value(text, start)
            found[name] = text[start:end]
            at = _skip(text, end)
            if text[at : at + 1] != ",":
                break
            at = _skip(text, at + 1)
    _end(text, _expect(text, at, "}"))
    return found


def elements(text: str) -> list[str]:
    """The elements of a JSON array, each as its own text. Raises ValueError."""
    found: list[str] = []
    at = _skip(text, _expect(text, _skip(text, 0), "["))
    if text[at : at + 1] != "]":
        while True:
            _, end = _value(text, at)
            found.append(text[at:end])
            at = _skip(text, end)
            if text[at : at + 1] != ",":
                break
            at = _skip(text, at + 1)
    _end(text, _expect(text, at, "]"))
    return found


def join_members(parts: dict[str, str]) -> str:
    """The object that these member texts make; the inverse of :func:`members`."""
    return "{" + ",".join(f"{json.dumps(name)}:{value}" for name, value in parts.items()) + "}"


def one_line(text: str) -> str:
    """The same JSON without whitespace between its tokens, and with escapes for what could move a terminal's cursor."""
    compact = _STRING_OR_SPACE.sub(r"\1", text)
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", compact)


def _value(text: str, at: int) -> tuple[Any, int]:
    try:
        return _scan(text, at)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _expect(text: str, at: int, token: str) -> int:
    if text[at : at + 1] != token:
        raise ValueError(f"{token} expected at character {at}")
    return at + 1


def _end(text: str, at: int) -> None:
    if _skip(text, at) != len(text):
        raise ValueError(f"the end expected at character {at}")
