"""Samples of a topic → what they have in common: the shape of their JSON, for a contract that a person will edit.

Nothing here guesses: a type is one that was met, a member is required where no sample lacked it, and no format is
read into a text. No value is kept, only types and member names, and of those only so many as a person would edit.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from gateway.subscription.payload import Undecodable, json_text

Kind = Literal["object", "array", "string", "number", "integer", "boolean", "null"]
KINDS: Final[tuple[Kind, ...]] = ("object", "array", "string", "number", "integer", "boolean", "null")

MAX_LEVELS: Final = 8
"""How deep members of members are written down."""
MAX_MEMBERS: Final = 1_000
"""How many members are written down in all."""
MAX_WIDTH: Final = 400
"""Objects with more different member names than this are a table, whatever the names are."""
MAX_NAME: Final = 100
"""A longer member name is not written down."""
_FEW: Final = 20
_NAMES_BYTES: Final = 64 * 1024


@dataclass(slots=True)
class Shape:
    """What was met at one place of the payloads.

    ``seen`` counts values by kind: a number written without fraction and exponent is an integer. ``members`` are in the
    order in which they were met first; ``items`` is what the arrays hold, all items together. ``table`` stands in for
    the members where they were too many to keep apart: what all of them hold.
    """

    seen: dict[Kind, int] = field(default_factory=dict)
    members: dict[str, Shape] = field(default_factory=dict)
    items: Shape | None = None
    table: Shape | None = None

    @property
    def count(self) -> int:
        """How many values were met."""
        return sum(self.seen.values())

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The kinds met, as a schema names them: an integer is a number where both were met."""
        return tuple(kind for kind in KINDS if kind in self.seen and not (kind == "integer" and "number" in self.seen))

    @property
    def is_table(self) -> bool:
        """Whether the objects' member names are data (one for each customer, day, …) and not a structure.

        So if they are too many to write down, or many and no name stands in more than half of the objects.
        """
        objects = self.seen.get("object", 0)
        return self.table is not None or (
            len(self.members) > _FEW and all(2 * one.count <= objects for one in self.members.values())
        )

    def is_required(self, name: str) -> bool:
        """Whether no object lacked the member."""
        return self.members[name].count == self.seen.get("object", 0)

    def values(self) -> Shape:
        """Everything that the members hold, as one shape; for tables."""
        if self.table is not None:
            return self.table
        merged = Shape()
        for member in self.members.values():
            merged.merge(member)
        return merged

    def add(self, value: Any) -> None:
        """Take in one value as :func:`parse_sample` gives it."""
        kind = _kind_of(value)
        self.seen[kind] = self.seen.get(kind, 0) + 1
        if isinstance(value, dict):
            for name, member in value.items():
                self._member(name).add(member)
        elif isinstance(value, list):
            for item in value:
                self._items().add(item)

    def merge(self, other: Shape) -> None:
        """Take in all that another shape has met."""
        for kind, count in other.seen.items():
            self.seen[kind] = self.seen.get(kind, 0) + count
        for name, member in other.members.items():
            self._member(name).merge(member)
        if other.items is not None:
            self._items().merge(other.items)
        if other.table is not None:
            self._as_table().merge(other.table)

    def _items(self) -> Shape:
        if self.items is None:
            self.items = Shape()
        return self.items

    def _member(self, name: str) -> Shape:
        if self.table is None and len(self.members) >= MAX_WIDTH and name not in self.members:
            return self._as_table()
        return self.table if self.table is not None else self.members.setdefault(name, Shape())

    def _as_table(self) -> Shape:
        if self.table is None:
            self.table = self.values()
            self.members = {}
        return self.table


@dataclass(frozen=True, slots=True)
class Sample:
    """One record as far as a contract is drafted from it. ``value`` is None for a tombstone."""

    value: bytes | None
    has_key: bool = False
    headers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Inference:
    """What the samples are. ``shape`` is that of the JSON ones; ``headers`` are the names met, sorted."""

    records: int
    tombstones: int
    not_json: int
    with_key: int
    headers: tuple[str, ...]
    shape: Shape

    @property
    def payloads(self) -> int:
        """The samples that hold a payload."""
        return self.records - self.tombstones

    @property
    def is_json(self) -> bool:
        """Whether a contract may say that payloads are JSON: as far as was seen, none is anything else."""
        return self.not_json == 0


def infer(samples: Iterable[Sample]) -> Inference:
    """Look at every sample once. The same samples in the same order give the same answer."""
    shape = Shape()
    records = tombstones = not_json = with_key = 0
    headers: set[str] = set()
    for sample in samples:
        records += 1
        with_key += sample.has_key
        headers.update(sample.headers)
        if sample.value is None:
            tombstones += 1
            continue
        try:
            value = parse_sample(sample.value)
        except Undecodable:
            not_json += 1
        else:
            shape.add(value)
    return Inference(records, tombstones, not_json, with_key, tuple(sorted(headers)), shape)


class NumberText(str):
    """A number of a payload as its producer spelled it."""

    __slots__ = ()


def parse_sample(payload: bytes) -> Any:
    """A JSON payload as plain data, numbers as :class:`NumberText`. Raises Undecodable where the engine would too."""
    text = json_text(payload).decode("utf-8")
    try:
        return json.loads(text, parse_int=NumberText, parse_float=NumberText)
    except (ValueError, RecursionError) as error:
        raise Undecodable(str(error)) from None


def _kind_of(value: Any) -> Kind:
    if isinstance(value, NumberText):
        return "number" if any(sign in value for sign in ".eE") else "integer"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, str):
        return "string"
    if isinstance(value, dict):
        return "object"
    return "array" if isinstance(value, list) else "null"


class Detail:
    """Which members are written down: those nearest to the top first, until there are :data:`MAX_MEMBERS`."""

    def __init__(self, root: Shape) -> None:
        self._listed: dict[int, list[str]] = {}
        self._tables: dict[int, Shape] = {}
        left, left_bytes = MAX_MEMBERS, _NAMES_BYTES
        level = [root]
        for _ in range(MAX_LEVELS):
            below: list[Shape] = []
            for shape in (one for place in level for one in self._with_items(place)):
                names = [name for name in shape.members if _can_be_written(name)]
                cost = sum(len(name.encode()) for name in names)
                if len(names) > left or cost > left_bytes:
                    continue
                left, left_bytes = left - len(names), left_bytes - cost
                self._listed[id(shape)] = names
                below += [shape.members[name] for name in names]
            level = below

    def members(self, shape: Shape) -> Mapping[str, Shape]:
        """The members that are written down; none of a table."""
        return {name: shape.members[name] for name in self._listed.get(id(shape), ())}

    def table(self, shape: Shape) -> Shape:
        """What a table's members hold, as one shape."""
        return self._tables.get(id(shape)) or shape.values()

    def left_out(self, shape: Shape) -> int:
        """How many members the samples hold besides."""
        return len(shape.members) - len(self._listed.get(id(shape), ()))

    def _with_items(self, shape: Shape) -> Iterator[Shape]:
        """The shapes whose members come next: of the value itself, or of what its arrays and tables hold."""
        waiting: list[Shape] = [shape]
        while waiting:
            one = waiting.pop()
            if one.items is not None:
                waiting.append(one.items)
            if one.is_table:
                self._tables[id(one)] = one.values()
                waiting.append(self._tables[id(one)])
            elif one.members:
                yield one


def _can_be_written(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False  # half a surrogate pair: no UTF-8 file can hold it
    return len(name) <= MAX_NAME
