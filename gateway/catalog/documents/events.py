"""Control events and cursors as schemas: the same on every stream, with samples that fit them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

Schema = dict[str, Any]

CURSOR_SAMPLE: Final = "AZCbW0x3dGhpcy1pcy1hLXNhbXBsZS1jdXJzb3I"
UID_SAMPLE: Final = "b1m7SsO_dFoJJFXk"
TIME_SAMPLE: Final = "2026-11-22T10:00:00.000Z"


def ref(name: str) -> Schema:
    """A reference to one of the document's schemas; the place is the same in AsyncAPI and OpenAPI."""
    return {"$ref": f"#/components/schemas/{name}"}


def members(properties: Mapping[str, Schema], required: Sequence[str] = (), *, description: str = "") -> Schema:
    """An object. Further members may come: clients pass over what they do not know."""
    told: Schema = {"type": "object"}
    if description:
        told["description"] = description
    told["properties"] = dict(properties)
    if required:
        told["required"] = list(required)
    return told


def _text(description: str, **more: Any) -> Schema:
    return {"type": "string", "description": description, **more}


def _millis(description: str) -> Schema:
    return {"type": "integer", "minimum": 0, "description": description}


CURSOR: Final = _text("An opaque, sealed place in a stream: reading goes on after it.", pattern="^[A-Za-z0-9_-]+$")
GAP_REASONS: Final = ("retention", "history_changed", "undecodable")

_CURSOR_REF: Final = ref("Cursor")
_BEHIND: Final = _millis("Age of the next record, 0 at the head.")
_LEFT: Final[Schema] = {
    "type": ["integer", "null"],
    "minimum": 0,
    "description": "Time until retention reaches this reader; null at the head and where it is not known.",
}
_GAP: Final[dict[str, Schema]] = {
    "reason": _text("Why the records cannot be had.", enum=list(GAP_REASONS)),
    "from": _CURSOR_REF,
    "resumed_at": _CURSOR_REF,
}

EVENTS: Final[Mapping[str, Schema]] = {
    "welcome": members(
        {
            "session": _text("The name of this read."),
            "expires_at": _text("When the token ends.", format="date-time"),
            "heartbeat_ms": _millis("A checkpoint comes at least this often."),
            "limits": {"type": "object", "description": "The limits of the plan."},
        },
        ("session", "expires_at", "heartbeat_ms", "limits"),
        description="The first frame: which read this is and where it starts.",
    ),
    "checkpoint": members(
        {
            "behind_ms": _BEHIND,
            "retention_in_ms": _LEFT,
            "quota": members(
                {
                    "limit": {
                        "type": ["number", "string"],
                        "description": "How much it is: a number, of a spend limit an amount as text.",
                    },
                    "unit": _text("Which quota; of a spend limit, the currency and `spent`."),
                    "used_percent": {"type": "number"},
                    "resets_at": _text("When it begins anew.", format="date-time"),
                },
                description="Said once at 50 and once at 80 percent of a quota or of the organisation's spend limit.",
            ),
        },
        ("behind_ms",),
        description="Progress without records, and the heartbeat.",
    ),
    "gap": members(
        _GAP,
        ("reason", "from", "resumed_at"),
        description="Records that cannot be delivered: those after `from`, up to and with `resumed_at`.",
    ),
    "throttled": members(
        {
            "limit": {"type": "number", "exclusiveMinimum": 0, "description": "The rate that is reached."},
            "unit": _text("Which rate of the plan it is: records, replayed records or bytes a second."),
            "resume_in_ms": _millis("When records go on."),
            "behind_ms": _BEHIND,
            "retention_in_ms": _LEFT,
        },
        description="The plan's rate paces this stream; nothing is dropped.",
    ),
    "auth_expiring": members(
        {
            "expires_at": _text("When the stream ends unless it gets a new token.", format="date-time"),
            "refresh": _text("Where to send a new token."),
        },
        ("expires_at",),
        description="The token ends soon.",
    ),
    "goodbye": members(
        {
            "code": _text("Why, as a stable word."),
            "close_code": {"type": "integer", "minimum": 4400, "maximum": 4599},
            "reason": _text("Why, for people."),
            "reconnect": {"type": "boolean", "description": "Whether to come back without changing anything."},
            "retry_after_ms": _millis("When to come back, where `reconnect` is true."),
            "cursor": _CURSOR_REF,
        },
        ("code", "close_code", "reason", "reconnect"),
        description="The last event: why the stream ends and how to go on.",
    ),
    "error": members(
        {"code": _text("What was wrong, as a stable word."), "reason": _text("What was wrong, for people.")},
        ("code", "reason"),
        description="A frame of the client's was refused; the stream goes on.",
    ),
}

COMMANDS: Final[Mapping[str, str]] = {
    "auth": "Go on under a fresh access token of the same application; silent where it is taken.",
    "pause": "Send no more records until told to resume; checkpoints go on.",
    "resume": "Go on after a pause.",
}

_SAMPLES: Final[Mapping[str, dict[str, Any]]] = {
    "checkpoint": {"behind_ms": 0},
    "gap": {"reason": "retention", "from": CURSOR_SAMPLE, "resumed_at": CURSOR_SAMPLE},
    "goodbye": {
        "code": "draining",
        "close_code": 4503,
        "reason": "This node is being stopped.",
        "reconnect": True,
        "retry_after_ms": 1200,
        "cursor": CURSOR_SAMPLE,
    },
}

SSE_EVENTS: Final = ("checkpoint", "gap", "throttled", "auth_expiring", "goodbye")
FRAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "ws": ("welcome", *SSE_EVENTS, "error"),
    "ndjson": ("welcome", *SSE_EVENTS),
}
_WITH_CURSOR: Final = ("welcome", "checkpoint")
"""Frames that always say where the stream stands."""


def name_of(event: str, *, framed: bool) -> str:
    """The schema's name: ``AuthExpiring`` as SSE data, ``AuthExpiringFrame`` as an object with its type."""
    return "".join(part.capitalize() for part in event.split("_")) + ("Frame" if framed else "")


def control_schemas() -> dict[str, Schema]:
    """Every schema that belongs to no stream, by name."""
    found: dict[str, Schema] = {"Cursor": dict(CURSOR)}
    for event, schema in EVENTS.items():
        found[name_of(event, framed=False)] = schema
        required = ["type", *(["cursor"] if event in _WITH_CURSOR else [])]
        found[name_of(event, framed=True)] = {
            "allOf": [
                ref(name_of(event, framed=False)),
                members({"type": {"const": event}, "cursor": _CURSOR_REF}, required),
            ]
        }
    for command, description in COMMANDS.items():
        more: dict[str, Any] = {"token": {"type": "string", "maxLength": 8000}} if command == "auth" else {}
        found[name_of(command, framed=True)] = {
            **members({"type": {"const": command}, **more}, ("type", *more), description=description),
            "additionalProperties": False,
        }
    return found


def sample_of(event: str, *, framed: bool) -> dict[str, Any] | None:
    """A sample of an event, None where one would tell nothing."""
    if event in COMMANDS:
        return {"type": event, **({"token": "eyJhbGciOi…"} if event == "auth" else {})}
    sample = _SAMPLES.get(event)
    if sample is None or not framed:
        return sample
    cursor = {"cursor": CURSOR_SAMPLE} if event in _WITH_CURSOR else {}
    return {"type": event, **cursor, **sample}


def page_gap() -> Schema:
    """A gap in a page of HTTP pull."""
    before = {"type": "integer", "minimum": 0, "description": "Index into `records` at which the gap stands."}
    return members({"before": before, **_GAP}, ("before", "reason", "from", "resumed_at"))
