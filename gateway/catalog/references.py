"""Local references (``$ref: '#/…'``) of one document: followed, counted, never fetched from elsewhere.

A reference that leaves the file, leads nowhere or comes back to itself is a problem line; so is a set of references
that would unfold into more than a file may hold. Data is not searched for references: examples, constants, extensions.
"""

from __future__ import annotations

from urllib.parse import unquote

from gateway.catalog.problems import Problems
from gateway.catalog.source import MAX_NODES, Node

MAX_REFERENCE_DEPTH = 128

_DATA = frozenset({"examples", "example", "default", "const", "enum"})
_NAMED = frozenset(
    [
        "properties",
        "patternProperties",
        "definitions",
        "$defs",
        "dependencies",
        "dependentSchemas",
        "schemas",
        "servers",
        "channels",
        "operations",
        "messages",
        "securitySchemes",
        "serverVariables",
        "parameters",
        "correlationIds",
        "replies",
        "replyAddresses",
        "externalDocs",
        "tags",
        "operationTraits",
        "messageTraits",
        "serverBindings",
        "channelBindings",
        "operationBindings",
        "messageBindings",
    ]
)


def parse_pointer(pointer: str) -> tuple[str, ...] | None:
    """The tokens of a JSON pointer (RFC 6901), None where it is none."""
    if pointer == "":
        return ()
    if not pointer.startswith("/"):
        return None
    tokens = pointer[1:].split("/")
    if any("~" in token.replace("~0", "").replace("~1", "") for token in tokens):
        return None
    return tuple(token.replace("~1", "/").replace("~0", "~") for token in tokens)


def reference_of(node: Node) -> str | None:
    """The ``$ref`` of a reference object, None where the node is something else."""
    target = node.value.get("$ref") if isinstance(node.value, dict) else None
    return target.value if target is not None and isinstance(target.value, str) else None


class References:
    """The references of a document. One that ``check`` complained of is where ``follow`` stops."""

    def __init__(self, root: Node, problems: Problems) -> None:
        self._root = root
        self._problems = problems
        self._sizes: dict[tuple[int, bool], int] = {}
        self._open: set[tuple[int, bool]] = set()

    def check(self) -> None:
        """Add to the problems every reference that cannot be followed."""
        if self._unfolded(self._root, names=False, depth=0) > MAX_NODES:
            self._problems.add(self._root.place, "too many values, references unfolded", allowed=f"at most {MAX_NODES}")

    def follow(self, node: Node) -> tuple[Node, str | None]:
        """The node that a chain of references ends at, and the last reference (None where there was none)."""
        last = None
        for _ in range(MAX_REFERENCE_DEPTH):
            target = reference_of(node)
            if target is None:
                break
            found = self._find(target)
            if found is None:
                break
            node, last = found, target
        return node, last

    def _find(self, target: str) -> Node | None:
        tokens = parse_pointer(unquote(target[1:])) if target.startswith("#") else None
        if tokens is None:
            return None
        node = self._root
        for token in tokens:
            value = node.value
            if isinstance(value, dict) and token in value:
                node = value[token]
            elif isinstance(value, tuple) and _is_index(token) and int(token) < len(value):
                node = value[int(token)]
            else:
                return None
        return node

    def _unfolded(self, node: Node, *, names: bool, depth: int) -> int:
        """How many nodes this one unfolds into. ``names``: the keys are names, not keywords."""
        if not isinstance(node.value, dict | tuple):
            return 1
        visit = (id(node), names)
        known = self._sizes.get(visit)
        if known is not None:
            return known
        if depth > MAX_REFERENCE_DEPTH:
            self._problems.add(
                node.place, "references nested too deep", allowed=f"at most {MAX_REFERENCE_DEPTH} levels"
            )
            self._sizes[visit] = 1
            return 1
        self._open.add(visit)
        size = self._unfolded_reference(node, depth) if not names else None
        if size is None:
            size = 1 + self._unfolded_children(node, names=names, depth=depth)
        self._open.discard(visit)
        self._sizes[visit] = size
        return size

    def _unfolded_reference(self, node: Node, depth: int) -> int | None:
        target = reference_of(node)
        if target is None:
            return None
        place = node.key_place("$ref")
        if not target.startswith("#"):
            self._problems.add(
                place, "a reference out of the file; nothing is ever fetched", got=target, allowed="#/… in this file"
            )
            return 1
        found = self._find(target)
        if found is None:
            self._problems.add(place, "a reference to nothing", got=target, choices=self._siblings_of(target))
            return 1
        if (id(found), False) in self._open:
            self._problems.add(place, "a reference that comes back to itself", got=target, allowed="trees only")
            return 1
        return self._unfolded(found, names=False, depth=depth + 1)

    def _unfolded_children(self, node: Node, *, names: bool, depth: int) -> int:
        if isinstance(node.value, tuple):
            return sum(self._unfolded(child, names=False, depth=depth + 1) for child in node.value)
        size = 0
        for key, child in node.value.items():
            if names:
                size += self._unfolded(child, names=False, depth=depth + 1)
            elif key not in _DATA and not key.startswith("x-"):
                size += self._unfolded(child, names=key in _NAMED, depth=depth + 1)
        return size

    def _siblings_of(self, target: str) -> list[str]:
        """What the reference could have named: the members beside its last token."""
        parent, _, _ = target.rpartition("/")
        node = self._find(parent)
        return [f"{parent}/{key}" for key in node.value] if node is not None and isinstance(node.value, dict) else []


def _is_index(token: str) -> bool:
    return token.isascii() and token.isdigit() and len(token) < 10
