"""What a payload schema promises to a reader, place by place, in a form in which two schemas can be compared.

Combined schemas are put together: ``allOf`` as all of it, ``anyOf`` and ``oneOf`` as what either allows. That is exact
where the alternatives are of different types; where they are not, they are kept beside it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import reduce
from typing import Any, Final
from urllib.parse import unquote

from gateway.catalog.places import (
    ANYTHING,
    HIGHEST,
    LOWEST,
    NOTHING,
    Limit,
    Place,
    both,
    either,
    is_exact,
    limited,
    text_of,
    widest,
)
from gateway.catalog.references import parse_pointer
from gateway.model import Contract

CONDITION: Final = "if, then, else"
NOTES: Final = frozenset(
    ["title", "description", "examples", "example", "default", "deprecated", "readOnly", "writeOnly", "externalDocs"]
)
_READ = frozenset(
    ["type", "properties", "required", "additionalProperties", "items", "enum", "const", "allOf", "anyOf", "oneOf"]
)
_IGNORED = frozenset(["$ref", "$id", "$schema", "$comment", "$defs", "definitions", "if", "then", "else"])
_NAMED = frozenset(["properties", "patternProperties", "dependencies", "dependentSchemas"])
_MAX_LEVELS = 200
_OBJECT: Final = frozenset({"object"})


def visible_payload(contract: Contract) -> Place:
    """What a reader of the contract may rely on: its payload schema, cut down to the projection."""
    place = _Reader(contract.document).read(_payload_schema(contract))
    if contract.projection is None:
        return place
    return _cut(place, [tokens for pointer in contract.projection if (tokens := parse_pointer(pointer))])


def _payload_schema(contract: Contract) -> Any:
    """The schema in the contract's document, True (anything) where there is none."""
    root = contract.document
    for listed in _mapping(root.get("channels")).values():
        channel = _mapping(_follow(root, listed))
        if _mapping(channel.get("x-gateway")).get("stream") != contract.stream:
            continue
        for listed_message in _mapping(channel.get("messages")).values():
            payload = _follow(root, _mapping(_follow(root, listed_message)).get("payload", True))
            if isinstance(payload, Mapping) and "schemaFormat" in payload:
                return _of_format(payload)
            return payload
    return True


def _of_format(payload: Mapping[str, Any]) -> Any:
    named = str(payload["schemaFormat"])
    if named.startswith(("application/schema+json", "application/vnd.aai.asyncapi", "application/schema+yaml")):
        return payload.get("schema", True)
    # Avro, Protobuf, …: not understood here, so that any change of it has to count.
    return {"schemaFormat": named, "schema": payload.get("schema")}


