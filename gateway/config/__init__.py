"""Settings: a file, then the environment, then flags; all that is wrong is said at once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import InitSettingsSource

from gateway.config.auth import IssuerSettings
from gateway.config.kafka import ClusterSettings
from gateway.config.schema import Key, allowed_at, find_field, is_secret, nearest_key, spell_key
from gateway.config.settings import Settings
from gateway.config.sources import Source, read_environment, read_file, read_flags
from gateway.config.values import masked
from gateway.errors import ConfigurationProblems

__all__ = ["DEFAULT_FILE", "ClusterSettings", "IssuerSettings", "Settings", "load_settings"]

DEFAULT_FILE = Path("gateway.toml")


def load_settings(
    config: Path | None = None,
    *,
    environ: Mapping[str, str],
    overrides: Mapping[str, object] = MappingProxyType({}),
) -> Settings:
    """The settings from ``config`` (else ``gateway.toml`` here, if there is one), ``environ`` and ``overrides``.

    Later sources win. ``overrides`` has dotted names. Raises ConfigurationProblems with every problem of every source:
    where it stands, the setting, its value unless it is a secret, and what is allowed.
    """
    sources = [read_environment(environ), read_flags(overrides)]
    if config is not None or DEFAULT_FILE.is_file():
        sources.insert(0, read_file(config or DEFAULT_FILE))
    problems = [problem for source in sources for problem in source.problems]
    layers = tuple(InitSettingsSource(Settings, init_kwargs=source.values) for source in reversed(sources))
    try:
        settings = Settings(_build_sources=(layers, {}))
    except ValidationError as error:
        details = error.errors(include_url=False)
        places = _merge_places(sources)
        problems += [_explain(detail, places) for detail in details if not _follows_from_others(detail, details)]
    if problems:
        raise ConfigurationProblems(problems)
    return settings


def _follows_from_others(detail: ErrorDetails, details: list[ErrorDetails]) -> bool:
    """Whether it only says that a part is wrong, or that a default could not be derived from a wrong value."""
    key = detail["loc"]
    inner = any(len(other["loc"]) > len(key) and other["loc"][: len(key)] == key for other in details)
    return detail["type"] == "default_factory_not_called" or inner


def _explain(detail: ErrorDetails, places: Mapping[Key, str]) -> str:
    """One complete line for one of pydantic's errors."""
    key: Key = detail["loc"][:-1] if detail["loc"][-1:] == ("[key]",) else detail["loc"]
    name, kind = spell_key(key), detail["type"]
    place = _place_of(key, places)
    where = f"{place}: {name}" if name else place
    if kind == "extra_forbidden":
        nearest = nearest_key(key)
        return f"{where}: no such setting" + (f"; did you mean {spell_key(nearest)}?" if nearest else "")
    field = find_field(key)
    if kind == "missing":
        return f"{where} is missing: {field.description if field else 'it must be given'}"
    if kind == "value_error" and field is None:
        return f"{where}: {detail['ctx']['error']}"
    shown = "***" if field is not None and is_secret(field) else masked(detail["input"])
    if kind == "value_error":
        return f"{where} = {shown}: {detail['ctx']['error']}"
    return f"{where} = {shown}: must be {allowed_at(key)}"


def _merge_places(sources: list[Source]) -> dict[Key, str]:
    """Where each value that counts stands: one given again later hides the earlier one and all that was inside it."""
    merged: dict[Key, str] = {}
    for source in sources:
        hidden = {old for new in source.places if new for old in merged if old[: len(new)] == new}
        merged = {key: place for key, place in merged.items() if key not in hidden} | source.places
    return merged


def _place_of(key: Key, places: Mapping[Key, str]) -> str:
    """Where the value at ``key`` stands, or else the closest thing around it or inside it."""
    best, found = (0, False), "settings"
    for known, place in places.items():
        rank = (min(len(known), len(key)), known == key)
        if rank > best and (known[: len(key)] == key or key[: len(known)] == known):
            best, found = rank, place
    return found
