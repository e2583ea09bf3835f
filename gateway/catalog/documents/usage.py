"""``GET /v1/usage`` as OpenAPI tells it: parameters, headers, rows."""

from __future__ import annotations

from typing import Any, Final

from gateway.catalog.documents.events import Schema, members
from gateway.metering.grain import GRANULARITIES
from gateway.metering.question import MOST_ROWS, PARTNER_GROUPS
from gateway.metering.report import PARTNER_MEASURES, UNITS

_TEXT: Final[Schema] = {"type": "string"}
_MOMENT: Final[Schema] = {"type": "string", "format": "date-time"}
_GRANULARITY: Final[Schema] = {"type": "string", "enum": list(GRANULARITIES)}
_ROW: Final = members(
    {
        "from": _MOMENT,
        "to": _MOMENT,
        **dict.fromkeys(PARTNER_GROUPS, _TEXT),
        "billable": {"type": "boolean", "description": "False: of a test application, and never priced."},
        **{name: {"type": "integer", "minimum": 0, "description": UNITS[name]} for name in PARTNER_MEASURES},
    },
    ("from", "to", "billable", *PARTNER_MEASURES),
)
USAGE: Final = members(
    {
        "complete_until": {
            "type": ["string", "null"],
            "format": "date-time",
            "description": "Every delivery before it is in the numbers. Null: that cannot be said now.",
        },
        "from": _MOMENT,
        "to": _MOMENT,
        "time_zone": _TEXT,
        "granularity": _GRANULARITY,
        "by": {"type": "array", "items": {"type": "string", "enum": list(PARTNER_GROUPS)}},
        "units": {"type": "object", "additionalProperties": _TEXT, "description": "What each number is a number of."},
        "rows": {"type": "array", "items": _ROW},
        "next": {"type": "string", "description": "The parameter `next` of the page after this one."},
    },
    ("complete_until", "from", "to", "time_zone", "granularity", "by", "units", "rows"),
)
USAGE_MEDIA: Final = {"application/json": USAGE, "text/csv": _TEXT}
USAGE_PARAMETERS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "from": (
        "RFC 3339; the stretch that holds it is taken whole, and without `to` has begun. Without it, the beginning of "
        "the month.",
        _MOMENT,
    ),
    "to": ("RFC 3339, likewise; it may lie ahead. Without it, now.", _MOMENT),
    "by": (f"What rows are told apart by: some of {', '.join(PARTNER_GROUPS)}, with commas, or `none`. All.", _TEXT),
    "granularity": (
        "How long the stretches are, in your organisation's time zone.",
        {**_GRANULARITY, "default": "day"},
    ),
    "limit": (
        "The most rows on a page. CSV without it is whole.",
        {"type": "integer", "minimum": 1, "maximum": MOST_ROWS},
    ),
    "format": (
        "The form of the answer, whatever Accept says. Without it, what Accept prefers.",
        {"type": "string", "enum": ["json", "csv"]},
    ),
    "next": ("Where the page before says to go on, with the other parameters as they were.", _TEXT),
}
"""By name: what it means, and its schema."""

USAGE_HEADERS: Final[dict[str, str]] = {
    "Gateway-Complete-Until": "Up to when the numbers are complete, as `complete_until`; left out where it is null.",
    "Link": 'The address of the next page, `rel="next"`, where there is one.',
}
