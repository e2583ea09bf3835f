"""Where settings come from: a TOML file, the environment, flags. Each source knows where every value of it stands."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from gateway.config.schema import (
    ANY_INDEX,
    Key,
    allowed_by,
    find_field,
    inner_model,
    is_list,
    is_of_kind,
    is_path,
    nearest_key,
    spell_key,
    takes_commas,
    walk_fields,
)
from gateway.config.settings import Settings
from gateway.config.values import masked

PREFIX = "GATEWAY_"
OTHER_VARIABLES = frozenset({"GATEWAY_TOKEN"})
"""Variables of the same prefix that are not settings: the access token of ``gateway tail``."""

# A Kubernetes service called "gateway" puts these into every pod of its namespace; they are not ours to judge.
_KUBERNETES = re.compile(r"GATEWAY_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)")


@dataclass(slots=True)
class Source:
    """Values as nested tables, where each stands, and what could not be read."""

    values: dict[str, Any] = field(default_factory=dict)
    places: dict[Key, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def put(self, key: Key, value: object, place: str) -> None:
        """Set one value; ``key`` is a valid setting's."""
        table = self.values
        for step in key[:-1]:
            table = table.setdefault(str(step), {})
        table[str(key[-1])] = value
        self.places[key] = place


def read_file(path: Path) -> Source:
    """A TOML file. Relative paths in it count from the file's directory; nothing is raised, problems are kept."""
    source = Source()
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        source.problems.append(f"{path}: cannot be read: {error.strerror}; give the path of a TOML file to --config")
        return source
    except UnicodeDecodeError:
        source.problems.append(f"{path}: is not UTF-8 text")
        return source
    try:
        source.values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        line = re.search(r"at line (\d+)", str(error))
        place = f"{path}:{line[1] if line else len(text.splitlines())}"
        source.problems.append(f"{place}: is not TOML: {error}")
        return source
    source.places = {(): str(path)} | {key: f"{path}:{line}" for key, line in find_lines(text)}
    _check_kinds(source)
    _anchor(source.values, path.parent)
    return source


def read_environment(environ: Mapping[str, str]) -> Source:
    """``GATEWAY_<SECTION>__<NAME>`` variables: ``__`` before each level, lists as JSON; an empty one is not set."""
    source = Source()
    for name in sorted(environ):
        if not name.startswith(PREFIX) or name in OTHER_VARIABLES or _KUBERNETES.fullmatch(name):
            continue
        key: Key = tuple(name.removeprefix(PREFIX).lower().split("__"))
        if find_field(key) is None:
            nearest = _nearest_variable(name, key)
            hint = f"; did you mean {nearest}?" if nearest else ""
            source.problems.append(f"{name}: no such setting{hint}")
        elif environ[name] != "":
            _put_text(source, key, environ[name], name)
    return source


def read_flags(overrides: Mapping[str, object]) -> Source:
    """Values by dotted name, as ``--set`` gives them; text is read as in the environment."""
    source = Source()
    for name, value in overrides.items():
        key: Key = tuple(name.split("."))
        place = f"--set {name}"
        if find_field(key) is None:
            nearest = nearest_key(key)
            hint = f"; did you mean {spell_key(nearest)}?" if nearest else ""
            source.problems.append(f"{place}: no such setting{hint}")
        elif isinstance(value, str):
            _put_text(source, key, value, place)
        else:
            source.put(key, value, place)
    return source


def spell_variable(key: Key) -> str:
    """The environment variable of a setting."""
    return PREFIX + "__".join(str(step).upper() for step in key if step != ANY_INDEX)


def _nearest_variable(name: str, key: Key) -> str | None:
    known = [spell_variable(setting) for setting, _ in walk_fields(Settings)]
    nearest = nearest_key(key) if len(key) > 1 else None
    if nearest is not None and find_field(nearest) is not None:
        return spell_variable(nearest)
    return next(iter(get_close_matches(name, known, n=1, cutoff=0.75)), None)


def _put_text(source: Source, key: Key, text: str, place: str) -> None:
    setting = find_field(key)
    if setting is None or not is_list(setting) or (takes_commas(setting) and not text.lstrip().startswith("[")):
        source.put(key, text, place)
        return
    try:
        source.put(key, json.loads(text), place)
    except ValueError:
        source.problems.append(f'{place}: {spell_key(key)} must be JSON here, such as ["a", "b"] for a list')


def _check_kinds(source: Source) -> None:
    """Take out of the source, with a problem line, what is no truth value where one belongs, or is one elsewhere."""
    for model, table, key in _tables(Settings, source.values):
        for name, setting in model.model_fields.items():
            if name in table and inner_model(setting)[1] is None and not is_of_kind(setting, table[name]):
                where = (*key, name)
                said = f"{spell_key(where)} = {masked(table.pop(name))}: must be {allowed_by(setting)}"
                source.problems.append(f"{source.places.get(where, source.places[()])}: {said}")


def _anchor(values: dict[str, Any], base: Path) -> None:
    """Make the relative paths of the settings count from ``base``."""
    for model, table, _ in _tables(Settings, values):
        for name, setting in model.model_fields.items():
            if is_path(setting) and isinstance(table.get(name), str):
                table[name] = str(base / table[name])


def _tables(
    model: type[BaseModel], table: dict[str, Any], key: Key = ()
) -> Iterator[tuple[type[BaseModel], dict[str, Any], Key]]:
    """The table and all tables inside it, each with what it has to be and with its place."""
    yield model, table, key
    for name, setting in model.model_fields.items():
        value = table.get(name)
        many, inner = inner_model(setting)
        if inner is None:
            continue
        here: Key = (*key, name)
        entries: list[tuple[Key, Any]] = [(here, value)]
        if many == ANY_INDEX:
            entries = [((*here, place), one) for place, one in enumerate(value if isinstance(value, list) else [])]
        elif many is not None:
            entries = [((*here, one), value[one]) for one in value] if isinstance(value, dict) else []
        for where, entry in entries:
            if isinstance(entry, dict):
                yield from _tables(inner, entry, where)


def find_lines(text: str) -> Iterator[tuple[Key, int]]:
    """The line at which each key of a valid TOML text begins.

    tomllib keeps no positions. A statement ends at the first line with which it is valid TOML by itself, so lines are
    gathered until they are, and the statement is then read under its table's header alone.
    """
    header: Key = ()
    counts: dict[Key, int] = {}
    pending, first = "", 1
    for number, line in enumerate(text.splitlines(), 1):
        first = first if pending else number
        pending += line + "\n"
        try:
            parsed = tomllib.loads(pending)
        except tomllib.TOMLDecodeError:
            continue
        if pending.lstrip().startswith("["):
            header = tuple(_only_path(parsed))
            if pending.lstrip().startswith("[["):
                counts[header] = counts.get(header, -1) + 1
                header = (*header, counts[header])
            yield header, first
        else:
            for key in _paths(parsed):
                yield (*header, *key), first
        pending = ""


def _only_path(parsed: dict[str, Any]) -> Iterator[str]:
    node: Any = parsed
    while isinstance(node, dict) and node:
        name, node = next(iter(node.items()))
        yield name


def _paths(parsed: Any, prefix: Key = ()) -> Iterator[Key]:
    if prefix:
        yield prefix
    children = parsed.items() if isinstance(parsed, dict) else enumerate(parsed) if isinstance(parsed, list) else ()
    for step, child in children:
        yield from _paths(child, (*prefix, step))
