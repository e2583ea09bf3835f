"""Masks: the members that a grant hides, cut out of a payload's text; all that is left stays as it was written."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import Any

from gateway.model import MaskRule, Masks
from gateway.subscription.projection import tokens

Tree = dict[str, "Tree | MaskRule"]
"""Member name → what is hidden within it, or how it is hidden itself."""

_scan: Any = json.JSONDecoder(parse_int=str, parse_float=str).scan_once  # type: ignore[attr-defined]
_SPACE = r"[ \t\n\r]*+"
_STRING = r'[^"\\]*+(?:\\.[^"\\]*+)*+'
_SCALAR = rf"""(?:"{_STRING}"|[^"\[{{}},\] \t\n\r]++)"""
_space = re.compile(_SPACE).match
_member = re.compile(rf"""{_SPACE}"({_STRING})"{_SPACE}:{_SPACE}({_SCALAR})?+{_SPACE}""", re.DOTALL).match
"""A member of an object: its name as it is written, then its value unless that is an object or an array."""


def covers(upper: str, pointer: str) -> bool:
    """Whether a pointer is ``upper`` or lies below it."""
    return pointer == upper or pointer.startswith(upper + "/")


def hides(masks: Masks, pointer: str) -> bool:
    """Whether nothing of the value at the pointer may be told, neither its presence nor what it is."""
    return any(covers(masked, pointer) for masked, _ in masks)


def drops(masks: Masks, pointer: str) -> bool:
    """Whether there is nothing at the pointer for those who read under the masks."""
    return any(rule == "drop" and covers(masked, pointer) for masked, rule in masks)


@lru_cache(maxsize=64)
def narrowed(projection: tuple[str, ...] | None, masks: Masks) -> tuple[tuple[str, ...] | None, Masks]:
    """The projection without what is dropped whole, and the masks that have something to do in what it lets through.

    Grants that differ only in masks of other fields than those that are read so come to the same, and share a view.
    """
    if projection is None or not masks:
        return projection, masks
    kept = tuple(one for one in projection if not drops(masks, one))
    left = tuple(
        (pointer, rule) for pointer, rule in masks if any(covers(one, pointer) or covers(pointer, one) for one in kept)
    )
    return kept, left


def tree(masks: Masks) -> Tree:
    """The masks by member name; none of them lies within another."""
    root: Tree = {}
    for pointer, rule in masks:
        *path, last = tokens(pointer)
        node = root
        for token in path:
            below = node.setdefault(token, {})
            if not isinstance(below, dict):
                raise ValueError(f"{pointer} lies within another mask")
            node = below
        node[last] = rule
    return root


class Mask:
    """Hides members of objects: ``drop`` leaves them out, ``null`` puts null in the place of their value.

    Every member of the name is hidden, also where it stands twice. An array where an object should be is null: its
    items may hold what is to be hidden. What is not hidden keeps every byte, white space too.
    """

    def __init__(self, masks: Masks) -> None:
        self._level = _Level(tree(masks))

    def apply(self, value: bytes) -> bytes:
        """``value``, valid JSON in UTF-8 and nested within bounds, without what is hidden."""
        text = value.decode("utf-8")
        at = _end_of_space(text, 0)
        masked, end = _masked(text, at, self._level)
        return f"{text[:at]}{masked}{text[end:]}".encode()


class _Level:
    """What is hidden of one object. ``run`` matches members that are not, each with its comma, as many as it can tell
    at a glance: those whose names hold no escape, with values that are no object or array."""

    __slots__ = ("hidden", "run")

    def __init__(self, node: Tree) -> None:
        self.hidden: dict[str, _Level | MaskRule] = {
            name: _Level(rule) if isinstance(rule, dict) else rule for name, rule in node.items()
        }
        names = "|".join(map(re.escape, node))
        self.run = re.compile(
            rf"""(?:{_SPACE}"(?!(?:{names})")[^"\\]*+"{_SPACE}:{_SPACE}{_SCALAR}{_SPACE},)*+""", re.DOTALL
        ).match


def _masked(text: str, at: int, level: _Level) -> tuple[str, int]:
    """What stands for the value that begins at ``at``, and where that value ends."""
    if text[at] != "{":
        end = _scan(text, at)[1]
        return ("null" if text[at] == "[" else text[at:end]), end
    opened, start = at, at + 1
    at = _end_of_space(text, start)
    if text[at] == "}":
        return text[opened : at + 1], at + 1
    # From after a brace or comma to before the next: so commas are where two are left, and white space comes along.
    kept: list[str] = []
    at = opened
    while text[at] != "}":
        start = at + 1
        run = level.run(text, start)
        if run is not None and run.end() > start:
            kept.append(text[start : run.end() - 1])
            start = run.end()
        member = _member(text, start)
        if member is None:
            raise ValueError("not the text of valid JSON")
        name, scalar = member.groups()
        rule = level.hidden.get(name if "\\" not in name else _scan(f'"{name}"', 0)[0])
        value_at, after, at = member.start(2), member.end(2), member.end()
        if scalar is None:
            # An object or array: its end takes a parser to find.
            value_at = at
            if isinstance(rule, _Level):
                masked, after = _masked(text, value_at, rule)
                at = _end_of_space(text, after)
                kept.append(f"{text[start:value_at]}{masked}{text[after:at]}")
                continue
            after = _scan(text, value_at)[1]
            at = _end_of_space(text, after)
        if rule is None or isinstance(rule, _Level):
            kept.append(text[start:at])
        elif rule == "null":
            kept.append(f"{text[start:value_at]}null{text[after:at]}")
    return "{" + ",".join(kept) + "}", at + 1


def _end_of_space(text: str, at: int) -> int:
    """Where the white space that begins at ``at`` ends."""
    found = _space(text, at)
    return at if found is None else found.end()
