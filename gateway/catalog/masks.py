"""A product's masks in the catalog: read from its file, held against the contracts, told to people and documents."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, cast

from gateway.catalog.documents.payload import Payload
from gateway.catalog.listing import visible_filters
from gateway.catalog.problems import Problems, problem_line
from gateway.catalog.section import Section
from gateway.catalog.source import Node
from gateway.errors import ConfigurationProblems
from gateway.model import Contract, MaskRule, Masks
from gateway.subscription.mask import covers, narrowed
from gateway.subscription.projection import tokens

if TYPE_CHECKING:
    from gateway.catalog.catalog import Catalog

MAX_MASKS: Final = 100
MAX_POINTER_DEPTH: Final = 32
_POINTER: Final = re.compile(r"(/([^~/\x00-\x1f\x7f]|~[01])*)+")
_RULES: Final = ("drop", "null")
_ALLOWED: Final = "drop, 'null' (in quotes)"


def read_masks(product: Section, *, streams: Sequence[str]) -> tuple[dict[str, Masks], dict[tuple[str, ...], str]]:
    """The product's ``masks`` by stream, and where each of them stands, by ``(stream, pointer)``."""
    found: dict[str, Masks] = {}
    places: dict[tuple[str, ...], str] = {}
    product.refuse_nulls("masks")
    for stream, node in product.members("masks", allowed="a mapping of streams to {pointer: drop | 'null'}"):
        place = _key_place(product, stream)
        if stream not in streams:
            what = f"{product.path('masks')}: no stream of the product"
            product.problems.add(place, what, got=stream, choices=streams)
        elif not isinstance(node.value, dict) or not 0 < len(node.value) <= MAX_MASKS:
            what = f"{product.path('masks')}.{stream}"
            allowed = f"a mapping of 1 to {MAX_MASKS} JSON pointers to drop or 'null'"
            product.problems.add(node.place, what, got=node.value, allowed=allowed)
        else:
            found[stream] = tuple(sorted(_rules(product, stream, node)))
            places |= {(stream, pointer): node.key_place(pointer) for pointer in node.value}
    return found, places


def _key_place(product: Section, stream: str) -> str:
    node = product.get("masks")
    return product.place("masks") if node is None else node.key_place(stream)


def _rules(product: Section, stream: str, node: Node) -> Iterator[tuple[str, MaskRule]]:
    what = f"{product.path('masks')}.{stream}"
    for pointer, rule in node.value.items():
        if not _POINTER.fullmatch(pointer) or pointer.count("/") > MAX_POINTER_DEPTH:
            allowed = f"a JSON pointer such as /properties/mag, at most {MAX_POINTER_DEPTH} deep"
            product.problems.add(node.key_place(pointer), what, got=pointer, allowed=allowed)
            continue
        above = next((one for one in node.value if one != pointer and covers(one, pointer)), None)
        if above is not None:
            allowed = "one mask, the upper one hides the other"
            product.problems.add(node.key_place(pointer), f"{what}: within {above}", got=pointer, allowed=allowed)
        if not isinstance(rule.value, str) or rule.value not in _RULES:
            product.problems.add(node.key_place(pointer), f"{what}.{pointer}", got=rule.value, allowed=_ALLOWED)
            continue
        yield pointer, cast(MaskRule, rule.value)


def plain_masks(masks: Mapping[str, Masks]) -> dict[str, dict[str, str]]:
    """As the file has them, for the database and for diffs."""
    return {stream: dict(rules) for stream, rules in sorted(masks.items())}


def masks_of(plain: Mapping[str, Mapping[str, str]]) -> dict[str, Masks]:
    """What ``plain_masks`` made plain. Raises ConfigurationProblems for a rule that is not known."""
    for rules in plain.values():
        unknown = set(rules.values()) - set(_RULES)
        if unknown:
            allowed = ", ".join(_RULES)
            raise ConfigurationProblems([problem_line("catalog", "mask", got=sorted(unknown)[0], allowed=allowed)])
    return {stream: cast(Masks, tuple(sorted(rules.items()))) for stream, rules in plain.items()}


def spell_masks(masks: Masks) -> str:
    """In a sentence."""
    return ", ".join(f"{pointer} {rule}" for pointer, rule in masks) or "none"


def check_masks(catalog: Catalog, contracts: Mapping[str, Contract], problems: Problems) -> None:
    """Masks of fields that the contracts do not have: a slip of the pen would leave the field shown."""
    for product in catalog.products:
        for stream, masks in product.masks.items():
            contract = contracts.get(stream)
            if contract is None:
                continue
            what = f"product {product.name}: masks.{stream}"
            if not contract.is_json:
                place = catalog.places.get(("product", product.name, "masks", stream, masks[0][0]), "catalog")
                allowed = f"no masks: the stream's payload is {contract.content_type}, not JSON"
                problems.add(place, what, allowed=allowed)
                continue
            schema = Payload(contract, "2020-12").schema
            for pointer, _ in masks:
                place = catalog.places.get(("product", product.name, "masks", stream, pointer), "catalog")
                projection = contract.projection
                if projection is not None and not any(covers(a, pointer) or covers(pointer, a) for a in projection):
                    problems.add(place, f"{what}: outside the contract's projection", got=pointer, choices=projection)
                    continue
                missing = _miss(schema, tokens(pointer))
                if missing is not None:
                    at, choices = missing
                    what_is = f"{what}: {at} has no such member in the contract's schema"
                    problems.add(place, what_is, got=pointer, allowed=choices)


def _miss(schema: Any, path: Sequence[str]) -> tuple[str, str] | None:
    """Where a pointer leaves the schema, and what it may name there; None where nothing speaks against it."""
    level = [schema]
    for depth, token in enumerate(path):
        at = "/" + "/".join(path[:depth]) if depth else "the payload"
        properties: dict[str, list[Any]] = {}
        kinds: set[str] = set()
        waiting = list(level)
        while waiting:
            node = waiting.pop()
            if not isinstance(node, dict):
                continue
            for name, member in node.get("properties", {}).items():
                properties.setdefault(name, []).append(member)
            named = node.get("type", ())
            kinds |= {named} if isinstance(named, str) else set(named)
            waiting += [branch for key in ("allOf", "anyOf", "oneOf") for branch in node.get(key, ())]
            waiting += [node[key] for key in ("then", "else") if key in node]
        if token not in properties:
            if properties:
                return at, ", ".join(sorted(properties))
            if kinds and "object" not in kinds:
                return at, f"members of objects; it is of type {', '.join(sorted(kinds))}"
        level = properties.get(token, [])
    return None


def shown(contract: Contract, masks: Masks) -> Contract:
    """The contract as documents tell it to those who read under the masks: without what they may not ask for."""
    if not masks:
        return contract
    projection, _ = narrowed(contract.projection, masks)
    return replace(contract, projection=projection, filters=visible_filters(contract, masks))
