"""The encodings that tokens and keys are written in, base64url and JSON, read in the one strict way.

Two readers that disagree about a document are how signatures get bypassed, so whatever has more than one reading
here has none: no padding, no foreign characters, no spare bits, no name twice, no NaN, no endless nesting.
"""

from __future__ import annotations

import binascii
import json
import re
from types import GenericAlias
from typing import Any

import msgspec
import pybase64

MAX_JSON_DEPTH = 32
_SHALLOW_DEPTH = 5
"""Of a token's claims, with room: Keycloak's ``resource_access`` is three deep in them."""

_PLUS, _SLASH = b"+/"
_TO_URL = bytes.maketrans(b"+/", b"-_")
_PADDING = (b"", b"", b"==", b"=")
# What a text may end with, by the length of its last group. Nothing is one character long; the last of two or three
# holds bits that decode to nothing, and only those with zeros there are read. The padding is ours to put.
_ENDS = (
    frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"),
    frozenset[int](),
    frozenset(b"AQgw"),
    frozenset(b"AEIMQUYcgkosw048"),
)
# Strings are skipped whole (possessively, so that no input makes this more than linear), brackets are counted.
_STRUCTURE = re.compile(r'"(?:[^"\\]|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)


class Malformed(ValueError):
    """Not readable in the strict sense. The message is a slug and holds nothing of the input."""


def decode_base64url(text: bytes) -> bytes:
    """base64url without padding (RFC 7515 §2) → bytes; only the canonical spelling is read. Raises Malformed."""
    if not text:
        return b""
    rest = len(text) & 3
    # Three things the decoder lets pass: both letters of the other alphabet, spare bits, padding. With any of them one
    # signature would have many spellings.
    if _PLUS in text or _SLASH in text or text[-1] not in _ENDS[rest]:
        raise Malformed("not_base64url")
    try:
        # True is ``validate``: by its name it would cost as much again.
        return pybase64.b64decode(text + _PADDING[rest], b"-_", True)
    except ValueError:
        raise Malformed("not_base64url") from None


def encode_base64url(data: bytes) -> str:
    """Bytes → base64url without padding."""
    return binascii.b2a_base64(data, newline=False).translate(_TO_URL).rstrip(b"=").decode("ascii")


def decode_object(data: bytes) -> dict[str, Any]:
    """A JSON object in UTF-8 → dict; names unique at every level, at most ``MAX_JSON_DEPTH`` deep.

    NaN and the infinities are refused, numbers that overflow a float come out as an infinity, strings that are no
    Unicode text (a lone surrogate written as an escape) are refused. Raises Malformed.
    """
    try:
        # This parser takes a third of the time and a name twice. What it writes has every name once and one spelling
        # for everything: where it writes the very bytes that it has read, nothing was there twice and nothing could be
        # read in another way. That is so of nearly every token.
        document: dict[str, Any] = _SHALLOW(data)
        if _SPELL(document) == data:
            return document
    except (msgspec.MsgspecError, ValueError):
        # Why it is refused, or that it need not be, the careful one says.
        return _decode_any(data)
    return _decode_any(data)


def _decode_any(data: bytes) -> dict[str, Any]:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise Malformed("not_utf8") from None
    if text.count("{") + text.count("[") > MAX_JSON_DEPTH:
        _check_depth(text)
    try:
        document = _DECODER.decode(text)
        if "\\ud" in text or "\\uD" in text:
            json.dumps(document, ensure_ascii=False).encode("utf-8")
    except Malformed:
        raise
    except UnicodeEncodeError:
        raise Malformed("lone_surrogate") from None
    except ValueError:
        raise Malformed("not_json") from None
    if type(document) is not dict:
        raise Malformed("not_an_object")
    return document


def _check_depth(text: str) -> None:
    """Refuses before the parser, which recurses, sees the text."""
    depth = 0
    for match in _STRUCTURE.finditer(text):
        mark = match[0]
        if mark in "[{":
            depth += 1
            if depth > MAX_JSON_DEPTH:
                raise Malformed("too_deep")
        elif mark in "]}":
            depth -= 1


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise Malformed("duplicate_name")
    return members


def _refuse_constant(name: str) -> Any:
    raise Malformed("not_json")


def _values(*, deep: int) -> Any:
    """The type of what JSON can say with at most so many containers in one another."""
    plain = str | int | float | bool | None
    if not deep:
        return plain
    inner = _values(deep=deep - 1)
    return plain | GenericAlias(list, (inner,)) | GenericAlias(dict, (str, inner))


# Objects whose depth needs no counting, since the type ends before the bound does.
_SHALLOW = msgspec.json.Decoder(dict[str, _values(deep=_SHALLOW_DEPTH - 1)]).decode  # type: ignore[misc]
_SPELL = msgspec.json.Encoder().encode
_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse_constant)
