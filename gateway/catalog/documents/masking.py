"""A cut schema and its samples once more cut, to what a product's masks leave of the records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.model import Masks
from gateway.subscription.mask import Tree, tree


def masked_schema(schema: Any, masks: Masks) -> Any:
    """A schema of ``SchemaCut`` for masked records: what is dropped is not told, what is nulled may be null.

    Of an object on the way to a mask only what is said of its members remains: the rest speaks of the whole.
    """
    return _cut(schema, tree(masks)) if masks else schema


def masked_sample(value: Any, masks: Masks) -> Any:
    """A sample value as a record would be masked."""
    return _masked(value, tree(masks)) if masks else value


def _cut(node: Any, hidden: Tree) -> Any:
    if not isinstance(node, dict):
        return node
    cut: dict[str, Any] = {}
    if "type" in node:
        cut["type"] = _kinds(node["type"])
    if "properties" in node:
        cut["properties"] = {
            name: _member(member, hidden.get(name))
            for name, member in node["properties"].items()
            if hidden.get(name) != "drop"
        }
    required = [name for name in node.get("required", ()) if hidden.get(name) != "drop"]
    if required:
        cut["required"] = required
    together = [_cut(one, hidden) for one in node.get("allOf", ())]
    # Of cut branches several may fit where one did before.
    either = [{"anyOf": [_cut(one, hidden) for one in node[key]]} for key in ("anyOf", "oneOf") if key in node]
    if len(either) == 1 and not together:
        return cut | either[0]
    return cut | ({"allOf": together + either} if together or either else {})


def _member(schema: Any, rule: Any) -> Any:
    if rule == "null":
        return {"anyOf": [schema, {"type": "null"}]}
    return schema if rule is None else _cut(schema, rule)


def _kinds(kinds: str | list[str]) -> str | list[str]:
    """With null for an array: where a mask looks for an object, there is none in the records."""
    if isinstance(kinds, str):
        return "null" if kinds == "array" else kinds
    return list(dict.fromkeys("null" if kind == "array" else kind for kind in kinds))


def _masked(value: Any, hidden: Mapping[str, Any]) -> Any:
    if isinstance(value, list):
        return None
    if not isinstance(value, dict):
        return value
    found: dict[str, Any] = {}
    for name, member in value.items():
        rule = hidden.get(name)
        if rule != "drop":
            found[name] = member if rule is None else None if rule == "null" else _masked(member, rule)
    return found
