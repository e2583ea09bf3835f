"""A mapping of a file under validation: typed members, unknown keys refused, a problem line for each thing wrong.

Every reader returns a usable stand-in when it meets something wrong, so that one pass finds all there is; nobody uses
what was read once problems were added.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import date
from typing import Any

from gateway.catalog.problems import Problems
from gateway.catalog.source import Node, parse_day

MAX_TEXT = 10_000
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_DECIMAL = re.compile(r"[0-9]{1,12}(?:\.[0-9]{1,12})?")


class Section:
    """One mapping. ``name`` leads its problem lines: ``x-gateway.replay``; ``keys`` are all that it may hold."""

    def __init__(
        self, node: Node, name: str, problems: Problems, *, keys: Sequence[str], extensible: bool = False
    ) -> None:
        self.node = node
        self.name = name
        self.problems = problems
        self._members: dict[str, Node] = {}
        if not isinstance(node.value, dict):
            problems.add(node.place, name or "the document", got=node.value, allowed=f"a mapping of {', '.join(keys)}")
            return
        self._members = node.value
        for key in node.value:
            if key not in keys and not (extensible and key.startswith("x-")):
                problems.add(node.key_place(key), f"{name or 'the document'}: unknown key", got=key, choices=keys)

    def __contains__(self, key: str) -> bool:
        return key in self._members

    def path(self, key: str) -> str:
        """The member's name in problem lines."""
        return f"{self.name}.{key}" if self.name else key

    def place(self, key: str) -> str:
        """Where the member stands, or the mapping where there is none."""
        return self.node.key_place(key) if key in self._members else self.node.place

    def get(self, key: str) -> Node | None:
        """The member's node, None where it is absent or null."""
        node = self._members.get(key)
        return None if node is None or node.value is None else node

    def refuse_nulls(self, *keys: str) -> None:
        """Refuse members that stand there without a value, where the default would be the wrong guess."""
        for key in keys:
            if key in self._members and self._members[key].value is None:
                self.refuse(key, allowed="a value; leave the key out for the default")

    def refuse(self, key: str, *, allowed: str = "", choices: Collection[str] | None = None) -> None:
        """Say that the member's value is not one of those allowed."""
        node = self._members.get(key)
        self.problems.add(
            self.place(key) if node is None else node.place,
            self.path(key) + ("" if node is not None else " is required"),
            got=None if node is None else node.value,
            allowed=allowed,
            choices=choices,
        )

    def text(
        self,
        key: str,
        *,
        default: str | None = None,
        pattern: re.Pattern[str] | None = None,
        allowed: str = "text",
        choices: Collection[str] | None = None,
    ) -> str:
        """A text that is not empty and holds no control characters; required where ``default`` is None."""
        node = self.get(key)
        if node is None and default is not None:
            return default
        value = node.value if node is not None else None
        valid = isinstance(value, str) and bool(value.strip()) and len(value) <= MAX_TEXT
        text = str(value)
        if (
            not valid
            or _CONTROL.search(text)
            or (pattern is not None and not pattern.fullmatch(text))
            or (choices is not None and text not in choices)
        ):
            self.refuse(key, allowed=allowed if choices is None else "", choices=choices)
            return default or ""
        return text

    def flag(self, key: str, *, default: bool) -> bool:
        """true or false."""
        node = self.get(key)
        if node is None:
            return default
        if not isinstance(node.value, bool):
            self.refuse(key, allowed="true, false")
            return default
        return node.value

    def whole(self, key: str, *, low: int, high: int, default: int | None = None) -> int:
        """A whole number within bounds; required where ``default`` is None."""
        node = self.get(key)
        if node is None and default is not None:
            return default
        value = node.value if node is not None else None
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            self.refuse(key, allowed=f"a whole number from {low} to {high}")
            return low
        return value

    def day(self, key: str, *, required: bool = False) -> date | None:
        """A calendar date; quoted, as JSON has to write it, it is the same."""
        node = self.get(key)
        if node is None and not required:
            return None
        value = node.value if node is not None else None
        day = parse_day(value) if isinstance(value, str) else value
        if not isinstance(day, date):
            self.refuse(key, allowed="a date such as 2026-01-31")
            return None
        return day

    def decimal(self, key: str, *, required: bool = False) -> str | None:
        """An amount as quoted decimal text, never a float: up to 12 digits before and after the point."""
        node = self.get(key)
        if node is None and not required:
            return None
        if node is None or not isinstance(node.value, str) or not _DECIMAL.fullmatch(node.value):
            self.refuse(key, allowed="a decimal number in quotes such as '0.10', not negative, at most 12 decimals")
            return None
        return node.value

    def items(self, key: str, *, allowed: str = "a list", required: bool = False) -> tuple[Node, ...]:
        """The nodes of a list."""
        node = self.get(key)
        if node is None and not required:
            return ()
        if node is None or not isinstance(node.value, tuple):
            self.refuse(key, allowed=allowed)
            return ()
        return node.value

    def texts(
        self,
        key: str,
        *,
        accepts: Callable[[str], bool],
        allowed: str = "",
        choices: Collection[str] | None = None,
        required: bool = False,
    ) -> tuple[str, ...]:
        """A list of different texts, each of which ``accepts`` says yes to."""
        found: list[str] = []
        for item in self.items(key, allowed=f"a list of: {allowed or ', '.join(choices or ())}", required=required):
            value = item.value
            if not isinstance(value, str) or not accepts(value):
                self.problems.add(item.place, self.path(key), got=value, allowed=allowed, choices=choices)
            elif value in found:
                self.problems.add(item.place, f"{self.path(key)} lists a value twice", got=value)
            else:
                found.append(value)
        return tuple(found)

    def section(self, key: str, *, keys: Sequence[str], extensible: bool = False) -> Section | None:
        """The member as a section of its own; None where it is absent or null."""
        node = self.get(key)
        return None if node is None else Section(node, self.path(key), self.problems, keys=keys, extensible=extensible)

    def members(self, key: str, *, allowed: str = "a mapping") -> Iterator[tuple[str, Node]]:
        """The members of a mapping whose keys are names."""
        node = self.get(key)
        if node is None:
            return
        if not isinstance(node.value, dict):
            self.refuse(key, allowed=allowed)
            return
        yield from node.value.items()

    def plain(self, key: str) -> Any:
        """The member as plain data, None where it is absent."""
        node = self._members.get(key)
        return None if node is None else node.plain()
