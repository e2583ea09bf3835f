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
    """The answer: an entry for each plan in force, by name."""
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
        },
        ("plan", "title", "streams", "limits"),
    )
    return members({"plans": {"type": "array", "items": plan}}, ("plans",))
