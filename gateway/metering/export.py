"""Usage as CloudEvents 1.0, for programs that meter or bill elsewhere: each complete row is one event, for good.

An event's ``id`` comes from what the row is about, so the same row exported again, by whomever, is the same event: a
receiver that knows the ids it has seen counts it once.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from gateway.metering.question import OPERATOR_GROUPS
from gateway.metering.report import PARTNER_MEASURES, Row
from gateway.units import format_rfc3339

TYPE: Final = "streaming-gateway.usage.v1"
PREVIEW_TYPE: Final = "streaming-gateway.usage.preview.v1"
"""A row that may still grow has another type: whoever adds up the one never adds the other to it."""

BY: Final = OPERATOR_GROUPS
SOURCE: Final = "urn:streaming-gateway:usage"
_LEGAL: Final = r"(?:[A-Za-z0-9._~:/?@!$&'()*+,;=\[\]-]|%[0-9A-Fa-f]{2})"
_URI_REFERENCE: Final = re.compile(f"{_LEGAL}+(?:#{_LEGAL}*)?")


def is_source(text: str) -> bool:
    """Whether CloudEvents takes it for a source: a URI-reference (RFC 3986) that is not empty."""
    return _URI_REFERENCE.fullmatch(text) is not None


def events(rows: Iterator[Row], *, granularity: str, source: str, complete_until: int) -> Iterator[dict[str, Any]]:
    """An event for each row, which is grouped by all of ``BY``. Rows that end after ``complete_until`` are previews."""
    for row in rows:
        is_complete = row.end <= complete_until
        kind = TYPE if is_complete else PREVIEW_TYPE
        tenant, stream, transport, application, plan, revision = row.about
        about = {
            "from": format_rfc3339(row.start * 1000),
            "to": format_rfc3339(row.end * 1000),
            "application": application,
            "stream": stream,
            "transport": transport,
            "plan": plan,
            "revision": int(revision),
            "billable": row.is_billable,
        }
        named = [kind, granularity, tenant, *map(str, about.values())]
        yield {
            "specversion": "1.0",
            "id": hashlib.sha256(msgspec.json.encode(named)).hexdigest()[:32],
            "source": source,
            "type": kind,
            "subject": tenant,
            # Within the stretch, so that receivers that sum by an event's time put it where it belongs.
            "time": about["from"],
            "datacontenttype": "application/json",
            "data": about | {name: getattr(row.usage, name) for name in PARTNER_MEASURES},
        }


def line(event: dict[str, Any]) -> bytes:
    """One event as a line of NDJSON."""
    return msgspec.json.encode(event) + b"\n"
