"""A payload's JSON Schema cut down to what a partner gets to see, keyword by keyword of an allow-list.

References are written out, extensions and identifiers stay behind, and a keyword whose value is not what its standard
asks for is left out: whatever a contract holds, the result is a valid schema. Where only a part of an object is shown,
only what is said of the shown members remains: the object's own texts, constants, conditions on other members and
defaults speak of the whole and go.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal
from urllib.parse import unquote

from gateway.catalog.documents.fitting import canonical, fits, is_number
from gateway.catalog.references import MAX_REFERENCE_DEPTH, parse_pointer
from gateway.subscription.projection import Tree

Dialect = Literal["draft-07", "2020-12"]
"""AsyncAPI 3.0 schemas are supersets of draft-07, OpenAPI 3.1 ones of 2020-12: they spell tuples differently."""

TYPES: Final = ("null", "boolean", "object", "array", "number", "integer", "string")
_BRANCHES: Final = ("allOf", "anyOf", "oneOf")


def follow(document: Mapping[str, Any], node: Any) -> Any:
    """The value that a chain of local references ends at; None where it leads nowhere."""
    for _ in range(MAX_REFERENCE_DEPTH):
        target = node.get("$ref") if isinstance(node, dict) else None
        if not isinstance(target, str):
            return node
        node = _find(document, target)
    return None


def _find(document: Mapping[str, Any], target: str) -> Any:
    tokens = parse_pointer(unquote(target[1:])) if target.startswith("#") else None
    node: Any = document
    for token in tokens if tokens is not None else ("",):
        if isinstance(node, Mapping):
            node = node.get(token)
        elif isinstance(node, list) and token.isascii() and token.isdigit() and int(token) < len(node):
            node = node[int(token)]
        else:
            return None
    return node


class SchemaCut:
    """Cuts the schemas of one contract's document. References are trees within bounds: the loader saw to that."""

    def __init__(self, document: Mapping[str, Any], dialect: Dialect) -> None:
        self._document = document
        self._dialect = dialect

    def whole(self, node: Any) -> Any:
        """A schema of a value that is shown as it is: a mapping or a boolean."""
        node = follow(self._document, node)
        if isinstance(node, bool):
            return node
        if not isinstance(node, dict):
            return True
        cut: dict[str, Any] = {}
        for keyword, value in node.items():
            if keyword in _PLAIN:
                if _PLAIN[keyword](value):
                    cut[keyword] = value
            elif keyword in _SCHEMA and _is_schema(value):
                cut[keyword] = self.whole(value)
            elif keyword in (*_BRANCHES, "prefixItems") and _are_schemas(value):
                cut[keyword] = [self.whole(one) for one in value]
            elif keyword in _NAMED and isinstance(value, dict):
                cut[keyword] = self._named(keyword, value)
            elif keyword == "items" and (_is_schema(value) or _are_schemas(value)):
                cut[keyword] = [self.whole(one) for one in value] if isinstance(value, list) else self.whole(value)
        if "enum" in cut:
            cut["enum"] = _unique(cut["enum"])
        return _with_fitting_samples(self._tuples(cut))

    def _named(self, keyword: str, value: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: self.whole(one)
            for name, one in value.items()
            if _is_schema(one) and (keyword != "patternProperties" or is_pattern(name))
        }

    def part(self, node: Any, tree: Tree) -> dict[str, Any]:
        """A schema of an object of which only the members in ``tree`` are shown."""
        cut = self._part(node, tree)
        described = _described(cut)
        missing = {name: self._member({}, below) for name, below in tree.items() if name not in described}
        if missing:
            cut["properties"] = cut.get("properties", {}) | missing
        # The projection makes an object of whatever the producer sent.
        return {"type": "object", **cut}

    def _part(self, node: Any, tree: Tree) -> dict[str, Any]:
        node = follow(self._document, node)
        if not isinstance(node, dict):
            return {}
        cut: dict[str, Any] = {}
        named = node.get("properties")
        if isinstance(named, dict):
            shown = {name: self._member(named[name], below) for name, below in tree.items() if name in named}
            if shown:
                cut["properties"] = shown
        required = node.get("required")
        if isinstance(required, list) and _are_names(required):
            # A member on the way is left out of a record where it is no object: only then it is always there.
            kept = [name for name in required if name in tree and self._always_there(node, name, tree[name])]
            if kept:
                cut["required"] = kept
        return cut | self._branches(node, tree)

    def _branches(self, node: Mapping[str, Any], tree: Tree) -> dict[str, Any]:
        together = self._parts(node.get("allOf"), tree)
        # Of cut branches several may fit where one did before, so oneOf becomes anyOf, and so does a condition.
        conditional = [node[keyword] for keyword in ("then", "else") if keyword in node]
        groups = [self._parts(node.get("anyOf"), tree), self._parts(node.get("oneOf"), tree)]
        groups.append(self._parts([*conditional, {}], tree) if conditional else [])
        either = [{"anyOf": group} for group in groups if any(group)]
        if len(either) == 1 and not any(together):
            return either[0]
        found = [one for one in together if one] + either
        return {"allOf": found} if found else {}

    def _parts(self, branches: Any, tree: Tree) -> list[dict[str, Any]]:
        return [self._part(one, tree) for one in branches] if _are_schemas(branches) else []

    def _member(self, node: Any, below: Tree | None) -> Any:
        return self.whole(node) if below is None else self.part(node, below)

    def _always_there(self, node: Mapping[str, Any], name: str, below: Tree | None) -> bool:
        if below is None:
            return True
        properties = node.get("properties")
        member = follow(self._document, properties.get(name)) if isinstance(properties, dict) else None
        return isinstance(member, dict) and member.get("type") in ("object", ["object"])

    def _tuples(self, cut: dict[str, Any]) -> dict[str, Any]:
        """Arrays by position in the dialect's own words."""
        if self._dialect == "2020-12" and isinstance(cut.get("items"), list):
            first, rest = cut.pop("items"), cut.pop("additionalItems", None)
            cut["prefixItems"] = first
            if rest is not None:
                cut["items"] = rest
        elif self._dialect == "draft-07" and "prefixItems" in cut:
            first, rest = cut.pop("prefixItems"), cut.pop("items", None)
            cut["items"] = first
            if rest is not None and not isinstance(rest, list):
                cut["additionalItems"] = rest
        return cut


