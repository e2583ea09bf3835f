"""A document as bytes, the same on every node and run: JSON, and the same in YAML block style. ASCII throughout."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

_BARE: Final = re.compile(r"[A-Za-z][A-Za-z0-9_/.-]*(?: [A-Za-z0-9_/.-]+)*")
_WORDS: Final = frozenset(("null", "true", "false", "yes", "no", "on", "off", "y", "n"))
"""What some YAML 1.1 reader takes for something else than text, in small letters."""

_SURROGATES: Final = re.compile(r"\\\\|\\u(d[89ab][0-9a-f]{2})\\u(d[c-f][0-9a-f]{2})|\\ud[89a-f][0-9a-f]{2}")
"""In a JSON string: an escaped backslash, which begins no escape; a pair; one that stands alone, which is no text."""

_PROTOTYPE: Final = "__proto__"
_LONG_KEY: Final = 1000
"""YAML's simple keys end at 1024 characters."""


def spell_json(document: Mapping[str, Any]) -> bytes:
    """Indented JSON in the order of the members."""
    compact = json.dumps(_harmless(document), allow_nan=False, separators=(",", ":"))
    if "\\ud" in compact:
        compact = _SURROGATES.sub(_whole, compact)
    # The standard library indents in Python, a hundred times slower.
    return msgspec.json.format(compact.encode("ascii"), indent=2) + b"\n"


def spell_yaml(document: Mapping[str, Any]) -> bytes:
    """YAML 1.2 that readers of 1.1 understand alike: texts in double quotes wherever a reader might guess."""
    return ("\n".join(_block(_harmless(document), "")) + "\n").encode("ascii")


def _harmless(value: Any) -> Any:
    """Without members that JavaScript tools take for an object's prototype: they misread what stands beside them."""
    if isinstance(value, Mapping):
        kept = {name: _harmless(one) for name, one in value.items() if name != _PROTOTYPE}
        required = kept.get("required")
        if isinstance(required, list) and _PROTOTYPE in required:
            kept["required"] = [one for one in required if one != _PROTOTYPE]
        return kept
    return [_harmless(one) for one in value] if isinstance(value, list | tuple) else value


def _block(value: Mapping[str, Any] | Sequence[Any], indent: str) -> Iterator[str]:
    below = indent + "  "
    if isinstance(value, Mapping):
        for name, one in value.items():
            if isinstance(one, Mapping | list | tuple) and one:
                yield from _key(name, indent)
                yield from _block(one, below)
            else:
                *before, last = _key(name, indent)
                yield from before
                yield f"{last} {_scalar(one)}"
        return
    for one in value:
        if isinstance(one, Mapping | list | tuple) and one:
            lines = _block(one, below)
            yield f"{indent}- {next(lines)[len(below) :]}"
            yield from lines
        else:
            yield f"{indent}- {_scalar(one)}"


def _key(name: str, indent: str) -> list[str]:
    text = _text(name)
    return [f"{indent}{text}:"] if len(text) <= _LONG_KEY else [f"{indent}? {text}", f"{indent}:"]


def _scalar(value: Any) -> str:
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, Mapping):
        return "{}"
    if isinstance(value, list | tuple):
        return "[]"
    spelled = json.dumps(value, allow_nan=False)
    if isinstance(value, float) and "e" in spelled and "." not in spelled:
        # YAML 1.1 takes 1e+30 for text.
        spelled = spelled.replace("e", ".0e")
    return spelled


def _text(text: str) -> str:
    if _BARE.fullmatch(text) and text.lower() not in _WORDS:
        return text
    # JSON's strings are YAML's, but for the surrogate pairs that YAML has one escape for; YAML also escapes DEL.
    quoted = _SURROGATES.sub(_astral, json.dumps(text))
    return quoted.replace("\x7f", "\\x7f")


def _whole(match: re.Match[str]) -> str:
    return match[0] if match[1] or match[0] == "\\\\" else "\\ufffd"


def _astral(match: re.Match[str]) -> str:
    if match[1] is None:
        return _whole(match)
    high, low = int(match[1], 16), int(match[2], 16)
    return f"\\U{0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00):08x}"
