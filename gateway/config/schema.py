"""Settings as a table: what names there are, what each allows, and which one was probably meant."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Le
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from gateway.config.settings import Settings

Key = tuple[str | int, ...]
"""Where a value stands: section, setting, then names and indexes inside it."""

ANY_NAME = "<name>"
ANY_INDEX = "[]"


@dataclass(frozen=True, slots=True)
class SettingRow:
    """One setting as the reference page shows it. ``default`` is None where a value must be given."""

    name: str
    type: str
    default: str | None
    meaning: str
    secret: bool


def describe_settings() -> list[SettingRow]:
    """Every setting in the order of the sections; tables in lists and by name stand with ``[]`` and ``<name>``."""
    return [
        SettingRow(
            name=spell_key(key),
            type=allowed_by(field),
            default=_default_of(field),
            meaning=field.description or "",
            secret=is_secret(field),
        )
        for key, field in walk_fields(Settings)
    ]


def walk_fields(model: type[BaseModel], prefix: Key = ()) -> Iterator[tuple[Key, FieldInfo]]:
    """Every setting below ``model``; a list or map of tables is there itself and then the settings of its tables."""
    for name, field in model.model_fields.items():
        key = (*prefix, name)
        step, inner = inner_model(field)
        if inner is None:
            yield key, field
            continue
        if step is not None:
            yield key, field
            key = (*key, step)
        yield from walk_fields(inner, key)


def inner_model(field: FieldInfo) -> tuple[str | None, type[BaseModel] | None]:
    """The tables a field holds: ``(None, model)`` itself one, ``(ANY_NAME | ANY_INDEX, model)`` many, or no model."""
    annotation = field.annotation
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return None, annotation
    arguments = get_args(annotation)
    if get_origin(annotation) is dict:
        return ANY_NAME, arguments[1]
    if get_origin(annotation) is tuple and isinstance(arguments[0], type) and issubclass(arguments[0], BaseModel):
        return ANY_INDEX, arguments[0]
    return None, None


def find_field(key: Key) -> FieldInfo | None:
    """The setting that ``key`` names or lies in; None for a section and for names that do not exist."""
    model: type[BaseModel] | None = Settings
    field: FieldInfo | None = None
    steps = list(key)
    while steps:
        step = steps.pop(0)
        if model is None:
            return field if isinstance(step, int) else None
        field = model.model_fields.get(str(step))
        if field is None:
            return None
        many, model = inner_model(field)
        if many is not None:
            if not steps:
                return field
            steps.pop(0)
    return field if model is None else None


def _model_at(key: Key) -> type[BaseModel] | None:
    model: type[BaseModel] = Settings
    steps = iter(key)
    for step in steps:
        field = model.model_fields.get(str(step))
        many, inner = inner_model(field) if field else (None, None)
        if inner is None or (many is not None and next(steps, None) is None):
            return None
        model = inner
    return model


def nearest_key(key: Key) -> Key | None:
    """The valid name most like an unknown one: a sibling where its table exists, else any setting or section."""
    model = _model_at(key[:-1])
    if model is not None:
        siblings = get_close_matches(str(key[-1]), list(model.model_fields), n=1)
        if siblings:
            return (*key[:-1], siblings[0])
    known: dict[str, Key] = {spell_key(name): name for name, _ in walk_fields(Settings)}
    if len(key) == 1:
        known = {name: (name,) for name in Settings.model_fields} | known
    found = get_close_matches(spell_key(key), list(known), n=1, cutoff=0.75)
    return known[found[0]] if found else None


def spell_key(key: Key) -> str:
    """``auth.issuers[0].name`` for ``("auth", "issuers", 0, "name")``."""
    text = ""
    for step in key:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            text += step if step == ANY_INDEX or not text else f".{step}"
    return text


def is_secret(field: FieldInfo) -> bool:
    """Whether the setting's value may never be printed."""
    return _holds(field.annotation, SecretStr)


def is_path(field: FieldInfo) -> bool:
    """Whether the setting is a path, which in a file counts from the file's own directory."""
    return _holds(field.annotation, Path)


def is_of_kind(field: FieldInfo, value: object) -> bool:
    """Whether a value that has a type of its own is true or false where the setting is, and only there.

    Text that says ``no`` is no answer to a yes-or-no question in a file: ``"false"`` is true to many readers.
    """
    if field.annotation is bool:
        return isinstance(value, bool)
    is_number = _holds(field.annotation, int) or _holds(field.annotation, float)
    return not (is_number and isinstance(value, bool))


def is_list(field: FieldInfo) -> bool:
    """Whether the setting holds several values or tables."""
    return get_origin(field.annotation) in (tuple, dict)


def takes_commas(field: FieldInfo) -> bool:
    """Whether a list may also be written as text with commas."""
    return "commas" in _extra(field).get("allowed", "")


def allowed_by(field: FieldInfo) -> str:
    """What the setting's value may be, in words: for the reference page and for every complaint about a value."""
    allowed = _extra(field).get("allowed")
    return allowed or _phrase(field.annotation, field.metadata)


def allowed_at(key: Key) -> str:
    """What a value at ``key`` may be, where ``key`` may point into a list."""
    field = find_field(key)
    if field is None:
        return "a table of settings"
    if isinstance(key[-1], int) and get_origin(field.annotation) is tuple and "allowed" not in _extra(field):
        return _phrase(get_args(field.annotation)[0], [])
    return allowed_by(field)


def _phrase(annotation: Any, metadata: list[Any]) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _phrase(arguments[0], [*metadata, *arguments[1:]])
    if origin in (UnionType, Union):
        return next(_phrase(argument, metadata) for argument in arguments if argument is not NoneType)
    if origin is Literal:
        return " or ".join(arguments) if len(arguments) < 3 else f"one of {', '.join(arguments)}"
    if origin is tuple:
        inner = arguments[0]
        tables = isinstance(inner, type) and issubclass(inner, BaseModel)
        what = "tables" if tables else _phrase(inner, []).replace("one of", "any of").replace("text", "texts")
        return f"a list of {what}"
    if annotation is bool:
        return "true or false"
    if annotation in (int, float):
        kind = "a whole number" if annotation is int else "a number"
        low = next((item.ge for item in metadata if isinstance(item, Ge)), None)
        high = next((item.le for item in metadata if isinstance(item, Le)), None)
        size = any(getattr(getattr(item, "func", None), "__name__", "") == "read_size" for item in metadata)
        unit = " of bytes (or text such as 64 MiB)" if size else ""
        return (
            f"{kind}{unit}" + (f" from {low}" if low is not None else "") + (f" to {high}" if high is not None else "")
        )
    return {Path: "a path"}.get(annotation, "text")


def _default_of(field: FieldInfo) -> str | None:
    shown = _extra(field).get("shown_default")
    if shown is not None or field.is_required():
        return shown
    default = field.get_default(call_default_factory=False)
    if default is None or default == ():
        return "none"
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, tuple):
        return ", ".join(map(str, default))
    return f"{default:g}" if isinstance(default, float) else str(default)


def _extra(field: FieldInfo) -> dict[str, str]:
    extra = field.json_schema_extra
    return {key: str(value) for key, value in extra.items()} if isinstance(extra, dict) else {}


def _holds(annotation: Any, kind: type) -> bool:
    return annotation is kind or any(_holds(argument, kind) for argument in get_args(annotation))
