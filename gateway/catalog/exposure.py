"""The ``x-gateway`` section of a channel: under which name, to whom and how much of a topic is exposed.

Strict, because a mistyped key here could show more than was meant: unknown keys are refused, and what guards access
(visibility, scopes, transports) must be written down.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date
from typing import cast, get_args

from gateway.catalog.payload_schema import PayloadSchema
from gateway.catalog.references import parse_pointer
from gateway.catalog.section import Section
from gateway.catalog.source import Node
from gateway.model import TRANSPORTS, FieldType, FilterField, Lifecycle, Replay, RowFilter, Transport, Visibility
from gateway.units import parse_duration

KEYS = (
    "stream",
    "version",
    "lifecycle",
    "deprecated_on",
    "sunset_on",
    "successor",
    "owner",
    "visibility",
    "scopes",
    "transports",
    "key",
    "headers",
    "projection",
    "filters",
    "row_filter",
    "replay",
    "sla",
)
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
FILTER_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,62}")
NAME_ALLOWED = "1 to 63 of a-z 0-9 . _ -, first a letter or digit"

_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")
_LIFECYCLES: tuple[Lifecycle, ...] = get_args(Lifecycle)
_VISIBILITIES: tuple[Visibility, ...] = get_args(Visibility)
_TYPES: tuple[FieldType, ...] = get_args(FieldType)
_TYPES_OF_SCHEMA: dict[FieldType, frozenset[str]] = {
    "string": frozenset({"string"}),
    "number": frozenset({"number", "integer"}),
    "integer": frozenset({"integer"}),
    "boolean": frozenset({"boolean"}),
}


@dataclass(frozen=True, slots=True)
class Exposure:
    """What an ``x-gateway`` section says, checked against the payload schema."""

    stream: str
    version: str
    lifecycle: Lifecycle
    owner: str
    visibility: Visibility
    scopes: tuple[str, ...]
    transports: tuple[Transport, ...]
    key_exposed: bool
    headers: tuple[str, ...]
    projection: tuple[str, ...] | None
    filters: tuple[FilterField, ...]
    row_filter: RowFilter | None
    replay: Replay
    deprecated_on: date | None
    sunset_on: date | None
    successor: str | None
    successor_place: str


def parse_exposure(section: Section, schema: PayloadSchema) -> Exposure:
    """Read and check the section; what is wrong is added to its problems."""
    # "projection:" with nothing after it was meant to hide something: the default, all, would be the wrong guess.
    section.refuse_nulls("key", "headers", "projection", "filters", "row_filter", "replay", "successor", "sunset_on")
    lifecycle = cast(Lifecycle, section.text("lifecycle", choices=_LIFECYCLES))
    deprecated_on, sunset_on, successor = _end_of_life(section, lifecycle)
    projection = _projection(section, schema)
    filters = _filters(section, schema)
    row_filter = _row_filter(section, filters)
    _check_filters_are_visible(section, filters, projection, row_filter)
    key = section.section("key", keys=("expose",))
    _check_sla(section)
    return Exposure(
        stream=section.text("stream", pattern=NAME, allowed=NAME_ALLOWED),
        version=section.text("version", default=""),
        lifecycle=lifecycle,
        owner=section.text("owner"),
        visibility=cast(Visibility, section.text("visibility", choices=_VISIBILITIES)),
        scopes=section.texts(
            "scopes",
            accepts=lambda scope: _SCOPE.fullmatch(scope) is not None,
            allowed="scope tokens of RFC 6749: printable ASCII without space, quote and backslash",
            required=True,
        ),
        transports=_transports(section),
        key_exposed=key.flag("expose", default=False) if key else False,
        headers=section.texts(
            "headers", accepts=lambda name: 0 < len(name) <= 255, allowed="names of record headers, 1 to 255 characters"
        ),
        projection=projection,
        filters=filters,
        row_filter=row_filter,
        replay=_replay(section),
        deprecated_on=deprecated_on,
        sunset_on=sunset_on,
        successor=successor,
        successor_place=section.place("successor"),
    )


def _transports(section: Section) -> tuple[Transport, ...]:
    found = section.texts("transports", accepts=TRANSPORTS.__contains__, choices=TRANSPORTS, required=True)
    node = section.get("transports")
    if node is not None and node.value == ():
        section.problems.add(node.place, f"{section.path('transports')} is empty", choices=TRANSPORTS)
    return cast(tuple[Transport, ...], found)


def _end_of_life(section: Section, lifecycle: Lifecycle) -> tuple[date | None, date | None, str | None]:
    deprecated_on = section.day("deprecated_on", required=lifecycle == "deprecated")
    sunset_on = section.day("sunset_on")
    successor = section.text("successor", default="", pattern=NAME, allowed="the name of a stream") or None
    if deprecated_on and sunset_on and sunset_on < deprecated_on:
        section.refuse("sunset_on", allowed=f"a date from {deprecated_on} (deprecated_on) on")
    if lifecycle in ("draft", "published"):
        for key in ("deprecated_on", "sunset_on", "successor"):
            if section.get(key) is not None:
                section.refuse(key, allowed=f"only with lifecycle deprecated or retired, not {lifecycle}")
    return deprecated_on, sunset_on, successor


def _replay(section: Section) -> Replay:
    replay = section.section("replay", keys=("earliest", "time", "max_age"))
    if replay is None:
        return Replay()
    replay.refuse_nulls("earliest", "time", "max_age")
    max_age: int | None = None
    if replay.get("max_age") is not None:
        try:
            max_age = parse_duration(replay.text("max_age"))
        except ValueError:
            max_age = 0
        if max_age == 0:
            replay.refuse("max_age", allowed="an ISO 8601 duration of weeks, days, hours, minutes, seconds such as P7D")
    return Replay(
        earliest=replay.flag("earliest", default=True), time=replay.flag("time", default=True), max_age_seconds=max_age
    )


def _check_sla(section: Section) -> None:
    for name, node in section.members("sla", allowed="a mapping of names to texts or numbers"):
        if isinstance(node.value, dict | tuple):
            section.problems.add(node.place, f"{section.path('sla')}.{name}", got=node.value, allowed="text or number")


def _pointer(section: Section, name: str, node: Node, schema: PayloadSchema) -> tuple[str, ...] | None:
    """The tokens of a pointer to a member; None, with a problem added, where it is none or leads nowhere."""
    tokens = parse_pointer(node.value) if isinstance(node.value, str) else None
    if not tokens:
        allowed = "a JSON pointer (RFC 6901) to a member, such as /properties/mag"
        section.problems.add(node.place, name, got=node.value, allowed=allowed)
        return None
    miss = schema.miss(tokens)
    if miss is not None:
        what = f"{name}, pointer {node.value!r}: {miss.what}"
        section.problems.add(node.place, what, got=miss.token, choices=miss.choices or None)
        return None
    return tokens


def _projection(section: Section, schema: PayloadSchema) -> tuple[str, ...] | None:
    if section.get("projection") is None:
        return None
    name = section.path("projection")
    items = section.items("projection", allowed="a list of JSON pointers")
    if not items:
        section.refuse("projection", allowed="at least one JSON pointer; leave the key out to expose the whole payload")
    found: list[tuple[tuple[str, ...], Node]] = []
    for item in items:
        tokens = _pointer(section, name, item, schema)
        if tokens is not None:
            found.append((tokens, item))
    places: dict[tuple[str, ...], Node] = {}
    for tokens, item in found:
        if tokens in places:
            section.problems.add(item.place, f"{name} lists a pointer twice", got=item.value)
        places[tokens] = item
    for tokens, item in found:
        for length in range(1, len(tokens)):
            above = places.get(tokens[:length])
            if above is not None:
                what = f"{name}: {item.value!r} lies within {above.value!r}, which is listed in line {above.line}"
                section.problems.add(item.place, what, allowed="one of the two")
    return tuple(item.value for _, item in found)


def _filters(section: Section, schema: PayloadSchema) -> tuple[FilterField, ...]:
    found: list[FilterField] = []
    for name, node in section.members("filters", allowed="a mapping of names to {pointer, type}"):
        path = section.path("filters")
        if not FILTER_NAME.fullmatch(name):
            allowed = "names of 1 to 63 letters, digits, _ . -, first a letter or _"
            section.problems.add(node.place, f"{path}: bad name", got=name, allowed=allowed)
        field = Section(node, f"{path}.{name}", section.problems, keys=("pointer", "type"))
        if not isinstance(node.value, dict):
            continue
        kind = cast(FieldType, field.text("type", choices=_TYPES))
        pointer = field.get("pointer")
        if pointer is None:
            field.refuse("pointer", allowed="a JSON pointer to a member")
            continue
        tokens = _pointer(section, field.path("pointer"), pointer, schema)
        if tokens is None or kind not in _TYPES:
            continue
        types = schema.types(tokens)
        if types and not types <= _TYPES_OF_SCHEMA[kind]:
            what = f"{field.path('type')}: the schema says {', '.join(sorted(types))} at {pointer.value}"
            fitting = [name for name in _TYPES if types <= _TYPES_OF_SCHEMA[name]]
            section.problems.add(field.place("type"), what, got=kind, choices=fitting)
        found.append(FilterField(name, pointer.value, kind))
    return tuple(found)


def _row_filter(section: Section, filters: tuple[FilterField, ...]) -> RowFilter | None:
    row = section.section("row_filter", keys=("field", "claim", "attribute"))
    if row is None:
        return None
    known = {field.name: field for field in filters}
    field = known.get(row.text("field", choices=known))
    claim, attribute = row.get("claim"), row.get("attribute")
    if (claim is None) == (attribute is None):
        got = "neither" if claim is None else "both"
        row.problems.add(row.node.place, f"{row.name}: got {got}", allowed="exactly one of claim and attribute")
        return None
    value = row.text("claim" if claim is not None else "attribute", allowed="the name of a claim or attribute")
    if field is None:
        return None
    return RowFilter(
        field=field.name,
        pointer=field.pointer,
        type=field.type,
        claim=value if claim is not None else None,
        attribute=value if attribute is not None else None,
    )


def _check_filters_are_visible(
    section: Section,
    filters: tuple[FilterField, ...],
    projection: tuple[str, ...] | None,
    row_filter: RowFilter | None,
) -> None:
    """A filter on a hidden field would tell its values one question at a time."""
    node = section.get("filters")
    if projection is None or node is None:
        return
    for field in filters:
        shown = any(field.pointer == pointer or field.pointer.startswith(pointer + "/") for pointer in projection)
        if not shown and not (row_filter and row_filter.field == field.name):
            what = f"{section.path('filters')}.{field.name}: the field is not in the projection"
            section.problems.add(
                node.key_place(field.name), what, got=field.pointer, allowed="what the projection shows, or row_filter"
            )
