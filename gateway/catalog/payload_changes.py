"""Two payload schemas compared as a reader has to: whatever lets a value come that was ruled out before breaks readers.

Narrowing is compatible. What cannot be judged, such as a changed pattern, counts as breaking.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from gateway.catalog.places import LOWEST, Limit, Place

Kind = Literal["breaking", "compatible", "documentation"]

_SHOWN_VALUES: Final = 8
_NEW_VALUES: Final = "values may come that were ruled out before"
_UNKNOWN: Final = "whether all values still fit is unknown"


@dataclass(frozen=True, slots=True)
class Change:
    """One difference. ``where`` is a JSON pointer into the payload or a member of the contract; ``/*`` is any item."""

    kind: Kind
    where: str
    what: str
    reason: str = ""

    def __str__(self) -> str:
        line = f"{self.where}: {self.what}" + (f" ({self.reason})" if self.reason else "")
        return "".join(character if character.isprintable() else "?" for character in line)


def payload_changes(old: Place, new: Place, *, is_shown: Callable[[str], bool]) -> list[Change]:
    """From ``old`` to ``new``, both as readers see them. ``is_shown``: the new contract sends this pointer."""
    return list(_Comparison(is_shown).changes("", old, new))


class _Comparison:
    def __init__(self, is_shown: Callable[[str], bool]) -> None:
        self._is_shown = is_shown
        self._within: dict[tuple[int, int], bool] = {}

    def changes(self, at: str, old: Place, new: Place) -> Iterator[Change]:
        if old == new:
            return
        where = at or "payload"
        found = list(_types(where, old, new))
        if _have_common(old, new):
            found += _values(where, old, new)
            if old.allows("object") and new.allows("object"):
                found += self._members(at, old, new)
                found += self._rest(at, old, new)
            if old.allows("array") and new.allows("array"):
                found += self._inner(f"{at}/*", old.items, new.items)
            found += _limits(where, old.limits, new.limits)
        if not _breaks(found) and not all(self._fits(new, group) for group in old.alternatives):
            found.append(Change("breaking", where, "anyOf, oneOf: another alternative", _NEW_VALUES))
        found += _notes(where, old.notes, new.notes)
        yield from found

    def _fits(self, new: Place, group: tuple[Place, ...]) -> bool:
        """Whether every value of ``new`` is one of the group's: ``new`` as a whole, or each alternative it has."""
        choices = [(new,), *new.alternatives]
        return any(all(any(self._is_within(one, old) for old in group) for one in choice) for choice in choices)

    def _is_within(self, new: Place, old: Place) -> bool:
        pair = (id(old), id(new))
        if pair not in self._within:
            self._within[pair] = not _breaks(self.changes("", old, new))
        return self._within[pair]

    def _members(self, at: str, old: Place, new: Place) -> Iterator[Change]:
        for name in sorted(old.members.keys() | new.members.keys()):
            pointer = f"{at}/{name.replace('~', '~0').replace('/', '~1')}"
            if name not in new.members:
                gone = "removed" if self._is_shown(pointer) else "no longer in the projection"
                yield Change("breaking", pointer, gone, "readers look for it")
            elif name not in old.members:
                is_surprise = old.rest is not None and old.rest.is_nothing and not old.is_cut
                yield (
                    Change("breaking", pointer, "added", "the schema ruled out all members that it does not name")
                    if is_surprise
                    else Change("compatible", pointer, "added")
                )
            else:
                if name in old.required and name not in new.required:
                    yield Change("breaking", pointer, "required → optional", "it may be absent now")
                elif name in new.required and name not in old.required:
                    yield Change("compatible", pointer, "optional → required")
                yield from self.changes(pointer, old.members[name], new.members[name])

    def _rest(self, at: str, old: Place, new: Place) -> Iterator[Change]:
        if not old.is_cut and not new.is_cut:
            yield from self._inner(f"{at}/*", old.rest, new.rest)

    def _inner(self, at: str, old: Place | None, new: Place | None) -> Iterator[Change]:
        if old is not None and new is not None:
            yield from self.changes(at, old, new)
        elif old is not None:
            yield Change("breaking", at, "may be anything now", _NEW_VALUES)
        elif new is not None:
            yield Change("compatible", at, "described, was anything")


def _breaks(changes: Iterable[Change]) -> bool:
    return any(change.kind == "breaking" for change in changes)


def _types(where: str, old: Place, new: Place) -> Iterator[Change]:
    if old.types == new.types:
        return
    said = f"type {_spell_types(old)} → {_spell_types(new)}"
    if old.types is None or (new.types is not None and all(old.covers(kind) for kind in new.types)):
        yield Change("compatible", where, said)
    else:
        yield Change("breaking", where, said, _NEW_VALUES)


def _have_common(old: Place, new: Place) -> bool:
    return old.types is None or any(new.allows(kind) for kind in old.types)


def _values(where: str, old: Place, new: Place) -> Iterator[Change]:
    if old.values == new.values:
        return
    if old.values is None:
        yield Change("compatible", where, f"only these values from now on: {_spell_values(new.values or frozenset())}")
    elif new.values is None:
        yield Change("breaking", where, "no closed list of values any more", _NEW_VALUES)
    else:
        if more := new.values - old.values:
            yield Change("breaking", where, f"new values: {_spell_values(more)}", _NEW_VALUES)
        if gone := old.values - new.values:
            yield Change("compatible", where, f"values that come no more: {_spell_values(gone)}")


def _limits(where: str, old: Mapping[str, Limit], new: Mapping[str, Limit]) -> Iterator[Change]:
    for name in sorted(old.keys() | new.keys()):
        before, after = old.get(name), new.get(name)
        if before == after:
            continue
        if before is None:
            yield Change("compatible", where, f"{name} added: {_spell(after)}")
        elif after is None:
            yield Change("breaking", where, f"{name} removed, was {_spell(before)}", _NEW_VALUES)
        else:
            said = f"{name} {_spell(before)} → {_spell(after)}"
            narrower = _is_narrower(name, before, after)
            if narrower:
                yield Change("compatible", where, said)
            else:
                yield Change("breaking", where, said, _UNKNOWN if narrower is None else _NEW_VALUES)


def _is_narrower(name: str, before: Limit, after: Limit) -> bool | None:
    """None where nobody can tell."""
    if isinstance(before, tuple) and isinstance(after, tuple):
        return True if set(before) < set(after) else False if set(after) < set(before) else None
    if isinstance(before, tuple) or isinstance(after, tuple):
        return None
    return after > before if name in LOWEST else after < before


def _notes(where: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    changed = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    if changed:
        yield Change("documentation", where, f"{', '.join(changed)} changed")


def _spell_types(place: Place) -> str:
    if place.types is None:
        return "any"
    return " or ".join(sorted(place.types, key=lambda kind: (kind == "null", kind))) or "none"


def _spell_values(values: frozenset[str]) -> str:
    shown = sorted(values)[:_SHOWN_VALUES]
    more = f", … ({len(values)} in all)" if len(values) > _SHOWN_VALUES else ""
    return ", ".join(_short(value) for value in shown) + more


def _spell(limit: Limit | None) -> str:
    return _short(" and ".join(limit) if isinstance(limit, tuple) else json.dumps(limit))


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:60] + "…"
