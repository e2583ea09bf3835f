"""The encodings that tokens and keys are written in, base64url and JSON, read in the one strict way.

Two readers that disagree about a document are how signatures get bypassed, so whatever has more than one reading
here has none: no padding, no foreign characters, no spare bits, no name twice, no NaN, no endless nesting.
"""

from __future__ import annotations

import binascii
import json
import re
from typing import Any

MAX_JSON_DEPTH = 32

_TO_STANDARD = bytes.maketrans(b"-_+/=", b"+/!!!")
_TO_URL = bytes.maketrans(b"+/", b"-_")
_PADDING = (b"", b"", b"==", b"=")
# Strings are skipped whole (possessively, so that no input makes this more than linear), brackets are counted.
_STRUCTURE = re.compile(r'"(?:[^"\\]|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)


class Malformed(ValueError):
    """Not readable in the strict sense. The message is a slug and holds nothing of the input."""


def decode_base64url(text: bytes) -> bytes:
    """base64url without padding (RFC 7515 §2) → bytes; only the canonical spelling is read. Raises Malformed."""
    standard = text.translate(_TO_STANDARD) + _PADDING[len(text) & 3]
    try:
        decoded = binascii.a2b_base64(standard)
    except ValueError:
        raise Malformed("not_base64url") from None
    # The decoder skips foreign characters and ignores spare bits: spelling the answer again shows both.
    if binascii.b2a_base64(decoded, newline=False) != standard:
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


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse_constant)
