"""What a payload schema promises to a reader, place by place, in a form in which two schemas can be compared.

Combined schemas are put together: ``allOf`` as all of it, ``anyOf`` and ``oneOf`` as what either allows. That is exact
where the alternatives are of different types; where they are not, they are kept beside it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any, Final
from urllib.parse import unquote

from gateway.catalog.references import parse_pointer
from gateway.model import Contract

CONDITION: Final = "if, then, else"
NOTES: Final = frozenset(
    ["title", "description", "examples", "example", "default", "deprecated", "readOnly", "writeOnly", "externalDocs"]
)
LIMITED_TYPE: Final[Mapping[str, str]] = {
    **dict.fromkeys(["minLength", "maxLength", "pattern", "format", "contentEncoding", "contentMediaType"], "string"),
    **dict.fromkeys(["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"], "number"),
    **dict.fromkeys(["minItems", "maxItems", "uniqueItems", "contains", "additionalItems"], "array"),
    **dict.fromkeys(["minProperties", "maxProperties", "patternProperties", "propertyNames", "dependencies"], "object"),
}
"""Keywords that speak of values of one type only."""
LOWEST: Final = frozenset({"minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"})
HIGHEST: Final = frozenset({"maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"})

Limit = float | tuple[str, ...]
"""A bound as a number, or what else a keyword says: all of these JSON texts together."""

_READ = frozenset(
    ["type", "properties", "required", "additionalProperties", "items", "enum", "const", "allOf", "anyOf", "oneOf"]
)
_IGNORED = frozenset(["$ref", "$id", "$schema", "$comment", "$defs", "definitions", "if", "then", "else"])
_NAMED = frozenset(["properties", "patternProperties", "dependencies", "dependentSchemas"])
_MAX_LEVELS = 200
_OBJECT: Final = frozenset({"object"})
_NULL: Final = frozenset({"null"})


@dataclass(frozen=True, slots=True)
class Place:
    """One place of a payload. Without anything said, any value may stand there.

    ``types`` are JSON Schema's, None for any. ``rest`` is what members that are not named hold, ``items`` what an
    array holds, None for anything. ``values`` is the closed list of values as JSON texts. ``limits`` is what all other
    keywords rule out, ``notes`` are those that rule out nothing. Of each group of ``alternatives`` one must hold besides,
    where that says more than the rest of the place does. ``is_cut``: a projection took members away.
    """

    types: frozenset[str] | None = None
    members: Mapping[str, Place] = field(default_factory=dict)
    required: frozenset[str] = frozenset()
    rest: Place | None = None
    items: Place | None = None
    values: frozenset[str] | None = None
    limits: Mapping[str, Limit] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)
    alternatives: tuple[tuple[Place, ...], ...] = ()
    is_cut: bool = False

    def allows(self, kind: str) -> bool:
        """Whether some value of this type may stand here: an integer is a number, and a number may be an integer."""
        if self.types is None or kind in self.types:
            return True
        return (kind == "number" and "integer" in self.types) or (kind == "integer" and "number" in self.types)

    def covers(self, kind: str) -> bool:
        """Whether the types rule out no value of this type."""
        return self.types is None or kind in self.types or (kind == "integer" and "number" in self.types)

    @property
    def is_nothing(self) -> bool:
        """Whether no value at all may stand here."""
        return self.types == frozenset()


ANYTHING: Final = Place()
NOTHING: Final = Place(types=frozenset())


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
                place = both(place, union if _is_exact(union, parts) else replace(union, alternatives=(tuple(parts),)))
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
        return _limited(place, CONDITION, self._limit(CONDITION, condition))

    def _limit(self, name: str, value: Any) -> Limit:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return (
            value if is_number and name in LOWEST | HIGHEST else (_text(self._plain(value, are_names=name in _NAMED)),)
        )

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


def both(one: Place, other: Place) -> Place:
    """What holds where both hold."""
    if ANYTHING in (one, other):
        return other if one == ANYTHING else one
    members = dict(one.members)
    for name, member in other.members.items():
        members[name] = both(members[name], member) if name in members else member
    limits = dict(one.limits)
    for name, limit in other.limits.items():
        limits[name] = _stricter(name, limits[name], limit) if name in limits else limit
    return Place(
        types=_common(one.types, other.types),
        members=members,
        required=one.required | other.required,
        rest=_first(one.rest, other.rest, both),
        items=_first(one.items, other.items, both),
        values=one.values if other.values is None else other.values & (one.values or other.values),
        limits=limits,
        notes={**other.notes, **one.notes},
        alternatives=one.alternatives + other.alternatives,
    )


def either(one: Place, other: Place) -> Place:
    """What holds where one of them holds."""
    members = dict(one.members)
    for name, member in other.members.items():
        members[name] = either(members[name], member) if name in members else member
    objects = [place for place in (one, other) if place.allows("object")]
    arrays = [place for place in (one, other) if place.allows("array")]
    return Place(
        types=None if one.types is None or other.types is None else _widest(one.types | other.types),
        members=members,
        required=reduce(frozenset.intersection, [place.required for place in objects]) if objects else frozenset(),
        rest=_either([place.rest for place in objects]),
        items=_either([place.items for place in arrays]),
        values=_joined(one, other),
        limits={**_lasting(one, other), **_lasting(other, one)},
        notes={**other.notes, **one.notes},
    )


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
        return _widest(types)
    return None if values is None else frozenset(_type_of(json.loads(value)) for value in values)


def _widest(types: frozenset[str]) -> frozenset[str]:
    """Integers are numbers: named beside them they say nothing."""
    return types - {"integer"} if "number" in types else types


def _type_of(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    names = {str: "string", int: "integer", float: "number", dict: "object", list: "array"}
    return names.get(type(value), "null")


def _values(schema: Mapping[str, Any]) -> frozenset[str] | None:
    listed = schema.get("enum")
    values = None if not isinstance(listed, list) else frozenset(_text(value) for value in listed)
    if "const" in schema:
        only = frozenset({_text(schema["const"])})
        return only if values is None else only & values
    return values


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)


def _common(one: frozenset[str] | None, other: frozenset[str] | None) -> frozenset[str] | None:
    if one is None or other is None:
        return other if one is None else one
    met = one & other
    return met | {"integer"} if {"integer", "number"} <= one | other and "number" not in met else met


def _first(one: Place | None, other: Place | None, combine: Any) -> Place | None:
    if one is None or other is None:
        return other if one is None else one
    combined: Place = combine(one, other)
    return combined


def _either(places: Sequence[Place | None]) -> Place | None:
    if not places or any(place is None for place in places):
        return None
    return reduce(either, [place for place in places if place is not None])


def _joined(one: Place, other: Place) -> frozenset[str] | None:
    found = [_NULL if place.types == _NULL else place.values for place in (one, other)]
    if (one.values is None and other.values is None) or found[0] is None or found[1] is None:
        return None
    return found[0] | found[1]


def _lasting(one: Place, other: Place) -> dict[str, Limit]:
    """The limits of one alternative that hold for both: the other has them too, or has no values they speak of."""
    return {
        name: limit
        for name, limit in one.limits.items()
        if other.limits.get(name) == limit or (name in LIMITED_TYPE and not other.allows(LIMITED_TYPE[name]))
    }


def _is_exact(union: Place, places: Sequence[Place]) -> bool:
    """Whether taking them together lost nothing: no two of them allow values of the same type."""
    seen = set[str]()
    for place in places:
        if place.alternatives or (place.values is not None and union.values is None):
            return False
        if place.types is None:
            return False
        kinds = {"number" if kind == "integer" else kind for kind in place.types}
        if kinds & seen:
            return False
        seen |= kinds
    return True


def _stricter(name: str, one: Limit, other: Limit) -> Limit:
    """Both limits together."""
    if isinstance(one, tuple) or isinstance(other, tuple):
        texts = [limit if isinstance(limit, tuple) else (_text(limit),) for limit in (one, other)]
        return tuple(sorted({*texts[0], *texts[1]}))
    return max(one, other) if name in LOWEST else min(one, other)


def _limited(place: Place, name: str, limit: Limit) -> Place:
    known = place.limits.get(name)
    return replace(place, limits={**place.limits, name: limit if known is None else _stricter(name, known, limit)})


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
