"""Promises about one place of a payload as values that can be put together: all of them, or either of two."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any, Final

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

_NULL: Final = frozenset({"null"})


@dataclass(frozen=True, slots=True)
class Place:
    """One place of a payload. Without anything said, any value may stand there.

    ``types`` are JSON Schema's, None for any. ``rest`` is what members that are not named hold, ``items`` what an
    array holds, None for anything. ``values`` is the closed list of values as JSON texts. ``limits`` is what all other
    keywords rule out, ``notes`` are those that rule out nothing. Of each group of ``alternatives`` one must hold, where
    that says more than the rest of the place does. ``is_cut``: a projection took members away.
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
        types=None if one.types is None or other.types is None else widest(one.types | other.types),
        members=members,
        required=reduce(frozenset.intersection, [place.required for place in objects]) if objects else frozenset(),
        rest=_either([place.rest for place in objects]),
        items=_either([place.items for place in arrays]),
        values=_joined(one, other),
        limits={**_lasting(one, other), **_lasting(other, one)},
        notes={**other.notes, **one.notes},
    )


def widest(types: frozenset[str]) -> frozenset[str]:
    """Integers are numbers: named beside them they say nothing."""
    return types - {"integer"} if "number" in types else types


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


def is_exact(union: Place, places: Sequence[Place]) -> bool:
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
        texts = [limit if isinstance(limit, tuple) else (text_of(limit),) for limit in (one, other)]
        return tuple(sorted({*texts[0], *texts[1]}))
    return max(one, other) if name in LOWEST else min(one, other)


def text_of(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)


def limited(place: Place, name: str, limit: Limit) -> Place:
    known = place.limits.get(name)
    return replace(place, limits={**place.limits, name: limit if known is None else _stricter(name, known, limit)})
