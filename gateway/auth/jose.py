"""The encodings that tokens and keys are written in, base64url and JSON, read in the one strict way.

Two readers that disagree about a document are how signatures get bypassed, so whatever has more than one reading
here has none: no padding, no foreign characters, no spare bits, no name twice, no NaN, no endless nesting.
"""

from __future__ import annotations

import binascii
import json
import re
from typing import Any

import msgspec

MAX_JSON_DEPTH = 32

# The alphabet of RFC 4648 §4 for that of §5, and for what is foreign to §5 or means something in a JSON string, a
# character that is foreign to both.
_TO_STANDARD = bytes.maketrans(b'-_+/=\\"', b"+/!!!!!")
_TO_URL = bytes.maketrans(b"+/", b"-_")
_PADDING = (b"", b"", b"==", b"=")
# The last character of a group of two or three holds bits that decode to nothing: only those with zeros there.
_CLEAN_ENDS = (frozenset[int](), frozenset[int](), frozenset(b"AQgw"), frozenset(b"AEIMQUYcgkosw048"))
# Strings are skipped whole (possessively, so that no input makes this more than linear), brackets are counted.
_STRUCTURE = re.compile(r'"(?:[^"\\]|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)


class Malformed(ValueError):
    """Not readable in the strict sense. The message is a slug and holds nothing of the input."""


def decode_base64url(text: bytes) -> bytes:
    """base64url without padding (RFC 7515 §2) → bytes; only the canonical spelling is read. Raises Malformed."""
    rest = len(text) & 3
    try:
        # As the text of a JSON string, since that decoder is strict too, and takes half the time of ``binascii``.
        decoded = _BYTES(b'"' + text.translate(_TO_STANDARD) + _PADDING[rest] + b'"')
    except (msgspec.MsgspecError, ValueError):
        raise Malformed("not_base64url") from None
    # The decoder passes over spare bits: with them one signature would have many spellings.
    if rest and text[-1] not in _CLEAN_ENDS[rest]:
        raise Malformed("not_base64url")
    return decoded


def encode_base64url(data: bytes) -> str:
    """Bytes → base64url without padding."""
    return binascii.b2a_base64(data, newline=False).translate(_TO_URL).rstrip(b"=").decode("ascii")


def decode_object(data: bytes) -> dict[str, Any]:
    """A JSON object in UTF-8 → dict; names unique at every level, at most ``MAX_JSON_DEPTH`` deep.

    NaN and the infinities are refused, numbers that overflow a float come out as an infinity, strings that are no
    Unicode text (a lone surrogate written as an escape) are refused. Raises Malformed.
    """
    if data.count(b"{") + data.count(b"[") <= MAX_JSON_DEPTH:
        try:
            document = _PLAIN(data)
            # This parser takes a third of the time and a name twice. What it writes has every name once and one
            # spelling for everything: where it writes the very bytes that it has read, nothing was there twice and
            # nothing could be read in another way. That is so of nearly every token.
            if type(document) is dict and _SPELL(document) == data:
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


_BYTES = msgspec.json.Decoder(bytes).decode
_PLAIN = msgspec.json.Decoder().decode
_SPELL = msgspec.json.Encoder().encode
_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse_constant)
