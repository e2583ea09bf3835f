"""Payload bytes → JSON text that is safe to place in a frame, with the numbers as they were produced.

A JSON payload is checked and passed on as it came: only whitespace outside strings may go. What is not one valid JSON
text in UTF-8 within bounds is undecodable and never leaves the process raw: raw bytes would go round the projection and
could break a frame.
"""

from __future__ import annotations

import json
from itertools import accumulate
from typing import Final, NoReturn

import msgspec

MAX_DEPTH: Final = 128
"""Deepest nesting of arrays and objects that is passed on."""

_NO_BRACKETS: Final = bytes(byte for byte in range(256) if byte not in b"[]{}")
_STEP: Final = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_STRETCH: Final = 64

_check = msgspec.json.Decoder(msgspec.Raw).decode
_MEMBERS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])


class Undecodable(Exception):
    """The payload breaks its contract's encoding. The message says how, for the operator's log only."""


def json_text(value: bytes) -> bytes:
    """``value`` as one line of valid JSON. Raises Undecodable.

    Text without CR and LF is returned as it is, the same object. Escapes stay escapes, lone surrogates too.
    """
    try:
        value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Undecodable(f"not UTF-8 at byte {error.start}") from None
    if is_too_deep(value):
        raise Undecodable(f"nested deeper than {MAX_DEPTH}")
    try:
        _check(value)
    except (msgspec.DecodeError, RecursionError) as error:
        # msgspec refuses escaped lone surrogates, which RFC 8259 §8.2 lets pass; the slow parser has the last word.
        _check_slowly(value, cause=str(error))
    if b"\n" in value or b"\r" in value:
        return _one_line(value)
    return value


def members(value: bytes) -> dict[str, msgspec.Raw]:
    """The members of the JSON object ``value``, undecoded. Raises Undecodable where it is none or cannot be read."""
    try:
        return _MEMBERS.decode(value)
    except (msgspec.DecodeError, msgspec.ValidationError, RecursionError) as error:
        raise Undecodable(str(error)) from None


def is_too_deep(value: bytes) -> bool:
    """Whether brackets outside strings nest deeper than the bound. No brackets, no cost but counting them."""
    return value.count(b"[") + value.count(b"{") > MAX_DEPTH and _nests_too_deep(value)


def refuse_constant(constant: str) -> NoReturn:
    """For ``json.loads``, which would take them: NaN, Infinity and -Infinity are no JSON (RFC 8259 §6)."""
    raise ValueError(f"{constant} is not JSON")


def _nests_too_deep(value: bytes) -> bool:
    """Counted by stretches, bracket by bracket only where one could pass the bound: hostile text gets milliseconds.

    What is unbalanced is no JSON, and the parser says so.
    """
    if b"\\" in value:
        # Escaped quotes end no string. An escaped backslash first: the quote behind it does.
        value = value.replace(b"\\\\", b"").replace(b'\\"', b"")
    brackets = b"".join(value.split(b'"')[::2]).translate(None, _NO_BRACKETS)
    depth = 0
    for start in range(0, len(brackets), _STRETCH):
        stretch = brackets[start : start + _STRETCH]
        opening = stretch.count(b"[") + stretch.count(b"{")
        if depth + opening > MAX_DEPTH and depth + max(accumulate(map(_STEP.__getitem__, stretch))) > MAX_DEPTH:
            return True
        depth += 2 * opening - len(stretch)
    return False


def _one_line(value: bytes) -> bytes:
    """Without line ends. Valid JSON has none inside strings (RFC 8259 §7), so each of them is whitespace."""
    return value.replace(b"\r", b" ").replace(b"\n", b" ")


def _check_slowly(value: bytes, *, cause: str) -> None:
    try:
        # Numbers stay text: a 5 000 digit integer is valid JSON and too long for int().
        json.loads(value.decode("utf-8"), parse_constant=refuse_constant, parse_int=str, parse_float=str)
    except (ValueError, RecursionError) as error:
        raise Undecodable(f"{cause}; {error}") from None