def project(value: Any, tree: Tree) -> Any:
    """A sample value cut as the projection cuts records."""
    if not isinstance(value, dict):
        return {}
    found: dict[str, Any] = {}
    for name, below in tree.items():
        if name in value and (below is None or isinstance(value[name], dict)):
            found[name] = value[name] if below is None else project(value[name], below)
    return found


def _described(cut: Mapping[str, Any]) -> set[str]:
    """The members that a cut schema or one of its branches names."""
    found = set(cut.get("properties", ()))
    for keyword in ("allOf", "anyOf"):
        for branch in cut.get(keyword, ()):
            found |= _described(branch)
    return found


def _with_fitting_samples(cut: dict[str, Any]) -> dict[str, Any]:
    """Without defaults and examples that the schema itself refuses: tools refuse the document for them."""
    samples = {keyword: cut.pop(keyword) for keyword in ("default", "examples") if keyword in cut}
    if "default" in samples and fits(samples["default"], cut):
        cut["default"] = samples["default"]
    good = [one for one in samples.get("examples", ()) if fits(one, cut)]
    if good:
        cut["examples"] = good
    return cut


def is_pattern(value: Any) -> bool:
    """Whether a text is a regular expression, as far as Python's dialect can tell."""
    try:
        re.compile(value)
    except (re.error, TypeError, ValueError, RecursionError, OverflowError):
        return False
    return True


def _unique(values: list[Any]) -> list[Any]:
    found: dict[str, Any] = {}
    for value in values:
        found.setdefault(canonical(value), value)
    return list(found.values())


def _is_schema(value: Any) -> bool:
    return isinstance(value, dict | bool)


def _are_schemas(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_schema, value))


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value) and len(set(value)) == len(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_type(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and _are_names(value) and all(one in TYPES for one in value)
    return isinstance(value, str) and value in TYPES


_PLAIN: Final[Mapping[str, Callable[[Any], bool]]] = {
    "type": _is_type,
    **dict.fromkeys(("title", "description", "format", "contentEncoding", "contentMediaType"), _is_text),
    **dict.fromkeys(("readOnly", "writeOnly", "deprecated", "uniqueItems"), _is_flag),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), is_number),
    **dict.fromkeys(
        (
            "minLength",
            "maxLength",
            "minItems",
            "maxItems",
            "minProperties",
            "maxProperties",
            "minContains",
            "maxContains",
        ),
        _is_count,
    ),
    "multipleOf": lambda value: is_number(value) and value > 0,
    "pattern": lambda value: isinstance(value, str) and is_pattern(value),
    "required": _are_names,
    "enum": lambda value: isinstance(value, list) and bool(value),
    "const": lambda value: True,
    "default": lambda value: True,
    "examples": lambda value: isinstance(value, list),
}
_SCHEMA: Final = frozenset(
    (
        "additionalProperties",
        "additionalItems",
        "contains",
        "propertyNames",
        "not",
        "if",
        "then",
        "else",
        "unevaluatedProperties",
        "unevaluatedItems",
    )
)
_NAMED: Final = frozenset(("properties", "patternProperties", "dependentSchemas"))
