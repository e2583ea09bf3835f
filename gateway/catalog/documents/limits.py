"""``GET /v1/limits`` in the partner's OpenAPI document."""

from __future__ import annotations

from typing import Final

from gateway.catalog.documents.events import Schema, members

PATH: Final = "/v1/limits"
DESCRIPTIONS: Final = {
    "RateLimit-Policy": "What the plan allows (draft-ietf-httpapi-ratelimit-headers-11).",
    "RateLimit": "What is left of it now.",
}
"""Header fields of every answer to a caller that is known and limited."""


def limits_schema() -> Schema:
    """The answer: an entry for each plan in force, by name, and the tenant's spend limit."""
    text: Schema = {"type": "string"}
    count: Schema = {"type": "integer", "minimum": 0}
    limit = members(
        {
            "limit": {"oneOf": [{"type": "number", "exclusiveMinimum": 0}, {"const": "unlimited"}]},
            "burst": {"type": "number", "exclusiveMinimum": 0},
            "remaining": count,
            "used": count,
            "used_percent": count | {"maximum": 100},
            "resets_in_ms": count,
            "period": text,
            "resets_at": {"type": "string", "format": "date-time"},
        },
        ("limit",),
    )
    plan = members(
        {
            "plan": text,
            "title": text,
            "streams": {"type": "array", "items": text},
            "limits": {"type": "object", "additionalProperties": limit},
            "stream_limits": {
                "type": "object",
                "description": "Tighter rates of all your reads of a stream together.",
                "additionalProperties": {"type": "object", "additionalProperties": limit},
            },
            "application_limits": {
                "type": "object",
                "description": "Tighter rates of all reads of this token's application together.",
                "additionalProperties": limit,
            },
        },
        ("plan", "title", "streams", "limits"),
    )
    return members({"plans": {"type": "array", "items": plan}, "spend_limit": spend_limit_schema()}, ("plans",))


def spend_limit_schema() -> Schema:
    """What a tenant may spend in a month, and has spent of it; null as long as nothing was added up."""
    amount: Schema = {"type": ["string", "null"], "pattern": "^-?[0-9]+([.][0-9]+)?$"}
    text: Schema = {"type": ["string", "null"]}
    time: Schema = {"type": ["string", "null"], "format": "date-time"}
    said: dict[str, Schema] = {
        "limit": amount | {"type": "string"},
        "currency": text,
        "spent": amount,
        "used_percent": {"type": ["integer", "null"], "minimum": 0, "maximum": 100},
        "period": text,
        "resets_at": time,
        "as_of": time,
        "complete_until": time,
    }
    return members(said, tuple(said))
