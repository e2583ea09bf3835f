"""The contract's allow-list cut out of a payload, value by value, without decoding what is kept.

Leaves are raw slices of the producer's bytes, so 1.10 stays 1.10 and a 30-digit integer keeps its digits. Members come
in the order of the allow-list.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from gateway.subscription.payload import Undecodable, members

Tree = dict[str, "Tree | None"]
"""Member name → subtree, or None where the value is kept whole."""


def tokens(pointer: str) -> list[str]:
    """The reference tokens of a JSON pointer (RFC 6901 §4)."""
    return [token.replace("~1", "/").replace("~0", "~") for token in pointer.split("/")[1:]]


def tree(pointers: tuple[str, ...]) -> Tree:
    """The allow-list as a tree. A pointer above another one wins: it keeps the whole value."""
    root: Tree = {}
    for pointer in pointers:
        *path, last = tokens(pointer)
        node: Tree | None = root
        for token in path:
            node = node.setdefault(token, {}) if node is not None else None
        if node is not None:
            node[last] = None
    return root


class Projection:
    """Cuts objects down to an allow-list of pointers. What a pointer does not find is left out."""

    def __init__(self, pointers: tuple[str, ...]) -> None:
        self._tree = tree(pointers)
        self._decode = _decoder(self._tree)
        self._encode = msgspec.json.Encoder().encode

    def apply(self, value: bytes) -> bytes:
        """``value``, valid JSON, cut down. Anything but an object at the top has none of the members: ``{}``."""
        if self._decode is None:
            return _cut(value, self._tree)
        try:
            return self._encode(self._decode(value))
        except (msgspec.ValidationError, msgspec.DecodeError, RecursionError):
            # A member on the way that is no object here, or text that only the slow parser takes: cut level by level.
            return _cut(value, self._tree)


def _decoder(node: Tree) -> Callable[[bytes], Any] | None:
    """A decoder to a struct with the tree's members; None where a name is one that msgspec takes for no struct."""
    try:
        return msgspec.json.Decoder(_struct(node, name="root")).decode
    except ValueError:
        return None


def _struct(node: Tree, *, name: str) -> type:
    """A struct type with the tree's members: raw where kept whole, nested where not, absent where not found."""
    fields: list[tuple[str, Any, Any]] = []
    rename: dict[str, str] = {}
    for number, (member, below) in enumerate(node.items()):
        field = f"f{number}"
        kind: Any = msgspec.Raw if below is None else _struct(below, name=f"{name}_{number}") | msgspec.UnsetType
        fields.append((field, kind, msgspec.UNSET))
        rename[field] = member
    return msgspec.defstruct(name, fields, rename=rename, gc=False)


def _cut(value: bytes, node: Tree) -> bytes:
    kept: list[bytes] = []
    try:
        found: Mapping[str, bytes | msgspec.Raw] = members(value)
    except Undecodable:
        found = _members_slowly(value)
    for member, below in node.items():
        raw = found.get(member)
        if raw is None:
            continue
        text = bytes(raw)
        if below is not None:
            if not text.lstrip().startswith(b"{"):
                continue
            text = _cut(text, below)
        kept.append(json.dumps(member).encode() + b":" + text)
    return b"{" + b",".join(kept) + b"}"


def _members_slowly(value: bytes) -> dict[str, bytes]:
    """Members of an object that msgspec does not take (escaped lone surrogates), by the standard library's scanner."""
    text = value.decode("utf-8")
    scan = json.JSONDecoder(parse_int=str, parse_float=str).raw_decode
    space = json.decoder.WHITESPACE.match  # type: ignore[attr-defined]
    found: dict[str, bytes] = {}
    at = space(text, 0).end()
    if text[at] != "{":
        return found
    at = space(text, at + 1).end()
    while text[at] != "}":
        name, at = scan(text, at)
        at = space(text, at).end() + 1
        start = space(text, at).end()
        _, at = scan(text, start)
        found[name] = text[start:at].encode()
        at = space(text, at).end()
        if text[at] == ",":
            at = space(text, at + 1).end()
    return found
