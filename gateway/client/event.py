"""What a partner hears, one type for all protocols, and how JSON frames and pull pages become it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final, Literal, cast, get_args

from gateway.client import jsontext

Kind = Literal["record", "checkpoint", "gap", "throttled", "auth_expiring", "welcome", "goodbye", "error"]
Envelope = Literal["record", "cloudevents", "none"]

KINDS: Final[frozenset[str]] = frozenset(get_args(Kind))
_TYPED_RECORD: Final = '{"type":"record",'


class MalformedEvent(ValueError):
    """Something came that the protocol does not allow; nothing after it on this connection can be trusted."""


@dataclass(frozen=True, slots=True)
class Event:
    """One thing heard.

    ``cursor``: a reading goes on from here when this event has been dealt with; None where the event does not move it.
    ``text``: JSON. A record's is what the gateway sent, digit for digit, and the same on every protocol: its ``id`` is
    in it and its ``type`` is not.
    """

    kind: Kind
    cursor: str | None
    text: str

    @property
    def data(self) -> Any:
        """``text`` as values, parsed anew at every call. Raises ValueError."""
        return jsontext.parse(self.text)


def decode_frame(text: str) -> Event | None:
    """One frame of WebSocket or NDJSON; None for a type that this client does not know. Raises MalformedEvent."""
    parts = _members(text)
    if "specversion" in parts:
        # A CloudEvent's own type says what happened, not what kind of frame this is.
        return Event("record", _text(parts, "cursor"), text)
    kind = _text(parts, "type")
    if kind == "record":
        return Event("record", _text(parts, "id"), _untyped(text, parts))
    return None if kind is None else control_event(kind, _untyped(text, parts))


def control_event(kind: str, text: str, *, place: str | None = None) -> Event | None:
    """A control event from its JSON object; None for an unknown kind. ``place``: the cursor beside the data (SSE).

    Raises MalformedEvent.
    """
    if kind not in KINDS or kind == "record":
        return None
    parts = _members(text)
    cursor = None
    if kind == "gap":
        cursor = _text(parts, "resumed_at") or place
    elif kind in ("checkpoint", "welcome", "goodbye"):
        cursor = _text(parts, "cursor") or place
    return Event(cast(Kind, kind), cursor, text)


def record_event(text: str, *, cursor: str | None, envelope: Envelope) -> Event:
    """A record whose cursor stands beside its JSON (SSE). Raises MalformedEvent."""
    if envelope != "record" or cursor is None:
        return Event("record", cursor, text)
    body = text.lstrip(" \t\r\n")
    if not body.startswith("{"):
        raise MalformedEvent("a record is not a JSON object")
    rest = body[1:].lstrip(" \t\r\n")
    comma = "" if rest.startswith("}") else ","
    return Event("record", cursor, f'{{"id":{json.dumps(cursor)}{comma}{rest}')


def decode_page(text: str, *, envelope: Envelope) -> list[Event]:
    """A pull answer: records with the gaps at their places, ``throttled`` if paced, at the end a checkpoint.

    The checkpoint's cursor is the page's ``next_cursor``; its data what the page says beside records and gaps.
    Raises MalformedEvent.
    """
    page = _members(text)
    next_cursor = _text(page, "next_cursor")
    if next_cursor is None:
        raise MalformedEvent("a page without next_cursor")
    try:
        records = jsontext.elements(page.pop("records"))
        gaps = [_page_gap(gap) for gap in jsontext.elements(page.pop("gaps", "[]"))]
    except (KeyError, ValueError) as error:
        raise MalformedEvent(f"not a page of records: {error}") from error
    events: list[Event] = []
    for index, record in enumerate(records):
        events += [gap for before, gap in gaps if before == index]
        events.append(Event("record", _page_cursor(record, envelope), record))
    events += [gap for before, gap in gaps if before >= len(records)]
    if page.get("throttled_ms", "0") != "0":
        events.append(Event("throttled", None, jsontext.join_members({"throttled_ms": page["throttled_ms"]})))
    page["cursor"] = page.pop("next_cursor")
    events.append(Event("checkpoint", next_cursor, jsontext.join_members(page)))
    return events


def _page_cursor(record: str, envelope: Envelope) -> str | None:
    """A payload alone (``none``) has no cursor, and an ``id`` in it would be the producer's."""
    if envelope == "none":
        return None
    return _text(_members(record), "cursor" if envelope == "cloudevents" else "id")


def _page_gap(text: str) -> tuple[int, Event]:
    parts = jsontext.members(text)
    before = int(parts.pop("before", "0"))
    return before, Event("gap", _text(parts, "resumed_at"), jsontext.join_members(parts))


def _members(text: str) -> dict[str, str]:
    try:
        return jsontext.members(text)
    except ValueError as error:
        raise MalformedEvent(f"not a JSON object: {error}") from error


def _text(parts: dict[str, str], name: str) -> str | None:
    """The member as a string; None where it is absent, null or empty."""
    if name not in parts:
        return None
    value = jsontext.parse(parts[name])
    if value is not None and not isinstance(value, str):
        raise MalformedEvent(f"{name} is not a string")
    return value or None


def _untyped(text: str, parts: dict[str, str]) -> str:
    """The frame without the ``type`` that this protocol adds."""
    if text.startswith(_TYPED_RECORD):
        return "{" + text[len(_TYPED_RECORD) :]
    return jsontext.join_members({name: value for name, value in parts.items() if name != "type"})
