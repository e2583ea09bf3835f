"""Whether a sample value fits a schema, as far as a look can tell: what shows wrong samples in a document is refused.

Not a validator: formats and rare keywords are passed over, so a value may be said to fit that does not, and where
numbers or texts are beyond a quick look it is said not to. It errs towards leaving samples out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final


def is_number(value: Any) -> bool:
    """Whether it is a JSON number; Python's booleans are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    return is_number(value) and (isinstance(value, int) or value.is_integer())


_OF_TYPE: Final[Mapping[str, Callable[[Any], bool]]] = {
    "null": lambda value: value is None,
    "boolean": lambda value: isinstance(value, bool),
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "number": is_number,
    "integer": _is_whole,
    "string": lambda value: isinstance(value, str),
}

_DAY: Final = r"[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9])"
_TIME: Final = r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
_FORMATS: Final[Mapping[str, re.Pattern[str]]] = {
    "date": re.compile(_DAY),
    "date-time": re.compile(f"{_DAY}T{_TIME}"),
    "email": re.compile(r"[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z]{2,24}){1,4}"),
    "uri": re.compile(r"https?://[a-z0-9.-]+(/[A-Za-z0-9._/-]*)?"),
    "uuid": re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"),
}


def fits(value: Any, schema: Any) -> bool:
    """Whether ``value`` fits ``schema``, which is one that ``SchemaCut`` made."""
    if isinstance(schema, bool):
        return schema
    kinds = schema.get("type")
    if kinds is not None and not any(_OF_TYPE[kind](value) for kind in ([kinds] if isinstance(kinds, str) else kinds)):
        return False
    if "enum" in schema and not any(_same(value, one) for one in schema["enum"]):
        return False
    if "const" in schema and not _same(value, schema["const"]):
        return False
    for keyword, holds in (("allOf", all), ("anyOf", any), ("oneOf", lambda found: sum(found) == 1)):
        if keyword in schema and not holds([fits(value, one) for one in schema[keyword]]):
            return False
    if "not" in schema and fits(value, schema["not"]):
        return False
    if "if" in schema:
        branch = "then" if fits(value, schema["if"]) else "else"
        if not fits(value, schema.get(branch, True)):
            return False
    if isinstance(value, dict):
        return _object_fits(value, schema)
    if isinstance(value, list):
        return _array_fits(value, schema)
    if isinstance(value, str):
        return _text_fits(value, schema)
    return not is_number(value) or _number_fits(value, schema)


def _object_fits(value: Mapping[str, Any], schema: Mapping[str, Any]) -> bool:
    if not schema.get("minProperties", 0) <= len(value) <= schema.get("maxProperties", len(value)):
        return False
    if any(name not in value for name in schema.get("required", ())):
        return False
    properties, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
    for name, member in value.items():
        told = [properties[name]] if name in properties else []
        told += [one for pattern, one in patterns.items() if re.search(pattern, name)]
        told = told or [schema.get("additionalProperties", True)]
        if not all(fits(member, one) for one in told) or not fits(name, schema.get("propertyNames", True)):
            return False
    return "dependentSchemas" not in schema and "unevaluatedProperties" not in schema


def _array_fits(value: list[Any], schema: Mapping[str, Any]) -> bool:
    if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
        return False
    items, rest = schema.get("items", True), schema.get("additionalItems", True)
    first = schema.get("prefixItems", [])
    if isinstance(items, list):
        first = items
    else:
        rest = items
    if not all(fits(one, schema_) for one, schema_ in zip(value, first, strict=False)):
        return False
    if not all(fits(one, rest) for one in value[len(first) :]):
        return False
    if "contains" in schema and not any(fits(one, schema["contains"]) for one in value):
        return False
    spelled = [canonical(one) for one in value]
    return "unevaluatedItems" not in schema and (not schema.get("uniqueItems") or len(set(spelled)) == len(spelled))


def _text_fits(value: str, schema: Mapping[str, Any]) -> bool:
    if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)):
        return False
    if "pattern" in schema and not re.search(schema["pattern"], value):
        return False
    wanted = schema.get("format")
    # Tools check formats each in its own way: samples of the few that can be told from a look are shown.
    return wanted is None or (wanted in _FORMATS and _FORMATS[wanted].fullmatch(value) is not None)


def _number_fits(value: int | float, schema: Mapping[str, Any]) -> bool:
    if "multipleOf" in schema and not _divides(schema["multipleOf"], value):
        return False
    return (
        schema.get("minimum", value) <= value <= schema.get("maximum", value)
        and not ("exclusiveMinimum" in schema and value <= schema["exclusiveMinimum"])
        and not ("exclusiveMaximum" in schema and value >= schema["exclusiveMaximum"])
    )


def _divides(step: int | float, value: int | float) -> bool:
    return isinstance(step, int) and isinstance(value, int) and value % step == 0


def _same(one: Any, other: Any) -> bool:
    return canonical(one) == canonical(other)


def canonical(value: Any) -> str:
    """Equal for values that JSON Schema calls equal: 1 and 1.0 are, 1 and true are not."""
    return json.dumps(_normal(value), sort_keys=True, default=str)


def _normal(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _normal(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_normal(one) for one in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