class _Reader:
    """Reads schemas of one document, each of them once."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._known: dict[int, Place] = {}

    def read(self, schema: Any, level: int = 0) -> Place:
        schema = _follow(self._root, schema)
        if schema is False:
            return NOTHING
        if not isinstance(schema, Mapping) or level > _MAX_LEVELS:
            return ANYTHING
        if id(schema) not in self._known:
            self._known[id(schema)] = self._read(schema, level + 1)
        return self._known[id(schema)]

    def _read(self, schema: Mapping[str, Any], level: int) -> Place:
        values = _values(schema)
        additional, items = schema.get("additionalProperties"), schema.get("items")
        limits = {
            name: self._limit(name, value)
            for name, value in schema.items()
            if name not in _READ | NOTES | _IGNORED and not name.startswith("x-")
        }
        if isinstance(items, list):
            limits["items"] = self._limit("items", items)
        rest = None if additional is None else self.read(additional, level)
        required = frozenset(name for name in _schemas(schema.get("required")) if isinstance(name, str))
        # A member that is required is promised, whether it is described or not.
        members = dict.fromkeys(sorted(required), rest or ANYTHING)
        members |= {str(name): self.read(one, level) for name, one in _mapping(schema.get("properties")).items()}
        place = Place(
            types=_types(schema, values),
            members=members,
            required=required,
            rest=rest,
            items=None if items is None or isinstance(items, list) else self.read(items, level),
            values=values,
            limits=limits,
            notes={name: value for name, value in schema.items() if name in NOTES},
        )
        for part in _schemas(schema.get("allOf")):
            place = both(place, self.read(part, level))
        for keyword in ("anyOf", "oneOf"):
            parts = [self.read(part, level) for part in _schemas(schema.get(keyword))]
            if parts:
                union = reduce(either, parts)
                place = both(place, union if is_exact(union, parts) else replace(union, alternatives=(tuple(parts),)))
        return self._with_condition(place, schema, level)

    def _with_condition(self, place: Place, schema: Mapping[str, Any], level: int) -> Place:
        """``if``/``then``/``else``: members that they name may be there, and the text is kept to be compared."""
        if "if" not in schema:
            return place
        for keyword in ("then", "else"):
            for name, member in self.read(schema.get(keyword, True), level).members.items():
                if name not in place.members:
                    place = replace(place, members={**place.members, name: member})
        condition = [schema.get(keyword) for keyword in ("if", "then", "else")]
        return limited(place, CONDITION, self._limit(CONDITION, condition))

    def _limit(self, name: str, value: Any) -> Limit:
        if isinstance(value, int | float) and not isinstance(value, bool) and name in LOWEST | HIGHEST:
            return value
        return (text_of(self._plain(value, are_names=name in _NAMED)),)

    def _plain(self, value: Any, level: int = 0, *, are_names: bool = False) -> Any:
        """A schema without what does not bind, references put in, so that equal means equal."""
        value = _follow(self._root, value)
        if level > _MAX_LEVELS:
            return None
        if isinstance(value, Mapping):
            return {
                name: self._plain(one, level + 1, are_names=not are_names and name in _NAMED)
                for name, one in value.items()
                if are_names or name not in NOTES
            }
        return [self._plain(one, level + 1) for one in value] if isinstance(value, list) else value


def _cut(place: Place, pointers: Sequence[tuple[str, ...]]) -> Place:
    """The place as it is sent where only these members are sent. Anything but an object is sent as one without any."""
    below: dict[str, list[tuple[str, ...]]] = {}
    for tokens in pointers:
        below.setdefault(tokens[0], []).append(tokens[1:])
    members: dict[str, Place] = {}
    required = set[str]()
    for name, rests in below.items():
        member = place.members.get(name, ANYTHING)
        if all(rests):
            # A member on the way that is no object is left out, so it is there for certain only if it always is one.
            if member.types == _OBJECT and name in place.required:
                required.add(name)
            members[name] = _cut(member, rests)
        else:
            if name in place.required:
                required.add(name)
            members[name] = member
    return Place(types=_OBJECT, members=members, required=frozenset(required), notes=place.notes, is_cut=True)


def _types(schema: Mapping[str, Any], values: frozenset[str] | None) -> frozenset[str] | None:
    named = schema.get("type")
    if isinstance(named, str):
        return frozenset({named})
    if isinstance(named, list):
        types = frozenset(one for one in named if isinstance(one, str))
        return widest(types)
    return None if values is None else frozenset(_type_of(json.loads(value)) for value in values)


def _type_of(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    names = {str: "string", int: "integer", float: "number", dict: "object", list: "array"}
    return names.get(type(value), "null")


def _values(schema: Mapping[str, Any]) -> frozenset[str] | None:
    listed = schema.get("enum")
    values = None if not isinstance(listed, list) else frozenset(text_of(value) for value in listed)
    if "const" in schema:
        only = frozenset({text_of(schema["const"])})
        return only if values is None else only & values
    return values


def _schemas(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _follow(root: Mapping[str, Any], value: Any) -> Any:
    """Where the local references of a loaded document lead; the loader has seen to it that they lead somewhere."""
    for _ in range(_MAX_LEVELS):
        target = value.get("$ref") if isinstance(value, Mapping) else None
        if not isinstance(target, str):
            break
        value = _resolve(root, target)
    return value


def _resolve(root: Mapping[str, Any], target: str) -> Any:
    value: Any = root
    for token in (parse_pointer(unquote(target[1:])) or ()) if target.startswith("#") else ():
        if isinstance(value, Mapping):
            value = value.get(token)
        elif isinstance(value, list) and token.isdecimal() and int(token) < len(value):
            value = value[int(token)]
        else:
            return None
    return value
