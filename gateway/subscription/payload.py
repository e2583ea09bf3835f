"""Payload bytes → JSON text that is safe to place in a frame, with the numbers as they were produced.

A JSON payload is checked and passed on as it came: only whitespace outside strings may go. What is not one valid JSON
text in UTF-8 within bounds is undecodable and never leaves the process raw: raw bytes would go round the projection and
could break a frame.
"""

from __future__ import annotations

import json
import re
from typing import Final, NoReturn

import msgspec

MAX_DEPTH: Final = 128
"""Deepest nesting of arrays and objects that is passed on."""

# Possessive, and content with a string that never ends: hostile text costs what its length costs.
_STRINGS: Final = re.compile(rb'"(?:[^"\\]|\\.)*+"?', re.DOTALL)
_NO_BRACKETS: Final = bytes(byte for byte in range(256) if byte not in b"[]{}")

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
    if value.count(b"[") + value.count(b"{") > MAX_DEPTH and _too_deep(value):
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


def _too_deep(value: bytes) -> bool:
    """Whether brackets outside strings nest deeper than the bound; each round takes the innermost pairs away."""
    rest = _STRINGS.sub(b"", value).translate(None, _NO_BRACKETS)
    for _ in range(MAX_DEPTH):
        size = len(rest)
        rest = rest.replace(b"[]", b"").replace(b"{}", b"")
        if len(rest) == size:
            # Empty, or unbalanced: then it is no JSON and the parser will say where.
            return False
    return bool(rest)


def _one_line(value: bytes) -> bytes:
    """Without line ends. Valid JSON has none inside strings (RFC 8259 §7), so each of them is whitespace."""
    return value.replace(b"\r", b" ").replace(b"\n", b" ")


def _check_slowly(value: bytes, *, cause: str) -> None:
    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is not JSON")

    try:
        # Numbers stay text: a 5 000 digit integer is valid JSON and too long for int().
        json.loads(value.decode("utf-8"), parse_constant=refuse, parse_int=str, parse_float=str)
    except (ValueError, RecursionError) as error:
        raise Undecodable(f"{cause}; {error}") from None
