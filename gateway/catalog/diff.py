"""What applying a catalog would change, decided before anything is written, and told to people and to machines."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from gateway.catalog.catalog import Key
from gateway.catalog.objects import KINDS, Fields, Stored
from gateway.catalog.problems import Problems, one_line

FILE = "file"

_SIGNS = {"created": "+", "changed": "~", "removed": "-"}


@dataclass(frozen=True, slots=True)
class Change:
    """One object's change. ``fields`` has (before, after) of each field that differs, None where there is none.

    ``was`` is the key before the change where it was another one: an entitlement whose first day moved.
    """

    action: Literal["created", "changed", "removed"]
    key: Key
    fields: Mapping[str, tuple[Any, Any]]
    was: Key | None = None

    def line(self) -> str:
        """The change for people."""
        line = f"{_SIGNS[self.action]} {spell_key(self.was or self.key)}"
        if self.action == "changed":
            return one_line(f"{line}: {', '.join(_changed_fields(self.fields))}")
        if self.action == "created":
            made = ", ".join(f"{name} {stable_json(after)}" for name, (_, after) in self.fields.items())
            return one_line(f"{line}: {made}")
        return one_line(line)

    def to_dict(self) -> dict[str, Any]:
        """The change for machines, fit for JSON."""
        return {
            "action": self.action,
            "kind": self.key[0],
            "name": spell_key(self.key).partition(" ")[2],
            "fields": {name: {"before": before, "after": after} for name, (before, after) in self.fields.items()},
        }

    def stored(self) -> dict[str, Any]:
        """The whole change as plain data; ``restored`` makes it of that again."""
        fields = {name: list(pair) for name, pair in self.fields.items()}
        return {"action": self.action, "key": self.key, "was": self.was, "fields": fields}

    @classmethod
    def restored(cls, stored: Mapping[str, Any]) -> Change:
        """The change that ``stored`` spelled."""
        was = None if stored["was"] is None else tuple(stored["was"])
        fields = {name: (before, after) for name, (before, after) in stored["fields"].items()}
        return cls(stored["action"], tuple(stored["key"]), fields, was)


@dataclass(frozen=True, slots=True)
class Diff:
    """The changes between the database and a catalog. ``kept`` are file-owned objects that the catalog lacks.

    ``applied`` says whether the changes were written, ``revision`` which revision of the catalog then stood.
    """

    changes: tuple[Change, ...] = ()
    kept: tuple[Key, ...] = ()
    applied: bool = False
    revision: int = 0

    def __bool__(self) -> bool:
        return bool(self.changes)

    def lines(self) -> list[str]:
        """The diff for people."""
        lines = [change.line() for change in self.changes] or ["nothing to do"]
        return lines + [f"= {spell_key(key)} is not in the file and stays; --prune removes it" for key in self.kept]

    def to_dict(self) -> dict[str, Any]:
        """The diff for machines, fit for JSON."""
        return {
            "applied": self.applied,
            "revision": self.revision,
            "changes": [change.to_dict() for change in self.changes],
            "kept": [{"kind": key[0], "name": spell_key(key).partition(" ")[2]} for key in self.kept],
        }


@dataclass(frozen=True, slots=True)
class Planned:
    """A diff with the objects as they stand after it."""

    diff: Diff
    after: Mapping[Key, Stored]


def plan_changes(
    stored: Mapping[Key, Stored],
    wanted: Mapping[Key, Fields],
    *,
    prune: bool,
    places: Mapping[Key, str],
    problems: Problems,
) -> Planned:
    """Compare. What may not be (another owner's object, a published plan revision changed) goes to ``problems``."""
    moved = _moved_entitlements(stored, wanted)
    after = dict(stored)
    changes: list[Change] = []
    for key, fields in wanted.items():
        place = places.get(key, "catalog")
        was = moved.get(key, key)
        before = stored.get(was)
        if before is None:
            changes.append(Change("created", key, {name: (None, value) for name, value in fields.items()}))
            after[key] = Stored(FILE, fields)
            continue
        if before.owner != FILE:
            what = f"{spell_key(key)} is owned by {before.owner}"
            problems.add(place, what, allowed="objects that files own; rename it or leave it out")
            continue
        differing = {name: (before.fields.get(name), value) for name, value in fields.items()}
        differing = {name: pair for name, pair in differing.items() if stable_json(pair[0]) != stable_json(pair[1])}
        if was != key:
            differing["from"] = (was[-1], key[-1])
        if differing and key[0] == "plan":
            _refuse_change_of_plan(key, differing, place, problems)
        elif differing:
            changes.append(Change("changed", key, differing, was if was != key else None))
            after.pop(was)
            after[key] = Stored(FILE, fields, before.is_suspended)
    _refuse_old_revisions(stored, wanted, places, problems)
    absent = _absent(stored, wanted, set(moved.values()))
    if prune:
        for key in absent:
            if after[key].is_suspended:
                what = f"{spell_key(key)} is suspended by an admin and stays"
                problems.add("catalog", what, allowed="a file that holds it, until an admin has resumed it")
            gone = {name: (value, None) for name, value in after.pop(key).fields.items()}
            changes.append(Change("removed", key, gone))
    return Planned(Diff(tuple(sorted(changes, key=_order)), () if prune else tuple(absent)), after)


def spell_key(key: Key) -> str:
    """A key as people read it: ``plan pro revision 2``."""
    match key:
        case ("plan", name, revision):
            return f"plan {name} revision {revision}"
        case ("application", issuer, client_id):
            return f"application {client_id}" + (f" of issuer {issuer}" if issuer else "")
        case ("entitlement", tenant, product, start):
            return f"entitlement {tenant} to {product} from {start}"
    return " ".join(key)


def _moved_entitlements(stored: Mapping[Key, Stored], wanted: Mapping[Key, Fields]) -> dict[Key, Key]:
    """Entitlements whose first day was edited: those left over on both sides for one tenant and product, in order.

    Without it an edited date would read as a second entitlement that overlaps the first.
    """
    moved: dict[Key, Key] = {}
    left = sorted(
        key for key, one in stored.items() if key[0] == "entitlement" and key not in wanted and one.owner == FILE
    )
    for key in sorted(key for key in wanted if key[0] == "entitlement" and key not in stored):
        for candidate in left:
            if candidate[:3] == key[:3]:
                moved[key] = candidate
                left.remove(candidate)
                break
    return moved


def _absent(stored: Mapping[Key, Stored], wanted: Mapping[Key, Fields], moved: set[Key]) -> list[Key]:
    """File-owned objects that the catalog lacks. Older revisions of a plan it still has are its history, not absent."""
    plans = {key[1] for key in wanted if key[0] == "plan"}
    return sorted(
        (
            key
            for key, one in stored.items()
            if one.owner == FILE
            and key not in wanted
            and key not in moved
            and not (key[0] == "plan" and key[1] in plans)
        ),
        key=lambda key: (KINDS.index(key[0]), key),
    )


def _refuse_change_of_plan(key: Key, differing: Mapping[str, tuple[Any, Any]], place: str, problems: Problems) -> None:
    fields = ", ".join(_changed_fields(differing))
    what = f"plan {key[1]} revision {key[2]} is published and cannot change ({fields})"
    problems.add(place, what, got=int(key[2]), allowed="a new revision with the change")


def _refuse_old_revisions(
    stored: Mapping[Key, Stored], wanted: Mapping[Key, Fields], places: Mapping[Key, str], problems: Problems
) -> None:
    """The newest revision is in force: a file that stops at an older one would not say what is true."""
    newest: dict[str, tuple[int, Key]] = {}
    for key in wanted:
        if key[0] == "plan":
            newest[key[1]] = max(newest.get(key[1], (0, key)), (int(key[2]), key))
    for key in stored:
        if key[0] == "plan" and key[1] in newest and int(key[2]) > newest[key[1]][0]:
            revision, mine = newest[key[1]]
            what = f"plan {key[1]}: revision {key[2]} is published already"
            problems.add(places.get(mine, "catalog"), what, got=revision, allowed=f"revision {key[2]} or a later one")


def _changed_fields(fields: Mapping[str, tuple[Any, Any]]) -> list[str]:
    """``limits.connections 2 → 3`` for each value that differs, one level into mappings."""
    spelled: list[str] = []
    for name, (before, after) in fields.items():
        if isinstance(before, dict) and isinstance(after, dict):
            pairs = {f"{name}.{key}": (before.get(key), after.get(key)) for key in sorted(before.keys() | after.keys())}
        else:
            pairs = {name: (before, after)}
        spelled.extend(
            f"{member} {stable_json(old)} → {stable_json(new)}"
            for member, (old, new) in pairs.items()
            if stable_json(old) != stable_json(new)
        )
    return spelled


def _order(change: Change) -> tuple[int, Key]:
    return KINDS.index(change.key[0]), change.key


def stable_json(value: Any) -> str:
    """The same text for the same value, whatever made it; 1 and true differ here, as they do not in Python."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
