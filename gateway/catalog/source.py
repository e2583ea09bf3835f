"""YAML text as nodes that know their line, with everything refused that a configuration file has no use for.

Scalars follow the core schema of YAML 1.2 (so ``no`` and ``on`` are words and ``12:30`` is text), plus calendar
dates. Refused: tags, keys that are not text, a key given twice, merge keys, more than one document, deep nesting, and
aliases that would unfold into more nodes than a file may hold. Nothing is ever constructed from a tag.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import yaml

from gateway.catalog.problems import Problems

MAX_FILE_BYTES = 1024 * 1024
MAX_DEPTH = 64
MAX_NODES = 200_000

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLEANS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INTEGER = re.compile(r"[-+]?[0-9]{1,100}")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")

Scalar = str | int | float | bool | date | None


@dataclass(frozen=True, slots=True)
class Node:
    """A YAML value and where it stands.

    ``value`` is a scalar, a tuple of nodes, or a dict of nodes by key; ``key_lines`` are the lines of a mapping's keys.
    """

    value: Any
    file: str
    line: int
    key_lines: Mapping[str, int] = field(default_factory=dict)

    @property
    def place(self) -> str:
        """``file:line``, as problem lines begin."""
        return f"{self.file}:{self.line}"

    def key_place(self, key: str) -> str:
        """``file:line`` of a key of this mapping."""
        return f"{self.file}:{self.key_lines[key]}"

    def at(self, *keys: str) -> Node | None:
        """What lies within this mapping, one key after the other; None where nothing does."""
        node: Node | None = self
        for key in keys:
            node = node.value.get(key) if node is not None and isinstance(node.value, dict) else None
        return node

    def plain(self) -> Any:
        """The value without places, as JSON would hold it: dates become text again."""
        if isinstance(self.value, dict):
            return {key: child.plain() for key, child in self.value.items()}
        if isinstance(self.value, tuple):
            return [child.plain() for child in self.value]
        return self.value.isoformat() if isinstance(self.value, date) else self.value


def listed(root: Node, *, key: str) -> Node:
    """A mapping with a name that is a whole file, as the only one of the list ``key`` that it would stand in."""
    is_one = isinstance(root.value, dict) and "name" in root.value and key not in root.value
    return Node({key: Node((root,), root.file, root.line)}, root.file, root.line) if is_one else root


def parse_day(text: str) -> date | None:
    """The day that the text names as YYYY-MM-DD, None where it names none of the calendar."""
    try:
        return date.fromisoformat(text) if _DATE.fullmatch(text) else None
    except ValueError:
        return None


def read_yaml(path: Path, problems: Problems) -> Node | None:
    """The root node of a file, or None where it cannot be read; what is wrong is added to ``problems``."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        problems.add(str(path), f"cannot be read ({error.strerror})")
        return None
    return parse_yaml(data, str(path), problems)


def parse_yaml(data: bytes, file: str, problems: Problems) -> Node | None:
    """The root node of YAML bytes, or None where they are refused as a whole."""
    if len(data) > MAX_FILE_BYTES:
        problems.add(file, "file too large", allowed=f"at most {MAX_FILE_BYTES} bytes")
        return None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        problems.add(f"{file}:{line}", "bytes that are not UTF-8")
        return None
    try:
        return _Composer(file, problems).compose(text)
    except _RefusedError:
        return None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        reason = ", ".join(part for part in (error.context, error.problem) if part)
        begun = error.context_mark.line + 1 if error.context_mark else None
        line = mark.line + 1 if mark else 1
        where = f" (begun in line {begun})" if begun is not None and begun != line else ""
        problems.add(f"{file}:{line}", f"not YAML: {reason}{where}")
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        problems.add(f"{file}:{line}", f"not YAML: {error.reason}")
    return None


class _RefusedError(Exception):
    """The file cannot be read further; the reason is among the problems already."""


@dataclass(slots=True)
class _Frame:
    """A sequence or mapping that is still open."""

    line: int
    anchor: str | None
    items: list[Node] | None = None
    members: dict[str, Node] | None = None
    key_lines: dict[str, int] = field(default_factory=dict)
    key: str | None = None
    nodes: int = 1


