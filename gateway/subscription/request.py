"""What a partner asks for, parsed and checked before anything is opened."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Literal
from urllib.parse import parse_qsl

from gateway.errors import BadRequest, InvalidParameter, UnknownParameter
from gateway.model import Transport
from gateway.units import parse_rfc3339

MAX_PARAMETERS: Final = 100
_MAX_MILLIS: Final = 253_402_300_799_999
_MAX_BYTES: Final = 64 * 1024 * 1024
_SHOWN: Final = 80


@dataclass(frozen=True, slots=True)
class Start:
    """Where a read starts: at a cursor, at a time in epoch milliseconds, or at one of the ends. One of the three."""

    at: Literal["latest", "earliest", "time", "cursor"] = "latest"
    millis: int = 0
    cursor: str = ""


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """One read as asked for. ``shard`` is (index, count). The last three matter to pull only."""

    start: Start = Start()
    filters: tuple[str, ...] = ()
    fields: str | None = None
    envelope: Literal["record", "cloudevents", "none"] = "record"
    shard: tuple[int, int] = (0, 1)
    on_gap: Literal["continue", "error"] = "continue"
    limit: int = 100
    max_bytes: int = 1024 * 1024
    wait_seconds: float = 0.0


PULL_ONLY: Final = ("limit", "max_bytes", "wait")
EVERYWHERE: Final = ("from", "cursor", "last_event_id", "on_gap", "filter", "fields", "envelope", "shard")
BUT_PULL: Final = ("ticket",)
"""Credentials in the address. Who asks is found out before what is asked for: nothing of it is left to parse."""

LISTING: Final = ("limit", "next")
ENVELOPES: Final = ("record", "cloudevents", "none")
MAX_SHARDS: Final = 64


def parse_query(query: bytes, *, repeatable: tuple[str, ...] = ()) -> dict[str, list[str]]:
    """The query's parameters, each once but the repeatable ones.

    Raises BadRequest for what cannot be read, is empty or stands twice.
    """
    try:
        pairs = parse_qsl(
            query.decode("ascii"),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=MAX_PARAMETERS,
        )
    except UnicodeDecodeError:
        raise BadRequest("The query string is not UTF-8.") from None
    except ValueError:
        raise BadRequest(f"The query string has more than {MAX_PARAMETERS} parameters.") from None
    found: dict[str, list[str]] = {}
    for name, value in pairs:
        if name in found and name not in repeatable:
            raise InvalidParameter(f"The parameter {_show(name)} is given twice; once is allowed.")
        if not value:
            raise InvalidParameter(f"The parameter {_show(name)} is empty; leave it out or give it a value.")
        found.setdefault(name, []).append(value)
    return found


@lru_cache(maxsize=1024)
def parse_read(query: bytes, *, transport: Transport, last_event_id: str | None = None) -> ReadRequest:
    """The read asked for. ``last_event_id`` is the header, which wins over the query (WHATWG HTML §9.2.4).

    Remembered, because most readers of a stream ask for the same: one object is kept for as long as they read.

    Raises UnknownParameter and InvalidParameter, each naming what is allowed.
    """
    every = parse_query(query, repeatable=("filter",))
    given = {name: values[0] for name, values in every.items()}
    allowed = EVERYWHERE + (PULL_ONLY if transport == "pull" else BUT_PULL)
    for name in given:
        if name in PULL_ONLY and name not in allowed:
            raise InvalidParameter(f"The parameter {name} belongs to HTTP pull only.")
        if name not in allowed:
            raise UnknownParameter(f"The parameter {_show(name)} is not known here; allowed: {', '.join(allowed)}.")
    return ReadRequest(
        start=_start(given, last_event_id),
        filters=tuple(every.get("filter", ())),
        fields=given.get("fields"),
        envelope=_choice(given, "envelope", ENVELOPES, "record"),
        shard=_shard(given.get("shard")),
        on_gap=_choice(given, "on_gap", ("continue", "error"), "continue"),
        limit=_whole(given, "limit", 1, 1000, 100),
        max_bytes=_whole(given, "max_bytes", 1, _MAX_BYTES, 1024 * 1024),
        wait_seconds=_seconds(given, "wait", 30, 0),
    )


def parse_nothing(query: bytes) -> None:
    """For addresses without parameters. Raises UnknownParameter."""
    parse_only(query, ())


def parse_only(query: bytes, allowed: tuple[str, ...]) -> dict[str, str]:
    """The parameters, each once and none but these. Raises UnknownParameter and InvalidParameter."""
    given = {name: values[0] for name, values in parse_query(query).items()}
    for name in given:
        if name not in allowed:
            told = f"allowed: {', '.join(allowed)}." if allowed else "none is."
            raise UnknownParameter(f"The parameter {_show(name)} is not known here; {told}")
    return given


def parse_listing(query: bytes) -> tuple[int, str]:
    """A page of a list: most entries (``limit``), and the name to go on behind (``next``, empty at the start)."""
    given = parse_only(query, LISTING)
    return _whole(given, "limit", 1, 1000, 1000), given.get("next", "")


def _start(given: Mapping[str, str], last_event_id: str | None) -> Start:
    if "cursor" in given and "last_event_id" in given:
        raise InvalidParameter("cursor and last_event_id mean the same; give one of them.")
    origin = _from(given["from"]) if "from" in given else Start()
    cursor = last_event_id or given.get("cursor") or given.get("last_event_id")
    return Start("cursor", cursor=cursor) if cursor else origin


def _from(text: str) -> Start:
    if text == "latest":
        return Start("latest")
    if text == "earliest":
        return Start("earliest")
    if re.fullmatch(r"[0-9]{1,15}", text, re.ASCII):
        millis = int(text)
    else:
        try:
            # A plus that was not escaped arrives as a space.
            millis = parse_rfc3339(text.replace(" ", "+"))
        except ValueError:
            millis = -1
    if not 0 <= millis <= _MAX_MILLIS:
        raise InvalidParameter(
            f"from={_show(text)} is not allowed; use latest, earliest, an RFC 3339 time such as "
            "2026-11-22T10:00:00Z from 1970 on, or epoch milliseconds."
        )
    return Start("time", millis=millis)


def _shard(text: str | None) -> tuple[int, int]:
    if text is None:
        return (0, 1)
    match = re.fullmatch(r"([0-9]{1,2})/([0-9]{1,2})", text, re.ASCII)
    index, count = (int(part) for part in match.groups()) if match else (0, 0)
    if not 0 <= index < count <= MAX_SHARDS:
        raise InvalidParameter(
            f"shard={_show(text)} is not allowed; write i/n with 0 ≤ i < n ≤ {MAX_SHARDS}, for example 0/4."
        )
    return (index, count)


def _choice(given: Mapping[str, str], name: str, allowed: tuple[str, ...], default: str) -> Any:
    value = given.get(name, default)
    if value not in allowed:
        raise InvalidParameter(f"{name}={_show(value)} is not allowed; allowed: {', '.join(allowed)}.")
    return value


def _whole(given: Mapping[str, str], name: str, low: int, high: int, default: int) -> int:
    text = given.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"[0-9]{1,12}", text, re.ASCII) or not low <= int(text) <= high:
        raise InvalidParameter(f"{name}={_show(text)} is not allowed; give a whole number from {low} to {high}.")
    return int(text)


def _seconds(given: Mapping[str, str], name: str, high: int, default: float) -> float:
    text = given.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,6})?", text, re.ASCII) or float(text) > high:
        raise InvalidParameter(f"{name}={_show(text)} is not allowed; give seconds from 0 to {high}.")
    return float(text)


def _show(text: str) -> str:
    """What the partner sent, bounded and without controls, for an error's detail."""
    shown = "".join(c if c.isprintable() else "?" for c in text[:_SHOWN])
    return shown + ("…" if len(text) > _SHOWN else "")
