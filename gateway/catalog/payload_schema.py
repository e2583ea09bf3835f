"""What a message's payload schema says about JSON pointers: whether a member exists and of which type it is.

Only what the schema states is held against a pointer: where it names no properties, anything may be there.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass

from gateway.catalog.references import References
from gateway.catalog.source import Node

_JSON_FORMATS = ("application/schema+json", "application/vnd.aai.asyncapi", "application/schema+yaml")
_BRANCHES = ("allOf", "anyOf", "oneOf")
_CONDITIONS = ("then", "else")


@dataclass(frozen=True, slots=True)
class Miss:
    """Why a pointer cannot be: ``what`` is wrong, ``choices`` are the members that stand where it goes astray."""

    what: str
    token: str
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Level:
    """All that the schemas of one place say together."""

    properties: dict[str, list[Node]]
    types: frozenset[str]
    is_array: bool


class PayloadSchema:
    """The payload schema of a message; without one (or in another language than JSON Schema) it knows nothing."""

    def __init__(self, payload: Node | None, references: References) -> None:
        self._references = references
        self._levels: dict[tuple[int, ...], _Level] = {}
        self._roots = [payload] if payload is not None else []
        if payload is None or not isinstance(payload.value, dict) or "schemaFormat" not in payload.value:
            return
        schema_format = payload.value["schemaFormat"].value
        schema = payload.value.get("schema")
        is_json = isinstance(schema_format, str) and schema_format.startswith(_JSON_FORMATS)
        self._roots = [schema] if is_json and schema is not None else []

    def miss(self, tokens: tuple[str, ...]) -> Miss | None:
        """What speaks against a pointer to a member of nested objects; None where nothing does."""
        nodes = self._roots
        for depth, token in enumerate(tokens):
            level = self._level(nodes)
            where = "/" + "/".join(tokens[:depth]) if depth else "the payload"
            if token not in level.properties:
                if level.is_array:
                    return Miss(
                        f"{where} is an array; pointers name members of objects, project the array whole", token
                    )
                if level.properties:
                    return Miss(f"{where} has no such member in the schema", token, tuple(level.properties))
                if level.types and "object" not in level.types:
                    return Miss(f"{where} is no object in the schema ({', '.join(sorted(level.types))})", token)
                if re.fullmatch(r"-|[0-9]+", token):
                    return Miss(f"{where} is indexed; pointers name members of objects, never array items", token)
            nodes = level.properties.get(token, [])
        return None

    def types(self, tokens: tuple[str, ...]) -> frozenset[str]:
        """The JSON types that the schema names at a pointer, without null; empty where it names none."""
        nodes = self._roots
        for token in tokens:
            nodes = self._level(nodes).properties.get(token, [])
        return self._level(nodes).types - {"null"}

    def _level(self, nodes: list[Node]) -> _Level:
        key = tuple(map(id, nodes))
        if key not in self._levels:
            self._levels[key] = self._merge(nodes)
        return self._levels[key]

    def _merge(self, nodes: list[Node]) -> _Level:
        properties: dict[str, list[Node]] = {}
        types: set[str] = set()
        is_array = False
        waiting, seen = deque(nodes), set[int]()
        while waiting:
            node, _ = self._references.follow(waiting.popleft())
            if not isinstance(node.value, dict) or id(node) in seen:
                continue
            seen.add(id(node))
            named = node.value.get("properties")
            if named is not None and isinstance(named.value, dict):
                for name, schema in named.value.items():
                    properties.setdefault(name, []).append(schema)
            types |= _types_of(node)
            is_array = is_array or "items" in node.value
            for branch in _BRANCHES:
                if branch in node.value and isinstance(node.value[branch].value, tuple):
                    waiting.extend(node.value[branch].value)
            waiting.extend(node.value[condition] for condition in _CONDITIONS if condition in node.value)
        return _Level(properties, frozenset(types), is_array or types == {"array"})


def _types_of(node: Node) -> set[str]:
    named = node.value.get("type")
    if named is None:
        return set()
    parts = named.value if isinstance(named.value, tuple) else (named,)
    return {part.value for part in parts if isinstance(part.value, str)}