class _Composer:
    """Turns parser events into nodes, without recursion, counting what aliases would unfold into."""

    def __init__(self, file: str, problems: Problems) -> None:
        self._file = file
        self._problems = problems
        self._anchors: dict[str, tuple[Node, int]] = {}
        self._stack: list[_Frame] = []
        self._roots: list[Node] = []

    def compose(self, text: str) -> Node:
        for event in yaml.parse(text, Loader=_LOADER):
            line = event.start_mark.line + 1 if event.start_mark else 1
            if isinstance(event, yaml.NodeEvent):
                self._node(event, line)
            elif isinstance(event, yaml.CollectionEndEvent):
                self._close()
            elif isinstance(event, yaml.DocumentStartEvent) and self._roots:
                self._refuse(line, "a second document", allowed="one YAML document a file")
        if not self._roots:
            self._refuse(1, "the file is empty", allowed="one YAML document")
        return self._roots[0]

    def _node(self, event: Any, line: int) -> None:
        if getattr(event, "tag", None) is not None:
            self._problems.add(f"{self._file}:{line}", "tags are not supported", got=event.tag)
        frame = self._stack[-1] if self._stack else None
        if frame is not None and frame.members is not None and frame.key is None:
            self._key(frame, event, line)
        elif isinstance(event, yaml.AliasEvent):
            known = self._anchors.get(event.anchor or "")
            if known is None:
                self._refuse(line, f"alias *{event.anchor} names no finished anchor above it")
            else:
                self._place(*known)
        elif isinstance(event, yaml.ScalarEvent):
            value = self._scalar(event.value, line) if event.implicit[0] else event.value
            self._finish(Node(value, self._file, line), 1, event.anchor)
        else:
            if len(self._stack) >= MAX_DEPTH:
                self._refuse(line, "nested too deep", allowed=f"at most {MAX_DEPTH} levels")
            is_mapping = isinstance(event, yaml.MappingStartEvent)
            self._stack.append(
                _Frame(line, event.anchor, items=None if is_mapping else [], members={} if is_mapping else None)
            )

    def _key(self, frame: _Frame, event: Any, line: int) -> None:
        if not isinstance(event, yaml.ScalarEvent):
            self._refuse(line, "a key that is not text", allowed="text keys")
        key = event.value
        plain = event.implicit[0]
        if plain and not isinstance(self._scalar(key, line), str):
            self._problems.add(f"{self._file}:{line}", "a key that is not text", got=key, allowed="text; quote it")
        if plain and key == "<<":
            self._problems.add(f"{self._file}:{line}", "merge keys are not supported", got=key)
        if frame.members is not None and key in frame.members:
            first = frame.key_lines[key]
            self._problems.add(f"{self._file}:{line}", f"key given twice, first in line {first}", got=key)
        frame.key = key
        frame.key_lines[key] = line

    def _close(self) -> None:
        frame = self._stack.pop()
        value: Any = frame.members if frame.members is not None else tuple(frame.items or ())
        self._finish(Node(value, self._file, frame.line, frame.key_lines), frame.nodes, frame.anchor)

    def _finish(self, node: Node, nodes: int, anchor: str | None) -> None:
        if anchor:
            self._anchors[anchor] = (node, nodes)
        self._place(node, nodes)

    def _place(self, node: Node, nodes: int) -> None:
        if not self._stack:
            self._roots.append(node)
            return
        frame = self._stack[-1]
        frame.nodes += nodes
        if frame.nodes > MAX_NODES:
            self._refuse(node.line, "too many values, aliases unfolded", allowed=f"at most {MAX_NODES}")
        if frame.items is not None:
            frame.items.append(node)
        elif frame.members is not None and frame.key is not None:
            frame.members[frame.key] = node
            frame.key = None

    def _scalar(self, text: str, line: int) -> Scalar:
        if text in _NULLS:
            return None
        if text in _BOOLEANS:
            return _BOOLEANS[text]
        if _INTEGER.fullmatch(text):
            return int(text)
        if _FLOAT.fullmatch(text):
            number = float(text)
            if not math.isfinite(number):
                self._problems.add(f"{self._file}:{line}", "a number too large", got=text)
            return number
        # Text where it is no day of the calendar: who wants a date here says so with the value in hand.
        return parse_day(text) or text

    def _refuse(self, line: int, what: str, *, allowed: str = "") -> None:
        self._problems.add(f"{self._file}:{line}", what, allowed=allowed)
        raise _RefusedError
