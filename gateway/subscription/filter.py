"""The partner's own filter: ``name:op:value`` terms, parsed against the contract, and what they say of a value.

No regular expressions and no expressions: every term costs a comparison or a set look-up. A term on an absent field is
false, ``ne`` too, and so is one on a value of another type or on null; only ``exists`` tells absence.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from gateway.errors import InvalidParameter
from gateway.model import FieldType, FilterField

MAX_TERMS: Final = 20
MAX_VALUE_CHARACTERS: Final = 1000
MAX_CHOICES: Final = 100
_SHOWN: Final = 80

OPS_BY_TYPE: Final[dict[FieldType, tuple[str, ...]]] = {
    "string": ("eq", "ne", "in", "lt", "le", "gt", "ge", "prefix", "exists"),
    "number": ("eq", "ne", "in", "lt", "le", "gt", "ge", "exists"),
    "integer": ("eq", "ne", "in", "lt", "le", "gt", "ge", "exists"),
    "boolean": ("eq", "ne", "in", "exists"),
}
_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,300})(\.[0-9]{1,300})?([eE][+-]?[0-9]{1,3})?", re.ASCII)
_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,300})", re.ASCII)

Comparable = str | int | float | bool


@dataclass(frozen=True, slots=True)
class Term:
    """One condition. ``values`` holds one value, or for ``in`` several; for ``exists`` a boolean."""

    name: str
    pointer: str
    type: FieldType
    op: str
    values: frozenset[Comparable]

    @property
    def is_equality(self) -> bool:
        """Whether a look-up of the value decides it."""
        return self.op in ("eq", "in")


_NO_TERMS: Final[frozenset[Term]] = frozenset()


def parse_terms(texts: Sequence[str], fields: Sequence[FilterField]) -> frozenset[Term]:
    """The terms of all ``filter`` parameters; all have to hold. Raises InvalidParameter naming what is allowed."""
    if len(texts) > MAX_TERMS:
        raise InvalidParameter(f"filter is given {len(texts)} times; at most {MAX_TERMS} terms are allowed.")
    if not texts:
        # One for all: an empty set of its own would weigh on each of many idle reads.
        return _NO_TERMS
    known = {field.name: field for field in fields}
    return frozenset(_parse_term(text, known) for text in texts)


def _parse_term(text: str, known: dict[str, FilterField]) -> Term:
    name, colon, rest = text.partition(":")
    op, second, value = rest.partition(":")
    if not colon or not second:
        raise InvalidParameter(f"filter={_show(text)} is not allowed; write name:op:value, for example mag:ge:4.5.")
    field = known.get(name)
    if field is None:
        allowed = f"allowed: {', '.join(sorted(known))}" if known else "this stream has no filters"
        raise InvalidParameter(f"filter names {_show(name)}, which cannot be filtered on; {allowed}.")
    allowed_ops = OPS_BY_TYPE[field.type]
    if op not in allowed_ops:
        raise InvalidParameter(f"filter op {_show(op)} is not allowed on {name}; allowed: {', '.join(allowed_ops)}.")
    if len(value) > MAX_VALUE_CHARACTERS:
        raise InvalidParameter(f"filter on {name}: the value is longer than {MAX_VALUE_CHARACTERS} characters.")
    if op == "exists":
        return Term(name, field.pointer, field.type, op, frozenset({_boolean(name, value)}))
    parts = _choices(name, value) if op == "in" else [value]
    return Term(name, field.pointer, field.type, op, frozenset(_typed(name, field.type, part) for part in parts))


def _choices(name: str, value: str) -> list[str]:
    r"""A comma list; a literal comma is ``\,`` and a literal backslash ``\\``."""
    parts, escaped = [""], False
    for character in value:
        if escaped:
            if character not in ",\\":
                raise InvalidParameter(rf"filter on {name}: after a backslash only , or \ may follow.")
            parts[-1] += character
            escaped = False
        elif character == "\\":
            escaped = True
        elif character == ",":
            parts.append("")
        else:
            parts[-1] += character
    if escaped:
        raise InvalidParameter(f"filter on {name}: the value ends in a lone backslash.")
    if len(parts) > MAX_CHOICES:
        raise InvalidParameter(f"filter on {name}: in takes at most {MAX_CHOICES} values.")
    return parts


def _typed(name: str, kind: FieldType, text: str) -> Comparable:
    if kind == "string":
        return text
    if kind == "boolean":
        return _boolean(name, text)
    if kind == "integer":
        if not _INTEGER.fullmatch(text):
            raise InvalidParameter(f"filter on {name}: {_show(text)} is not an integer; allowed: digits such as -7.")
        return int(text)
    if not _NUMBER.fullmatch(text):
        raise InvalidParameter(f"filter on {name}: {_show(text)} is not a JSON number; allowed: 4.5, -1e3.")
    number = int(text) if _INTEGER.fullmatch(text) else float(text)
    if number in (float("inf"), float("-inf")):
        raise InvalidParameter(f"filter on {name}: {_show(text)} is beyond the range of numbers.")
    return number


def _boolean(name: str, text: str) -> bool:
    if text not in ("true", "false"):
        raise InvalidParameter(f"filter on {name}: {_show(text)} is not allowed; allowed: true, false.")
    return text == "true"


def _show(text: str) -> str:
    shown = "".join(c if c.isprintable() else "?" for c in text[:_SHOWN])
    return repr(shown + ("…" if len(text) > _SHOWN else ""))


ABSENT: Final = object()
"""What a field that is not there reads as; null reads as None."""


def predicate(term: Term) -> Callable[[Any], bool]:
    """The term as a test of one decoded value: a scalar, None for null, ABSENT, or anything else for a container."""
    if term.op == "exists":
        wanted = True in term.values
        return lambda value: (value is not ABSENT) is wanted
    is_type = _IS_TYPE[term.type]
    values = term.values
    if term.is_equality:
        return lambda value: is_type(value) and value in values
    (one,) = values
    if term.op == "ne":
        return lambda value: is_type(value) and value != one
    if term.op == "prefix":
        return lambda value: isinstance(value, str) and value.startswith(str(one))
    compare: Callable[[Any, Any], bool] = getattr(operator, term.op)
    return lambda value: is_type(value) and compare(value, one)


def chooser(term: Term, *, always: object) -> Callable[[Sequence[int], Sequence[Any]], list[int]]:
    """The term as a choice among many: of the places given, those whose values pass ``predicate`` or are ``always``.

    One comprehension and no frame of ours for each value, since this is done for every record and view. Values have the
    very types that decoders make.
    """
    if term.op == "exists":
        wanted = True in term.values

        def existing(places: Sequence[int], values: Sequence[Any]) -> list[int]:
            return [at for at in places if (values[at] is not ABSENT) is wanted or values[at] is always]

        return existing
    types = _TYPES[term.type]
    compare, operand = _comparison(term)

    def passing(places: Sequence[int], values: Sequence[Any]) -> list[int]:
        return [
            at for at in places if (type(value := values[at]) in types and compare(value, operand)) or value is always
        ]

    return passing


def _comparison(term: Term) -> tuple[Callable[[Any, Any], bool], Any]:
    """A function of value and operand: for all that is no equality one in C."""
    if term.is_equality:
        return (lambda value, choices: value in choices), term.values
    (one,) = term.values
    return (str.startswith if term.op == "prefix" else getattr(operator, term.op)), one


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_IS_TYPE: Final[dict[FieldType, Callable[[Any], bool]]] = {
    "string": lambda value: isinstance(value, str),
    "number": _is_number,
    "integer": _is_number,
    "boolean": lambda value: isinstance(value, bool),
}
_TYPES: Final[dict[FieldType, tuple[type, ...]]] = {
    "string": (str,),
    "number": (float, int),
    "integer": (int, float),
    "boolean": (bool,),
}
